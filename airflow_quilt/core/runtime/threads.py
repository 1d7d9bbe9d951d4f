"""Threads that hear of a stop, and that nobody waits for in vain; and a bound on the bytes that they hold."""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from airflow_quilt.core.runtime.stop import TICK, Scope, await_result, become_worker, check_stop, current, settle

T = TypeVar("T")
R = TypeVar("R")

GRACE: Final = 0.7
"""Seconds that running calls get to end when the work is over early. Airflow kills a task five seconds after SIGTERM, so a
thread that hangs in a store must not keep the caller from its clean-up."""


class WorkerPool:
    """A bounded number of threads, started on demand, that hear of a stop of the work that made the pool.

    They are daemons: unlike those of ``concurrent.futures``, one that hangs keeps neither the caller nor the interpreter from
    going on.

    Args:
        most: the most threads.

    Attributes:
        most: the same; it may be changed. Threads above it end once their calls have.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._scope = Scope(current())
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = self._serving = 0
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[[], R]) -> "Future[R]":
        """Call a function on the next free thread."""
        future: Future[R] = Future()
        with self._lock:
            self._unfinished += 1
            needs_thread = self._serving < min(self._unfinished, self.most)
            self._serving += needs_thread
        self._calls.put((future, call))
        if needs_thread:
            thread = threading.Thread(target=self._serve, name=f"quilt-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return future

    def close(self) -> None:
        """Cancel calls that have not begun; let running ones hear of a stop, and wait for their end, but not for long."""
        self._scope.has_ended = True
        with contextlib.suppress(queue.Empty):
            while True:
                if item := self._calls.get_nowait():
                    item[0].cancel()
        for _ in self._threads:
            self._calls.put(None)
        deadline = time.monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _serve(self) -> None:
        become_worker(self._scope)
        while item := self._calls.get():
            future, call = item
            if future.set_running_or_notify_cancel():
                settle(future, call)
            del item, future, call  # An idle thread holds no bytes.
            if self._is_one_too_many():
                return

    def _is_one_too_many(self) -> bool:
        with self._lock:
            self._unfinished -= 1
            is_surplus = self._serving > self.most
            self._serving -= is_surplus
        return is_surplus


def map_concurrently(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Call ``function`` for each item on a few threads; yield the results in order, holding few of them."""
    pool = WorkerPool(threads)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            check_stop()
            waiting.append(pool.submit(partial(function, item)))
            if len(waiting) > 2 * threads:
                yield await_result(waiting.popleft())
        while waiting:
            yield await_result(waiting.popleft())
    finally:
        pool.close()


class ByteBudget:
    """A bound on the bytes that threads hold together; a demand above it waits until it is alone. First come, first served."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until there is room for ``size`` bytes, and hold it.

        Raises:
            CancelledError: a stop was requested meanwhile.
        """
        size, turn = min(size, self._most), None
        with self._lock:
            if self._left < size or self._waiting:
                turn = size, threading.Event()
                self._waiting.append(turn)
            else:
                self._left -= size
        try:
            while turn and not turn[1].wait(TICK):
                check_stop()
            yield
        finally:
            with self._lock:
                if turn and turn in self._waiting:  # A stop came first.
                    self._waiting.remove(turn)
                else:
                    self._left += size
                self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._left:
            size, turn = self._waiting.popleft()
            self._left -= size
            turn.set()
