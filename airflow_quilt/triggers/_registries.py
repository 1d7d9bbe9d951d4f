"""Open registries: all triggers with the same connection share one.

Opening a registry takes a quarter of a second of CPU time and some MiB, most of it in botocore.
"""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from airflow_quilt.hooks.quilt import QuiltHook

if TYPE_CHECKING:
    from airflow_quilt.core.registry.registry import Registry

_Key = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class OpenRegistry:
    """A registry, and the hook that opened it.

    Attributes:
        hook: knows the settings of the connection, and the catalog.
        registry: call it on threads only.
    """

    hook: QuiltHook
    registry: "Registry"


class _Shared:
    """The open registries of one event loop, each for as long as a trigger holds it."""

    def __init__(self) -> None:
        self.opened: WeakValueDictionary[_Key, OpenRegistry] = WeakValueDictionary()
        self.turns: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()


_SHARED: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared]] = WeakKeyDictionary()


async def opened(quilt_conn_id: str | None, registry: str | None, instead_of: OpenRegistry | None = None) -> OpenRegistry:
    """Open a registry, or return the one that another trigger has open already.

    Args:
        quilt_conn_id: the connection.
        registry: ``s3://bucket``, or None for the connection's.
        instead_of: a registry that fails; the connection is read again, unless another trigger has done so since.

    Raises:
        SettingsError: there is no such connection, or it names no registry, or something in it cannot be right.
        LocationError: the registry is not a whole bucket or a directory.
    """
    shared = _SHARED.setdefault(asyncio.get_running_loop(), _Shared())
    key = quilt_conn_id, registry
    turn = shared.turns.setdefault(key, asyncio.Lock())
    async with turn:
        found = shared.opened.get(key)
        if found is None or found is instead_of:
            found = shared.opened[key] = await _open(*key)
        return found


async def _open(quilt_conn_id: str | None, registry: str | None) -> OpenRegistry:
    hook = QuiltHook(quilt_conn_id)
    await hook.aload()
    return OpenRegistry(hook, await asyncio.to_thread(hook.registry, registry))
