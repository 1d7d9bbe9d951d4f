"""Calls that do not depend on each other, made at the same time: they take one round trip and not several (ADR 0035)."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from airflow_quilt.core.runtime.stop import await_result, stoppable
from airflow_quilt.core.runtime.threads import WorkerPool

if TYPE_CHECKING:
    from concurrent.futures import Future

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


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


def _is_failed(future: "Future[Any]") -> bool:
    return not future.cancelled() and future.exception() is not None
