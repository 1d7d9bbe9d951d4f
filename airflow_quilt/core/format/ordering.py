"""Streams of records in walk order (docs/format.md, "Manifest"): batches, joins, and the check that they make a tree.

A stream may have blocks: records that follow each other, passed on as one where nothing comes between them, so that a record of
a large package costs no step of Python.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from airflow_quilt.core.errors import LogicalKeyError
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey, check_file, check_next, is_walk, walk_order

T = TypeVar("T")

BATCH: Final = 1000
"""Items of a batch: enough to make its fixed cost negligible, few enough to keep in memory."""


def batched(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """Yield the items in lists of ``size``; the last one may be shorter."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch


_NONE: Final = ("", None)


class Record(Protocol):
    """An item of a package that has a logical key, such as an entry or a source."""

    @property
    def logical_key(self) -> LogicalKey:
        """Logical key of the record."""
        ...


L = TypeVar("L", bound=Record)
R = TypeVar("R", bound=Record)
C_co = TypeVar("C_co", bound=Record, covariant=True)


def sort_key(record: Record) -> str:
    """Return the key that sorts a record in walk order."""
    return walk_order(record.logical_key)


class Block(Generic[C_co]):
    """Records that follow each other in walk order, at least one; a base class."""

    @property
    def first(self) -> C_co:
        """The first record."""
        raise NotImplementedError

    @property
    def last(self) -> C_co:
        """The last record."""
        raise NotImplementedError

    def records(self) -> Iterator[C_co]:
        """Yield the records."""
        raise NotImplementedError


class InBlocks(Generic[C_co]):
    """Records in walk order that can be read again and again, one by one or in blocks; a base class."""

    def items(self) -> Iterator[C_co | Block[C_co]]:
        """Yield the records, and blocks of them."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[C_co]:
        return records_of(self.items())


def items_of(records: Iterable[L]) -> Iterable[L | Block[L]]:
    """Return records in blocks if they come so, and otherwise one by one."""
    return records.items() if isinstance(records, InBlocks) else records


def records_of(items: Iterable[L | Block[R]]) -> Iterator[L | R]:
    """Yield the records of a stream that may have blocks."""
    for item in items:
        if isinstance(item, Block):
            yield from item.records()
        else:
            yield item


def grouped(items: Iterable[L | Block[R]]) -> Iterator[list[L] | Block[R]]:
    """Yield the blocks of a stream, and the records between them in batches."""
    batch: list[L] = []
    for item in items:
        if isinstance(item, Block):
            if batch:
                yield batch
                batch = []
            yield item
        else:
            batch.append(item)
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def merge_join(left: Iterable[L], right: Iterable[R]) -> Iterator[tuple[L | None, R | None]]:
    """Yield pairs of records of two streams in walk order, paired by logical key; None where a stream lacks that key."""
    lefts, rights = iter(left), iter(right)
    first, second = next(lefts, None), next(rights, None)
    while first is not None and second is not None:
        if first.logical_key == second.logical_key:
            yield first, second
            first, second = next(lefts, None), next(rights, None)
        elif sort_key(first) < sort_key(second):
            yield first, None
            first = next(lefts, None)
        else:
            yield None, second
            second = next(rights, None)
    while first is not None:
        yield first, None
        first = next(lefts, None)
    while second is not None:
        yield None, second
        second = next(rights, None)


def merge_blocks(left: Iterable[L | Block[L]], right: Iterable[R]) -> Iterator[tuple[L | Block[L] | None, R | None]]:
    """Yield pairs as :func:`merge_join`; a block of the left stream is one record, unless some of the right one are within it."""
    lefts = iter(left)
    within: Iterator[L] = iter(())
    rights = ((sort_key(record), record) for record in right)
    at, second = next(rights, _NONE)
    while (first := next(within, None) or next(lefts, None)) is not None:
        key = sort_key(first.first if isinstance(first, Block) else first)
        while second is not None and at < key:
            yield None, second
            at, second = next(rights, _NONE)
        if second is None:
            yield first, None
        elif isinstance(first, Block):
            if at <= sort_key(first.last):
                within = first.records()
            else:
                yield first, None
        elif at == key:
            yield first, second
            at, second = next(rights, _NONE)
        else:
            yield first, None
    while second is not None:
        yield None, second
        _, second = next(rights, _NONE)


def validate_order(
    records: Iterable[R | Block[R]], directories: Iterable[DirectoryKey], origin: Callable[[R], str] | None = None
) -> Iterator[R | Block[R]]:
    """Yield records that come in walk order, and check that they make a tree.

    Args:
        records: the files; a block of them is a tree by itself.
        directories: the directories that have metadata.
        origin: names the source of a record, for the error; None for records of one manifest.

    Raises:
        LogicalKeyError: a key is given twice, or is both a file and a directory; the message names both sources.
    """
    with_meta = sorted(directories)
    previous: R | None = None
    for group in _opened(grouped(records), with_meta):
        if isinstance(group, Block):
            _check_pair(previous, group.first, origin)
            previous = group.last
            yield group
            continue
        keys = [record.logical_key for record in group]
        if with_meta or not is_walk(keys if previous is None else [previous.logical_key, *keys]):
            for before, record in zip([previous, *group], group, strict=False):
                _check_pair(before, record, origin)
                check_file(record.logical_key, with_meta)
        previous = group[-1]
        yield from group


def _opened(groups: Iterable[list[R] | Block[R]], directories: Iterable[DirectoryKey]) -> Iterator[list[R] | Block[R]]:
    """Yield groups; the records of a block among whose keys, or just below them, a directory is."""
    within = sorted(map(walk_order, directories))
    for group in groups:
        if isinstance(group, Block) and within:
            at = bisect_left(within, sort_key(group.first))
            if at < len(within) and within[at] < f"{sort_key(group.last)}\1":
                yield from batched(group.records())
                continue
        yield group


def _check_pair(before: R | None, record: R, origin: Callable[[R], str] | None) -> None:
    if before is None:
        return
    try:
        check_next(before.logical_key, record.logical_key)
    except LogicalKeyError as error:
        if origin is None:
            raise
        cure = "give each source a key of its own"
        if before.logical_key == record.logical_key:  # As the results of mapped tasks may have.
            cure += "; in the key of a list '{index}' does that, as in 'parts/{index}/'"
        raise LogicalKeyError(f"{error}: by {origin(before)} and by {origin(record)}; {cure}") from None
