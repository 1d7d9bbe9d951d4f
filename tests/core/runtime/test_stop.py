"""A stop is heard by every thread of the work, and by nothing else."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from airflow_quilt.core.errors import CancelledError, StorageUnavailableError
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.runtime.stop import (
    await_result,
    call_apart,
    check_stop,
    interrupt,
    shielded,
    sleep,
    stoppable,
    unhurried,
)
from airflow_quilt.core.runtime.threads import ByteBudget, WorkerPool, map_concurrently
from tests.support import workers_since

WAIT = 60
"""Seconds after which a test that hangs is failed."""


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def hang() -> Iterator[Callable[[object], bool]]:
    """A call that ends with the test."""
    release = threading.Event()
    yield lambda _: release.wait(WAIT)
    release.set()


def is_stopped() -> bool:
    try:
        check_stop()
    except CancelledError:
        return True
    return False


def test_stop_ends_its_scopes_only(stop: threading.Event) -> None:
    with stoppable(), stoppable(stop):
        with stoppable():
            assert not is_stopped()
            stop.set()
            assert is_stopped()
        with stoppable(threading.Event()), shielded(WAIT):
            assert not is_stopped()
            with stoppable():
                assert not is_stopped()
        with unhurried(WAIT):
            assert not is_stopped()
        with shielded(0):
            assert is_stopped()
        with unhurried(0.01), pytest.raises(CancelledError):
            sleep(WAIT)
    assert not is_stopped()


WAITS: dict[str, Callable[[Callable[[object], bool]], object]] = {
    "a pause": lambda _: sleep(WAIT),
    "a pause before another attempt": lambda _: RetryPolicy(shortest=WAIT, longest=WAIT, chance=lambda: 1.0).call(fails),
    "the result of a thread": lambda _: await_result(Future()),
    "a call that cannot be ended": lambda hang: call_apart(lambda: hang(0)),
    "calls on threads": lambda hang: list(map_concurrently(hang, range(10), 3)),
    "items that are taken without an end": lambda _: list(map_concurrently(str, iter(int, 1), 3)),
    "room in memory": lambda _: hold_twice(ByteBudget(1)),
}


def fails() -> None:
    raise StorageUnavailableError("down", "s3://registry/key")


def hold_twice(budget: ByteBudget) -> None:
    with budget.hold(1), budget.hold(1):
        pass


@pytest.mark.parametrize("what", WAITS)
def test_every_wait_hears(stop: threading.Event, hang: Callable[[object], bool], what: str) -> None:
    threading.Timer(0.05, stop.set).start()

    with pytest.raises(CancelledError, match="stopped on request"), stoppable(stop):
        WAITS[what](hang)


@pytest.mark.parametrize("error", [CancelledError, KeyboardInterrupt])
def test_threads_left_behind_hear(stop: threading.Event, error: type[BaseException]) -> None:
    begun, heard = threading.Event(), threading.Event()

    def deaf_for_a_while(_: int) -> None:
        begun.set()
        try:
            sleep(WAIT)
        finally:
            heard.set()

    def items() -> Iterator[int]:
        yield from range(3)
        assert begun.wait(WAIT)
        raise error("the work ends here")

    with pytest.raises(error), stoppable(stop):
        list(map_concurrently(deaf_for_a_while, items(), 3))
    assert heard.wait(WAIT)


def test_pool_threads_are_daemons(hang: Callable[[object], bool]) -> None:
    before = threading.enumerate()
    pool = WorkerPool(2)
    pool.submit(lambda: hang(0))
    pool.close()

    [thread] = workers_since(before)
    assert thread.daemon


def test_calls_apart_return_and_raise(stop: threading.Event) -> None:
    for scope in (stoppable(stop), shielded(WAIT)):
        with scope:
            assert call_apart(threading.get_ident) != threading.get_ident()
            with pytest.raises(LookupError, match="here"):
                call_apart(lambda: {}["here"])
            with pytest.raises(TimeoutError, match="its own"):
                call_apart(raise_timeout)
    assert call_apart(threading.get_ident) == threading.get_ident()


def raise_timeout() -> None:
    raise TimeoutError("its own")


@pytest.fixture
def sigterm(stop: threading.Event) -> Iterator[Callable[[], None]]:
    """A function that sends this process a signal, whose handler stops the work as Airflow's does."""

    def handle(*_: object) -> None:
        stop.set()
        interrupt()

    before = signal.signal(signal.SIGTERM, handle)
    yield lambda: signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_interrupt_ends_any_line(stop: threading.Event, sigterm: Callable[[], None]) -> None:
    done = []

    def work() -> None:
        with stoppable(stop, may_interrupt=False), stoppable():
            done.append("before")
            sigterm()
            done.append("after")

    with pytest.raises(CancelledError):
        work()
    assert done == ["before"]


@pytest.mark.parametrize("scope", [lambda: stoppable(may_interrupt=False), lambda: shielded(WAIT), lambda: unhurried(WAIT)])
def test_interrupt_spares_clean_up(
    stop: threading.Event, sigterm: Callable[[], None], scope: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    done = []

    def work() -> None:
        with stoppable(stop):
            with scope():
                sigterm()
                done.append("the clean-up")
            check_stop()

    with pytest.raises(CancelledError):
        work()
    assert done == ["the clean-up"]
