"""Bounded work on threads: many small calls in order, and a budget of bytes in memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from airflow_quilt.core.errors import CancelledError

T = TypeVar("T")
R = TypeVar("R")


def map_concurrently(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Call ``function`` for each item on a few threads; yield the results in order, holding few of them."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def check_stop(stop: threading.Event) -> None:
    """Return if the work may go on.

    Raises:
        CancelledError: it was told to stop.
    """
    if stop.is_set():
        raise CancelledError("told to stop: the work was ended before it was complete")


class ByteBudget:
    """Lets threads hold so many bytes together; one larger demand waits until it is alone."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until there is room for ``size`` bytes, and hold it."""
        size = min(size, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()
