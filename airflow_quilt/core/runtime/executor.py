"""Runs the steps of many files on a bounded number of threads.

Each job is a generator that yields batches of calls to make on threads and is sent their results: it reads as the
steps of one file, and all of its state is touched by one thread only. A call must be idempotent: it is made again when
it failed with a transient error.
"""

import contextlib
import heapq
import itertools
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from airflow_quilt.core.errors import CancelledError, ThrottledError, UploadVanishedError
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.runtime.retry import RetryPolicy

_log = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")

Call = Callable[[], Any]
Steps = Generator[Sequence[Call], list[Any], R]

_TICK: Final = 1.0
_GRACE: Final = 5.0
"""Seconds that calls under way get to end when the work is over; a store that hangs may take longer."""
_RETRY: Final = RetryPolicy()
_WORTH_A_LINE: Final = 3
"""After so many failures of one call somebody may want to know."""


@dataclass(slots=True, eq=False)
class _Job(Generic[K, R]):
    """A job under way: its steps, and the results that its last batch of calls has so far; none before the first batch."""

    key: K
    steps: Steps[R]
    results: Any = None
    missing: int = 0
    error: UploadVanishedError | None = None


@dataclass(slots=True, eq=False)
class _PendingCall(Generic[K, R]):
    """A call of a job: where its result goes, and how often it failed since when."""

    job: _Job[K, R]
    slot: int
    call: Call
    failures: int = 0
    began: float = 0.0


