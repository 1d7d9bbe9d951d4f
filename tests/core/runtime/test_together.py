"""Calls that are made at once: results and errors in the order of the calls, and an end that all of them hear of."""

import threading

import pytest

from airflow_quilt.core.errors import CancelledError
from airflow_quilt.core.runtime.stop import check_stop, interrupt, sleep, stoppable, unhurried
from airflow_quilt.core.runtime.together import at_once

PATIENCE = 10.0


def fail(message: str) -> None:
    raise ValueError(message)


def test_calls_run_at_once() -> None:
    together, here = threading.Barrier(3), threading.current_thread()

    def wait(item: int) -> tuple[int, bool]:
        together.wait(PATIENCE)
        return item, threading.current_thread() is here

    found = at_once(lambda: wait(1), lambda: wait(2), lambda: wait(3), threads=16)

    assert found == ((1, False), (2, False), (3, True))


def test_one_thread_keeps_order() -> None:
    order: list[str] = []

    at_once(lambda: order.append("a"), lambda: order.append("b"), lambda: order.append("c"), threads=1)

    assert order == ["a", "b", "c"]


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_first_error_in_order(threads: int) -> None:
    def late() -> None:
        sleep(0.05)
        fail("second")

    with pytest.raises(ValueError, match="second"):
        at_once(lambda: None, late, lambda: fail("last"), threads=threads)


def test_error_ends_the_last() -> None:
    def work() -> None:
        while True:
            sleep(0.01)

    with pytest.raises(ValueError, match="first"):
        at_once(lambda: fail("first"), work, threads=2)


def test_stop_ends_all() -> None:
    event, ended = threading.Event(), threading.Event()

    def hang() -> None:
        try:
            while True:
                sleep(0.01)
        finally:
            ended.set()

    def work() -> None:
        event.set()
        check_stop()

    with pytest.raises(CancelledError), stoppable(event):
        at_once(hang, work, threads=2)
    assert ended.is_set()


def test_unhurried_last_is_not_cut() -> None:
    event = threading.Event()
    event.set()

    def work() -> str:
        interrupt()
        return "whole"

    with stoppable(event), unhurried(PATIENCE):
        assert at_once(lambda: 1, work, threads=2) == (1, "whole")
    with pytest.raises(CancelledError), stoppable(event):
        at_once(lambda: 1, work, threads=2)
