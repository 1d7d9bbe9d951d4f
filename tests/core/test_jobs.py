"""Jobs run on a bounded number of threads, few at a time, and leave nothing running when they end early."""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from airflow_quilt.core.errors import CancelledError, StorageUnavailableError
from airflow_quilt.core.jobs import Call, Jobs, Steps
from airflow_quilt.core.patience import NO_PATIENCE
from airflow_quilt.core.progress import Progress

THREADS = 3
WAIT = 60
"""Seconds after which a test that hangs is failed."""


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Check that no thread stays behind, whatever comes of the jobs."""
    before = set(threading.enumerate())
    yield
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


def stopped() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


def test_results_come_with_their_keys_as_they_are_done_whichever_was_begun_first() -> None:
    second_was_handed_out = threading.Event()
    results = Jobs(threads=THREADS).run(
        [("first", steps([waits_for(second_was_handed_out, 1)])), ("second", steps([lambda: 2], [lambda: 3]))]
    )

    assert next(results) == ("second", [[2], [3]])
    second_was_handed_out.set()
    assert list(results) == [("first", [[1]])]


def test_steps_get_the_results_of_each_batch_in_its_order_whichever_was_done_first() -> None:
    later_is_done = threading.Event()
    batches = [[waits_for(later_is_done, "a"), lambda: "b", sets(later_is_done, "c")], [lambda: None], [lambda: "d", lambda: "e"]]

    assert list(Jobs(threads=THREADS).run([("job", steps(*batches))])) == [("job", [["a", "b", "c"], [None], ["d", "e"]])]


def test_the_next_batch_of_a_job_begins_when_all_calls_of_the_one_before_are_done() -> None:
    done: list[str] = []
    batches = [[lambda name=f"{batch}{call}": done.append(name) for call in range(5)] for batch in range(4)]
    list(Jobs(threads=THREADS).run([("job", steps(*batches))]))

    assert [name[0] for name in done] == list("00000111112222233333")


@pytest.mark.parametrize("count", [1, 1000])
def test_a_job_that_needs_no_call_is_done_at_once(count: int) -> None:
    assert list(Jobs(threads=THREADS).run((i, steps()) for i in range(count))) == [(i, []) for i in range(count)]


def test_no_jobs_have_no_results() -> None:
    assert list(Jobs(threads=THREADS).run([])) == []


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
def test_a_batch_without_calls_has_no_results_and_the_job_goes_on(batches: list[list[Call]], result: list[list[int]]) -> None:
    assert list(Jobs(threads=THREADS).run([("job", steps(*batches))])) == [("job", result)]


@pytest.mark.parametrize("threads", [1, THREADS])
@pytest.mark.parametrize("shape", ["one job of many calls", "many jobs of one call"])
def test_as_many_calls_run_at_a_time_as_there_are_threads_and_never_more(threads: int, shape: str) -> None:
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
    list(Jobs(threads=threads).run(work))

    assert most == threads


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_of_a_million_jobs_few_are_held_at_a_time(calls: int) -> None:
    taken = 0

    def million() -> Iterator[tuple[int, Steps[list[Any]]]]:
        nonlocal taken
        for taken in range(1, 1_000_001):
            yield taken, steps([int] * calls) if calls else steps()

    results = Jobs(threads=THREADS).run(million())
    ahead = [taken - handed_out for handed_out, _ in enumerate(itertools.islice(results, 2000))]
    results.close()

    assert max(ahead) <= 4 * THREADS


def test_a_call_that_fails_ends_the_work_with_its_error_when_the_running_calls_are_done() -> None:
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
    results = Jobs(threads=2, patience=NO_PATIENCE).run(jobs([failing, running, *rest]))

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
        pytest.param(broken_jobs, id="what names the jobs"),
    ],
)
def test_whatever_fails_its_error_ends_the_work(work: Callable[[], Any]) -> None:
    with pytest.raises(StorageUnavailableError, match="down"):
        list(Jobs(threads=THREADS, patience=NO_PATIENCE).run(work()))


def test_jobs_that_were_done_before_one_fails_are_handed_out() -> None:
    first_was_handed_out = threading.Event()

    def failing() -> None:
        assert first_was_handed_out.wait(WAIT)
        fails()

    results = Jobs(threads=THREADS, patience=NO_PATIENCE).run(jobs([failing, lambda: "done"]))

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
def test_jobs_that_were_told_to_stop_before_they_began_are_cancelled(work: Callable[[], Any]) -> None:
    with pytest.raises(CancelledError):
        list(Jobs(threads=THREADS, stop=stopped()).run(work()))


@pytest.mark.parametrize("shape", ["one job of many calls", "many jobs of one call"])
def test_a_stop_meanwhile_ends_the_work_within_few_calls(shape: str) -> None:
    stop = threading.Event()
    begun: list[int] = []

    def call(number: int) -> Call:
        return lambda: (begun.append(number), stop.set() if number == 20 else None)

    calls = [call(i) for i in range(1000)]
    work = [(0, steps(calls))] if shape == "one job of many calls" else jobs(calls)

    with pytest.raises(CancelledError, match="told to stop"):
        list(Jobs(threads=THREADS, stop=stop).run(work))
    assert max(begun) <= 20 + 4 * THREADS


def test_a_stop_after_the_last_call_cancels_the_work_all_the_same() -> None:
    stop = threading.Event()

    with pytest.raises(CancelledError):
        list(Jobs(threads=THREADS, stop=stop).run(jobs([stop.set])))


def test_calls_that_run_when_the_work_is_stopped_are_waited_for() -> None:
    stop = threading.Event()
    ended: list[bool] = []

    def running() -> None:
        assert stop.wait(WAIT)
        time.sleep(0.1)
        ended.append(True)

    with pytest.raises(CancelledError):
        list(Jobs(threads=2, stop=stop).run(jobs([running, stop.set])))
    assert ended == [True]


def test_a_consumer_that_has_enough_leaves_no_thread_and_no_further_call() -> None:
    begun: list[int] = []
    results = Jobs(threads=THREADS).run(jobs([lambda: begun.append(1)] * 1000))
    next(results)
    results.close()
    so_far = len(begun)

    assert so_far <= 4 * THREADS
    assert list(results) == []
    assert len(begun) == so_far


def test_progress_is_told_of_every_job_that_is_done() -> None:
    lines: list[str] = []
    seconds = itertools.count()
    progress = Progress("Working", interval=0.0, clock=lambda: next(seconds), say=lines.append)
    progress.begin(20, 0)
    list(Jobs(threads=THREADS, progress=progress).run(jobs([int] * 20)))

    done = [int(line.split()[1]) for line in lines]
    assert done == sorted(done)
    assert done[-1] == 20