@dataclass(slots=True)
class _Pace:
    """How many calls may run at a time: half as many when the store asks for fewer, one more after each round without."""

    most: int
    now: int
    eased: float = float("-inf")
    good: int = 0

    def ease(self, clock: float) -> None:
        if clock - self.eased >= _TICK:  # What was under way when it asked asks once more.
            self.now, self.eased, self.good = max(1, self.now // 2), clock, 0
            _log.info("The store asks to slow down: %s calls at a time now", self.now)

    def succeed(self) -> None:
        self.good += 1
        if self.good >= self.now:
            self.now, self.good = min(self.most, self.now + 1), 0


@dataclass(slots=True)
class _Queues(Generic[K, R]):
    """Calls that may run, that are running, and that wait for their time to be tried again."""

    ready: deque[_PendingCall[K, R]] = field(default_factory=deque)
    running: dict[Future[Any], _PendingCall[K, R]] = field(default_factory=dict)
    resting: list[tuple[float, int, _PendingCall[K, R]]] = field(default_factory=list)
    ended: "queue.SimpleQueue[Future[Any]]" = field(default_factory=queue.SimpleQueue)

    def __len__(self) -> int:
        return len(self.ready) + len(self.running) + len(self.resting)

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Let the next call that is ready run."""
        task = self.ready.popleft()
        future = pool.submit(task.call)
        self.running[future] = task
        future.add_done_callback(self.ended.put)  # To ask all that run, each time, costs more than small calls do.

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
        max_concurrency: the most calls at a time; fewer run while a store asks to slow down.
        progress: is told of each job that is done.
        stop: set it from any thread, or from a signal handler, to end the work with :class:`CancelledError`.
        retry: with calls that fail for now.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        retry: RetryPolicy = _RETRY,
    ) -> None:
        self.progress = progress or Progress()
        self._max_concurrency = max_concurrency
        self._stop = stop or threading.Event()
        self._retry = retry
        self._serial = itertools.count()

    def check_stop(self) -> None:
        """Return if the work may go on.

        Raises:
            CancelledError: it was told to stop.
        """
        check_stop(self._stop)

    def run(self, jobs: Iterable[tuple[K, Steps[R]]]) -> Iterator[tuple[K, R]]:
        """Run jobs, few at a time; yield the key and the result of each as it is done.

        A call that fails for now is made again later. When one fails for good, no job goes on, the calls under way are waited
        for as long as that is a matter of seconds, and its error is raised. Only an upload that somebody else ended is told
        to its job, once its other calls have ended.
        """
        pool = ThreadPoolExecutor(self._max_concurrency, thread_name_prefix="quilt")
        queues = _Queues[K, R]()
        try:
            yield from self._schedule(pool, jobs, queues)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            _, hanging = wait([future for future in queues.running if not future.cancelled()], timeout=_GRACE)
            pool.shutdown(wait=not hanging)
        self.check_stop()

    def _schedule(
        self, pool: ThreadPoolExecutor, jobs: Iterable[tuple[K, Steps[R]]], queues: _Queues[K, R]
    ) -> Iterator[tuple[K, R]]:
        fresh = (_Job(key, steps) for key, steps in jobs)
        pace = _Pace(self._max_concurrency, self._max_concurrency)
        while True:
            while len(queues) < 2 * self._max_concurrency and (job := next(fresh, None)):
                yield from self._advance(job, queues)
            # A few more than there are threads, so that none waits for this one.
            while queues.ready and len(queues.running) < (pace.now if pace.now < pace.most else 2 * pace.most):
                queues.start(pool)
            if not queues:
                return
            for future in self._finished(queues):
                task = queues.running.pop(future)
                if self._settle(task, future, queues, pace):
                    yield from self._advance(task.job, queues)

    def _finished(self, queues: _Queues[K, R]) -> Iterable[Future[Any]]:
        """Wait for calls to end, or for the time of one that is to be made again."""
        due = queues.resting[0][0] - self._retry.clock() if queues.resting else _TICK
        pause = min(_TICK, max(0.0, due))
        if queues.running:
            ended = queues.take_ended(pause)
        else:
            ended = []
            self._stop.wait(pause)
        self.check_stop()
        self.progress.add()
        while queues.resting and queues.resting[0][0] <= self._retry.clock():
            queues.ready.append(heapq.heappop(queues.resting)[2])
        return ended

    def _settle(self, task: _PendingCall[K, R], future: Future[Any], queues: _Queues[K, R], pace: _Pace) -> bool:
        """Take what came of a call; return whether its job may go on."""
        job, error = task.job, future.exception()
        if error is None:
            job.results[task.slot] = future.result()
            pace.succeed()
        elif isinstance(error, UploadVanishedError):
            job.error = job.error or error
        elif not self._is_put_off(task, error, queues, pace):
            raise error
        else:
            return False
        job.missing -= 1
        if job.error:  # Its other calls are of no use any more.
            doomed = [other for other in (*queues.ready, *(each for _, _, each in queues.resting)) if other.job is job]
            queues.ready = deque(other for other in queues.ready if other.job is not job)
            queues.resting = [each for each in queues.resting if each[2].job is not job]
            heapq.heapify(queues.resting)
            job.missing -= len(doomed)
        return not job.missing

    def _is_put_off(self, task: _PendingCall[K, R], error: BaseException, queues: _Queues[K, R], pace: _Pace) -> bool:
        """Let a call that failed for now be made again later, if there is patience left."""
        now = self._retry.clock()
        task.failures += 1
        task.began = task.began or now
        pause = self._retry.pause(error, task.failures, task.began)
        if pause is None:
            return False
        if isinstance(error, ThrottledError):
            pace.ease(now)
        level = logging.WARNING if task.failures == _WORTH_A_LINE else logging.DEBUG
        _log.log(level, "Failed %s times, the next try comes in %.1f s: %s", task.failures, pause, error)
        heapq.heappush(queues.resting, (now + pause, next(self._serial), task))
        return True

    def _advance(self, job: _Job[K, R], queues: _Queues[K, R]) -> Iterator[tuple[K, R]]:
        """Hand a job the results of its calls; queue its next ones, or yield its result."""
        while not job.missing:  # A batch may be empty.
            error, job.error = job.error, None
            try:
                calls = job.steps.throw(error) if error else job.steps.send(job.results)
            except StopIteration as finished:
                self.progress.add(entries=1)
                yield job.key, finished.value
                return
            job.results, job.missing = [None] * len(calls), len(calls)
        queues.ready.extend(_PendingCall(job, slot, call) for slot, call in enumerate(calls))


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
