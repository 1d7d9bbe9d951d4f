"""Jobs run on a bounded number of threads, few at a time, and leave nothing running when they end early."""

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest

from airflow_quilt.core.errors import (
    AccessDeniedError,
    CancelledError,
    QuiltError,
    StorageUnavailableError,
    ThrottledError,
    UploadVanishedError,
)
from airflow_quilt.core.runtime.executor import Call, Executor, Steps
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.runtime.retry import NO_RETRY, RetryPolicy
from airflow_quilt.core.runtime.stop import stoppable
from tests.support import workers_since

THREADS = 3
WAIT = 60
"""Seconds after which a test that hangs is failed."""


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Check that no thread outlives the jobs; wait for the timers of the tests."""
    before = set(threading.enumerate())
    yield
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(WAIT)
    assert set(threading.enumerate()) <= before


def steps(*batches: list[Call]) -> Steps[list[Any]]:
    """Make batches of calls, one after the other; the result of the job is the list of their results."""
    results: list[list[Any]] = []
    for batch in batches:
        results += [(yield batch)]
    return results


def jobs(calls: Iterable[Call]) -> Iterator[tuple[int, Steps[list[Any]]]]:
    """Return one job for each call, numbered from 0."""
    return ((i, steps([call])) for i, call in enumerate(calls))


def waits_for(event: threading.Event, result: object) -> Call:
    def call() -> object:
        assert event.wait(WAIT)
        return result

    return call


def sets(event: threading.Event, result: object) -> Call:
    def call() -> object:
        event.set()
        return result

    return call


def fails() -> None:
    raise StorageUnavailableError("down", "s3://registry/key")


def run(work: Any, stop: threading.Event, retry: RetryPolicy = NO_RETRY) -> None:
    """Run jobs in a scope that an event ends."""
    with stoppable(stop):
        list(Executor(max_concurrency=THREADS, retry=retry).run(work))


def stopped() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


def test_results_come_as_completed() -> None:
    second_was_handed_out = threading.Event()
    results = Executor(max_concurrency=THREADS).run(
        [("first", steps([waits_for(second_was_handed_out, 1)])), ("second", steps([lambda: 2], [lambda: 3]))]
    )

    assert next(results) == ("second", [[2], [3]])
    second_was_handed_out.set()
    assert list(results) == [("first", [[1]])]


def test_batch_results_keep_order() -> None:
    later_is_done = threading.Event()
    batches = [[waits_for(later_is_done, "a"), lambda: "b", sets(later_is_done, "c")], [lambda: None], [lambda: "d", lambda: "e"]]

    assert list(Executor(max_concurrency=THREADS).run([("job", steps(*batches))])) == [
        ("job", [["a", "b", "c"], [None], ["d", "e"]])
    ]


def test_batches_run_in_sequence() -> None:
    done: list[str] = []
    batches = [[lambda name=f"{batch}{call}": done.append(name) for call in range(5)] for batch in range(4)]
    list(Executor(max_concurrency=THREADS).run([("job", steps(*batches))]))

    assert [name[0] for name in done] == list("00000111112222233333")


@pytest.mark.parametrize("count", [1, 1000])
def test_job_without_calls_is_done(count: int) -> None:
    assert list(Executor(max_concurrency=THREADS).run((i, steps()) for i in range(count))) == [(i, []) for i in range(count)]


def test_no_jobs_no_results() -> None:
    assert list(Executor(max_concurrency=THREADS).run([])) == []


@pytest.mark.parametrize(
    ("batches", "result"),
    [
        pytest.param([[]], [[]], id="the only one"),
        pytest.param([[], [lambda: 1]], [[], [1]], id="the first one"),
        pytest.param([[lambda: 1], [], [lambda: 2]], [[1], [], [2]], id="one between"),
        pytest.param([[lambda: 1], []], [[1], []], id="the last one"),
        pytest.param([[], []], [[], []], id="all of them"),
    ],
)
def test_empty_batch_continues_job(batches: list[list[Call]], result: list[list[int]]) -> None:
    assert list(Executor(max_concurrency=THREADS).run([("job", steps(*batches))])) == [("job", result)]


@pytest.mark.parametrize("threads", [1, THREADS])
@pytest.mark.parametrize("shape", ["one job of many calls", "many jobs of one call"])
def test_concurrency_equals_limit(threads: int, shape: str) -> None:
    meet = threading.Barrier(threads)
    lock = threading.Lock()
    at_once = most = 0

    def call() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        meet.wait(WAIT)
        with lock:
            at_once -= 1

    calls = [call] * (4 * threads)
    work = [(0, steps(calls))] if shape == "one job of many calls" else jobs(calls)
    list(Executor(max_concurrency=threads).run(work))

    assert most == threads


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_jobs_are_taken_lazily(calls: int) -> None:
    taken = 0

    def million() -> Iterator[tuple[int, Steps[list[Any]]]]:
        nonlocal taken
        for taken in range(1, 1_000_001):
            yield taken, steps([int] * calls) if calls else steps()

    results = Executor(max_concurrency=THREADS).run(million())
    ahead = [taken - handed_out for handed_out, _ in enumerate(itertools.islice(results, 2000))]
    results.close()

    assert max(ahead) <= 4 * THREADS


def test_failure_waits_for_running() -> None:
    other_runs, failed = threading.Event(), threading.Event()
    begun: list[str] = []
    ended: list[str] = []

    def failing() -> None:
        begun.append("failing")
        assert other_runs.wait(WAIT)
        failed.set()
        fails()

    def running() -> None:
        begun.append("running")
        other_runs.set()
        assert failed.wait(WAIT)
        time.sleep(0.1)
        ended.append("running")

    rest = [lambda: begun.append("rest")] * 1000
    results = Executor(max_concurrency=2, retry=NO_RETRY).run(jobs([failing, running, *rest]))

    with pytest.raises(StorageUnavailableError, match="down"):
        list(results)
    assert ended == ["running"]
    assert len(begun) <= 2 * 2


def broken_steps() -> Steps[None]:
    yield [lambda: None]
    raise StorageUnavailableError("down", "s3://registry/key")


def broken_jobs() -> Iterator[tuple[int, Steps[list[Any]]]]:
    yield from jobs([lambda: None])
    raise StorageUnavailableError("down", "s3://registry/key")


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda: [(0, steps([lambda: None, fails]))], id="a call"),
        pytest.param(lambda: [(0, steps([lambda: None], [fails]))], id="a call of a later batch"),
        pytest.param(lambda: [(0, broken_steps())], id="the steps of a job"),
        pytest.param(broken_jobs, id="the iterator of jobs"),
    ],
)
def test_any_failure_ends_work(work: Callable[[], Any]) -> None:
    with pytest.raises(StorageUnavailableError, match="down"):
        list(Executor(max_concurrency=THREADS, retry=NO_RETRY).run(work()))


def test_done_jobs_precede_failure() -> None:
    first_was_handed_out = threading.Event()

    def failing() -> None:
        assert first_was_handed_out.wait(WAIT)
        fails()

    results = Executor(max_concurrency=THREADS, retry=NO_RETRY).run(jobs([failing, lambda: "done"]))

    assert next(results) == (1, [["done"]])
    first_was_handed_out.set()
    with pytest.raises(StorageUnavailableError, match="down"):
        next(results)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda: jobs([int] * 1000), id="jobs of one call"),
        pytest.param(lambda: ((i, steps()) for i in range(1000)), id="jobs without calls"),
        pytest.param(list, id="no jobs"),
    ],
)
def test_stopped_jobs_never_start(work: Callable[[], Any]) -> None:
    with pytest.raises(CancelledError):
        run(work(), stopped())


@pytest.mark.parametrize("shape", ["one job of many calls", "many jobs of one call"])
def test_stop_ends_within_few_calls(shape: str) -> None:
    stop = threading.Event()
    begun: list[int] = []

    def call(number: int) -> Call:
        return lambda: (begun.append(number), stop.set() if number == 20 else None)

    calls = [call(i) for i in range(1000)]
    work = [(0, steps(calls))] if shape == "one job of many calls" else jobs(calls)

    with pytest.raises(CancelledError, match="stopped on request"):
        run(work, stop)
    assert max(begun) <= 20 + 4 * THREADS


def test_late_stop_still_cancels() -> None:
    stop = threading.Event()

    with pytest.raises(CancelledError):
        run(jobs([stop.set]), stop)


def test_stop_waits_for_running() -> None:
    stop = threading.Event()
    ended: list[bool] = []

    def running() -> None:
        assert stop.wait(WAIT)
        time.sleep(0.1)
        ended.append(True)

    with pytest.raises(CancelledError):
        run(jobs([running, stop.set]), stop)
    assert ended == [True]


def test_early_close_ends_calls() -> None:
    begun: list[int] = []
    results = Executor(max_concurrency=THREADS).run(jobs([lambda: begun.append(1)] * 1000))
    next(results)
    results.close()
    so_far = len(begun)

    assert so_far <= 4 * THREADS
    assert list(results) == []
    assert len(begun) == so_far


def test_progress_counts_jobs() -> None:
    lines: list[str] = []
    seconds = itertools.count()
    progress = Progress("Working", interval=0.0, clock=lambda: next(seconds), say=lines.append)
    progress.begin(20, 0)
    list(Executor(max_concurrency=THREADS, progress=progress).run(jobs([int] * 20)))

    done = [int(line.split()[1]) for line in lines]
    assert done == sorted(done)
    assert done[-1] == 20
    under_way = [int(found[1]) for line in lines if (found := re.search(r", (\d+) calls? under way", line))]
    assert len(under_way) == len(lines)
    assert 1 <= max(under_way) <= THREADS


QUICK = RetryPolicy(seconds=60, shortest=0.01, longest=0.02)


class Flaky:
    """A call that fails so many times, and then returns."""

    def __init__(self, *errors: QuiltError) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def unavailable(times: int) -> list[QuiltError]:
    return [StorageUnavailableError("down", "s3://registry/key") for _ in range(times)]


def test_retry_is_hidden_from_job() -> None:
    flaky, other = Flaky(*unavailable(5)), Flaky()

    assert list(Executor(max_concurrency=THREADS, retry=QUICK).run([("job", steps([flaky, other], [lambda: "next"]))])) == [
        ("job", [["done", "done"], ["next"]])
    ]
    assert (flaky.calls, other.calls) == (6, 1)


def test_retry_pause_frees_thread() -> None:
    slow = RetryPolicy(seconds=60, shortest=0.5, chance=lambda: 1.0)
    results = Executor(max_concurrency=1, retry=slow).run(jobs([Flaky(*unavailable(1)), *[Flaky() for _ in range(20)]]))

    assert [key for key, _ in results][-1] == 0


def test_retry_limit_ends_work() -> None:
    flaky = Flaky(*unavailable(10_000))

    with pytest.raises(StorageUnavailableError, match="down"):
        list(Executor(max_concurrency=THREADS, retry=RetryPolicy(seconds=0.3, shortest=0.01, longest=0.02)).run(jobs([flaky])))
    assert 5 < flaky.calls < 1000


def test_permanent_not_retried() -> None:
    flaky = Flaky(AccessDeniedError("no", "s3://registry/key"))

    with pytest.raises(AccessDeniedError):
        list(Executor(max_concurrency=THREADS, retry=QUICK).run(jobs([flaky])))
    assert flaky.calls == 1


def test_stop_ends_retry_pause() -> None:
    stop = threading.Event()
    patience = RetryPolicy(seconds=1000, shortest=500, chance=lambda: 1.0)
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()

    with pytest.raises(CancelledError):
        run(jobs([Flaky(*unavailable(1))]), stop, patience)
    assert time.monotonic() - began < 60


class Store:
    """A store that bears so many calls at a time, and asks for fewer when there are more."""

    def __init__(self, bears: int) -> None:
        self.bears = bears
        self.most: list[int] = []
        self.refused = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._now += 1
            now = self._now
            self.most.append(now)
        time.sleep(0.005)
        with self._lock:
            self._now -= 1
        if now > self.bears:
            self.refused += 1
            raise ThrottledError("slow down", "s3://registry/key")


def test_throttling_slows_pace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    store = Store(bears=4)
    list(Executor(max_concurrency=16, retry=RetryPolicy(seconds=300, shortest=0.01, longest=0.02)).run(jobs([store] * 120)))

    assert store.most[0] <= 16
    assert max(store.most) > 4
    assert store.refused > 0
    assert "The store asks to slow down: at most 8 concurrent requests now" in caplog.text


def test_pace_grows_back() -> None:
    store = Store(bears=16)
    first = Flaky(ThrottledError("slow down", "s3://registry/key"))
    list(Executor(max_concurrency=16, retry=QUICK).run(jobs([first, *[store] * 500])))

    assert max(store.most[-50:]) > 8
    assert store.refused == 0


class Vanishing:
    """The steps of a job whose upload vanishes, once for each number given."""

    def __init__(self, *at: int) -> None:
        self.at = list(at)
        self.begun = 0
        self.sent: list[int] = []

    def steps(self) -> Steps[str]:
        while True:
            try:
                self.begun += 1
                yield [partial(self.send, number) for number in range(40)]
            except UploadVanishedError:
                continue
            return "complete"

    def send(self, number: int) -> None:
        if self.at and number == self.at[0]:
            self.at.pop(0)
            raise UploadVanishedError("gone", "s3://registry/key")
        self.sent.append(number)


@pytest.mark.parametrize("at", [0, 20, 39])
def test_vanished_upload_restarts(at: int) -> None:
    vanishing = Vanishing(at, at)

    assert list(
        Executor(max_concurrency=THREADS, retry=QUICK).run([("job", vanishing.steps()), ("other", steps([Flaky()]))])
    ) in (
        [("other", [["done"]]), ("job", "complete")],
        [("job", "complete"), ("other", [["done"]])],
    )
    assert vanishing.begun == 3
    assert set(vanishing.sent[-40:]) == set(range(40))


def test_unhandled_vanish_ends_work() -> None:
    with pytest.raises(UploadVanishedError):
        list(Executor(max_concurrency=THREADS, retry=QUICK).run(jobs([Flaky(UploadVanishedError("gone", "s3://registry/key"))])))


def test_hanging_call_does_not_block() -> None:
    release = threading.Event()
    stop = threading.Event()
    before = threading.enumerate()
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    try:
        with pytest.raises(CancelledError):
            run(jobs([lambda: release.wait(120)]), stop)
        assert time.monotonic() - began < 60
    finally:
        release.set()
        for thread in workers_since(before):
            thread.join(WAIT)
