"""The plan of a revision: for each file, in walk order, its entry or the transfer that will make one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import msgspec

from airflow_quilt.core.errors import EmptyPackageError
from airflow_quilt.core.format.manifest import Entry, EntryBlock
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.format.ordering import Block, InBlocks, Record, grouped, merge_blocks, records_of
from airflow_quilt.core.plan.actions import Action, Actions, Copy, HashInPlace, KnownBlock, Source, Sources, Transfer, Upload
from airflow_quilt.core.plan.placement import Landing
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.kept import KeptEntries
from airflow_quilt.core.publish.resolve import ResolvedRevision
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.runtime.stop import check_stop

T = TypeVar("T", bound=Record)
R = TypeVar("R")


class Planner(Protocol):
    """Chooses upload, copy or hash-in-place for each source, or keeps its entry."""

    @property
    def verb(self) -> str:
        """The work, as the log calls it: ``Pushing``."""
        ...

    @property
    def landing(self) -> Landing:
        """The place of the files that are moved."""
        ...

    def plan(self, sources: Sources) -> Actions:
        """Yield the action for each source, in the same order; a block for one whose entries are all kept.

        Raises:
            InputError: a source cannot be published in this way.
        """
        ...


class TransferredEntry(msgspec.Struct, frozen=True, gc=False):
    """A transfer that was carried out, and the entry that came of it."""

    transfer: Transfer
    entry: Entry

    @classmethod
    def of(cls, transfer: Transfer, entry: Entry) -> Self:
        """Return the record of a transfer, without the entry of the previous revision that was attached to it."""
        if isinstance(transfer, Upload) and transfer.previous:
            transfer = msgspec.structs.replace(transfer, previous=None)
        return cls(transfer, entry)

    @property
    def logical_key(self) -> LogicalKey:
        """The logical key of the entry."""
        return self.entry.logical_key


@dataclass(slots=True)
class PlannedRevision:
    """The files of a revision, before any byte moves.

    Attributes:
        kept: entries that are known already.
        transfers: the transfers for the other files.
        size: bytes, of all files.
        names_files: whether an entry will name a file of this machine.
    """

    kept: KeptEntries
    transfers: Spool[Transfer]
    size: int = 0
    names_files: bool = False

    def add(self, actions: Sequence[Action]) -> None:
        """Add the actions for some more files."""
        kept = [action for action in actions if isinstance(action, Entry)]
        transfers = [action for action in actions if not isinstance(action, Entry)]
        self.kept.extend(kept)
        self.transfers.extend(transfers)
        self.size += sum([entry.size for entry in kept]) + sum([transfer.source.size for transfer in transfers])
        self.names_files = (
            self.names_files
            or any(entry.physical_keys[0].startswith("file:") for entry in kept)
            or any(isinstance(transfer, HashInPlace) and transfer.origin.is_local for transfer in transfers)
        )

    def add_block(self, entries: EntryBlock) -> None:
        """Add plain entries of S3 objects, which are kept."""
        self.size += self.kept.add_block(entries)

    def __len__(self) -> int:
        return len(self.kept) + len(self.transfers)

    def files(self) -> Iterator[Source | Entry]:
        """Yield the source or entry of each file, in walk order."""
        return records_of(_in_walk_order(self.kept, self.transfers, lambda transfer: transfer.source))

    def actions(self) -> Iterator[Action]:
        """Yield the action for each file, in walk order."""
        return records_of(_in_walk_order(self.kept, self.transfers, lambda transfer: transfer))

    def entries(self, done: Spool[TransferredEntry]) -> "Entries":
        """Return the entries of the revision, given its transfers as they were carried out."""
        return Entries(self.kept, done)


@dataclass(frozen=True, slots=True)
class Entries(InBlocks[Entry]):
    """The entries of a revision, in walk order; they can be read again and again."""

    kept: KeptEntries
    transferred: Spool[TransferredEntry]

    def items(self) -> Iterator[Entry | Block[Entry]]:
        """Yield the entries, and blocks of those that are kept."""
        return _in_walk_order(self.kept, self.transferred, lambda done: done.entry)


def _in_walk_order(kept: KeptEntries, others: Spool[T], of: Callable[[T], R]) -> Iterator[Entry | Block[Entry] | R]:
    if not len(others):
        yield from kept.items()
        return
    for entry, other in merge_blocks(kept.items(), others):
        if other:
            yield of(other)
        elif entry:
            yield entry


def decide(
    planner: Planner,
    draft: Draft,
    package: PackageName,
    revision: ResolvedRevision,
    planned: PlannedRevision,
) -> PlannedRevision:
    """Plan each file of a revision, and check the whole against the workflow; no byte has moved yet.

    Args:
        planner: chooses an action for each file.
        draft: says whether the package may be empty.
        package: its name.
        revision: its files, a stream that is read here.
        planned: takes the plan.

    Returns:
        ``planned``.

    Raises:
        EmptyPackageError: there is no file, and the draft does not allow that.
        WorkflowError: the package does not satisfy the workflow.
        InputError: a source cannot be published.
    """
    groups: Iterator[list[Action] | Block[Source]] = grouped(planner.plan(revision.tree.sources))
    for group in groups:
        check_stop()
        if isinstance(group, KnownBlock):
            planned.add_block(group.entries)
        elif isinstance(group, list):
            planned.add(group)
    if not len(planned) and not draft.allow_empty:
        raise EmptyPackageError("entries: give some, or allow_empty=True; the package has no entries")
    revision.check_workflow(package, planned.files())
    return planned


def bytes_of(transfers: Iterable[Transfer]) -> tuple[int, int]:
    """Return the bytes that transfers read, and those of them that move to the registry's bucket."""
    to_read = to_move = 0
    for transfer in transfers:
        to_read += transfer.source.size
        to_move += transfer.source.size if isinstance(transfer, Upload | Copy) else 0
    return to_read, to_move
