"""Changes between two revisions of a package."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from airflow_quilt.core.format.manifest import Entry, canonical_json
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import merge_join


@dataclass(frozen=True, slots=True)
class Change:
    """An entry that is in one revision only, or differs between two in size, hash or metadata.

    Attributes:
        old: the entry in the first revision, None if it was added.
        new: the entry in the second revision, None if it was deleted.
    """

    old: Entry | None
    new: Entry | None

    @property
    def kind(self) -> Literal["added", "modified", "deleted"]:
        """Kind of the change, from ``old`` to ``new``."""
        if self.old is None:
            return "added"
        return "deleted" if self.new is None else "modified"

    @property
    def logical_key(self) -> LogicalKey:
        """Logical key of the entry."""
        entry = self.new or self.old
        if entry is None:
            raise ValueError("a change needs an entry on one side at least")
        return entry.logical_key


def compare(old: Iterable[Entry], new: Iterable[Entry]) -> Iterator[Change]:
    """Yield the changes between two streams of entries in walk order; physical keys are ignored, as in quilt3's ``diff``."""
    for before, after in merge_join(old, new):
        if before is None or after is None or is_modified(before, after):
            yield Change(before, after)


def is_modified(before: Entry, after: Entry) -> bool:
    """Return whether two entries of one logical key differ in size, hash or metadata."""
    if before.size != after.size or before.hash != after.hash:
        return True
    # The NaN of old manifests does not differ from itself, as it does in Python.
    return before.meta != after.meta and canonical_json(before.meta) != canonical_json(after.meta)
