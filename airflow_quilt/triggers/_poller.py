"""The poller of a registry: snapshots of watched packages for as long as a trigger subscribes; requests run on threads."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.names import is_pattern, matches
from airflow_quilt.triggers._registries import OpenRegistry, RegistryAccess
from airflow_quilt.triggers._threads import Threads, run_locally

if TYPE_CHECKING:
    from collections.abc import Hashable

    from airflow_quilt.core.registry.attempt import RollbackTag, WriterTag
    from airflow_quilt.core.registry.registry import Registry
    from airflow_quilt.core.registry.watch import LatestWatcher
    from airflow_quilt.hooks._queue import PackageQueue
    from airflow_quilt.hooks.quilt import QuiltHook
    from airflow_quilt.triggers._cursor import Cursor

_log = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = 900.0
_QUEUE_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Waits of a watcher, in seconds.

    Attributes:
        gathering: triggers that start together join one poll.
        starting: Airflow starts the triggers that come together before the first one asks for its state: the event loop writes
            a line about each, and the supervisor, which reads those, answers calls too, so an earlier call makes both wait.
        queue: the longest request for messages; a triggerer that stops waits for its end. SQS itself allows 20.
        undecided: the longest until the next poll, after one that found a revision whose task had not ended.
    """

    gathering: float = 1.0
    starting: float = 1.0
    queue: float = 10.0
    undecided: float = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The ``latest`` top hashes of packages at one moment.

    Attributes:
        registry: the polled registry.
        packages: the names and patterns that were polled.
        found: top hashes by package.
        hook: knows the catalog.
        wake: set it for a poll before the next one is due.
        writers: the tags of those that a task published or rolled back to.
        reported: the state of each trigger after this snapshot, to be saved once Airflow has stored its events.
    """

    registry: "Registry"
    packages: frozenset[str]
    found: Mapping[str, str]
    hook: "QuiltHook"
    wake: asyncio.Event
    writers: "Mapping[str, WriterTag | RollbackTag]"
    reported: "dict[Cursor, Mapping[str, str]]" = field(default_factory=dict)

    async def of(self, package: str) -> dict[str, str]:
        """Return the top hash of a package, or those of all that match a pattern, which are searched on a thread."""
        if is_pattern(package):
            return await run_locally(self._matching, package)
        return {package: self.found[package]} if package in self.found else {}

    def _matching(self, pattern: str) -> dict[str, str]:
        return {name: top_hash for name, top_hash in self.found.items() if matches(name, pattern)}


@dataclass(slots=True, weakref_slot=True)
class Subscriptions:
    """The names and patterns that the triggers of one poller watch."""

    packages: Counter[str] = field(default_factory=Counter)
    joined: asyncio.Event = field(default_factory=asyncio.Event)

    async def gather(self, seconds: float) -> None:
        """Wait for the first subscription, and so many seconds for those that start with it."""
        if not self.packages:
            await self.joined.wait()
        if self.joined.is_set():
            await asyncio.sleep(seconds)
            self.joined.clear()

    @contextmanager
    def of(self, package: str) -> Iterator[None]:
        """Subscribe to a package or pattern until the block ends."""
        self.packages[package] += 1
        self.joined.set()
        try:
            yield
        finally:
            self.packages[package] -= 1
            if not self.packages[package]:
                del self.packages[package]


@dataclass(frozen=True, slots=True, kw_only=True)
class Poller:
    """Polls a registry: one for all triggers with equal arguments.

    Attributes:
        quilt_conn_id: the connection.
        registry: ``s3://bucket``, or None for the connection's.
        poll_interval: seconds from one poll to the next.
        queue_url: an SQS queue whose events cause a poll at once.
        timing: the waits.
    """

    quilt_conn_id: str | None
    registry: str | None
    poll_interval: float
    queue_url: str | None = None
    timing: Timing = field(default_factory=Timing)

    @property
    def key(self) -> "Hashable":
        """The key of the stream that triggers with equal arguments share."""
        return ("airflow_quilt", self.quilt_conn_id or "", self.registry or "", self.poll_interval, self.queue_url or "")

    async def snapshots(self, subscriptions: Subscriptions) -> AsyncGenerator[Snapshot]:
        """Poll for ever; a failed poll is repeated after a pause that grows up to a quarter of an hour."""
        access = RegistryAccess(self.quilt_conn_id, self.registry)
        source: _Source | None = None
        while True:
            await subscriptions.gather(self.timing.gathering)
            try:
                opened = await access.open()
                if source is None or source.opened is not opened:
                    source = await opened.run(self._source, opened)
                snapshot = await source.poll(subscriptions)
            except Exception as error:  # noqa: BLE001  (of any kind: a watcher goes on watching)
                failures = access.fail()
                pause = access.pause(self.poll_interval, _LONGEST_PAUSE)
                message = "Packages could not be polled, attempt %s, the next in %.0f s: %s"
                _log.warning(message, failures, pause, error, exc_info=not isinstance(error, QuiltError))
                await asyncio.sleep(pause)
                continue
            access.succeed()
            yield snapshot
            await source.wait(self.poll_interval, subscriptions)

    def _source(self, registry: OpenRegistry) -> "_Source":
        """Open the queue, on a thread: the import of the core would block the event loop."""
        from airflow_quilt.core.registry.watch import LatestWatcher
        from airflow_quilt.hooks._queue import PackageQueue

        queue = PackageQueue(self.queue_url, registry.hook.settings, self.timing.queue) if self.queue_url else None
        return _Source(registry, LatestWatcher(registry.registry), queue, self.timing.queue)


@dataclass(slots=True)
class _Source:
    """An open registry, and the queue of its events if there is one, with the seconds of its longest request, and its thread."""

    opened: OpenRegistry
    watch: "LatestWatcher"
    queue: "PackageQueue | None"
    longest: float
    thread: Threads = field(default_factory=lambda: Threads(1, "quilt-queue"))

    async def poll(self, subscriptions: Subscriptions) -> Snapshot:
        packages = frozenset(subscriptions.packages)
        found = await self.opened.run(self.watch.poll, packages)
        return Snapshot(self.watch.registry, packages, found, self.opened.hook, subscriptions.joined, self.watch.writers)

    async def wait(self, seconds: float, subscriptions: Subscriptions) -> None:
        """Wait until the next poll is due, a trigger joins, or the queue has an event of a watched package."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        await self._delete_events()  # All subscribers have the snapshot by now.
        while (left := until - loop.time()) > 0 and not subscriptions.joined.is_set():
            if await self._has_event(left, subscriptions):
                return

    async def _has_event(self, seconds: float, subscriptions: Subscriptions) -> bool:
        """Wait for so many seconds at most; return whether the queue has an event of a watched package."""
        if self.queue is None:
            await _until(subscriptions.joined, seconds)
            return False
        try:
            events = await self.thread.run(self.queue.receive, min(seconds, self.longest))
        except Exception as error:  # noqa: BLE001  (of any kind, as for a poll: a watcher goes on watching)
            message = "Packages are polled every poll_interval only, until the queue can be read again: %s"
            _log.warning(message, error, exc_info=not isinstance(error, QuiltError))
            await _until(subscriptions.joined, min(seconds, _QUEUE_PAUSE))
            return False
        here = str(self.watch.registry.location)
        if any(event.registry == here and _is_watched(event.package, subscriptions) for event in events):
            return True
        if not await self._delete_events():  # Not at once again: it might deliver the same ones without end.
            await _until(subscriptions.joined, min(seconds, _QUEUE_PAUSE))
        return False

    async def _delete_events(self) -> bool:
        """Delete the received messages; return whether the queue has done so."""
        try:
            if self.queue:
                await self.thread.run(self.queue.done)
        except Exception as error:  # noqa: BLE001  (of any kind, as above)
            message = "Events stay in the queue and will be delivered again: %s"
            _log.warning(message, error, exc_info=not isinstance(error, QuiltError))
            return False
        return True


def _is_watched(package: str, subscriptions: Subscriptions) -> bool:
    return any(matches(package, watched) for watched in subscriptions.packages)


async def _until(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for so many seconds at most."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
