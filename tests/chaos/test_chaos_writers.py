"""Sixteen processes that write one package at once: our engine, and quilt3 beside it, on a real S3 store and on the disk."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.quilt3 import quilt3_environment
from testbed.server import S3Server
from tests.chaos.conftest import Figures
from tests.chaos.writers import (
    FAIL,
    MIX,
    OVERWRITE,
    REBASE,
    Fleet,
    Outcome,
    Race,
    place_in,
    run,
    running_fleet,
)
from tests.chaos.writers_client import Place, Style
from tests.chaos.writers_twins import Twins, run_twins

SIZE = FAIL.writers + len(MIX.changes)
PAIRS, ROUNDS = 8, 10

PlaceOf = Callable[[], Place]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet") / "ours", SIZE) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def quilt3_fleet(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("fleet")
    with running_fleet(directory / "quilt3", SIZE, quilt3_environment(s3, directory / "home")) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet") / "reader", 1) as reader:
        yield reader


@pytest.fixture(params=["s3", "local"])
def place(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path) -> PlaceOf:
    """A function that returns a package without revisions."""
    bucket: str = request.getfixturevalue("bucket") if request.param == "s3" else ""
    location = f"s3://{bucket}" if bucket else str(tmp_path / "registry")
    return lambda: place_in(s3, location, tmp_path)


@pytest.mark.parametrize("race", [FAIL, REBASE, OVERWRITE, MIX], ids=["fail", "rebase", "overwrite", "mix"])
def test_writers_lose_no_revision(
    race: Race, place: PlaceOf, fleet: Fleet, quilt3_fleet: Fleet, reader: Fleet, figures: Figures
) -> None:
    """Count the losses of quilt3 beside it."""
    race = replace(race, seeds=max(1, race.seeds))  # quilt3 updates need a revision.
    ours = run(race, place(), "ours", fleet, reader)
    quilt3 = run(race, place(), "quilt3", quilt3_fleet, reader)
    figures(f"ours: {ours} | quilt3: {quilt3}")

    assert ours.problems() == []
    assert len(ours.account.acknowledged) == race.seeds + race.writers * race.pushes
    assert ours.watched["looks"] > 0
    assert bool(ours.account.deleted and ours.account.rollbacks) == bool(race.changes)
    assert _outcomes(quilt3) == race.seeds + race.writers * race.pushes
    assert quilt3.judgement.lost


def test_quilt3_attempts_once(
    s3: S3Server, bucket: str, tmp_path: Path, quilt3_fleet: Fleet, reader: Fleet, figures: Figures
) -> None:
    race = replace(REBASE, seeds=1, tries=1)

    quilt3 = run(race, place_in(s3, f"s3://{bucket}", tmp_path), "quilt3", quilt3_fleet, reader)
    figures(f"quilt3: {quilt3}")

    assert _outcomes(quilt3) == race.seeds + race.writers * race.pushes


def _outcomes(outcome: Outcome) -> int:
    """Count the revisions that were acknowledged, failed, or were given up."""
    account = outcome.account
    failed = sum(failure.startswith("writer-") for failure in account.failures)
    return len(account.acknowledged) + account.given_up + failed


@pytest.mark.parametrize("style", ["fail", "rebase", "overwrite"])
@pytest.mark.parametrize("is_in_order", [True, False], ids=["the first try begins first", "in any order"])
def test_twin_work_is_one_revision(
    is_in_order: bool,  # noqa: FBT001
    style: Style,
    place: PlaceOf,
    fleet: Fleet,
    figures: Figures,
) -> None:
    twins = Twins(styles=[style], pairs=PAIRS, rounds=ROUNDS, is_in_order=is_in_order)

    verdict = run_twins(twins, [place()], fleet)
    figures(str(verdict))

    assert verdict.problems == []
    assert verdict.revisions == verdict.works


def test_lone_twins_make_one(place: PlaceOf, fleet: Fleet, figures: Figures) -> None:
    twins = Twins(styles=["fail", "rebase", "overwrite"], pairs=PAIRS, rounds=ROUNDS, is_in_order=False)

    verdict = run_twins(twins, [place() for _ in range(PAIRS)], fleet)
    figures(str(verdict))

    assert verdict.problems == []
    assert verdict.revisions == verdict.works
