"""The number of calls at once finds its level on stores of every kind, which are simulated: no second passes."""

import heapq
from collections.abc import Callable

import pytest

from airflow_quilt.core.runtime.concurrency import Concurrency
from airflow_quilt.core.runtime.limits import Limits

Seconds = Callable[[int], float]
"""The seconds that a call takes, while so many run."""


class World:
    """A clock, and a store whose calls take seconds; it throttles calls beyond a number."""

    def __init__(self, most: int, seconds: Seconds, bears: int = 1000) -> None:
        self.now = 0.0
        self.level = Concurrency(most, lambda: self.now)
        self.seconds = seconds
        self.bears = bears
        self.levels: list[int] = []

    def run(self, calls: int) -> int:
        """Make so many calls; return the level after the last one."""
        running: list[float] = []
        while calls or running:
            while calls and len(running) < self.level.now:
                calls -= 1
                heapq.heappush(running, self.now + self.seconds(len(running) + 1))
            is_refused = len(running) > self.bears
            self.now = max(self.now, heapq.heappop(running))
            if is_refused:
                self.level.halve()
            else:
                self.level.is_busy = calls > 0
                self.level.succeed()
            self.levels.append(self.level.now)
        return self.level.now


def far(_: int) -> float:
    return 0.025


def shared(capacity: int) -> Seconds:
    """Return the seconds of a store, or a client, that has so many calls a second, however many run."""
    return lambda running: max(0.002, running / capacity)


@pytest.mark.parametrize(
    ("most", "seconds", "level"),
    [
        pytest.param(128, far, 128, id="a network: all"),
        pytest.param(100, far, 100, id="no power of two"),
        pytest.param(16, far, 16, id="the first level is the limit"),
        pytest.param(5, far, 5, id="fewer than the first level"),
        pytest.param(1, far, 1, id="one"),
        pytest.param(128, shared(2000), 16, id="the processor is the limit"),
        pytest.param(128, lambda running: max(0.025, running / 2500), 64, id="a network, and then the processor"),
    ],
)
def test_level_follows_the_gain(most: int, seconds: Seconds, level: int) -> None:
    world = World(most, seconds)

    world.run(20_000)

    # A trial that brings nothing is given up, and trials become rare.
    assert world.levels[1000:].count(level) >= 0.8 * len(world.levels[1000:])
    assert max(world.levels) <= min(most, 2 * level)


def test_network_level_comes_soon() -> None:
    world = World(Limits().max_concurrency, far)
    world.run(1000)

    assert world.levels.index(Limits().max_concurrency) < 600
    assert world.now < 1


def test_throttled_level_recovers() -> None:
    world = World(128, far, bears=50)
    world.run(20_000)
    assert 25 <= sum(world.levels[-5000:]) / 5000 <= 50
    assert min(world.levels) >= 8

    world.bears = 1000
    assert world.run(200_000) == 128


def test_few_calls_prove_nothing() -> None:
    world = World(128, far)
    for _ in range(1000):
        world.run(12)

    assert set(world.levels) == {16}


def test_level_follows_a_change() -> None:
    world = World(128, shared(2000))
    world.run(20_000)
    assert max(world.levels) == 32
    world.seconds = far

    assert world.run(100_000) == 128
