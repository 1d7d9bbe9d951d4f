"""QuiltPackageSensor: a task that waits for a package."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.triggers.base import BaseTrigger, StartTriggerArgs

from airflow_quilt._compat import AirflowException, AirflowSkipException, conf
from airflow_quilt.core import errors
from airflow_quilt.core.errors import QuiltError, plain, quoted
from airflow_quilt.operators._base import QuiltOperator, airflow_errors
from airflow_quilt.operators._checks import OF_SENSORS, Check
from airflow_quilt.operators._values import flag
from airflow_quilt.sensors._templates import is_known_in_the_triggerer
from airflow_quilt.triggers.revision import QuiltRevisionTrigger

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from airflow_quilt.core.registry.condition import RevisionCondition

_log = logging.getLogger(__name__)

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
    :param deferrable: wait in the triggerer, which takes no slot of a worker. The first poll is made on the worker.
    :param start_from_trigger: begin there too, and take a slot only once the revision is there. It is deferrable instead before
        Airflow 3.3; when mapped; and where an argument is the output of another task, or a template of more than the run's own
        values, which only a worker can resolve.
    :param poke_interval: seconds from one poll to the next; ``exponential_backoff`` and ``max_wait`` count in the triggerer too.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param max_concurrency: max concurrent S3 requests; by default the connection's.
    """

    checks: ClassVar[Mapping[str, Check]] = OF_SENSORS
    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "newer_than", "path")

    # None for the class: with others Airflow would begin mapped sensors in the triggerer, whose trigger would get no arguments.
    start_trigger_args = None
    start_from_trigger = False
    _is_executing = False
    _has_polled = False
    """Whether this attempt has polled before, so that a package that is not there has been reported."""

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
        self.start_from_trigger = start_from_trigger and self._can_start_in_the_triggerer()
        if self.start_from_trigger:
            self.start_trigger_args = StartTriggerArgs(
                trigger_cls=_TRIGGER,
                trigger_kwargs={**self._trigger_kwargs, "is_first": True},
                next_method="execute_complete",
                timeout=timedelta(seconds=self.timeout),
            )

    def _can_start_in_the_triggerer(self) -> bool:
        if not hasattr(BaseTrigger, "on_kill"):  # It came in the same release.
            return False
        values = [self.package, self.registry, self.quilt_conn_id, self.newer_than, self.path]
        environment = QuiltRevisionTrigger("").get_template_env()
        return all(is_known_in_the_triggerer(value, environment) for value in values)

    @property
    def _trigger_kwargs(self) -> dict[str, Any]:
        return {
            "package": self.package,
            "registry": self.registry,
            "quilt_conn_id": self.quilt_conn_id,
            "newer_than": None if self.newer_than is None else str(self.newer_than),
            "path": self.path,
            "poll_interval": float(self.poke_interval),
            "max_interval": self._max_interval,
        }

    @property
    def _max_interval(self) -> float | None:
        if not self.exponential_backoff:
            return None
        return self.max_wait.total_seconds() if self.max_wait else float(self.timeout)

    def poke(self, context: "Context") -> PokeReturnValue:
        """Poll once; the task of a deferrable sensor goes on in the triggerer."""
        with airflow_errors(self):
            is_first = self._is_executing and flag("deferrable", self.deferrable)
        try:
            result = self._poll(reports=not self._has_polled and not context.get("task_reschedule_count"))
        except QuiltError as error:
            if not (is_first and self.silent_fail):
                raise
            self.log.warning("The first poll failed; the next is made in the triggerer: %s", error)
            result = PokeReturnValue(is_done=False)
        if is_first and not result.is_done:
            self._defer()
        return result

    def _poll(self, *, reports: bool) -> PokeReturnValue:
        with airflow_errors(self):
            target = self.hook.open(self.registry)
            found = self._awaited.find(target.registry, self._report if reports else None)
            self._has_polled = True
            if found is None:
                self.log.info("Not yet in %s: %s", target.registry.location, self._condition)
                return PokeReturnValue(is_done=False)
            return PokeReturnValue(is_done=True, xcom_value=self._found(found.to_xcom(target.catalog)))

    @cached_property
    def _awaited(self) -> "RevisionCondition":
        """The condition of all polls of a process: it remembers the revision that it has read in vain."""
        from airflow_quilt.core.registry.condition import RevisionCondition

        return RevisionCondition(package=self.package, newer_than=self.newer_than, path=self.path)

    @staticmethod
    def _report(absent: str) -> None:
        _log.warning("Not yet there, the sensor waits: %s", absent)

    @property
    def _condition(self) -> str:
        newer = "" if self.newer_than is None else f", newer than {plain(self.newer_than)}"
        return f"package {plain(self.package)}{newer}" + ("" if self.path is None else f", with {quoted(self.path)}")

    def execute(self, context: "Context") -> Any:
        """Wait, here or in the triggerer."""
        # In Airflow's own loop, also where it ends after one poll: it knows soft_fail and never_fail.
        self._is_executing = True
        with self._named_skips():
            return super().execute(context)

    def _defer(self) -> NoReturn:
        self.defer(
            trigger=QuiltRevisionTrigger(**self._trigger_kwargs),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: "Context") -> Any:
        """Go on after the trigger; its errors and its timeout obey the flags as those of a poll do, in each Airflow.

        Raises:
            AirflowSkipException: with ``never_fail`` for any error, with ``soft_fail`` for one that a retry does not mend.
        """
        with self._named_skips():
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except AirflowSkipException:
                raise
            except Exception as error:
                if self.never_fail or (self.soft_fail and isinstance(error, AirflowException)):
                    raise AirflowSkipException from error
                raise

    @contextmanager
    def _named_skips(self) -> Iterator[None]:
        """Name the error of which the task is skipped: Airflow logs the reason of a skip alone, and gives the flag only."""
        try:
            yield
        except AirflowSkipException as skip:
            if skip.__cause__ is None:
                raise
            flag_set = "never_fail" if self.never_fail else "soft_fail"
            raise AirflowSkipException(f"Skipped, as {flag_set} is set: {skip.__cause__}") from skip.__cause__

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return the revision that the trigger found.

        Raises:
            AirflowFailException: the trigger met an error that a retry does not mend.
            QuiltError: the trigger met an error that a retry may mend.
        """
        with airflow_errors(self):
            if "error" in event:
                raise _error_of(event["error"])
            return self._found(event["found"])

    def _found(self, result: dict[str, Any]) -> dict[str, Any]:
        self.log.info("Found %s", result["quilt_uri"])
        self.catalog_url = result["catalog_url"]
        return result


def _error_of(text: str) -> QuiltError:
    """Return the error that a trigger stated as the name of its class and its message."""
    name, _, message = text.partition(": ")
    kind = getattr(errors, name, QuiltError)
    error: QuiltError = kind.__new__(kind, message)  # As in QuiltError.__reduce__: the message is finished.
    return error
