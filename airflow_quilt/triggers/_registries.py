"""Open registries: all triggers with the same connection share one, and its threads.

Opening a registry takes a quarter of a second of CPU time and some MiB, most of it in botocore.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.triggers._threads import Threads

if TYPE_CHECKING:
    from airflow_quilt.core.registry.registry import Registry

P = ParamSpec("P")
R = TypeVar("R")

_Key = tuple[str | None, str | None]

_MOST_THREADS: Final = 4
_TIMEOUT: Final = 15.0
"""Seconds that a request may take, at its only attempt: the next poll is the next attempt, and the other triggers of the registry
wait for its thread."""
_FIRST_PAUSE: Final = 2.0
_MOST_DOUBLINGS: Final = 20
_REOPEN_AFTER: Final = 3
"""Failures in a row after which the connection is read again."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class OpenRegistry:
    """A registry, and the hook that opened it.

    Attributes:
        hook: knows the settings of the connection, and the catalog.
        registry: call it on the threads only.
        threads: those of the registry.
    """

    hook: QuiltHook
    registry: "Registry"
    threads: Threads

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function that makes requests, on a thread of the registry."""
        return await self.threads.run(function, *args, **kwargs)


class _Shared:
    """The open registries of one event loop, each for as long as a trigger holds it; their threads outlive those that fail."""

    def __init__(self) -> None:
        self.opened: WeakValueDictionary[_Key, OpenRegistry] = WeakValueDictionary()
        self.turns: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()
        self.threads: WeakValueDictionary[_Key, Threads] = WeakValueDictionary()


_SHARED: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared]] = WeakKeyDictionary()


class RegistryAccess:
    """A trigger's access to its registry, which it shares with the other triggers of the event loop.

    Args:
        quilt_conn_id: the connection.
        registry: ``s3://bucket``, or None for the connection's.
    """

    def __init__(self, quilt_conn_id: str | None, registry: str | None) -> None:
        self._key = quilt_conn_id, registry
        self._shared = _SHARED.setdefault(asyncio.get_running_loop(), _Shared())
        self._turn = self._shared.turns.setdefault(self._key, asyncio.Lock())
        self._threads = self._shared.threads.setdefault(self._key, Threads(_MOST_THREADS, "quilt-registry"))
        self._held: OpenRegistry | None = None
        self._failed: OpenRegistry | None = None
        self._failures = 0

    async def open(self) -> OpenRegistry:
        """Open the registry, or return the one that is open already; call it anew for each poll.

        Raises:
            SettingsError: the connection names no registry, or something in it cannot be right.
            SettingsUnavailableError: there is no such connection, or it cannot be read for now.
            LocationError: the registry is not a whole bucket or a directory.
            QuiltError: no session with the store can be made.
        """
        if self._held is None:
            async with self._turn:
                found = self._shared.opened.get(self._key)
                if found is None or found is self._failed:
                    found = self._shared.opened[self._key] = await self._open()
            self._held, self._failed = found, None
        return self._held

    def succeed(self) -> None:
        """Note that a poll succeeded."""
        self._failures = 0

    def fail(self, *, reopen: bool = False) -> int:
        """Note a failed poll; return how many failed in a row.

        The connection is read again after every third, or with ``reopen``, unless another trigger has done so since.
        """
        self._failures += 1
        if self._held and (reopen or self._failures % _REOPEN_AFTER == 0):
            self._failed, self._held = self._held, None
        return self._failures

    def pause(self, poll_interval: float, longest: float) -> float:
        """Return the seconds to wait after a failed poll: few at first, since a request had one attempt; then twice as many."""
        pause = min(longest, min(poll_interval, _FIRST_PAUSE) * 2 ** min(self._failures, _MOST_DOUBLINGS))
        return random.uniform(pause / 2, pause)  # noqa: S311

    async def _open(self) -> OpenRegistry:
        quilt_conn_id, registry = self._key
        hook = QuiltHook(quilt_conn_id, timeout=_TIMEOUT)
        await hook.aload()
        return OpenRegistry(hook, await self._threads.run(hook.registry, registry), self._threads)
