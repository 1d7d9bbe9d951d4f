"""What becomes of the files of a revision, as streams in walk order: what is known already, what is to be done, what was done."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import msgspec

from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import Record, merge_join
from airflow_quilt.core.plan.actions import Action, HashInPlace, Source, Transfer, Upload
from airflow_quilt.core.runtime.spool import Spool

T = TypeVar("T", bound=Record)
R = TypeVar("R")


class TransferredEntry(msgspec.Struct, frozen=True, gc=False):
    """What has been done, and what came of it."""

    task: Transfer
    entry: Entry

    @classmethod
    def of(cls, task: Transfer, entry: Entry) -> Self:
        """Return what came of a task, whatever it had been told of an earlier revision."""
        return cls(msgspec.structs.replace(task, earlier=None) if isinstance(task, Upload) and task.earlier else task, entry)

    @property
    def logical_key(self) -> LogicalKey:
        """The key of the entry."""
        return self.entry.logical_key


@dataclass(slots=True)
class PlannedRevision:
    """What becomes of the files of a revision: entries that are known already, and what is to be done for the others.

    Attributes:
        size: bytes, of all.
        names_files: whether it will name files of this machine.
    """

    kept: Spool[Entry]
    tasks: Spool[Transfer]
    size: int = 0
    names_files: bool = False

    def add(self, actions: Sequence[Action]) -> None:
        """Take some more."""
        kept = [action for action in actions if isinstance(action, Entry)]
        tasks = [action for action in actions if not isinstance(action, Entry)]
        self.kept.extend(kept)
        self.tasks.extend(tasks)
        self.size += sum([entry.size for entry in kept]) + sum([task.source.size for task in tasks])
        self.names_files = (
            self.names_files
            or any(entry.physical_keys[0].startswith("file:") for entry in kept)
            or any(isinstance(task, HashInPlace) and task.origin.is_local for task in tasks)
        )

    def __len__(self) -> int:
        return len(self.kept) + len(self.tasks)

    def files(self) -> Iterator[Source | Entry]:
        """Yield what is known of each file, in walk order."""
        return _filled(self.kept, self.tasks, lambda task: task.source)

    def actions(self) -> Iterator[Action]:
        """Yield what becomes of each file, in walk order."""
        return _filled(self.kept, self.tasks, lambda task: task)


@dataclass(slots=True)
class Entries:
    """The entries of a revision, in walk order: those that were known, and those that came of the work."""

    kept: Spool[Entry]
    done: Spool[TransferredEntry]

    def __iter__(self) -> Iterator[Entry]:
        return _filled(self.kept, self.done, lambda done: done.entry)


def _filled(kept: Spool[Entry], others: Spool[T], of: Callable[[T], R]) -> Iterator[Entry | R]:
    """Yield the entries that were known, and what there is of the others, in walk order."""
    if not len(others):
        yield from kept
        return
    for entry, other in merge_join(kept, others):
        if other:
            yield of(other)
        elif entry:
            yield entry
