"""The cursor of a watcher: the top hashes it has reported, saved where Airflow keeps the state of assets (3.3 and newer)."""

import asyncio
import hashlib
import json
import logging
import zlib
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from airflow_quilt.triggers._threads import run_locally

_log = logging.getLogger(__name__)

_SHARDS: Final = 32
"""Number of keys for the packages of a pattern: each value is to stay below 64 KiB, of which Airflow warns."""
_TURNS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()
"""One call of the state is under way at a time, of all watchers: Airflow answers one after the other, and events and log lines
wait behind them."""


class Cursor:
    """The saved state of a watcher: top hashes by package.

    Args:
        store: the state of the watched asset, or None where Airflow has none.
        identity: distinguishes this watcher from others of the same asset.
        is_wide: whether it watches a pattern.
        starting: seconds to wait before the state is loaded.
    """

    def __init__(self, store: Any, identity: Mapping[str, Any], *, is_wide: bool, starting: float = 0.0) -> None:
        self._starting = starting
        self._store = store
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._key = f"quilt_watch:{digest[:32]}"
        self._shards: list[dict[str, str] | None] = [None] * (_SHARDS if is_wide else 1)
        self._saved: Mapping[str, str] | None = None

    async def load(self) -> Mapping[str, str] | None:
        """Return the saved top hashes by package, or None before the first save."""
        if self._store is None:
            _log.warning("Revisions published while the triggerer is down are not reported: that needs Airflow 3.3 or newer")
            return None
        await asyncio.sleep(self._starting)
        try:
            self._shards = [await self._get(number) for number in range(len(self._shards))]
        except ValueError as error:  # Airflow cannot choose between several assets with this watcher.
            _log.warning("Revisions published while the triggerer is down are not reported: %s", error)
            self._store = None
            return None
        if any(shard is not None for shard in self._shards):
            self._saved = {name: top_hash for shard in self._shards for name, top_hash in (shard or {}).items()}
        return self._saved

    async def save(self, reported: Mapping[str, str]) -> None:
        """Save top hashes by package, as far as they differ from the saved ones. A failure is logged: save again later."""
        if self._store is None or reported == self._saved:
            return
        shards: list[dict[str, str]] = [{} for _ in self._shards]
        for name, top_hash in reported.items():
            shards[zlib.crc32(name.encode()) % len(shards)][name] = top_hash
        for number, (shard, saved) in enumerate(zip(shards, list(self._shards), strict=True)):
            if shard != saved and (shard or saved or number == 0):  # The first key exists once there was a poll.
                try:
                    await self._call("set", number, shard)
                except Exception as error:  # noqa: BLE001  (of any kind: the next snapshot is saved in its place)
                    _log.warning("Reported revisions could not be saved; the next poll saves them: %s", error)
                    return
                self._shards[number] = shard
        self._saved = reported

    async def _get(self, number: int) -> dict[str, str] | None:
        value = await self._call("get", number)
        return {name: str(top_hash) for name, top_hash in value.items()} if isinstance(value, dict) else None

    async def _call(self, verb: str, number: int, *value: Any) -> Any:
        """Call the store without blocking: Airflow 3.3.2 and newer have calls that are awaited."""
        async with _TURNS.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if call := getattr(self._store, f"a{verb}", None):
                return await call(f"{self._key}:{number}", *value)
            return await run_locally(getattr(self._store, verb), f"{self._key}:{number}", *value)
