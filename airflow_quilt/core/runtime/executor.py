"""Execution of the steps of many files on a bounded number of threads, with retries of each call (ADR 0001, ADR 0008, ADR 0034).

A job is a generator that yields batches of calls to make on threads, and is sent their results. It reads as the steps of one
file, and all of its state is touched by one thread only. A call must be idempotent: it is made again after a transient error.

States of a call. The thread that iterates over :meth:`Executor.run` makes every change but one, so the queues need no lock:

=======  =============================  ===============================================================================
state    place                          next state
=======  =============================  ===============================================================================
ready    ``_Queues.ready``              running, in order, while the concurrency allows
running  ``_Queues.running``            ended, by its own thread: the callback of its future
ended    ``_Queues.ended``, and still   its job has the result; or resting, after a transient error; or the work fails
         counted as running
resting  ``_Queues.resting``, by time   ready, when its pause is over
=======  =============================  ===============================================================================

One round of the scheduler, with the same numbers in the code:

1. Take new jobs while few calls are in the queues.
2. Start ready calls up to the current concurrency.
3. Wait until a call has ended, or a pause is over.
4. Take the result of each ended call.
5. Send each job whose batch is complete its results; queue its next batch, or yield its result.
"""

import contextlib
import heapq
import itertools
import logging
import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from airflow_quilt.core.errors import ThrottledError, UploadVanishedError
from airflow_quilt.core.runtime.concurrency import Concurrency
from airflow_quilt.core.runtime.limits import most_calls
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.runtime.stop import TICK, check_stop, sleep
from airflow_quilt.core.runtime.threads import WorkerPool

_log = logging.getLogger(__name__)

K = TypeVar("K")
R = TypeVar("R")

Call = Callable[[], Any]
Steps = Generator[Sequence[Call], list[Any], R]

_RETRY: Final = RetryPolicy()
_WARN_AT_FAILURE: Final = 3
"""The failure of one call that is logged as a warning; the others are debug messages."""


@dataclass(slots=True, eq=False)
class _Job(Generic[K, R]):
    """A job under way: its steps, and the results of its current batch so far; None before the first batch."""

    key: K
    steps: Steps[R]
    results: Any = None
    missing: int = 0
    error: UploadVanishedError | None = None


@dataclass(slots=True, eq=False)
class _PendingCall(Generic[K, R]):
    """A call of a job: the place of its result in the batch, its failures, and the time of the first one."""

    job: _Job[K, R]
    slot: int
    call: Call
    failures: int = 0
    first_failed: float = 0.0


@dataclass(slots=True)
class _Queues(Generic[K, R]):
    """Calls by their state: a table of states is in the docstring of the module."""

    ready: deque[_PendingCall[K, R]] = field(default_factory=deque)
    running: dict[Future[Any], _PendingCall[K, R]] = field(default_factory=dict)
    resting: list[tuple[float, int, _PendingCall[K, R]]] = field(default_factory=list)
    ended: "queue.SimpleQueue[Future[Any]]" = field(default_factory=queue.SimpleQueue)

    def __len__(self) -> int:
        return len(self.ready) + len(self.running) + len(self.resting)

    @property
    def at_hand(self) -> int:
        """The calls that run, or may."""
        return len(self.ready) + len(self.running)

    def start(self, pool: WorkerPool) -> None:
        """Start the next ready call."""
        pending = self.ready.popleft()
        future = pool.submit(pending.call)
        self.running[future] = pending
        # Each future reports its end itself: concurrent.futures.wait() on all that run, once a round, costs more than small
        # calls do.
        future.add_done_callback(self.ended.put)

    def take_ended(self, seconds: float) -> list[Future[Any]]:
        """Wait until a call has ended, or for so long; return those that have."""
        ended: list[Future[Any]] = []
        with contextlib.suppress(queue.Empty):
            ended.append(self.ended.get(timeout=seconds))
            while True:
                ended.append(self.ended.get_nowait())
        return ended


