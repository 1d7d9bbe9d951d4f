"""QuiltRevisionTrigger: waits in the triggerer for a revision, in place of a task."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_quilt.core.errors import (
    AuthenticationError,
    BucketNotFoundError,
    QuiltError,
    SettingsError,
    SettingsUnavailableError,
    StorageError,
    plain,
    quoted,
)
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.triggers._registries import OpenRegistry, RegistryAccess
from airflow_quilt.triggers._threads import run_locally

if TYPE_CHECKING:
    from airflow_quilt.core.registry.condition import RevisionCondition

_log = logging.getLogger(__name__)

_OF_CONNECTION: Final = (SettingsError, AuthenticationError, BucketNotFoundError)
"""Errors that a connection decides. It may be there again, or mended, in a moment: a secrets backend that fails is to Airflow a
connection that is missing, and without its AWS connection a registry is opened as another identity, at another store."""
_MOST_REFUSALS: Final = 3
"""Such errors in a row that end the wait."""
_MOST_DOUBLINGS: Final = 20


class QuiltRevisionTrigger(BaseTrigger):
    """Waits until the latest revision of a package meets a condition; then it ends with an event.

    A transient error is logged, and the next poll follows. An error that the connection decides ends the wait when it comes three
    times in a row; the connection is read again in between. Any other error ends it at once, with an event that states the error.

    :param package: ``namespace/name``.
    :param registry: ``s3://bucket``; by default the connection's.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param newer_than: see :class:`~airflow_quilt.sensors.package.QuiltPackageSensor`.
    :param path: likewise.
    :param poll_interval: seconds from one poll to the next.
    :param max_interval: the seconds up to which the interval doubles after each poll; None for an interval that stays.
    :param is_first: whether no worker has polled before, so that the first poll here reports a package that does not exist.
    """

    def __init__(  # noqa: PLR0913  (the parts of a condition)
        self,
        package: str,
        registry: str | None = None,
        quilt_conn_id: str | None = QuiltHook.default_conn_name,
        newer_than: str | None = None,
        path: str | None = None,
        poll_interval: float = 60.0,
        *,
        max_interval: float | None = None,
        is_first: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.package = package
        self.registry = registry
        self.quilt_conn_id = quilt_conn_id
        self.newer_than = newer_than
        self.path = path
        self.poll_interval = poll_interval
        self.max_interval = max_interval
        self.is_first = is_first
        self._faults: list[str] = []

    def render_template(self, content: Any, *arguments: Any, **more: Any) -> Any:
        """Render an argument of a sensor that starts here; one without a value ends the wait with an error, as on a worker."""
        rendered = super().render_template(content, *arguments, **more)
        if isinstance(content, str) and rendered != content and rendered in {"", "None"}:
            self._faults.append(f"template {quoted(content)}: it has no value; give a value, or leave the argument out")
        return rendered

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "package": self.package,
            "registry": self.registry,
            "quilt_conn_id": self.quilt_conn_id,
            "newer_than": self.newer_than,
            "path": self.path,
            "poll_interval": self.poll_interval,
            "max_interval": self.max_interval,
            "is_first": self.is_first,
        }

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Poll until the condition is met; yield the revision, or the error."""
        if self._faults:
            yield TriggerEvent({"error": f"InputError: {'; '.join(self._faults)}"})
            return
        condition = await run_locally(self._condition)
        access = RegistryAccess(self.quilt_conn_id, self.registry)
        polls = refusals = 0
        while True:
            polls += 1
            pause = self._interval(polls)
            opened: OpenRegistry | None = None
            try:
                opened = await access.open()
                found = await opened.run(condition.find, opened.registry, self._report if self.is_first and polls == 1 else None)
            except QuiltError as error:
                is_refusal = _is_of_connection(error)
                refusals = refusals + 1 if is_refusal else 0
                if refusals >= _MOST_REFUSALS or not (is_refusal or error.transient):
                    if opened and isinstance(error, StorageError):
                        await opened.run(opened.hook.explain, error)
                    yield TriggerEvent({"error": f"{type(error).__name__}: {error}"})
                    return
                _log.warning("Package %s could not be polled; the next poll follows: %s", plain(self.package), error)
                access.fail(reopen=is_refusal)
                pause = access.pause(self.poll_interval, pause)
            else:
                if found:
                    yield TriggerEvent({"found": found.to_xcom(opened.hook.settings.catalog)})
                    return
                refusals = 0
                access.succeed()
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311

    def _interval(self, polls: int) -> float:
        """Return the seconds until the next poll, after so many."""
        if self.max_interval is None:
            return self.poll_interval
        return min(self.poll_interval * float(1 << min(polls - 1, _MOST_DOUBLINGS)), self.max_interval)

    @staticmethod
    def _report(absent: str) -> None:
        _log.warning("Not yet there, the sensor waits: %s", absent)

    def _condition(self) -> "RevisionCondition":
        """Return the condition, on a thread: the import of the core would block the event loop."""
        from airflow_quilt.core.registry.condition import RevisionCondition

        return RevisionCondition(package=self.package, newer_than=self.newer_than, path=self.path)


def _is_of_connection(error: QuiltError) -> bool:
    return isinstance(error, SettingsUnavailableError) or (isinstance(error, _OF_CONNECTION) and not error.transient)
