"""Streams of what a package holds, in walk order, in batches."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

from airflow_quilt.core.format.names import DirectoryKey, LogicalKey, check_file, check_next, is_walk, walk_order

T = TypeVar("T")

BATCH: Final = 1000
"""Enough items to make light of what a batch costs, and few enough to keep in memory."""


def batched(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """Yield the items in lists of ``size``; the last one may be shorter."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch


class Record(Protocol):
    """What has a place in a package."""

    @property
    def logical_key(self) -> LogicalKey:
        """Its key."""
        ...


L = TypeVar("L", bound=Record)
R = TypeVar("R", bound=Record)


def sort_key(record: Record) -> str:
    """Return what sorts records in walk order."""
    return walk_order(record.logical_key)


def merge_join(left: Iterable[L], right: Iterable[R]) -> Iterator[tuple[L | None, R | None]]:
    """Yield the records of two streams in walk order, those of one key together; None where a stream has none of that key."""
    lefts, rights = iter(left), iter(right)
    one, other = next(lefts, None), next(rights, None)
    while one is not None and other is not None:
        if one.logical_key == other.logical_key:
            yield one, other
            one, other = next(lefts, None), next(rights, None)
        elif sort_key(one) < sort_key(other):
            yield one, None
            one = next(lefts, None)
        else:
            yield None, other
            other = next(rights, None)
    while one is not None:
        yield one, None
        one = next(lefts, None)
    while other is not None:
        yield None, other
        other = next(rights, None)


def validate_order(records: Iterable[R], directories: Iterable[DirectoryKey]) -> Iterator[R]:
    """Pass on records, which come in walk order, and check that they are a tree.

    Args:
        records: the files.
        directories: those that have metadata.

    Raises:
        LogicalKeyError: a key is given twice, or is a file and a directory.
    """
    with_meta = sorted(directories)
    previous: LogicalKey | None = None
    for batch in batched(records):
        keys = [record.logical_key for record in batch]
        if with_meta or not is_walk(keys if previous is None else [previous, *keys]):
            _check_each(previous, keys, with_meta)
        previous = keys[-1]
        yield from batch


def _check_each(previous: LogicalKey | None, keys: Iterable[LogicalKey], with_meta: Sequence[DirectoryKey]) -> None:
    for key in keys:
        check_next(previous, key)
        check_file(key, with_meta)
        previous = key