class Executor:
    """Runs jobs.

    Args:
        max_concurrency: the most calls that run at once; fewer run where more bring nothing, and while a store throttles.
        progress: counts each job that is done.
        retry: the policy for calls that fail with a transient error.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        progress: Progress | None = None,
        retry: RetryPolicy = _RETRY,
    ) -> None:
        self.progress = progress or Progress()
        self._max_concurrency = max_concurrency
        self._retry = retry
        self._serial = itertools.count()

    def run(self, jobs: Iterable[tuple[K, Steps[R]]]) -> Iterator[tuple[K, R]]:
        """Run jobs, few at a time; yield the key and the result of each as it is done.

        A call that fails with a transient error is made again later. When one fails for good, no job goes on, running calls get
        a moment to end, and its error is raised. Only the error of an upload that another process ended is raised inside
        its job, once the other calls of the job have ended.
        """
        pool = WorkerPool(self._max_concurrency)
        try:
            yield from self._schedule(pool, jobs, _Queues[K, R]())
        finally:  # Also where the consumer closes this iterator early.
            pool.close()
        check_stop()

    def _schedule(self, pool: WorkerPool, jobs: Iterable[tuple[K, Steps[R]]], queues: _Queues[K, R]) -> Iterator[tuple[K, R]]:
        fresh = (_Job(key, steps) for key, steps in jobs)
        concurrency = Concurrency(min(self._max_concurrency, most_calls()), self._retry.clock)
        self.progress.watch(lambda: min(len(queues.running), concurrency.now))
        while True:
            # 1. Take jobs. Few: there may be millions, and each holds what its steps have read so far.
            while queues.at_hand < concurrency.queued and len(queues) < 2 * self._max_concurrency and (job := next(fresh, None)):
                yield from self._advance(job, queues)
            # 2. Start calls. More than there are threads, so that no thread waits for this one.
            pool.most = concurrency.now
            while queues.ready and len(queues.running) < concurrency.queued:
                queues.start(pool)
            # The rate of calls tells the level something only while there are enough of them.
            concurrency.is_busy = len(queues.running) >= concurrency.queued
            if not queues:
                return
            # 3. Wait; 4. take results; 5. go on with their jobs.
            for future in self._wait_for_calls(queues):
                pending = queues.running.pop(future)
                if self._take_result(pending, future, queues, concurrency):
                    yield from self._advance(pending.job, queues)

    def _wait_for_calls(self, queues: _Queues[K, R]) -> Iterable[Future[Any]]:
        """Wait for calls to end, or for the end of a pause (step 3)."""
        due = queues.resting[0][0] - self._retry.clock() if queues.resting else TICK
        pause = min(TICK, max(0.0, due))
        if queues.running:
            ended = queues.take_ended(pause)
        else:  # No call can end.
            ended = []
            sleep(pause)
        check_stop()
        self.progress.add()
        while queues.resting and queues.resting[0][0] <= self._retry.clock():
            queues.ready.append(heapq.heappop(queues.resting)[2])
        return ended

    def _take_result(
        self, pending: _PendingCall[K, R], future: Future[Any], queues: _Queues[K, R], concurrency: Concurrency
    ) -> bool:
        """Take the result or error of an ended call (step 4); return whether the batch of its job is complete."""
        job, error = pending.job, future.exception()
        if error is None:
            job.results[pending.slot] = future.result()
            concurrency.succeed()
        elif isinstance(error, UploadVanishedError):
            # Another attempt of the same work took the upload up, and completed or aborted it: its job may begin a new one.
            job.error = job.error or error
        elif not self._is_retried(pending, error, queues, concurrency):
            raise error
        else:
            return False
        job.missing -= 1
        # The other calls of the batch would send parts of an upload that is gone. Those that run cannot be taken back: the job
        # goes on when they have ended.
        if job.error:
            doomed = [other for other in (*queues.ready, *(each for _, _, each in queues.resting)) if other.job is job]
            queues.ready = deque(other for other in queues.ready if other.job is not job)
            queues.resting = [each for each in queues.resting if each[2].job is not job]
            heapq.heapify(queues.resting)
            job.missing -= len(doomed)
        return not job.missing

    def _is_retried(
        self, pending: _PendingCall[K, R], error: BaseException, queues: _Queues[K, R], concurrency: Concurrency
    ) -> bool:
        """Put a call to rest after a transient error; return False where the retry policy has no further attempt for it."""
        now = self._retry.clock()
        pending.failures += 1
        pending.first_failed = pending.first_failed or now
        pause = self._retry.pause(error, pending.failures, pending.first_failed)
        if pause is None:
            return False
        if isinstance(error, ThrottledError):
            concurrency.halve()
        level = logging.WARNING if pending.failures == _WARN_AT_FAILURE else logging.DEBUG
        _log.log(level, "Failed %s times, next attempt in %.1f s: %s", pending.failures, pause, error)
        # The serial number decides between equal times: calls themselves have no order.
        heapq.heappush(queues.resting, (now + pause, next(self._serial), pending))
        return True

    def _advance(self, job: _Job[K, R], queues: _Queues[K, R]) -> Iterator[tuple[K, R]]:
        """Send a job the results of its batch; queue its next one, or yield its result (step 5)."""
        # A loop, because a batch may be empty: it is complete at once.
        while not job.missing:
            error, job.error = job.error, None
            try:
                calls = job.steps.throw(error) if error else job.steps.send(job.results)
            except StopIteration as finished:
                self.progress.add(entries=1)
                yield job.key, finished.value
                return
            job.results, job.missing = [None] * len(calls), len(calls)
        queues.ready.extend(_PendingCall(job, slot, call) for slot, call in enumerate(calls))
