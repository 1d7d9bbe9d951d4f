"""The staging area of one push by many workers: a plan, its shards, and the result of each (ADR 0013).

Every object is a row of blocks, each with its length and its SHA-256: damage is an error, and a worker holds one block at a
time. Nothing in them is ever run: a stranger who may write there can spoil a revision, and no worker.
"""

import contextlib
import hashlib
import itertools
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Final, NoReturn, Self, TypeVar, cast

import msgspec

from airflow_quilt.core.errors import (
    LocationError,
    ObjectNotFoundError,
    PreconditionError,
    StorageError,
    StorageUnavailableError,
)
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import Record, batched
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Action, Transfer
from airflow_quilt.core.publish.commit import CommitSpec
from airflow_quilt.core.registry.attempt import Attempt, WriterTag
from airflow_quilt.core.registry.revisions import Latest
from airflow_quilt.core.runtime.codec import Decoder, encode
from airflow_quilt.core.runtime.spool import disk_full_as_error
from airflow_quilt.core.storage.base import Stores, WriteMode
from airflow_quilt.core.storage.conditional import ConditionalWriter
from airflow_quilt.core.transfer.content import with_content

T = TypeVar("T")

_SPOOL: Final = 8 * 1024 * 1024
_HEAD: Final = struct.Struct(">Q32s")
"""The head of a block: the number of its bytes, and their SHA-256."""
_PEEK: Final = 4096
"""More than the bytes of the first block of a shard's result."""
_NAME: Final = re.compile(r"([0-9]{1,10})-[0-9a-f]{32}")
_PLAN: Final = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """The result of the transfer of a shard.

    Attributes:
        number: its number, counted from 0.
        entries: the number of its files.
        bytes: the sum of their sizes.
        bytes_copied: bytes that were moved to the registry's bucket.
        bytes_reused: bytes that were to be moved, and were there already.
        kept: the number of its files that were kept as a package names them, whose objects were not requested.
        was_there: whether an earlier attempt had transferred all of it.
    """

    number: int
    entries: int
    bytes: int
    bytes_copied: int
    bytes_reused: int
    kept: int = 0
    was_there: bool = False


class StagedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of one push, which its workers carry out.

    Attributes:
        identity: a name that no other plan has, in the names of its objects.
        registry: the location of the registry.
        spec: the revision, apart from its entries.
        base: ``latest`` when the plan was made.
        shards: the number of entries in each shard.
        bytes: the size of all entries; ``bytes_to_copy`` of them are to move.
    """

    identity: str
    registry: str
    spec: CommitSpec
    base: Latest | None
    shards: Sequence[int]
    bytes: int
    bytes_to_copy: int


class ActionBlock(msgspec.Struct, frozen=True, gc=False):
    """Some files of a shard: entries that are known, and transfers for the others."""

    kept: list[Entry]
    transfers: list[Transfer]

    @classmethod
    def of(cls, actions: Sequence[Action]) -> Self:
        """Return the block of some actions."""
        kept = [action for action in actions if isinstance(action, Entry)]
        return cls(kept, [action for action in actions if not isinstance(action, Entry)])


class Key(msgspec.Struct, frozen=True, gc=False):
    """The logical key of a file, and no more of it."""

    logical_key: LogicalKey


def staging_of(root: PhysicalKey, attempt: Attempt, began: float) -> PhysicalKey:
    """Return the staging area of a push: always the same one for all attempts of one piece of work.

    Args:
        root: a directory, or a prefix in a bucket.
        attempt: identifies the work by its key.
        began: the unix seconds at which the work, not this attempt, began.
    """
    return root.join(f"{int(began)}-{WriterTag.of(attempt).work}/")


def check_staging(staging: PhysicalKey) -> None:
    """Check that a location is one that :func:`staging_of` returns, so that nothing else is ever deleted.

    Raises:
        LocationError: it is not, or it is in a registry's own area.
    """
    if not staging.is_prefix or not _NAME.fullmatch(staging.name) or staging.version_id is not None:
        raise LocationError(f"{staging}: expected <root>/<unix seconds>-<hash>/, as staging_of returns")
    if f"/{layout.OWN}" in f"/{staging.key}":
        raise LocationError(f"{staging}: nothing may be staged in the registry's own area, {layout.OWN}; choose another prefix")


class Staging:
    """One staging area.

    Args:
        stores: the storages.
        root: its location, as :func:`staging_of` returns it.
    """

    def __init__(self, stores: Stores, root: PhysicalKey) -> None:
        self._stores = stores
        self._storage = stores.of(root)
        self._writer = ConditionalWriter(self._storage, stores.without_conditions)
        self.root = root

    def plan(self) -> StagedPlan | None:
        """Return the plan, or None where there is none yet."""
        stat = self._stores.find(self.root.join(_PLAN))
        return self._first(_PLAN, stat.size, StagedPlan) if stat else None

    def write_plan(self, plan: StagedPlan) -> StagedPlan:
        """Write the plan, after its shards; return that of another attempt which was faster, if there is one."""
        with contextlib.suppress(PreconditionError):
            self._write(_PLAN, [plan], "create")
        return self.plan() or self._gone(_PLAN)

    def write_shard(self, identity: str, number: int, actions: Iterable[Action]) -> None:
        """Write the actions for the files of a shard, with their content."""
        self._write(_shard(identity, number), map(ActionBlock.of, with_content(actions)))

    def shard(self, plan: StagedPlan, number: int) -> Iterator[list[Action]]:
        """Read the actions of a shard, some at a time.

        Raises:
            StorageError: it is gone or damaged.
        """
        path, left = _shard(plan.identity, number), plan.shards[number]
        for block in self._read(path, self._size(path), ActionBlock):
            left -= len(block.kept) + len(block.transfers)
            yield [*block.kept, *block.transfers]
        if left:
            raise self._damaged(path)

    def write_added(self, identity: str, added: Iterable[Record]) -> None:
        """Write the keys of the files that an update adds."""
        self._write(_added(identity), ([Key(each.logical_key) for each in batch] for batch in batched(added)))

    def added(self, plan: StagedPlan) -> Iterator[Key]:
        """Read the keys of the files that an update adds."""
        path = _added(plan.identity)
        for keys in self._read(path, self._size(path), list[Key]):
            yield from keys

    def write_done(self, plan: StagedPlan, result: ShardResult, entries: Iterable[Entry]) -> ShardResult:
        """Write the result of a shard, all at once; return that of another attempt if there is one already."""
        with contextlib.suppress(PreconditionError):
            self._write(_done(plan.identity, result.number), itertools.chain([result], batched(entries)), "create")
            return result
        return self.done(plan, result.number) or self._gone(_done(plan.identity, result.number))

    def done(self, plan: StagedPlan, number: int) -> ShardResult | None:
        """Return the result of a shard, or None where it has not been transferred."""
        path = _done(plan.identity, number)
        stat = self._stores.find(self.root.join(path))
        return replace(self._first(path, min(stat.size, _PEEK), ShardResult), was_there=True) if stat else None

    def all_done(self, plan: StagedPlan) -> list[int]:
        """Return the size of the result of each shard.

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

    def entries(self, plan: StagedPlan, number: int, size: int) -> Iterator[ShardResult | list[Entry]]:
        """Read the result of a shard, and then its entries, some at a time.

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
        """Delete all of it, the plan first; return the number of objects."""
        keys = [stat.key for stat in self._storage.list_objects(self.root)]
        self._storage.delete(sorted(keys, key=lambda key: key.name != _PLAN))
        return len(keys)

    def _write(self, path: str, blocks: Iterable[Any], mode: WriteMode = "overwrite") -> None:
        with disk_full_as_error(), tempfile.SpooledTemporaryFile(_SPOOL) as file:
            for block in blocks:
                data = encode(block)
                file.write(_HEAD.pack(len(data), hashlib.sha256(data).digest()))
                file.write(data)
            file.seek(0)
            self._writer.put(self.root.join(path), cast("IO[bytes]", file), mode)

    def _size(self, path: str) -> int:
        return self._storage.stat(self.root.join(path)).size

    def _first(self, path: str, size: int, kind: type[T]) -> T:
        for block in self._read(path, size, kind):
            return cast("T", block)
        raise self._damaged(path)

    def _read(self, path: str, size: int, kind: Any) -> Iterator[Any]:
        """Read the blocks of an object, and decode each as a value of a type."""
        decoder, rest = Decoder(kind), bytearray()
        for chunk in self._storage.stream(self.root.join(path), 0, size):
            rest += chunk
            while len(rest) >= _HEAD.size:
                length, digest = _HEAD.unpack_from(rest)
                if len(rest) < _HEAD.size + length:
                    break
                data = bytes(rest[_HEAD.size : _HEAD.size + length])
                del rest[: _HEAD.size + length]
                yield self._decoded(path, data, digest, decoder)
        if rest:
            raise self._damaged(path)

    def _decoded(self, path: str, data: bytes, digest: bytes, decoder: Decoder) -> Any:
        if hashlib.sha256(data).digest() != digest:
            raise self._damaged(path)
        try:
            return decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._damaged(path) from error

    def _gone(self, path: str) -> NoReturn:
        raise StorageUnavailableError("it was staged, and is gone again: another process discards it", str(self.root.join(path)))

    def _damaged(self, path: str) -> StorageError:
        return StorageError("what is staged there is damaged; discard it, and begin with a new plan", str(self.root.join(path)))


def find_expired(stores: Stores, root: PhysicalKey, before: float) -> list[PhysicalKey]:
    """Return the objects below a root in the staging areas of work that began before a time, by their names."""
    below = root.join("")
    storage = stores.of(below)
    # The names alone first: the areas of live work may hold many shards.
    areas = ((_NAME.fullmatch(name.removesuffix("/")), name) for name in storage.list_names(below) if name.endswith("/"))
    old = [below.join(name) for found, name in areas if found and int(found[1]) < before]
    return [info.key for area in old for info in storage.list_objects(area)]


def _shard(identity: str, number: int) -> str:
    return f"shards/{identity}-{number}"


def _added(identity: str) -> str:
    return f"added/{identity}"


def _done(identity: str, number: int) -> str:
    return f"done/{identity}-{number}"
