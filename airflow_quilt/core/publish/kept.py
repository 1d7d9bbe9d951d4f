"""Entries of a revision that are known already, with the text that they have in its manifest."""

import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Self

import msgspec

from airflow_quilt.core.format.manifest import Entry, EntryBlock
from airflow_quilt.core.format.manifest_writer import WrittenBlock, WrittenEntries
from airflow_quilt.core.format.ordering import Block, InBlocks, merge_blocks
from airflow_quilt.core.runtime.spool import Spool, disk_full_as_error
from airflow_quilt.core.runtime.stop import check_stop

_IN_MEMORY: Final = 8 * 1024 * 1024
"""Bytes of text beyond which it is written to a temporary file."""

_decode_lines: Final = msgspec.json.Decoder(Entry).decode_lines


class _Texts:
    """Pieces of text, in memory or in a temporary file, which any thread may read."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  (closed with the entries)
        self._lock = threading.Lock()

    def append(self, *pieces: bytes) -> int:
        """Append pieces; return the offset of the first one."""
        with self._lock, disk_full_as_error():
            start = self._file.seek(0, os.SEEK_END)
            for piece in pieces:
                self._file.write(piece)
        return start

    def read(self, start: int, size: int) -> bytes:
        """Return a piece."""
        check_stop()
        with self._lock, disk_full_as_error():
            self._file.seek(start)
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class _StoredBlock(WrittenBlock):
    """A block of plain entries whose text is stored.

    Attributes:
        ends: the first and the last entry.
        totals: the entries without their text.
        texts: holds the text, at ``start``: the lines, then the canonical JSON, with ``sizes`` in bytes.
    """

    ends: tuple[Entry, Entry]
    totals: WrittenEntries
    texts: _Texts
    start: int
    sizes: tuple[int, int]

    @property
    def first(self) -> Entry:
        """The first entry."""
        return self.ends[0]

    @property
    def last(self) -> Entry:
        """The last entry."""
        return self.ends[1]

    def records(self) -> Iterator[Entry]:
        """Yield the entries."""
        return iter(_decode_lines(self.texts.read(self.start, self.sizes[0])))

    def text(self) -> WrittenEntries:
        """Return the entries as text."""
        text, lines = self.texts.read(self.start, sum(self.sizes)), self.sizes[0]
        return replace(self.totals, lines=text[:lines], canonical=text[lines:])


class KeptEntries(InBlocks[Entry]):
    """Entries in walk order, that come in any order; blocks of them come in walk order.

    Args:
        most: the entries to hold in memory; those of blocks are held as text.
    """

    def __init__(self, most: int) -> None:
        self._others: Spool[Entry] = Spool(Entry, most)
        self._blocks: list[_StoredBlock] = []
        self._texts: _Texts | None = None
        self._count = 0

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add entries.

        Raises:
            DiskError: the directory for temporary files has no room.
        """
        self._others.extend(entries)

    def add_block(self, block: EntryBlock) -> int:
        """Add a block of plain entries; return their bytes.

        Raises:
            DiskError: the directory for temporary files has no room.
        """
        written = WrittenEntries.of(block.entries, block.canonical, block.lines)
        texts = self._texts = self._texts or _Texts()
        self._count += written.count
        self._blocks.append(
            _StoredBlock(
                ends=(block.entries[0], block.entries[-1]),
                totals=replace(written, lines=b"", canonical=b""),
                texts=texts,
                start=texts.append(written.lines, written.canonical),
                sizes=(len(written.lines), len(written.canonical)),
            )
        )
        return written.size

    def __len__(self) -> int:
        return self._count + len(self._others)

    def items(self) -> Iterator[Entry | Block[Entry]]:
        """Yield the entries, and blocks of them that know their text."""
        if not self._blocks:
            yield from self._others
            return
        for block, entry in merge_blocks(self._blocks, self._others):
            if block:
                yield block
            if entry:
                yield entry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._others.close()
        self._blocks = []
        if self._texts:
            self._texts.close()
