import contextlib
import itertools
import threading
from collections.abc import Iterator

import pytest

from airflow_quilt.core.runtime.threads import ByteBudget, map_concurrently

PATIENCE = 10.0
"""Seconds after which something that must happen counts as not happening."""


def test_results_keep_item_order() -> None:
    later = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert later.wait(PATIENCE)
        if item == 3:
            later.set()
        return item * 10

    assert list(map_concurrently(work, range(100), threads=4)) == [item * 10 for item in range(100)]


def test_no_items_no_results() -> None:
    assert list(map_concurrently(str, [], threads=4)) == []


def test_all_threads_are_used() -> None:
    together = threading.Barrier(5)

    def work(item: int) -> int:
        together.wait(PATIENCE)
        return item

    assert list(map_concurrently(work, range(20), threads=5)) == list(range(20))


def test_threads_bound_concurrency() -> None:
    lock, running, most = threading.Lock(), [0], [0]

    def work(_item: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.001)
        with lock:
            running[0] -= 1

    list(map_concurrently(work, range(50), threads=3))

    assert 1 <= most[0] <= 3


def test_items_are_taken_lazily() -> None:
    taken = itertools.count()

    def items() -> Iterator[int]:
        while True:
            yield next(taken)

    results = map_concurrently(lambda item: item, items(), threads=4)
    first = list(itertools.islice(results, 10))
    results.close()  # type: ignore[attr-defined]

    assert first == list(range(10))
    assert next(taken) <= 10 + 2 * 4 + 1


def test_call_error_in_its_place() -> None:
    done = []

    def work(item: int) -> int:
        if item == 3:
            raise LookupError("the third")
        done.append(item)
        return item

    results = map_concurrently(work, range(10_000), threads=2)

    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="the third"):
        next(results)
    assert list(results) == []
    assert len(done) < 20


def test_item_error_ends_work() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more items")

    with pytest.raises(LookupError, match="no more items"):
        list(map_concurrently(lambda item: item, items(), threads=4))


def test_early_close_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    results = map_concurrently(lambda item: item, itertools.count(), threads=4)
    next(results)
    results.close()  # type: ignore[attr-defined]

    assert set(threading.enumerate()) <= before


def test_budget_never_exceeded() -> None:
    budget, lock, held, most = ByteBudget(100), threading.Lock(), [0], [0]

    def work(size: int) -> None:
        with budget.hold(size):
            with lock:
                held[0] += size
                most[0] = max(most[0], held[0])
            threading.Event().wait(0.0005)
            with lock:
                held[0] -= size

    list(map_concurrently(work, [(7 * item) % 60 + 1 for item in range(200)], threads=8))

    assert held[0] == 0
    assert 0 < most[0] <= 100


def test_fitting_holds_overlap() -> None:
    budget, together = ByteBudget(100), threading.Barrier(4)

    def work(size: int) -> int:
        with budget.hold(size):
            together.wait(PATIENCE)
        return size

    assert list(map_concurrently(work, [25, 25, 25, 25], threads=4)) == [25, 25, 25, 25]


def holding(budget: ByteBudget, size: int) -> tuple[threading.Thread, threading.Event]:
    """Hold so many bytes in a thread; the event is set when it has them."""
    got = threading.Event()

    def work() -> None:
        with budget.hold(size):
            got.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, got


@pytest.mark.parametrize(("held", "demand"), [(60, 41), (1, 100), (1, 1000)], ids=["too-much", "all", "more-than-all"])
def test_demand_waits_for_room(held: int, demand: int) -> None:
    budget = ByteBudget(100)
    with budget.hold(held):
        thread, got = holding(budget, demand)
        assert not got.wait(0.05)
    assert got.wait(PATIENCE)
    thread.join()


def test_oversized_demand_runs_alone() -> None:
    budget = ByteBudget(100)
    with budget.hold(10**9):
        thread, got = holding(budget, 1)
        assert not got.wait(0.05)
    assert got.wait(PATIENCE)
    thread.join()


def test_error_returns_the_budget() -> None:
    budget = ByteBudget(100)
    with contextlib.suppress(LookupError), budget.hold(100):
        raise LookupError
    thread, got = holding(budget, 100)

    assert got.wait(PATIENCE)
    thread.join()


def test_zero_demand_never_waits() -> None:
    budget = ByteBudget(100)
    with budget.hold(100):
        thread, got = holding(budget, 0)
        assert got.wait(PATIENCE)
    thread.join()
