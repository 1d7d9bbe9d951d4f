"""A process that publishes, installs, deletes, fails and is stopped many times holds no more than before."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

import pytest

from testbed.server import S3Server
from tests.chaos import soak as leaks
from tests.chaos.environment import in_child
from tests.chaos.soak import Sample, grown, soak

ROUNDS: Final = 15
STILL: Final = Sample(memory=200_000, objects=300_000, threads=1, files=4, sockets=16, temporary_files=0)


def test_rounds_leave_no_growth(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    soaked = in_child(soak, s3, bucket, tmp_path, ROUNDS, environment=leaks.ENVIRONMENT)

    assert soaked.problems == []
    assert grown(soaked.samples) == []
    assert soaked.samples[-1].threads == 1
    assert {
        "push stopped: CancelledError",
        "push damaged: EntryDamagedError",
        "delete all",
        "publish in parts",
    } <= soaked.done.keys()


@pytest.mark.parametrize("name", [each.name for each in fields(Sample)])
def test_steady_growth_is_reported(name: str) -> None:
    step = {"memory": 2000, "objects": 100, "sockets": 5}.get(name, 1)
    samples = [replace(STILL, **{name: getattr(STILL, name) + number * step}) for number in range(ROUNDS)]

    assert [problem.partition(":")[0] for problem in grown(samples)] == [name]


def test_early_growth_is_no_leak() -> None:
    warm = [replace(STILL, memory=100_000, objects=200_000, files=1, sockets=2)] * 4
    peak = [replace(STILL, memory=900_000, files=40)]

    assert grown([*warm, *[STILL] * 10, *peak, *[STILL] * 5]) == []


@pytest.mark.parametrize(
    ("leak", "name"),
    [
        (leaks.keep_a_file_open, "files"),
        (leaks.keep_a_socket, "sockets"),
        (leaks.keep_a_thread, "threads"),
        (leaks.leave_a_file, "temporary_files"),
        (leaks.leave_a_lock, "temporary_files"),
        (leaks.leave_a_temporary_file, "temporary_files"),
        (leaks.keep_memory, "memory"),
        (leaks.keep_objects, "objects"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_leak_shows_in_sample(tmp_path: Path, leak: Callable[[Path], object], name: str) -> None:
    before, after = in_child(leaks.sampled, tmp_path, leak)

    assert getattr(after, name) > getattr(before, name)
