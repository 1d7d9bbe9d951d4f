"""What changed from one revision of a package to another."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import merge_join


@dataclass(frozen=True, slots=True)
class Change:
    """An entry that is in one revision only, or differs between two: in size, hash or metadata.

    Attributes:
        old: the entry of the first revision, None where it is new.
        new: the entry of the second one, None where it is gone.
    """

    old: Entry | None
    new: Entry | None

    @property
    def kind(self) -> Literal["added", "modified", "deleted"]:
        """What became of the entry."""
        if self.old is None:
            return "added"
        return "deleted" if self.new is None else "modified"

    @property
    def logical_key(self) -> LogicalKey:
        """The key of the entry."""
        entry = self.new or self.old
        if entry is None:
            raise ValueError("a change has an entry on one side at least")
        return entry.logical_key


def compare(old: Iterable[Entry], new: Iterable[Entry]) -> Iterator[Change]:
    """Yield the changes between two streams of entries in walk order; physical keys do not count, as in quilt3's ``diff``."""
    for one, other in merge_join(old, new):
        if one is None or other is None or (one.size, one.hash, one.meta) != (other.size, other.hash, other.meta):
            yield Change(one, other)
