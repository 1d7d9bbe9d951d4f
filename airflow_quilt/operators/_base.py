"""What all operators share: the package, the connection, errors in Airflow's terms."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.links.catalog import QuiltCatalogLink

if TYPE_CHECKING:
    import threading

    import jinja2
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset


_log = logging.getLogger(__name__)


class QuiltOperator(BaseOperator):
    """An operator that works on one package of one registry.

    :param package: ``namespace/name``.
    :param registry: ``s3://bucket``, or for some operators a local directory; by default the connection's.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param max_concurrency: the most calls of S3 at a time; by default what the connection says.
    """

    template_fields: Sequence[str] = ("package", "registry", "quilt_conn_id", "max_concurrency")
    ui_color = "#e5e1fb"
    operator_extra_links = (QuiltCatalogLink(),)

    outcome: dict[str, Any] | None = None
    """What came of the task, as soon as that is known: what it returns."""
    catalog_url: str | None = None
    """The catalog's page of the revision that the task was about, as soon as that is known."""
    _stop: "threading.Event | None" = None

    def __init__(
        self,
        *,
        package: str,
        registry: str | None = None,
        quilt_conn_id: str | None = QuiltHook.default_conn_name,
        max_concurrency: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.package = package
        self.registry = registry
        self.quilt_conn_id = quilt_conn_id
        self.max_concurrency = max_concurrency

    @cached_property
    def hook(self) -> QuiltHook:
        """The hook of the operator's connection."""
        return QuiltHook(self.quilt_conn_id, self.max_concurrency)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the result of the task for its link and its lineage; return it."""
        self.outcome, self.catalog_url = result, result["catalog_url"]
        return result

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> "OperatorLineage[Any, Any] | None":  # noqa: ARG002
        """Tell OpenLineage what the task read and wrote: nothing where it failed before that was known."""
        try:
            from airflow.providers.openlineage.extractors import OperatorLineage

            if self.outcome is None:
                return OperatorLineage()
            return OperatorLineage(inputs=self.reads(self.outcome), outputs=self.writes(self.outcome))
        except Exception as error:  # noqa: BLE001  (whatever it is: the task has done its work)
            _log.warning("What the task read and wrote could not be told to OpenLineage: %s", error)
            return None

    def reads(self, outcome: Mapping[str, Any]) -> "list[Dataset]":  # noqa: ARG002
        """Return the datasets that a task read that came to this."""
        return []

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":  # noqa: ARG002
        """Return the datasets that a task wrote that came to this."""
        return []

    def begin(self) -> "threading.Event":
        """Return what tells the work of this try to stop when the task is killed."""
        from threading import Event

        self._stop = Event()
        return self._stop

    def on_kill(self) -> None:
        """Tell the work to stop: it cleans up after itself, and nothing is published."""
        if self._stop:
            self._stop.set()

    def render_template(
        self,
        content: Any,
        context: "Context",
        jinja_env: "jinja2.Environment | None" = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render templates in the keys of mappings too, which hold logical keys; Airflow renders the values."""
        rendered = super().render_template(content, context, jinja_env, seen_oids)
        if not isinstance(content, dict):  # What a task returned is data, not a template.
            return rendered
        return {
            super(QuiltOperator, self).render_template(key, context, jinja_env) if isinstance(key, str) else key: value
            for key, value in rendered.items()
        }


@contextmanager
def airflow_errors(operator: BaseOperator) -> Iterator[None]:
    """Fail without a retry where a retry cannot help; leave the rest to the task's own settings.

    A task's ``retry_policy`` (Airflow 3.3 and newer) sees all errors of the engine as they are: Airflow does not ask it about
    those that say themselves that there is no retry.
    """
    try:
        yield
    except QuiltError as error:
        if error.transient or getattr(operator, "retry_policy", None) is not None:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error
