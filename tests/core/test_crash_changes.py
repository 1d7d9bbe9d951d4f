"""Deleting, rolling back and installing are made to fail at every call of their storages in turn."""

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
from tests.core.crash_works import DELETING, INSTALL, ROLLBACK, WORKS, another_publishes
from tests.core.faulty import Fault, FaultMode, is_put_of, tapped

Scene = Callable[[Work], World]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small file and one of two parts, which no test changes."""
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def scene(tmp_path: Path, files: Path) -> Scene:
    """Return what makes a world of its own for a piece of work."""
    serial = itertools.count(1)
    return lambda work: memory_world(work, files, tmp_path / f"world-{next(serial)}")


def check_every_call(work: Work, scene: Scene, mode: FaultMode) -> None:
    """Check a piece of work that fails at each of its calls; after a kill the next try waits for the lease to end."""

    def try_with(fault: Fault) -> Iterator[str]:
        return problems_of_faults(work, scene(work), [(fault, mode)])

    at, problems = problems_at_every_call(mode, try_with, at_once=16 if mode.startswith("killed") else 1)

    assert 5 < at < MOST_CALLS - 1
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("mode", ["before", "after", "killed after"])
@pytest.mark.parametrize("name", DELETING)
def test_deleting_that_fails_at_any_call_breaks_nothing_and_completes_when_run_again(
    scene: Scene, name: str, mode: FaultMode
) -> None:
    check_every_call(DELETING[name], scene, mode)


@pytest.mark.parametrize("mode", ["before", "after", "killed after"])
@pytest.mark.parametrize("name", ROLLBACK)
def test_a_rollback_that_fails_at_any_call_leaves_the_old_or_the_new_latest_and_completes_when_run_again(
    scene: Scene, name: str, mode: FaultMode
) -> None:
    check_every_call(ROLLBACK[name], scene, mode)


@pytest.mark.parametrize("kind", ["an S3", "a local"])
@pytest.mark.parametrize(
    "what", ["delete the oldest revision of", "delete the latest revision of", "roll back to the oldest revision of"]
)
def test_a_change_that_was_killed_completes_when_another_writer_publishes_before_it_is_run_again(
    scene: Scene, what: str, kind: str
) -> None:
    work = WORKS[f"{what} {kind} registry"]

    def try_with(fault: Fault) -> Iterator[str]:
        world = scene(work)
        return problems_of_faults(work, world, [(fault, "killed after")], meanwhile=lambda: another_publishes(world))

    at, problems = problems_at_every_call("killed after", try_with, at_once=16)

    assert 5 < at < MOST_CALLS - 1
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("name", INSTALL)
def test_an_installation_that_fails_at_any_call_leaves_whole_files_only_and_completes_when_run_again(
    scene: Scene, name: str, mode: FaultMode
) -> None:
    check_every_call(INSTALL[name], scene, mode)


@pytest.mark.parametrize("kind", ["an S3", "a local"])
def test_the_lock_of_a_process_that_was_killed_holds_up_the_next_try_for_its_lease_and_no_longer(scene: Scene, kind: str) -> None:
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
