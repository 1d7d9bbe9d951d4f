"""Publishing is made to fail at every call of its storages in turn; what readers rely on must hold after each."""

import itertools
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
    problems_after_kills,
    problems_at_every_call,
    problems_of_faults,
)
from tests.core.crash_works import PUBLISHING, another_publishes, one_revision
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


def publishing(name: str, history: str = "second revision") -> Work:
    return replace(PUBLISHING[name], prepare=one_revision) if history == "second revision" else PUBLISHING[name]


@pytest.mark.parametrize(
    ("mode", "history"),
    [*((mode, "second revision") for mode in FAULTS), ("before", "new package"), ("killed after", "new package")],
)
@pytest.mark.parametrize("name", PUBLISHING)
def test_publishing_that_fails_at_any_call_breaks_nothing_and_succeeds_when_run_again(
    scene: Scene, name: str, mode: FaultMode, history: str
) -> None:
    work = publishing(name, history)

    def try_with(fault: Fault) -> Iterator[str]:
        return problems_of_faults(work, scene(work), [(fault, mode)])

    at, problems = problems_at_every_call(mode, try_with)

    assert 5 < at < MOST_CALLS - 1
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "name",
    [
        "push of all kinds",
        "push an update",
        "push an update that is merged again",
        "push that loses to another writer",
        "push of what is there, without dedupe",
        "build of files in a local registry",
        "build that overwrites another writer",
    ],
)
def test_publishing_that_was_killed_is_one_revision_when_another_writer_came_before_it_is_run_again(
    scene: Scene, name: str
) -> None:
    work = publishing(name)

    def try_with(fault: Fault) -> Iterator[str]:
        world = scene(work)
        return problems_of_faults(work, world, [(fault, "killed after")], meanwhile=lambda: another_publishes(world))

    at, problems = problems_at_every_call("killed after", try_with)

    assert 5 < at < MOST_CALLS - 1
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("mode", ["before", "killed after"])
@pytest.mark.parametrize("name", ["push content", "build of what is there, without dedupe"])
def test_publishing_that_was_killed_at_any_call_and_fails_again_at_any_call_is_one_revision_in_the_end(
    scene: Scene, name: str, mode: FaultMode
) -> None:
    work = publishing(name)
    pairs, problems = problems_after_kills(work, lambda: scene(work), mode)

    assert pairs > 100
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("history", ["new package", "second revision"])
@pytest.mark.parametrize("name", ["push content", "build of objects in an S3 registry"])
def test_a_write_whose_answer_was_lost_and_that_the_client_repeats_counts_once(scene: Scene, name: str, history: str) -> None:
    work = publishing(name, history)

    def try_with(fault: Fault) -> Iterator[str]:
        return problems_of_faults(work, scene(work), [(fault, "repeated")])

    at, problems = problems_at_every_call("repeated", try_with, among=lambda call: call.operation == "put")

    assert at == 5  # Manifest, timestamp pointer, latest, the pointer again; then a run without a fault.
    assert not problems, "\n".join(problems)


def test_a_first_push_that_stops_before_latest_is_no_package_to_its_readers_until_it_is_run_again(scene: Scene) -> None:
    work = publishing("push content", "new package")
    world = scene(work)
    fault = Fault(1, "before", is_put_of("/latest"))

    with pytest.raises(QuiltError):
        work.run(world, world.registry(tapped(world.stores, fault)), None)

    assert world.latest() is None
    assert work.run(world, world.registry(), world.clock()).revision in world.history()
