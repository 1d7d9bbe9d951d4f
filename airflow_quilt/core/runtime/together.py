"""Calls that do not depend on each other, made at the same time: they take one round trip and not several (ADR 0035)."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from airflow_quilt.core.runtime.stop import await_result, stoppable
from airflow_quilt.core.runtime.threads import WorkerPool

if TYPE_CHECKING:
    from concurrent.futures import Future

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")


@overload
def at_once(first: Callable[[], A], last: Callable[[], B], /, *, threads: int) -> tuple[A, B]: ...
@overload
def at_once(first: Callable[[], A], second: Callable[[], B], last: Callable[[], C], /, *, threads: int) -> tuple[A, B, C]: ...


def at_once(*calls: Callable[[], Any], threads: int) -> tuple[Any, ...]:
    """Call functions at the same time; return their results in the same order.

    The last one is called on this thread, for work that has to be there, or is long; the others are requests. When one of those
    fails, the last one ends at its next check for a stop.

    Args:
        calls: the functions.
        threads: the most that run at once; with 1 each is called when the one before it has ended.

    Raises:
        Exception: the error of the first of them, in their order, that failed.
    """
    *others, last = calls
    if threads == 1:
        return tuple([call() for call in calls])
    pool, has_failed = WorkerPool(min(threads - 1, len(others))), threading.Event()
    try:
        futures = [pool.submit(call) for call in others]
        for future in futures:
            future.add_done_callback(lambda ended: has_failed.set() if _is_failed(ended) else None)
        try:
            with stoppable(has_failed, may_interrupt=None):
                result = last()
        except Exception:
            for future in futures:
                await_result(future)
            raise
        return (*map(await_result, futures), result)
    finally:
        pool.close()


@contextmanager
def begun(call: Callable[[], R], *, threads: int) -> Iterator[Callable[[], R]]:
    """Begin a call beside the block.

    Args:
        call: the function; at the end of the block it is stopped, and left behind if it hangs.
        threads: the most that run at once; with 1 it is called only where its result is asked for.

    Returns:
        The function that waits for its result, or raises its error; to be called once at most.
    """
    if threads == 1:
        yield call
        return
    pool = WorkerPool(1)
    try:
        yield partial(await_result, pool.submit(call))
    finally:
        pool.close()


def _is_failed(future: "Future[Any]") -> bool:
    return not future.cancelled() and future.exception() is not None
