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
    from airflow_quilt.core.registry.condition import FoundRevision, RevisionCondition
    from airflow_quilt.core.registry.registry import Registry

_log = logging.getLogger(__name__)


class QuiltRevisionTrigger(BaseTrigger):
    """Waits until the latest revision of a package is what somebody waits for; then it ends with an event.

    What fails for now is tried again; anything else ends it, with an event that says what is wrong.

    :param package: ``namespace/name``.
    :param registry: ``s3://bucket``; by default the connection's.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param newer_than: see :class:`~airflow_quilt.sensors.package.QuiltPackageSensor`.
    :param path: likewise.
    :param poll_interval: seconds from one look to the next.
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
        """Return what makes this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "package": self.package,
            "registry": self.registry,
            "quilt_conn_id": self.quilt_conn_id,
            "newer_than": self.newer_than,
            "path": self.path,
            "poll_interval": self.poll_interval,
        }

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Wait, and say what was found, or what is wrong."""
        awaited = await asyncio.to_thread(self._awaited)
        place = None
        while True:
            try:
                place = place or await opened(self.quilt_conn_id, self.registry)
                found = await asyncio.to_thread(awaited.find, place.registry)
            except QuiltError as error:
                if not error.transient:
                    yield TriggerEvent({"error": f"{type(error).__name__}: {error}"})
                    return
                _log.warning("Package %s could not be looked at, and will be again: %s", self.package, error)
                found = None
            if place and found:
                yield TriggerEvent({"found": describe(place.hook, place.registry, found)})
                return
            await asyncio.sleep(self.poll_interval * random.uniform(0.9, 1.1))  # noqa: S311

    def _awaited(self) -> "RevisionCondition":
        """Say what is waited for, on a thread: to import the engine takes longer than an event loop may be kept waiting."""
        from airflow_quilt.core.registry.condition import RevisionCondition

        return RevisionCondition(package=self.package, newer_than=self.newer_than, path=self.path)


def describe(hook: QuiltHook, registry: "Registry", found: "FoundRevision") -> dict[str, Any]:
    """Return what a later task may want to know of a revision that was found: plain values only."""
    time = found.time.to_iso8601_string() if found.time else None
    return {**hook.describe(registry, found.package, found.top_hash), "revision": time}
