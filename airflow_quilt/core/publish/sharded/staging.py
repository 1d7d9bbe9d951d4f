"""The records that the workers of one push hand on: a plan, its shards, and the entries of each (ADR 0013, ADR 0023).

They lie where others may write too. So the size and the SHA-256 of each object are its name, its seal. A worker gets the seal
from the worker that wrote the object, or from the plan, and decodes nothing before all bytes are there and are the right ones:
a record that was changed, or left beforehand, is never read.
"""

import contextlib
import hashlib
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Final, Self, cast

import msgspec

from airflow_quilt.core.errors import LocationError, StorageError, quoted
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import Record, batched
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Action, Transfer
from airflow_quilt.core.publish.sharded.area import Area
from airflow_quilt.core.publish.sharded.bounds import Bounds
from airflow_quilt.core.publish.spec import CommitSpec
from airflow_quilt.core.registry.revisions import Latest
from airflow_quilt.core.runtime.codec import Decoder, encode
from airflow_quilt.core.runtime.spool import disk_full_as_error
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.content import with_content

_SPOOL: Final = 8 * 1024 * 1024
"""Bytes of an object beyond which it is held in a temporary file."""
_LENGTH: Final = struct.Struct(">Q")
"""The head of a block: the number of its bytes."""
_SEAL: Final = re.compile(r"([0-9]{1,15})-([0-9a-f]{64})")
_PLANS: Final = "plan"
_SHARDS: Final = "shards"
_ADDED: Final = "added"
_DONE: Final = "done"


class Seal(msgspec.Struct, frozen=True):
    """The size in bytes and the SHA-256, in hex digits, of a staged object; as a `str` its name."""

    size: int
    sha256: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the name of a staged object.

        Raises:
            LocationError: it is none.
        """
        if found := _SEAL.fullmatch(text):
            return cls(int(found[1]), found[2])
        raise LocationError(f"{quoted(text)}: expected <bytes>-<SHA-256>, the name of a staged object")

    def __str__(self) -> str:
        return f"{self.size}-{self.sha256}"


class StagedShard(msgspec.Struct, frozen=True):
    """A shard: the number of its files, and the seal of its actions."""

    entries: int
    seal: Seal


class StagedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of one push, which its workers carry out.

    Attributes:
        registry: the location of the registry.
        spec: the revision, apart from its entries.
        bounds: the places that its transfers read and write.
        base: ``latest`` when the plan was made.
        shards: the shards.
        added: the seal of the keys that an update adds; None for a replacement.
        bytes: the size of all entries; ``bytes_to_copy`` of them are to move.
    """

    registry: str
    spec: CommitSpec
    bounds: Bounds
    base: Latest | None
    shards: Sequence[StagedShard]
    added: Seal | None
    bytes: int
    bytes_to_copy: int

    @property
    def entries(self) -> int:
        """The number of files."""
        return sum(shard.entries for shard in self.shards)


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


