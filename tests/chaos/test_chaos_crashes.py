"""Work is cut off at every call of its storages, on every kind of store: nothing breaks, and the next try completes it."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from testbed.server import S3Server
from tests.chaos.conftest import Figures
from tests.chaos.crashes import Crashes, Outcome, crashing
from tests.core.crash import (
    FAULTS,
    Kind,
    Work,
    World,
    make_files,
    memory_world,
    problems_after_kills,
    problems_at_every_call,
    problems_of_faults,
)
from tests.core.crash_works import (
    DELETING,
    INSTALL,
    LONG,
    LONG_HISTORIES,
    PUBLISHING,
    ROLLBACK,
    another_publishes,
    one_revision,
)
from tests.core.faulty import Fault, FaultMode

STORIES: Mapping[str, Mapping[str, Work]] = {
    "push and build": PUBLISHING,
    "delete": DELETING,
    "rollback": ROLLBACK,
    "install": INSTALL,
}
IN_MEMORY: Mapping[Kind, str] = {"s3": "memory", "local": "the local disk"}
REAL: Mapping[Kind, str] = {"s3": "SeaweedFS", "local": "the local disk"}
AGAIN: Sequence[FaultMode] = ("before", "killed after")
TRICKY: Mapping[str, tuple[str, ...]] = {
    "push and build": (
        "push content",
        "push an update that is merged again",
        "push that loses",
        "push that overwrites",
        "push of what is there",
        "build of an update that is merged again",
        "build of what is there",
    ),
    "delete": ("delete the latest revision",),
    "rollback": ("roll back to the oldest revision",),
}
"""How the names of work begin whose next try may be killed as well."""
RIVALLED: Mapping[str, tuple[str, ...]] = {
    "push and build": (
        "push of all kinds",
        "push an update",
        "push that loses",
        "push of what is there, without dedupe",
        "build of files",
        "build of an update",
        "build that overwrites",
    ),
    "delete": ("delete the oldest revision", "delete the latest revision"),
    "rollback": ("roll back to the oldest revision",),
}
"""How the names of work begin before whose next attempt another writer publishes."""


class Scenes:
    """Worlds in memory, below a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = make_files(directory / "files")
        self._serial = itertools.count(1)

    def world(self, work: Work) -> World:
        return memory_world(work, self._files, self._directory / str(next(self._serial)))

    def problems(self, work: Work, mode: FaultMode, fault: Fault) -> Iterator[str]:
        return problems_of_faults(work, self.world(work), [(fault, mode)])

    def problems_beside_a_writer(self, work: Work, fault: Fault) -> Iterator[str]:
        world = self.world(work)
        return problems_of_faults(work, world, [(fault, "killed after")], meanwhile=lambda: another_publishes(world))


def works_of(story: str, kind: Kind) -> dict[str, Work]:
    return {name: work for name, work in STORIES[story].items() if work.kind == kind}


def variants(story: str, work: Work) -> list[Work]:
    """Return a piece of work as it is, and on a package that has a revision where that makes a difference."""
    return [work, replace(work, prepare=one_revision)] if story == "push and build" else [work]


def at_once(story: str) -> int:
    """Return how many attempts run at a time: after a kill the next one may wait for a lease to end."""
    return 16 if story in {"delete", "rollback"} else 1


@pytest.fixture(scope="module")
def crashes(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashes]:
    buckets = s3.make_bucket("killed-registry"), s3.make_bucket("killed-source")
    with crashing(s3, buckets, tmp_path_factory.mktemp("killed")) as crashes:
        yield crashes


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("story", STORIES)
def test_call_kills_break_nothing(crashes: Crashes, figures: Figures, story: str, kind: Kind) -> None:
    works, total = works_of(story, kind), Outcome()
    for name in works:
        total.add(crashes.at_every_call(name))

    figures(f"{REAL[kind]}, {story}, {len(works)} kinds of work, killed at every call: {total}")
    assert total.kills > 20
    assert not total.broken, "\n".join(total.broken)


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("story", STORIES)
def test_random_kills_break_nothing(crashes: Crashes, figures: Figures, story: str, kind: Kind) -> None:
    works = list(works_of(story, kind))
    total = crashes.at_random(works, least=60)

    figures(f"{REAL[kind]}, {story}, {len(works)} kinds of work, killed at random moments: {total}")
    assert not total.broken, "\n".join(total.broken)


def test_long_history_bears_kills(crashes: Crashes, figures: Figures) -> None:
    """Kill deletions and rollbacks that read more pointers than a lease of the lock allows."""
    total = crashes.at_random(list(LONG_HISTORIES), least=20)

    figures(f"SeaweedFS, {LONG:,} pointers, {len(LONG_HISTORIES)} kinds of work, killed at random moments: {total}")
    assert not total.broken, "\n".join(total.broken)


@pytest.mark.parametrize("kind", IN_MEMORY)
@pytest.mark.parametrize("story", STORIES)
def test_faults_at_calls_recover(figures: Figures, tmp_path: Path, story: str, kind: Kind) -> None:
    scene = Scenes(tmp_path)
    works, points, broken = works_of(story, kind), 0, []
    for (name, work), mode in itertools.product(works.items(), FAULTS):
        for variant in variants(story, work):
            at, problems = problems_at_every_call(mode, partial(scene.problems, variant, mode), at_once=at_once(story))
            points += at - 1
            broken += [f"{name}, {mode}, {problem}" for problem in problems]

    figures(f"{IN_MEMORY[kind]}, {story}, {len(works)} kinds of work, cut off in process: {points} points, {len(broken)} broken")
    assert points > 20
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("kind", IN_MEMORY)
@pytest.mark.parametrize("story", RIVALLED)
def test_killed_work_meets_another(figures: Figures, tmp_path: Path, story: str, kind: Kind) -> None:
    scene = Scenes(tmp_path)
    works = {name: work for name, work in works_of(story, kind).items() if name.startswith(RIVALLED[story])}
    points, broken = 0, []
    for name, work in works.items():
        later = variants(story, work)[-1]
        beside = partial(scene.problems_beside_a_writer, later)
        at, problems = problems_at_every_call("killed after", beside, at_once=at_once(story))
        points += at - 1
        broken += [f"{name}, {problem}" for problem in problems]

    figures(f"{IN_MEMORY[kind]}, {story}, killed at every call, then another writer: {points} points, {len(broken)} broken")
    assert points > 5
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("kind", IN_MEMORY)
@pytest.mark.parametrize("story", TRICKY)
def test_faulty_rerun_completes(figures: Figures, tmp_path: Path, story: str, kind: Kind) -> None:
    scene = Scenes(tmp_path)
    works = {name: work for name, work in works_of(story, kind).items() if name.startswith(TRICKY[story])}
    points, broken = 0, []
    modes = AGAIN if story == "push and build" else AGAIN[1:]
    for (name, work), mode in itertools.product(works.items(), modes):
        later = variants(story, work)[-1]
        pairs, problems = problems_after_kills(later, partial(scene.world, later), mode, at_once(story))
        points += pairs
        broken += [f"{name}, then {mode}, {problem}" for problem in problems]

    figures(
        f"{IN_MEMORY[kind]}, {story}, cut off at every call and the next try at every call: {points} pairs, {len(broken)} broken"
    )
    assert points > 100
    assert not broken, "\n".join(broken)
