"""The base of all operators: package, connection, lineage, and core errors in Airflow's terms."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_quilt._compat import AirflowFailException
from airflow_quilt.core.errors import QuiltError, StorageError
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.links.catalog import QuiltCatalogLink
from airflow_quilt.operators._arguments import ArgumentsOperator
from airflow_quilt.operators._checks import OF_ALL, Check
from airflow_quilt.operators._construction import failure, misnamed
from airflow_quilt.operators._expand import QuiltPartial

if TYPE_CHECKING:
    import threading

    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset


_log = logging.getLogger(__name__)


class QuiltOperator(ArgumentsOperator):
    """An operator that works on one package of one registry.

    :param package: ``namespace/name``.
    :param registry: the registry: ``s3://bucket``, or for some operators a local directory; by default the connection's.
    :param quilt_conn_id: the ID of a connection of type ``quilt``; None for no connection.
    :param max_concurrency: the most concurrent S3 requests; overrides the connection's.
    """

    template_fields: Sequence[str] = ("package", "registry", "quilt_conn_id", "max_concurrency")
    ui_color = "#e5e1fb"
    operator_extra_links = (QuiltCatalogLink(),)

    checks: ClassVar[Mapping[str, Check]] = OF_ALL

    outcome: dict[str, Any] | None = None
    """The result of the task, as soon as it is known."""
    catalog_url: str | None = None
    """The catalog's page of the revision that the task read or made, as soon as it is known."""
    _stop: "threading.Event | None" = None
    _is_killed = False

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

    @classmethod
    def partial(cls, **kwargs: Any) -> QuiltPartial:
        """Return the operator with a part of its arguments, for ``expand()``, as of every operator."""
        try:
            made = super().partial(**kwargs)
        except TypeError as error:
            if not (faults := misnamed(cls, kwargs, error)):
                raise
            raise failure(kwargs.get("task_id"), faults) from None
        made._expand_called = True  # noqa: SLF001  (or it would report that it was never mapped)
        return QuiltPartial(operator_class=made.operator_class, kwargs=made.kwargs, params=made.params)

    @cached_property
    def hook(self) -> QuiltHook:
        """The hook of the operator's connection."""
        return QuiltHook(self.quilt_conn_id, self.max_concurrency)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the task's result for its link and its lineage; return it."""
        self.outcome, self.catalog_url = result, result["catalog_url"]
        if self.catalog_url:
            _log.info("In the catalog: %s", self.catalog_url)
        return result

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> "OperatorLineage[Any, Any] | None":  # noqa: ARG002
        """Return the task's inputs and outputs for OpenLineage; none if it failed before its result was known."""
        try:
            from airflow.providers.openlineage.extractors import OperatorLineage

            if self.outcome is None:
                return OperatorLineage()
            return OperatorLineage(inputs=self.reads(self.outcome), outputs=self.writes(self.outcome))
        except Exception as error:  # noqa: BLE001  (of any kind: the task has done its work)
            _log.warning("The lineage of the task could not be reported to OpenLineage: %s", error)
            return None

    def reads(self, outcome: Mapping[str, Any]) -> "list[Dataset]":  # noqa: ARG002
        """Return the input datasets for OpenLineage, given the task's result."""
        return []

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":  # noqa: ARG002
        """Return the output datasets for OpenLineage, given the task's result."""
        return []

    def begin(self) -> "threading.Event":
        """Return a new event, which is set when the task is killed and stops the work of this attempt."""
        from threading import Event

        self._stop = Event()
        if self._is_killed:
            self._stop.set()
        return self._stop

    def on_kill(self) -> None:
        """Stop the work, wherever it is: it cleans up after itself, and publishes nothing."""
        from airflow_quilt.core.runtime.stop import interrupt

        if self._stop:
            self._stop.set()
            interrupt()
        else:  # The work has not begun, and shall not: Airflow does not say it twice.
            self._is_killed = True


class airflow_errors(AbstractContextManager[None]):  # noqa: N801  (as other context managers of functions)
    """Do the work of a task: check its arguments, end it when the task is killed, fail without a retry where that cannot help.

    Other errors are left to the task's own settings.
    A task's ``retry_policy`` (Airflow 3.3 and newer) gets every error of the core as it is: Airflow does not ask it about an
    ``AirflowFailException``.

    Airflow's log view opens at its end, and shows every exception of a chain with all of its frames. So an error of the core
    leaves as one exception, without the frames of the core, which are logged at DEBUG. A callback finds it in the
    ``__context__`` of an ``AirflowFailException``.
    """

    def __init__(self, operator: ArgumentsOperator) -> None:
        self._operator = operator
        self._work = ExitStack()

    def __enter__(self) -> None:
        """Begin the work."""
        from airflow_quilt.core.runtime.stop import stoppable

        operator = self._operator
        stop = operator.begin() if isinstance(operator, QuiltOperator) else None
        try:
            operator.check_arguments()
            # Only the verbs of the core may be ended at any line: the work around them talks to Airflow, where half of an
            # exchange would be taken for the answer to the next one.
            self._work.enter_context(stoppable(stop, may_interrupt=False))
        except QuiltError as error:
            raise self._outcome(error) from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None) -> None:
        """End the work."""
        # Not a generator's context manager, which gives an error that leaves it its earlier frames again.
        try:
            self._work.__exit__(kind, error, frames)
        except QuiltError as stopped:
            raise self._outcome(stopped) from None
        if isinstance(error, QuiltError):
            raise self._outcome(error) from None

    def _outcome(self, error: QuiltError) -> Exception:
        """Return the exception that Airflow gets."""
        if isinstance(error, StorageError) and isinstance(self._operator, QuiltOperator):
            self._operator.hook.explain(error)
        _log.debug("The frames of the error that ends this task:", exc_info=error)
        if error.transient or getattr(self._operator, "retry_policy", None) is not None:
            return error.with_traceback(None)
        return AirflowFailException(f"{type(error).__name__}: {error}")
