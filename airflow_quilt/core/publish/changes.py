"""Changes of a revision against the one before it, counted from entries that the work reads anyway.

An update reads the revision that it starts from, and a push reads the latest one to send nothing twice: both keep here the
entries that the count needs. Only where neither happens (a build, or a push of objects) a manifest is read for the count, if it
is small.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from airflow_quilt.core.errors import CancelledError, QuiltError, quoted
from airflow_quilt.core.format.diff import is_modified
from airflow_quilt.core.format.manifest import Entry, EntryBlock
from airflow_quilt.core.format.names import LogicalKey, PackageName, TopHash, walk_order
from airflow_quilt.core.format.ordering import BATCH, Block, batched, items_of, merge_blocks, merge_join
from airflow_quilt.core.plan.actions import Source
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Latest
from airflow_quilt.core.runtime.spool import Spool

_log = logging.getLogger(__name__)

SHOWN: Final = 20
"""The most keys that are kept for the log."""
_LINE: Final = 1000
"""Bytes of a manifest, for each file of the work, up to which reading it costs little beside the work."""
_FILES: Final = 1000
"""Files of the work that count in any case: a request costs as much as their lines."""
_MOST_COUNTED: Final = 32_000
"""Files of the work from which on a manifest that is read for the count alone may not be larger: some 100,000 entries."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Counts of files that a revision adds, changes and drops, by logical key; None if they are not known.

    Attributes:
        added: files that the revision before does not have.
        modified: files of both whose size, hash or metadata differ; another physical key alone is no modification, as in
            quilt3's ``diff``.
        removed: files that only the revision before has.
        first: the first of them in walk order, at most :data:`SHOWN`: a sign (``+``, ``~``, ``-``), and the key in quotes.
    """

    added: int | None = None
    modified: int | None = None
    removed: int | None = None
    first: tuple[str, ...] = ()

    @property
    def more(self) -> int:
        """The number of files that differ, apart from the first."""
        return (self.added or 0) + (self.modified or 0) + (self.removed or 0) - len(self.first)

    def __str__(self) -> str:
        if self.added is None or self.modified is None or self.removed is None:
            return "uncounted changes"
        return f"+{self.added:,} ~{self.modified:,} -{self.removed:,} files"


UNKNOWN: Final = Changes()
UNCHANGED: Final = Changes(0, 0, 0)


class PreviousEntries:
    """The entries of a revision that may differ in the next one, kept while a step of the work reads them.

    Args:
        registry: holds the revision.
        package: its name.
        latest: the revision; None for a new package.
        spool: makes a spool for records of a type.
    """

    def __init__(
        self, registry: Registry, package: PackageName, latest: Latest | None, spool: Callable[[Any], Spool[Any]]
    ) -> None:
        self.latest = latest
        self._registry = registry
        self._package = package
        self._spool = spool
        self._total: int | None = None
        self._is_begun = False
        self._too_large_for = -1
        self._is_whole = True
        self._hash_type = ""
        self._kept: Spool[Entry] = spool(Entry)
        self._noted: list[Entry] = []
        self._new: list[LogicalKey] = []

    @property
    def top_hash(self) -> TopHash | None:
        """The top hash of the revision; None for a new package."""
        return self.latest.top_hash if self.latest else None

    def at(self, revision: TopHash | None) -> Self:
        """Return the entries of another revision of the package; None is none."""
        latest = None if revision is None else Latest(revision, etag="")
        return type(self)(self._registry, self._package, latest, self._spool)

    def read(self, files: int) -> Iterator[Entry] | None:
        """Read the revision; return None where there is none, and where its manifest is large for work on so many files.

        Raises:
            QuiltError: it cannot be read.
        """
        entries = self._open(files)
        return None if entries is None else self._read_whole(entries)

    def _open(self, files: int) -> Iterator[Entry] | None:
        if self.top_hash is None or files <= self._too_large_for:
            return None
        self._is_begun = True
        manifest = self._registry.read_small(self._package, self.top_hash, _LINE * (files + _FILES))
        if manifest is None:
            self._is_begun, self._too_large_for = False, files
            return None
        return manifest.entries

    def _read_whole(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        if self._total is not None:  # An update has read them before.
            yield from entries
            return
        kept: Spool[Entry] = self._spool(Entry)
        for batch in batched(entries):
            kept.extend(batch)
            yield from batch
        self._total, self._kept = len(kept), kept

    def updated(self, blocks: Iterable[EntryBlock], hash_type: str) -> Iterator[EntryBlock]:
        """Pass on all entries of the revision, from which an update starts; those that stay as they are need not be kept.

        Args:
            blocks: the entries in walk order.
            hash_type: that of new entries. An entry of another type gets another hash if its bytes move.
        """
        total, self._is_whole, self._hash_type = 0, False, hash_type
        for block in blocks:
            total += len(block.entries)
            self._kept.extend([entry for entry in block.entries if entry.hash.type != hash_type])
            yield block
        self._total = total

    def note(self, old: Source | None, new: Source | None) -> None:
        """Keep a file of the revision that an update removes or replaces, or the key of one that it adds."""
        if self._is_whole:  # Another revision is updated, or none.
            return
        if old and old.hash and old.hash.type == self._hash_type:  # The others are kept already.
            self._noted.append(Entry(old.logical_key, old.physical_keys, old.size, old.hash, old.meta))
            if len(self._noted) == BATCH:
                self._keep_noted()
        if new and not old and len(self._new) < SHOWN:
            self._new.append(new.logical_key)

    def _keep_noted(self) -> None:
        self._kept.extend(self._noted)
        self._noted = []

    def changes(self, top_hash: TopHash, entries: Iterable[Entry], total: int) -> Changes:
        """Count the changes up to another revision; unknown where the manifest is large, and would be read for that alone.

        Args:
            top_hash: that of the other revision.
            entries: its entries, in walk order.
            total: their number.

        Raises:
            CancelledError: the work was stopped.
        """
        if self.top_hash is None:
            return Changes(total, 0, 0, _lines((entry.logical_key, "+") for entry in itertools.islice(entries, SHOWN)))
        if self.top_hash == top_hash:
            return UNCHANGED
        try:
            return self._count(entries, total)
        except CancelledError:
            raise
        except QuiltError as error:  # No reason not to publish.
            _log.info("The changes are not counted, since the latest revision cannot be read: %s", error)
            return UNKNOWN

    def _count(self, entries: Iterable[Entry], total: int) -> Changes:
        self._keep_noted()
        there: Iterable[Entry] | None = self._kept
        if self._total is None:
            there = None if self._is_begun else self._open(min(total, _MOST_COUNTED))
        if there is None:
            return UNKNOWN
        new, first, counts = dict.fromkeys(self._new, "+"), dict[LogicalKey, str](), {"+": 0, "~": 0, "-": 0}
        for key, sign in self._compare(there, entries) if self._is_whole or len(self._kept) else ():
            new.pop(key, None)  # An update removes the file, and adds it again.
            if sign != "=":
                counts[sign] += 1
                if len(first) < SHOWN:
                    first[key] = sign
        added = counts["+"] if self._is_whole else total - (self._total or 0) + counts["-"]
        in_order = sorted({**new, **first}.items(), key=lambda item: walk_order(item[0]))
        return Changes(added, counts["~"], counts["-"], _lines(in_order))

    def _compare(self, there: Iterable[Entry], entries: Iterable[Entry]) -> Iterator[tuple[LogicalKey, str]]:
        """Yield the keys of known entries and their signs, ``=`` for an unchanged one; where all are known, the new keys too."""
        for new, old in merge_join(entries, there) if self._is_whole else merge_blocks(items_of(entries), there):
            if isinstance(new, Block):  # None of the known entries is within it.
                continue
            if old:
                yield old.logical_key, "-" if new is None else "~" if is_modified(old, new) else "="
            elif new and self._is_whole:
                yield new.logical_key, "+"


def _lines(signs: Iterable[tuple[LogicalKey, str]]) -> tuple[str, ...]:
    return tuple(f"{sign} {quoted(key)}" for key, sign in itertools.islice(signs, SHOWN))
