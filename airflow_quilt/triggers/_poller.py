"""Looks at packages, one after the other, for as long as somebody wants to know; all work on S3 is done on threads."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.names import is_pattern, matches
from airflow_quilt.triggers._registries import OpenRegistry, opened

if TYPE_CHECKING:
    from collections.abc import Hashable

    from airflow_quilt.core.registry.registry import Registry
    from airflow_quilt.core.registry.watch import Watch
    from airflow_quilt.hooks._queue import PackageQueue
    from airflow_quilt.hooks.quilt import QuiltHook

_log = logging.getLogger(__name__)

_GATHERING: Final = 1.0
"""Seconds in which triggers that start together join one look."""
_LONGEST_PAUSE: Final = 900.0
_QUEUE_PAUSE: Final = 30.0
_ANEW: Final = 3
"""After so many failures the connection is read again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen of the packages of a registry at one moment.

    Attributes:
        registry: where.
        packages: the names and patterns that were looked for.
        found: top hashes by package.
        hook: knows the catalog.
    """

    registry: "Registry"
    packages: frozenset[str]
    found: Mapping[str, str]
    hook: "QuiltHook"

    async def of(self, package: str) -> dict[str, str]:
        """Return what was found of a package, or of those that match a pattern, which are looked through on a thread."""
        if is_pattern(package):
            return await asyncio.to_thread(self._matching, package)
        return {package: self.found[package]} if package in self.found else {}

    def _matching(self, pattern: str) -> dict[str, str]:
        return {name: top_hash for name, top_hash in self.found.items() if matches(name, pattern)}


@dataclass(slots=True)
class Subscriptions:
    """Who wants to know of which packages, among the triggers that share looks."""

    packages: Counter[str] = field(default_factory=Counter)
    joined: asyncio.Event = field(default_factory=asyncio.Event)

    async def gather(self) -> None:
        """Wait until there is somebody; and a moment, for those who come along."""
        if not self.packages:
            await self.joined.wait()
        if self.joined.is_set():
            await asyncio.sleep(_GATHERING)
            self.joined.clear()

    @contextmanager
    def of(self, package: str) -> Iterator[None]:
        """Have a package looked at until the block ends."""
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
    """What is looked at, and how often: the same for all triggers that share looks.

    Attributes:
        quilt_conn_id: the connection.
        registry: ``s3://bucket``, or None for the connection's.
        poll_interval: seconds from one look to the next.
        queue_url: an SQS queue whose events cause a look at once.
    """

    quilt_conn_id: str | None
    registry: str | None
    poll_interval: float
    queue_url: str | None = None

    @property
    def key(self) -> "Hashable":
        """What is equal for those who can share looks."""
        return ("airflow_quilt", self.quilt_conn_id or "", self.registry or "", self.poll_interval, self.queue_url or "")

    async def looks(self, interest: Subscriptions) -> AsyncGenerator[Snapshot]:
        """Yield looks for ever; what fails is tried again after ever longer pauses, up to a quarter of an hour."""
        place: _Place | None = None
        worn: OpenRegistry | None = None
        failures = 0
        while True:
            await interest.gather()
            try:
                if place is None:
                    place = await self._open(worn)
                    worn = None
                look = await place.look(frozenset(interest.packages))
            except Exception as error:  # noqa: BLE001  (whatever it is: who watches goes on watching)
                failures += 1
                pause = self._pause(failures)
                said = "Packages could not be looked at, try %s, the next in %.0f s: %s"
                _log.warning(said, failures, pause, error, exc_info=not isinstance(error, QuiltError))
                if place and failures % _ANEW == 0:
                    worn, place = place.opened, None
                await asyncio.sleep(pause)
                continue
            failures = 0
            yield look
            await place.wait(self.poll_interval, interest)

    def _pause(self, failures: int) -> float:
        longest = max(self.poll_interval, min(_LONGEST_PAUSE, self.poll_interval * 2 ** min(failures, 10)))
        return random.uniform(longest / 2, longest)  # noqa: S311

    async def _open(self, worn: OpenRegistry | None) -> "_Place":
        place = await opened(self.quilt_conn_id, self.registry, instead_of=worn)
        return await asyncio.to_thread(self._place, place)

    def _place(self, place: OpenRegistry) -> "_Place":
        """Open the rest, on a thread: to import the engine takes longer than an event loop may be kept waiting."""
        from airflow_quilt.core.registry.watch import Watch
        from airflow_quilt.hooks._queue import PackageQueue

        queue = PackageQueue(self.queue_url, place.hook.settings) if self.queue_url else None
        return _Place(place, Watch(place.registry), queue)


@dataclass(slots=True)
class _Place:
    """A registry that was opened, and maybe the queue of its events."""

    opened: OpenRegistry
    watch: "Watch"
    queue: "PackageQueue | None"

    async def look(self, packages: frozenset[str]) -> Snapshot:
        found = await asyncio.to_thread(self.watch.look, packages)
        return Snapshot(self.watch.registry, packages, found, self.opened.hook)

    async def wait(self, seconds: float, interest: Subscriptions) -> None:
        """Wait until it is time to look again, somebody joins, or the queue has an event of a package that is watched."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if self.queue:
            await asyncio.to_thread(self.queue.done)  # Whoever shares the look has it by now.
        while (left := until - loop.time()) > 0 and not interest.joined.is_set():
            if await self._waited(left, interest):
                return

    async def _waited(self, seconds: float, interest: Subscriptions) -> bool:
        """Wait a while; return whether the queue has an event of a package that is watched."""
        if self.queue is None:
            await _until(interest.joined, seconds)
            return False
        try:
            events = await asyncio.to_thread(self.queue.receive, seconds)
        except QuiltError as error:
            _log.warning("Until the queue can be read again, packages are looked at every so often only: %s", error)
            await _until(interest.joined, min(seconds, _QUEUE_PAUSE))
            return False
        here = str(self.watch.registry.location)
        if any(event.registry == here and _is_watched(event.package, interest) for event in events):
            return True
        await asyncio.to_thread(self.queue.done)
        return False


def _is_watched(package: str, interest: Subscriptions) -> bool:
    return any(matches(package, watched) for watched in interest.packages)


async def _until(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for so long at most."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
