"""Work on many files at a time, on a bounded number of threads.

Each job is a generator that yields batches of calls to make on threads and is sent their results: it reads as the
steps of one file, and all of its state is touched by one thread only.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from airflow_quilt.core.errors import CancelledError
from airflow_quilt.core.progress import Progress

K = TypeVar("K")
R = TypeVar("R")

Call = Callable[[], Any]
Steps = Generator[Sequence[Call], list[Any], R]

_TICK: Final = 1.0


@dataclass(slots=True)
class _Job(Generic[K, R]):
    """A job under way: its steps, and the results that its last batch of calls has so far; none before the first batch."""

    key: K
    steps: Steps[R]
    results: Any = None
    missing: int = 0


class Jobs:
    """Runs jobs.

    Args:
        threads: the most calls at a time.
        progress: is told of each job that is done.
        stop: set it from any thread, or from a signal handler, to end the work with :class:`CancelledError`.
    """

    def __init__(self, *, threads: int = 16, progress: Progress | None = None, stop: threading.Event | None = None) -> None:
        self.progress = progress or Progress()
        self._threads = threads
        self._stop = stop or threading.Event()

    def check_stop(self) -> None:
        """Return if the work may go on.

        Raises:
            CancelledError: it was told to stop.
        """
        if self._stop.is_set():
            raise CancelledError("told to stop: the work was ended before it was complete")

    def run(self, jobs: Iterable[tuple[K, Steps[R]]]) -> Iterator[tuple[K, R]]:
        """Run jobs, few at a time; yield the key and the result of each as it is done.

        When a call fails, no job goes on, the calls under way are waited for, and its error is raised.
        """
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="quilt")
        try:
            yield from self._schedule(pool, jobs)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        self.check_stop()

    def _schedule(self, pool: ThreadPoolExecutor, jobs: Iterable[tuple[K, Steps[R]]]) -> Iterator[tuple[K, R]]:
        fresh = (_Job(key, steps) for key, steps in jobs)
        ready: deque[tuple[_Job[K, R], int, Call]] = deque()
        running: dict[Future[Any], tuple[_Job[K, R], int]] = {}
        while True:
            while len(ready) + len(running) < 2 * self._threads and (job := next(fresh, None)):
                yield from self._advance(job, ready)
            while ready and len(running) < 2 * self._threads:
                job, slot, call = ready.popleft()
                running[pool.submit(call)] = job, slot
            if not running:
                return
            finished, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
            self.check_stop()
            self.progress.add()
            for future in finished:
                job, slot = running.pop(future)
                job.results[slot] = future.result()
                job.missing -= 1
                if not job.missing:
                    yield from self._advance(job, ready)

    def _advance(self, job: _Job[K, R], ready: deque[tuple[_Job[K, R], int, Call]]) -> Iterator[tuple[K, R]]:
        """Hand a job the results of its calls; queue its next ones, or yield its result."""
        while not job.missing:  # A batch may be empty.
            try:
                calls = job.steps.send(job.results)
            except StopIteration as finished:
                self.progress.add(entries=1)
                yield job.key, finished.value
                return
            job.results, job.missing = [None] * len(calls), len(calls)
        ready.extend((job, slot, call) for slot, call in enumerate(calls))
