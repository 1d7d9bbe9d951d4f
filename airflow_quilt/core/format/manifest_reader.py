"""Reading of manifests as streams of entries in walk order, from lines in any order (docs/format.md, "Manifest").

The file is read twice: first the logical keys alone, which show the order. Lines in walk order, as this provider and quilt3 write
them, then pass one block at a time. Lines in any other order are sorted first.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

from airflow_quilt.core.errors import LogicalKeyError, ManifestError, short
from airflow_quilt.core.format.manifest import Entry, EntryBlock, canonical_text
from airflow_quilt.core.format.manifest_lines import check_end, decode_block, decode_header, decode_keys, split_blocks
from airflow_quilt.core.format.names import DirectoryKey, TopHash, check_file, check_next, is_ordered
from airflow_quilt.core.format.ordering import batched, records_of, sort_key, validate_order
from airflow_quilt.core.format.packed import DirectoryMetadata, pack, unpack

Sort = Callable[[Iterable[Entry]], AbstractContextManager[Iterable[Entry]]]
"""Reads all entries, and returns them in walk order for as long as its context lasts."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that is being read.

    Attributes:
        header: the first line.
        blocks: the entries in walk order, some at a time: a stream that can be read once.
        directories: the metadata of directories, complete once the first entry has been read.
        where: the registry, the package and the top hash, for errors about entries; empty where they are not known.
        entries: the entries of ``blocks``, one at a time. Either is read, not both.
    """

    header: Mapping[str, Any]
    blocks: Iterator[EntryBlock]
    directories: Mapping[DirectoryKey, Any] = field(default_factory=dict)
    where: str = ""
    entries: Iterator[Entry] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", itertools.chain.from_iterable(block.entries for block in self.blocks))

    @property
    def user_meta(self) -> Any:
        """User metadata of the package; ``{}`` if there is none."""
        return self.header.get("user_meta", {})

    def begun(self) -> Self:
        """Return the manifest after reading its first entry, so that ``directories`` is complete."""
        first = next(self.blocks, None)
        return replace(self, blocks=itertools.chain([first] if first else (), self.blocks))


def _sort_in_memory(entries: Iterable[Entry]) -> AbstractContextManager[Iterable[Entry]]:
    return nullcontext(sorted(entries, key=sort_key))


def read_manifest(chunks: Iterable[bytes], top_hash: TopHash | None = None, sort: Sort = _sort_in_memory) -> Manifest:
    """Read a manifest from the chunks of its file; its writer is not trusted.

    Args:
        chunks: the bytes, which are read twice; of an iterator all are kept in memory meanwhile.
        top_hash: the expected top hash, which is the name of the manifest; it is checked after the last entry.
        sort: sorts the entries of a manifest whose lines are in another order; by default in memory.

    Raises:
        ManifestError: a line does not follow the format, the keys make no tree, or the content has another top hash; ``entries``
            raises it while it is read.
    """
    again = list(chunks) if isinstance(chunks, Iterator) else chunks
    blocks = split_blocks(again)
    line, _, rest = next(blocks, b"").partition(b"\n")
    header, canonical = decode_header(line)
    reader = _EntryReader(canonical, top_hash, sort)
    return Manifest(header, reader.read(itertools.chain([rest], blocks), again), reader.directories)


class _EntryReader:
    """Reader of the entries of one manifest, which checks their top hash."""

    def __init__(self, header: bytes, top_hash: TopHash | None, sort: Sort) -> None:
        self.directories = DirectoryMetadata()
        self._header = header
        self._top_hash = top_hash
        self._sort = sort

    def read(self, blocks: Iterator[bytes], chunks: Iterable[bytes]) -> Iterator[EntryBlock]:
        """Yield the entries of blocks of lines; ``chunks`` are the same bytes once more, with the header."""
        is_in_order = _look_through(blocks)
        decoded = self._decode(split_blocks(chunks))
        yield from self._pass(decoded) if is_in_order else self._sorted(decoded, chunks)

    def _decode(self, blocks: Iterator[bytes]) -> Iterator[EntryBlock]:
        number, after_header = 2, next(blocks, b"").partition(b"\n")[2]
        for block in itertools.chain([after_header], blocks):
            number += yield from decode_block(number, block, self.directories)

    def _pass(self, decoded: Iterable[EntryBlock]) -> Iterator[EntryBlock]:
        """Yield entries that come in walk order."""
        digest = hashlib.sha256(self._header)
        for block in decoded:
            digest.update(block.canonical)
            yield block
        self._check({digest.hexdigest()})

    def _sorted(self, decoded: Iterable[EntryBlock], chunks: Iterable[bytes]) -> Iterator[EntryBlock]:
        """Yield entries that come in any order, in walk order."""
        lines = _KeyOrder(self._header)
        with self._sort(map(pack, lines.seen(decoded))) as entries:
            digest = hashlib.sha256(self._header)
            try:
                for batch in batched(records_of(validate_order(entries, self.directories))):
                    # One at a time, where there is metadata: a batch of it could be a thousand long lines.
                    for part in ([entry] for entry in batch) if any(entry.meta for entry in batch) else [batch]:
                        unpacked = list(map(unpack, part))
                        canonical = canonical_text(unpacked)
                        digest.update(canonical)
                        yield EntryBlock(unpacked, canonical)
            except LogicalKeyError as error:
                # A stream cannot be read once more; of all others the error names the line.
                number = _line_of(_clash(entries, self.directories), chunks) if isinstance(chunks, list) else 0
                raise ManifestError(f"line {number}: {error}" if number else str(error)) from error
        self._check({digest.hexdigest()} | lines.top_hashes)

    def _check(self, found: set[str]) -> None:
        if self._top_hash and self._top_hash not in found:
            raise ManifestError(
                f"the manifest {short(self._top_hash)} was changed or damaged: its content has the top hash "
                f"{', '.join(map(short, sorted(found)))}; read another revision, or publish the same files again"
            )


def _clash(entries: Iterable[Entry], directories: Iterable[str]) -> set[str]:
    """Return the first two keys in walk order that cannot stand beside each other, or the one that is given twice."""
    with_meta, previous = sorted(directories), None
    for entry in entries:
        key = entry.logical_key
        try:
            check_next(previous, key)
            check_file(key, with_meta)
        except LogicalKeyError:
            below = (each for each in with_meta if each.startswith(f"{key}/"))
            return {key, next(below, previous or key)}
        previous = key
    return set()


def _line_of(keys: set[str], chunks: Iterable[bytes]) -> int:
    """Return the number of the second line that has one of some keys, or 0."""
    lines = (line for block in split_blocks(chunks) for line in block.splitlines())
    having = (number for number, line in enumerate(lines, 1) if keys.intersection(decode_keys(line) or ()))
    return next(itertools.islice(having, 1, None), 0)


class _KeyOrder:
    """The top hash that Quilt's library for Java gives a manifest: over the entries in the order of their whole keys.

    It is that of walk order unless a name begins as a directory does and goes on with a character before ``/``: ``a-b`` beside
    ``a/``. No other order has a top hash of its own.
    """

    def __init__(self, header: bytes) -> None:
        self._digest = hashlib.sha256(header)
        self._last = ""
        self._holds = True

    def seen(self, decoded: Iterable[EntryBlock]) -> Iterator[Entry]:
        """Pass on entries in the order of their lines."""
        for entries, canonical, _ in decoded:
            self._digest.update(canonical)
            for entry in entries:
                self._holds = self._holds and self._last < entry.logical_key
                self._last = entry.logical_key
            yield from entries

    @property
    def top_hashes(self) -> set[str]:
        """The top hash in the order of whole keys, if the lines were in it."""
        return {self._digest.hexdigest()} if self._holds else set()


def _look_through(blocks: Iterable[bytes]) -> bool:
    """Read all blocks, so that a stream can be read again; return whether their lines are in order.

    That is first directories, and then files in walk order, which make a tree. A damaged line is in no order.

    Raises:
        ManifestError: a line is too long, or its key cannot stand beside that of the line before it.
    """
    order, is_in_order, number = _Order(), True, 2
    for block in blocks:
        check_end(number, block)
        keys = decode_keys(block) if is_in_order else None
        is_in_order = keys is not None and order.goes_on(keys)
        if keys and not is_in_order and len(keys) == len(block.splitlines()):  # One line is one record.
            _check_neighbours(number, keys)
        number += block.count(b"\n") if keys is None else len(keys)
    return is_in_order


def _check_neighbours(first: int, keys: list[str]) -> None:
    """Check the keys of lines that follow each other, so that one line, a million times, is refused at once."""
    for number, (before, key) in enumerate(itertools.pairwise(keys), first + 1):
        if before.endswith("/") or key.endswith("/"):
            continue  # The metadata of directories; it is compared with files when all lines are known.
        try:
            check_next(before, key)
        except LogicalKeyError as error:
            raise ManifestError(f"line {number}: {error}") from error


class _Order:
    """The order of the lines so far."""

    def __init__(self) -> None:
        self._directories: list[str] = []
        self._last: list[str] = []

    def goes_on(self, keys: list[str]) -> bool:
        """Return whether the keys of some more lines are in order."""
        if not self._last:
            files = list(itertools.dropwhile(lambda key: key.endswith("/"), keys))
            self._directories += keys[: len(keys) - len(files)]
            keys = files
            if files:  # There will be no more directories.
                self._directories.sort()
        is_ordered_so_far = is_ordered([*self._last, *keys]) and self._are_files(keys)
        self._last = keys[-1:] or self._last
        return is_ordered_so_far

    def _are_files(self, keys: Iterable[str]) -> bool:
        """Return whether no key is also a directory that has metadata."""
        if self._directories:
            try:
                for key in keys:
                    check_file(key, self._directories)
            except LogicalKeyError:
                return False
        return True
