"""What a trigger has reported, kept over a restart where Airflow keeps the state of assets: 3.3 and newer."""

import asyncio
import hashlib
import json
import logging
import zlib
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

_log = logging.getLogger(__name__)

_SHARDS: Final = 32
"""The values of a pattern are spread over so many keys: each is to stay below 64 KiB, of which Airflow warns."""
_STARTING: Final = 1.0
"""Seconds in which Airflow starts the triggers that come together. It writes a line about each from its event loop, and its
supervisor, which reads those, answers calls too: who asks for something before that lets the event loop wait for both."""
_TURNS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()
"""One call of the state is under way at a time, of all watchers: Airflow answers one after the other, and events that are
reported meanwhile, and lines of the log, wait behind them."""


class Cursor:
    """The top hashes that were reported last, by package.

    Args:
        store: the state of the watched asset, or None where Airflow has none.
        identity: what tells this watcher from others of the same asset.
        is_wide: whether it is about many packages.
    """

    def __init__(self, store: Any, identity: Mapping[str, Any], *, is_wide: bool) -> None:
        self._store = store
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._key = f"quilt_watch:{digest[:32]}"
        self._shards = _SHARDS if is_wide else 1
        self._kept: list[dict[str, str] | None] = [None] * self._shards
        self.reported: dict[str, str] = {}

    async def load(self) -> bool:
        """Read what was kept; return whether anything was."""
        if self._store is None:
            _log.warning("What is published while the triggerer is down is not seen: only Airflow 3.3 and newer keep what was")
            return False
        await asyncio.sleep(_STARTING)
        try:
            self._kept = [await self._get(number) for number in range(self._shards)]
        except ValueError as error:  # Of several assets that have this watcher none has its state.
            _log.warning("What is published while the triggerer is down is not seen: %s", error)
            self._store = None
            return False
        self.reported = {name: top_hash for kept in self._kept for name, top_hash in (kept or {}).items()}
        return any(kept is not None for kept in self._kept)

    async def save(self) -> None:
        """Keep what was reported, where it has changed."""
        if self._store is None:
            return
        shards: list[dict[str, str]] = [{} for _ in range(self._shards)]
        for name, top_hash in self.reported.items():
            shards[zlib.crc32(name.encode()) % self._shards][name] = top_hash
        for number, (shard, kept) in enumerate(zip(shards, self._kept, strict=True)):
            if shard != kept and (shard or kept or number == 0):  # The first one says that there was a look.
                try:
                    await self._call("set", number, shard)
                except Exception as error:  # noqa: BLE001  (whatever it is: it is tried again at the next look)
                    _log.warning("What was reported could not be noted yet: %s", error)
                    return
                self._kept[number] = shard

    async def _get(self, number: int) -> dict[str, str] | None:
        value = await self._call("get", number)
        return {name: str(top_hash) for name, top_hash in value.items()} if isinstance(value, dict) else None

    async def _call(self, verb: str, number: int, *value: Any) -> Any:
        """Call the store without blocking; the calls that wait themselves came with Airflow 3.3.2."""
        async with _TURNS.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if call := getattr(self._store, f"a{verb}", None):
                return await call(f"{self._key}:{number}", *value)
            return await asyncio.to_thread(getattr(self._store, verb), f"{self._key}:{number}", *value)
