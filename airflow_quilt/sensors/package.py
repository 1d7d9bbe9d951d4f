"""QuiltPackageSensor: a task that waits for a package."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)
from airflow.triggers.base import BaseTrigger, StartTriggerArgs

from airflow_quilt.operators._base import QuiltOperator, airflow_errors
from airflow_quilt.operators._values import flag
from airflow_quilt.triggers.revision import QuiltRevisionTrigger

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context

_TRIGGER = f"{QuiltRevisionTrigger.__module__}.{QuiltRevisionTrigger.__qualname__}"


class QuiltPackageSensor(QuiltOperator, BaseSensorOperator):
    """Waits for a package, for a newer revision of it, or for a file in it; returns the revision that it found.

    The revision to compare with is an argument, and so the same in every attempt and after every restart: "newer than the start
    of this run" is ``newer_than="{{ dag_run.start_date }}"``, "another one than the last run used" the top hash it returned.

    :param package: ``namespace/name``.
    :param newer_than: a top hash, or the beginning of one (6 digits or more): wait until the latest revision is another one; or
        a time: wait until the latest revision was published after it (UTC unless it has another zone). By default any will do.
    :param path: the key of a file that the revision must hold, or of a directory.
    :param registry: the registry, on S3 or a local directory; by default the connection's.
    :param deferrable: wait in the triggerer, which takes no slot of a worker.
    :param start_from_trigger: begin there too, and take a slot only once the revision is there (Airflow 3.3 and newer; before,
        it is deferrable).
    :param poke_interval: seconds from one poll to the next.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param max_concurrency: max concurrent S3 requests; by default the connection's.
    """

    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "newer_than", "path")

    start_trigger_args = StartTriggerArgs(
        trigger_cls=_TRIGGER, trigger_kwargs={}, next_method="execute_complete", next_kwargs=None, timeout=None
    )
    start_from_trigger = False

    def __init__(
        self,
        *,
        newer_than: "str | datetime | None" = None,
        path: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        start_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.newer_than = newer_than
        self.path = path
        self.deferrable = deferrable or start_from_trigger
        self.start_from_trigger = start_from_trigger and hasattr(BaseTrigger, "on_kill")  # It came in the same release.
        if self.start_from_trigger:
            timeout = timedelta(seconds=self.timeout)
            self.start_trigger_args = replace(self.start_trigger_args, trigger_kwargs=self._trigger_kwargs, timeout=timeout)

    @property
    def _trigger_kwargs(self) -> dict[str, Any]:
        return {
            "package": self.package,
            "registry": self.registry,
            "quilt_conn_id": self.quilt_conn_id,
            "newer_than": None if self.newer_than is None else str(self.newer_than),
            "path": self.path,
            "poll_interval": float(self.poke_interval),
        }

    def poke(self, context: "Context") -> PokeReturnValue:  # noqa: ARG002
        """Poll once."""
        from airflow_quilt.core.registry.condition import RevisionCondition

        with airflow_errors(self):
            target = self.hook.open(self.registry)
            found = RevisionCondition(package=self.package, newer_than=self.newer_than, path=self.path).find(target.registry)
            if found is None:
                self.log.info("Not yet in %s: %s", target.registry.location, self._condition)
                return PokeReturnValue(is_done=False)
            return PokeReturnValue(is_done=True, xcom_value=self._found(found.to_xcom(target.catalog)))

    @property
    def _condition(self) -> str:
        newer = "" if self.newer_than is None else f", newer than {self.newer_than}"
        return f"package {self.package}{newer}" + ("" if self.path is None else f", with {self.path}")

    def execute(self, context: "Context") -> Any:
        """Wait, here or in the triggerer."""
        if not flag("deferrable", self.deferrable):
            return super().execute(context)
        if not (result := self.poke(context)).is_done:
            self._wait_in_the_triggerer()
        return result.xcom_value

    def _wait_in_the_triggerer(self) -> NoReturn:
        self.defer(
            trigger=QuiltRevisionTrigger(**self._trigger_kwargs),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return the revision that the trigger found.

        Raises:
            AirflowFailException: the trigger met an error that a retry does not mend.
        """
        if "error" in event:
            raise AirflowFailException(event["error"])
        return self._found(event["found"])

    def _found(self, result: dict[str, Any]) -> dict[str, Any]:
        self.log.info("Found %s", result["quilt_uri"])
        self.catalog_url = result["catalog_url"]
        return result
