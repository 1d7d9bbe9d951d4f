"""What the workers of one push leave for each other: a plan, its shards, and what came of each.

Every object is a row of blocks, each with its length and its SHA-256: what arrives damaged or short is told, and a worker
holds one block at a time. Nothing in them is ever run: whoever may write there can spoil a revision, and no worker.
"""

import contextlib
import hashlib
import json
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Final, TypeVar, cast

import msgspec

from airflow_quilt.core.errors import LocationError, ObjectNotFoundError, PreconditionError, StorageError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import Record, batched
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Action, Transfer
from airflow_quilt.core.publish.commit import CommitSpec
from airflow_quilt.core.registry.attempt import Attempt, WriterTag
from airflow_quilt.core.registry.pointers import Latest
from airflow_quilt.core.runtime.spool import disk_full_as_error
from airflow_quilt.core.storage.base import Stores, WriteMode

T = TypeVar("T")

_SPOOL: Final = 8 * 1024 * 1024
_HEAD: Final = struct.Struct(">Q32s")
"""What is before each block: how many bytes it has, and their SHA-256."""
_PEEK: Final = 4096
"""More than the first block of what came of a shard."""
_NAME: Final = re.compile(r"([0-9]{1,10})-[0-9a-f]{32}")
_PLAN: Final = "plan"
_MSGPACK: Final = b"m"
_JSON: Final = b"j"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """What came of a shard.

    Attributes:
        number: which one, counted from 0.
        entries: the number of its files.
        bytes: what they add up to.
        bytes_copied: how many of those bytes were moved to the registry's bucket.
        bytes_reused: how many were to be moved, and were there already.
        was_there: whether a try before this one had done all of it.
    """

    number: int
    entries: int
    bytes: int
    bytes_copied: int
    bytes_reused: int
    was_there: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers of one push go by.

    Attributes:
        identity: tells it from every other plan; in the names of what belongs to it.
        verb: tells the log what is being done.
        base: what ``latest`` named.
        shards: the number of entries in each.
        bytes: those of all entries; ``bytes_to_copy`` of them are to move.
    """

    identity: str
    verb: str
    registry: str
    package: str
    terms: CommitSpec
    base: Latest | None
    shards: Sequence[int]
    bytes: int
    bytes_to_copy: int


class Rows(msgspec.Struct, frozen=True, gc=False):
    """Some of the files of a shard: those whose entries are known, and what is to be done for the others."""

    kept: list[Entry]
    tasks: list[Transfer]


class Key(msgspec.Struct, frozen=True, gc=False):
    """The logical key of a file, and no more of it."""

    logical_key: LogicalKey


def staging_of(root: PhysicalKey, attempt: Attempt, began: float) -> PhysicalKey:
    """Return the place for what the workers of a push leave for each other: always the same for one piece of work.

    Args:
        root: a directory, or a prefix in a bucket.
        attempt: only its key counts, so that each try finds what the one before it left.
        began: the unix seconds at which the piece of work, not this try of it, began.
    """
    return root.join(f"{int(began)}-{WriterTag.of(attempt).work}/")


def check_staging(staging: PhysicalKey) -> None:
    """Check that a place is one that :func:`staging_of` returns, so that nothing else is ever deleted.

    Raises:
        LocationError: it is not, or it is in a registry's own area.
    """
    if not staging.is_prefix or not _NAME.fullmatch(staging.name) or staging.version_id is not None:
        raise LocationError(f"{staging}: expected <root>/<unix seconds>-<hash>/, as staging_of returns")
    if f"/{layout.OWN}" in f"/{staging.key}":
        raise LocationError(f"{staging}: nothing may be staged in the registry's own area, {layout.OWN}; choose another prefix")


class Staging:
    """One such place.

    Args:
        stores: the storages.
        root: where it is.
    """

    def __init__(self, stores: Stores, root: PhysicalKey) -> None:
        self._stores = stores
        self._storage = stores.of(root)
        self.root = root

    def plan(self) -> Plan | None:
        """Return the plan, or None where there is none yet."""
        stat = self._stores.find(self.root.join(_PLAN))
        return self._first(_PLAN, stat.size, Plan) if stat else None

    def write_plan(self, plan: Plan) -> Plan:
        """Write the plan, after all that it speaks of; return that of another try which was faster, if one was."""
        with contextlib.suppress(PreconditionError):
            self._write(_PLAN, [plan], "create")
        return self.plan() or plan

    def write_shard(self, identity: str, number: int, actions: Iterable[Action]) -> None:
        """Write what becomes of the files of a shard."""
        self._write(_shard(identity, number), map(_rows, batched(actions)))

    def shard(self, plan: Plan, number: int) -> Iterator[list[Action]]:
        """Read a shard, some files at a time.

        Raises:
            StorageError: it is gone or damaged.
        """
        path, left = _shard(plan.identity, number), plan.shards[number]
        for rows in self._read(path, self._size(path), Rows):
            left -= len(rows.kept) + len(rows.tasks)
            yield [*rows.kept, *rows.tasks]
        if left:
            raise self._damaged(path)

    def write_added(self, identity: str, added: Iterable[Record]) -> None:
        """Write the keys of the files that an update adds."""
        self._write(_added(identity), ([Key(each.logical_key) for each in batch] for batch in batched(added)))

    def added(self, plan: Plan) -> Iterator[Key]:
        """Read those."""
        path = _added(plan.identity)
        for keys in self._read(path, self._size(path), list[Key]):
            yield from keys

    def write_done(self, plan: Plan, done: ShardResult, entries: Iterable[Entry]) -> ShardResult:
        """Write what came of a shard, all at once; return what another try of it wrote before, if one did."""
        with contextlib.suppress(PreconditionError):
            self._write(_done(plan.identity, done.number), _headed(done, entries), "create")
            return done
        return self.done(plan, done.number) or done

    def done(self, plan: Plan, number: int) -> ShardResult | None:
        """Return what came of a shard, or None where it is not done."""
        path = _done(plan.identity, number)
        stat = self._stores.find(self.root.join(path))
        return replace(self._first(path, min(stat.size, _PEEK), ShardResult), was_there=True) if stat else None

    def all_done(self, plan: Plan) -> list[int]:
        """Return the size of what came of each shard.

        Raises:
            ObjectNotFoundError: some are not done; the message names them.
        """
        found = {stat.key.key: stat.size for stat in self._storage.list_objects(self.root.join("done/"))}
        sizes = [found.get(self.root.join(_done(plan.identity, number)).key) for number in range(len(plan.shards))]
        if missing := [str(number) for number, size in enumerate(sizes) if size is None]:
            raise ObjectNotFoundError(
                f"of {len(sizes):,} shards these have not been transferred: {', '.join(missing)}; do that, then commit again",
                str(self.root),
            )
        return [size for size in sizes if size is not None]

    def entries(self, plan: Plan, number: int, size: int) -> Iterator[ShardResult | list[Entry]]:
        """Read what came of a shard: first that, then its entries, some at a time.

        Raises:
            StorageError: it is damaged.
        """
        path, left = _done(plan.identity, number), plan.shards[number]
        for block in self._read(path, size, ShardResult | list[Entry]):
            left -= len(block) if isinstance(block, list) else 0
            yield block
        if left:
            raise self._damaged(path)

    def discard(self) -> int:
        """Delete all of it, the plan first; return how many objects there were."""
        keys = [stat.key for stat in self._storage.list_objects(self.root)]
        self._storage.delete(sorted(keys, key=lambda key: key.name != _PLAN))
        return len(keys)

    def _write(self, path: str, blocks: Iterable[Any], mode: WriteMode = "overwrite") -> None:
        with disk_full_as_error(), tempfile.SpooledTemporaryFile(_SPOOL) as file:
            for block in blocks:
                data = _encoded(block)
                file.write(_HEAD.pack(len(data), hashlib.sha256(data).digest()))
                file.write(data)
            file.seek(0)
            self._storage.put(self.root.join(path), cast("IO[bytes]", file), mode)

    def _size(self, path: str) -> int:
        return self._storage.stat(self.root.join(path)).size

    def _first(self, path: str, size: int, kind: type[T]) -> T:
        for block in self._read(path, size, kind):
            return cast("T", block)
        raise self._damaged(path)

    def _read(self, path: str, size: int, kind: Any) -> Iterator[Any]:
        rest = bytearray()
        for chunk in self._storage.stream(self.root.join(path), 0, size):
            rest += chunk
            while len(rest) >= _HEAD.size:
                length, digest = _HEAD.unpack_from(rest)
                if len(rest) < _HEAD.size + length:
                    break
                data = bytes(rest[_HEAD.size : _HEAD.size + length])
                del rest[: _HEAD.size + length]
                yield self._decoded(path, data, digest, kind)
        if rest:
            raise self._damaged(path)

    def _decoded(self, path: str, data: bytes, digest: bytes, kind: Any) -> Any:
        if hashlib.sha256(data).digest() != digest:
            raise self._damaged(path)
        try:
            return _decoded(data, kind)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._damaged(path) from error

    def _damaged(self, path: str) -> StorageError:
        return StorageError("what is staged there is damaged; discard it, and begin with a new plan", str(self.root.join(path)))


def find_expired(stores: Stores, root: PhysicalKey, before: float) -> list[PhysicalKey]:
    """Return all that is staged below a root in places whose names say that they are of a time before."""
    below = root.join("")
    keys = (stat.key for stat in stores.of(below).list_objects(below))
    found = ((_NAME.fullmatch(key.key.removeprefix(below.key).partition("/")[0]), key) for key in keys)
    return [key for name, key in found if name and int(name[1]) < before]


def _shard(identity: str, number: int) -> str:
    return f"shards/{identity}-{number}"


def _added(identity: str) -> str:
    return f"added/{identity}"


def _done(identity: str, number: int) -> str:
    return f"done/{identity}-{number}"


def _rows(actions: Sequence[Action]) -> Rows:
    kept = [action for action in actions if isinstance(action, Entry)]
    return Rows(kept, [action for action in actions if not isinstance(action, Entry)])


def _headed(done: ShardResult, entries: Iterable[Entry]) -> Iterator[ShardResult | list[Entry]]:
    yield done
    yield from batched(entries)


def _encoded(block: Any) -> bytes:
    try:
        return _MSGPACK + msgspec.msgpack.encode(block)
    except (UnicodeEncodeError, OverflowError):  # Names of files that are no Unicode; integers of more than 64 bits.
        return _JSON + json.dumps(msgspec.to_builtins(block)).encode()


def _decoded(data: bytes, kind: Any) -> Any:
    if data.startswith(_JSON):
        return msgspec.convert(json.loads(data[1:]), kind)
    return msgspec.msgpack.decode(data[1:], type=kind)