class Staging:
    """The records in one staging area.

    Args:
        stores: the storages.
        root: its location, as :func:`~airflow_quilt.core.publish.sharded.area.staging_of` returns it.

    Raises:
        LocationError: it is none.
    """

    def __init__(self, stores: Stores, root: PhysicalKey) -> None:
        self._area = Area(stores, root)
        self.root = root

    @classmethod
    def of_plan(cls, stores: Stores, plan: PhysicalKey) -> tuple[Self, Seal]:
        """Return the staging area of a plan, and the seal of the plan, given the location that :meth:`write_plan` returned.

        Raises:
            LocationError: it is no location of a plan.
        """
        root, _, name = plan.key.rpartition(f"/{_PLANS}/")
        if not root or plan.version_id is not None:
            raise LocationError(f"{plan}: expected the location of a staged plan, as plan_shards returns it")
        return cls(stores, PhysicalKey(plan.bucket, f"{root}/")), Seal.parse(name)

    def write_plan(self, plan: StagedPlan) -> PhysicalKey:
        """Write the plan, after its shards; return its location."""
        return self.root.join(f"{_PLANS}/{self._write(_PLANS, [plan])}")

    def plan(self, seal: Seal) -> StagedPlan:
        """Read a plan.

        Raises:
            StorageError: it is gone or damaged.
        """
        for plan in self._read(_PLANS, seal, StagedPlan):
            return cast("StagedPlan", plan)
        raise self._damaged(_PLANS, seal)

    def write_shard(self, actions: Iterable[Action]) -> Seal:
        """Write the actions for the files of a shard, with their content."""
        return self._write(_SHARDS, map(ActionBlock.of, with_content(actions)))

    def shard(self, shard: StagedShard) -> Iterator[list[Action]]:
        """Read the actions of a shard, some at a time.

        Raises:
            StorageError: it is gone or damaged.
        """
        left = shard.entries
        for block in self._read(_SHARDS, shard.seal, ActionBlock):
            left -= len(block.kept) + len(block.transfers)
            yield [*block.kept, *block.transfers]
        if left:
            raise self._damaged(_SHARDS, shard.seal)

    def write_added(self, added: Iterable[Record]) -> Seal:
        """Write the keys of the files that an update adds."""
        return self._write(_ADDED, ([Key(each.logical_key) for each in batch] for batch in batched(added)))

    def added(self, seal: Seal | None) -> Iterator[Key]:
        """Read the keys of the files that an update adds; none for a replacement."""
        for keys in self._read(_ADDED, seal, list[Key]) if seal else ():
            yield from keys

    def write_entries(self, entries: Iterable[Entry]) -> Seal:
        """Write the entries of a shard that was transferred."""
        return self._write(_DONE, batched(entries))

    def entries(self, seal: Seal, number: int) -> Iterator[list[Entry]]:
        """Read the ``number`` entries of a shard, some at a time.

        Raises:
            StorageError: they are gone or damaged.
        """
        for block in self._read(_DONE, seal, list[Entry]):
            number -= len(block)
            yield block
        if number:
            raise self._damaged(_DONE, seal)

    def discard(self) -> int:
        """Delete all of it, plans first; return the number of objects."""
        return self._area.discard(first=f"{_PLANS}/")

    def _write(self, kind: str, blocks: Iterable[Any]) -> Seal:
        digest = hashlib.sha256()
        with disk_full_as_error(), tempfile.SpooledTemporaryFile(_SPOOL) as file:
            for block in blocks:
                data = encode(block)
                for part in (_LENGTH.pack(len(data)), data):
                    digest.update(part)
                    file.write(part)
            seal = Seal(file.tell(), digest.hexdigest())
            file.seek(0)
            self._area.write(kind, str(seal), cast("IO[bytes]", file))
        return seal

    def _read(self, kind: str, seal: Seal, record: Any) -> Iterator[Any]:
        """Read an object, check it, and then decode its blocks, each as a value of a type."""
        decoder = Decoder(record)
        with self._checked(kind, seal) as file:
            while head := file.read(_LENGTH.size):
                try:
                    yield decoder.decode(file.read(*_LENGTH.unpack(head)))
                except (msgspec.MsgspecError, struct.error, ValueError, RecursionError) as error:  # Of another version of this.
                    raise self._damaged(kind, seal) from error

    @contextlib.contextmanager
    def _checked(self, kind: str, seal: Seal) -> Iterator[IO[bytes]]:
        """Open a copy of an object, once its bytes are known to be the sealed ones.

        Raises:
            StorageError: it is gone or damaged.
        """
        digest = hashlib.sha256()
        with contextlib.ExitStack() as opened:
            with disk_full_as_error():
                file = cast("IO[bytes]", opened.enter_context(tempfile.SpooledTemporaryFile(_SPOOL)))
            for chunk in self._area.stream(kind, str(seal), seal.size):
                digest.update(chunk)
                with disk_full_as_error():
                    file.write(chunk)
            if Seal(file.tell(), digest.hexdigest()) != seal:
                raise self._damaged(kind, seal)
            file.seek(0)
            yield file

    def _damaged(self, kind: str, seal: Seal) -> StorageError:
        where = self.root.join(f"{kind}/{seal}")
        return StorageError("what is staged there is damaged, or was changed; discard it, and begin with a new plan", str(where))
