"""Publishing is made to fail at every call of its storages in turn; the promises to readers must hold after each.

A sweep takes one kind of work and one fault, and meets each call of the work's storages with it, from the first to the last.
The faults: the call has no effect, its answer is lost, or the process is killed after it.

Where each state is swept:

- One push and one update, in memory and on the local disk, each fault, on a new package and on a second revision: here.
- A write that the client repeats, a first push that stops before ``latest``, and the lock that a kill leaves: here.
- Installing, each fault, to a directory and to a prefix: ``tests/core/test_install.py``.
- A push, an update, a deletion, a rollback and an installation with SIGKILL on SeaweedFS, at calls in steps:
  ``tests/e2e/test_killed_at_calls.py``.
- Every kind of work of ``crash_works.py`` (publishing, deleting, rolling back, installing), in memory and on the local disk,
  each fault; SIGKILL at every call and at random moments, on SeaweedFS and on the local disk; of the kinds that ``TRICKY`` and
  ``RIVALLED`` name also a kill at every call, and then a second fault at every call of the next attempt, or another writer
  before it: ``tests/chaos/test_chaos_crashes.py``, by ``make chaos``.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_quilt.core.errors import QuiltError
from tests.core.crash import (
    FAULTS,
    MOST_CALLS,
    Work,
    World,
    make_files,
    memory_world,
    problems_at_every_call,
    problems_of_faults,
    run_again,
)
from tests.core.crash_works import PUBLISHING, ROLLBACK, one_revision
from tests.core.faulty import Fault, FaultMode, is_put_of, tapped

Scene = Callable[[Work], World]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small file and one of two parts, which no test changes."""
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def scene(tmp_path: Path, files: Path) -> Scene:
    """Return a function that makes a world of its own for a piece of work."""
    serial = itertools.count(1)
    return lambda work: memory_world(work, files, tmp_path / f"world-{next(serial)}")


def publishing(name: str, history: str) -> Work:
    return replace(PUBLISHING[name], prepare=one_revision) if history == "second revision" else PUBLISHING[name]


@pytest.mark.parametrize("history", ["new package", "second revision"])
@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize(
    "name",
    [
        "push of all kinds",
        "push an update",
        "build of files in a local registry",
        "build of an update in a local registry",
    ],
)
def test_failed_publish_recovers(scene: Scene, name: str, mode: FaultMode, history: str) -> None:
    """Break nothing when any one call fails, and succeed when run again."""
    work = publishing(name, history)

    def try_with(fault: Fault) -> Iterator[str]:
        return problems_of_faults(work, scene(work), [(fault, mode)])

    at, problems = problems_at_every_call(mode, try_with)

    assert 5 < at < MOST_CALLS - 1
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("history", ["new package", "second revision"])
@pytest.mark.parametrize("name", ["push content", "build of objects in an S3 registry"])
def test_repeated_write_is_one(scene: Scene, name: str, history: str) -> None:
    work = publishing(name, history)

    def try_with(fault: Fault) -> Iterator[str]:
        return problems_of_faults(work, scene(work), [(fault, "repeated")])

    at, problems = problems_at_every_call("repeated", try_with, among=lambda call: call.operation == "put")

    assert at == 5  # Manifest, timestamp pointer, latest, the pointer again; then a run without a fault.
    assert not problems, "\n".join(problems)


def test_stopped_push_is_invisible(scene: Scene) -> None:
    work = publishing("push content", "new package")
    world = scene(work)
    fault = Fault(1, "before", is_put_of("/latest"))

    with pytest.raises(QuiltError):
        work.run(world, world.registry(tapped(world.stores, fault)), None)

    assert world.latest() is None
    assert work.run(world, world.registry(), world.clock()).revision in world.history()


@pytest.mark.parametrize("kind", ["an S3", "a local"])
def test_dead_lock_ends_with_lease(scene: Scene, kind: str) -> None:
    work = ROLLBACK[f"roll back to the oldest revision of {kind} registry"]
    world = replace(scene(work), lease=1.0)
    work.prepare(world)
    killed = Fault(1, "killed before", is_put_of("/latest"))
    with pytest.raises(QuiltError):
        work.run(world, world.registry(tapped(world.stores, killed)), None)
    began = time.monotonic()

    assert world.is_locked()
    run_again(work, world, world.clock())
    assert world.lease < time.monotonic() - began < 2 * world.lease
    assert not world.is_locked()
    assert world.latest() == world.chosen
