"""Streams, a batch at a time: what is done for many items at once costs each of them little."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

BATCH: Final = 1000
"""Enough items to make light of what a batch costs, and few enough to keep in memory."""


def batched(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """Yield the items in lists of ``size``; the last one may be shorter."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch
