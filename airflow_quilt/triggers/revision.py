"""QuiltRevisionTrigger: waits in the triggerer for a revision, in place of a task."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.triggers._registries import opened

if TYPE_CHECKING:
    from airflow_quilt.core.registry.condition import RevisionCondition

_log = logging.getLogger(__name__)


class QuiltRevisionTrigger(BaseTrigger):
    """Waits until the latest revision of a package meets a condition; then it ends with an event.

    A transient error is logged, and the next poll follows. Any other error ends it, with an event that states the error.

    :param package: ``namespace/name``.
    :param registry: ``s3://bucket``; by default the connection's.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param newer_than: see :class:`~airflow_quilt.sensors.package.QuiltPackageSensor`.
    :param path: likewise.
    :param poll_interval: seconds from one poll to the next.
    """

    def __init__(
        self,
        package: str,
        registry: str | None = None,
        quilt_conn_id: str | None = QuiltHook.default_conn_name,
        newer_than: str | None = None,
        path: str | None = None,
        poll_interval: float = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.package = package
        self.registry = registry
        self.quilt_conn_id = quilt_conn_id
        self.newer_than = newer_than
        self.path = path
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "package": self.package,
            "registry": self.registry,
            "quilt_conn_id": self.quilt_conn_id,
            "newer_than": self.newer_than,
            "path": self.path,
            "poll_interval": self.poll_interval,
        }

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Poll until the condition is met; yield the revision, or the error."""
        condition = await asyncio.to_thread(self._condition)
        target = None
        while True:
            try:
                target = target or await opened(self.quilt_conn_id, self.registry)
                found = await asyncio.to_thread(condition.find, target.registry)
            except QuiltError as error:
                if not error.transient:
                    yield TriggerEvent({"error": f"{type(error).__name__}: {error}"})
                    return
                _log.warning("Package %s could not be polled; the next poll follows: %s", self.package, error)
                found = None
            if target and found:
                yield TriggerEvent({"found": found.to_xcom(target.hook.settings.catalog)})
                return
            await asyncio.sleep(self.poll_interval * random.uniform(0.9, 1.1))  # noqa: S311

    def _condition(self) -> "RevisionCondition":
        """Return the condition, on a thread: the import of the core would block the event loop."""
        from airflow_quilt.core.registry.condition import RevisionCondition

        return RevisionCondition(package=self.package, newer_than=self.newer_than, path=self.path)
