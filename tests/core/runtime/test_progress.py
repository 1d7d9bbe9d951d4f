import threading

import pytest

from airflow_quilt.core.runtime.progress import Progress, duration, human_size
from tests.support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def progress(clock: Clock, lines: list[str]) -> Progress:
    return Progress("Pushing team/data", interval=10, clock=clock, say=lines.append)


def test_silent_before_interval(progress: Progress, clock: Clock, lines: list[str]) -> None:
    progress.begin(10, 1000)
    clock.now += 9.99
    progress.add(5, 500)

    assert lines == []


def test_line_has_rate_and_time_left(progress: Progress, clock: Clock, lines: list[str]) -> None:
    progress.begin(2000, 4 * 1024**2)
    clock.now += 10
    progress.add(1500, 1024**2)

    assert lines == ["Pushing team/data: 1,500 of 2,000 entries, 1.0 MiB of 4.0 MiB, 150 entries/s, 102.4 KiB/s, about 30 s left"]


def test_one_line_per_interval(progress: Progress, clock: Clock, lines: list[str]) -> None:
    progress.begin(100, 100)
    for _ in range(100):
        clock.now += 1
        progress.add(1, 1)

    assert [line.partition(", ")[0] for line in lines] == [
        f"Pushing team/data: {done} of 100 entries" for done in range(10, 101, 10)
    ]


def test_empty_add_still_logs(progress: Progress, clock: Clock, lines: list[str]) -> None:
    progress.begin(1, 100)
    clock.now += 30
    progress.add()

    assert lines == ["Pushing team/data: 0 of 1 entries, 0 B of 100 B, 0.0 entries/s, 0 B/s"]


def test_time_left_without_bytes(progress: Progress, clock: Clock, lines: list[str]) -> None:
    progress.begin(4, 0)
    clock.now += 20
    progress.add(entries=1)

    assert lines == ["Pushing team/data: 1 of 4 entries, 0 B of 0 B, 0.1 entries/s, 0 B/s, about 1 min 0 s left"]


def test_rates_are_of_late(progress: Progress, clock: Clock, lines: list[str]) -> None:
    """Kept entries are in no rate, and a fast or a slow beginning is forgotten after some lines."""
    progress.begin(10_000, 10_000, kept=1000, kept_size=1000)
    for size in (2000, *[100] * 7):
        clock.now += 10
        progress.add(size, size)

    assert lines[0].endswith(" 200 entries/s, 200 B/s, about 35 s left")
    assert lines[-1].endswith("3,700 of 10,000 entries, 3.6 KiB of 9.8 KiB, 10 entries/s, 10 B/s, about 10 min 30 s left")

    clock.now += 10
    progress.add(size=-2000)
    assert lines[-1].endswith(" entries/s, 0 B/s")


def test_calls_are_asked_per_line(progress: Progress, clock: Clock, lines: list[str]) -> None:
    calls = iter((1, 1200))
    progress.begin(10, 0)
    progress.watch(lambda: next(calls))
    for _ in range(10):
        clock.now += 2
        progress.add(1)

    assert [line.rpartition(", about ")[0].rpartition("/s, ")[2] for line in lines] == [
        "1 call under way",
        "1,200 calls under way",
    ]


def test_excess_bytes_leave_0_s(progress: Progress, clock: Clock, lines: list[str]) -> None:
    progress.begin(1, 100)
    clock.now += 10
    progress.add(1, 200)

    assert lines[0].endswith("about 0 s left")


def test_begin_resets_counts(progress: Progress, clock: Clock, lines: list[str]) -> None:
    progress.begin(1, 100)
    clock.now += 9
    progress.add(1, 100)
    progress.begin(2, 10)
    clock.now += 9
    progress.add(1, 5)
    clock.now += 1
    progress.add()

    assert lines == ["Pushing team/data: 1 of 2 entries, 5 B of 10 B, 0.1 entries/s, 0 B/s, about 10 s left"]


def test_zero_interval_logs_each(clock: Clock, lines: list[str]) -> None:
    progress = Progress("Pushing", interval=0, clock=clock, say=lines.append)
    progress.begin(2, 10)
    progress.add(1, 5)

    assert len(lines) == 1


def test_threads_lose_no_counts(clock: Clock, lines: list[str]) -> None:
    progress = Progress("Pushing", interval=10, clock=clock, say=lines.append)
    progress.begin(8000, 16_000)
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        for _ in range(1000):
            progress.add(1, 2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += 10
    progress.add()

    assert len(lines) == 1
    assert lines[0].startswith("Pushing: 8,000 of 8,000 entries, 15.6 KiB of 15.6 KiB")


def test_line_written_outside_lock(clock: Clock) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            progress.add(1)

    progress = Progress("Pushing", interval=10, clock=clock, say=say)
    progress.begin(2, 0)
    clock.now += 10
    thread = threading.Thread(target=progress.add, args=(1,), daemon=True)
    thread.start()
    thread.join(10)

    assert not thread.is_alive()
    assert len(said) == 1


SIZES = [
    (0, "0 B"),
    (1023, "1,023 B"),
    (1024, "1.0 KiB"),
    (1536, "1.5 KiB"),
    (1024**2, "1.0 MiB"),
    (1024**3, "1.0 GiB"),
    (5 * 1024**4, "5.0 TiB"),
    (5000 * 1024**4, "5,000.0 TiB"),
]


@pytest.mark.parametrize(("size", "text"), SIZES)
def test_sizes_in_binary_units(size: float, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (7384, "2 h 3 min"),
    ],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
