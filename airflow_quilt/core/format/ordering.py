"""Streams of records in walk order (docs/format.md, "Manifest"): batches, joins, and the check that they make a tree."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol, TypeVar

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


class Record(Protocol):
    """An item of a package that has a logical key, such as an entry or a source."""

    @property
    def logical_key(self) -> LogicalKey:
        """Logical key of the record."""
        ...


L = TypeVar("L", bound=Record)
R = TypeVar("R", bound=Record)


def sort_key(record: Record) -> str:
    """Return the key that sorts a record in walk order."""
    return walk_order(record.logical_key)


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


def validate_order(
    records: Iterable[R], directories: Iterable[DirectoryKey], origin: Callable[[R], str] | None = None
) -> Iterator[R]:
    """Yield records that come in walk order, and check that they make a tree.

    Args:
        records: the files.
        directories: the directories that have metadata.
        origin: names the source of a record, for the error; None for records of one manifest.

    Raises:
        LogicalKeyError: a key is given twice, or is both a file and a directory; the message names both sources.
    """
    with_meta = sorted(directories)
    previous: R | None = None
    for batch in batched(records):
        keys = [record.logical_key for record in batch]
        if with_meta or not is_walk(keys if previous is None else [previous.logical_key, *keys]):
            for before, record in zip([previous, *batch], batch, strict=False):
                _check_pair(before, record, origin)
                check_file(record.logical_key, with_meta)
        previous = batch[-1]
        yield from batch


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
