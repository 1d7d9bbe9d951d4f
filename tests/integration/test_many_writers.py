"""Many processes that write one package at once; the long version is in ``tests/chaos``."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from testbed.server import S3Server
from tests.chaos.writers import FAIL, MIX, OVERWRITE, REBASE, Fleet, Race, place_in, run, running_fleet
from tests.chaos.writers_client import Place, Style
from tests.chaos.writers_judge import Account, Acknowledged, Deletion, State, judge
from tests.chaos.writers_reader import Reader
from tests.chaos.writers_twins import Twins, run_twins

WRITERS, PUSHES = 4, 4
PAIRS, ROUNDS = 3, 3

PlaceOf = Callable[[], Place]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet") / "writers", WRITERS + len(MIX.changes)) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet") / "reader", 1) as reader:
        yield reader


@pytest.fixture(params=["s3", "local"])
def place(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path) -> PlaceOf:
    """A function that returns a package without revisions, in a registry of its own."""
    bucket: str = request.getfixturevalue("bucket") if request.param == "s3" else ""
    location = f"s3://{bucket}" if bucket else str(tmp_path / "registry")
    return lambda: place_in(s3, location, tmp_path)


@pytest.mark.parametrize("race", [FAIL, REBASE, OVERWRITE, MIX], ids=["fail", "rebase", "overwrite", "mix"])
def test_writers_lose_no_revision(race: Race, place: PlaceOf, fleet: Fleet, reader: Fleet) -> None:
    outcome = run(race.smaller(WRITERS, PUSHES), place(), "ours", fleet, reader)

    assert outcome.problems() == []
    assert len(outcome.account.acknowledged) == race.seeds + WRITERS * PUSHES
    assert outcome.watched["looks"] > 0
    assert bool(outcome.account.deleted and outcome.account.rollbacks) == bool(race.changes)


@pytest.mark.parametrize("style", ["fail", "rebase", "overwrite"])
def test_twin_work_is_one_revision(style: Style, place: PlaceOf, fleet: Fleet) -> None:
    verdict = run_twins(Twins(styles=[style], pairs=PAIRS, rounds=ROUNDS), [place()], fleet)

    assert verdict.problems == []
    assert verdict.revisions == verdict.works == PAIRS * ROUNDS


def test_lone_twins_make_one(place: PlaceOf, fleet: Fleet) -> None:
    twins = Twins(styles=["fail", "rebase", "overwrite"], pairs=PAIRS, rounds=ROUNDS)

    verdict = run_twins(twins, [place() for _ in range(PAIRS)], fleet)

    assert verdict.problems == []
    assert verdict.revisions == verdict.works == PAIRS * ROUNDS


def test_lost_updates_are_detected(s3: S3Server, tmp_path: Path, fleet: Fleet, reader: Fleet) -> None:
    place = place_in(s3, str(tmp_path / "registry"), tmp_path)

    outcome = run(REBASE.smaller(WRITERS, 10), place, "careless", fleet, reader)

    assert outcome.judgement.updates_lost


def test_reader_finds_stray_latest(local_registry: Registry, write: Callable[..., Path]) -> None:
    name = PackageName("team", "package")
    reader = Reader(local_registry, name)
    assert reader.look() == []
    first, second = (
        build(local_registry, Draft(package=str(name), entries={"a.txt": str(write(text, text))})) for text in ("one", "two")
    )
    assert reader.look() == []

    stamp = second.revision.published_at.int_timestamp
    Path(local_registry.location.root.key, f".quilt/named_packages/{name}/{stamp}").unlink()

    (violation,) = reader.look()
    assert violation.what.startswith(f"latest named {second.top_hash}, which was not in the history")
    assert [each.partition(" ")[2].split()[0] for each in violation.seen] == ["latest", "history", "latest", "history", "latest"]
    assert first.top_hash in violation.seen[1]


def test_reader_finds_lost_latest(local_registry: Registry, write: Callable[..., Path]) -> None:
    name = PackageName("team", "package")
    reader = Reader(local_registry, name)
    source = write("a.txt", "a")
    published = build(local_registry, Draft(package=str(name), entries={"a.txt": str(source)}))
    assert reader.look() == []

    source.unlink()
    (violation,) = reader.look()
    assert violation.what.startswith(f"latest named {published.top_hash}, which could not be read")

    Path(local_registry.location.root.key, f".quilt/named_packages/{name}/latest").unlink()
    (violation,) = reader.look()
    assert violation.what == "there is no latest"


ONE = Acknowledged(work="one", stamp=1, top_hash="aa", began=1.0, tries=1, time=2.0)
TWO = Acknowledged(work="two", stamp=2, top_hash="bb", began=2.0, tries=1, time=3.0)
WORKS = {"aa": "one", "bb": "two"}
KEYS = {"aa": {"one.txt"}, "bb": {"one.txt", "two.txt"}}
RIGHT = State(history=[(2, "bb"), (1, "aa")], latest="bb", works=WORKS, keys=KEYS)
GONE = State(history=[(2, "bb")], latest="bb", works=WORKS, keys=KEYS)


def test_judge_passes_good_state() -> None:
    assert judge(Account(acknowledged=[ONE, TWO]), RIGHT, is_cumulative=True).problems() == []
    for ended in (4.0, None):
        assert judge(Account(acknowledged=[ONE, TWO], deletions=[Deletion("aa", 3.0, ended)]), GONE).problems() == []


@pytest.mark.parametrize(
    ("account", "state", "problem"),
    [
        (Account(acknowledged=[ONE, TWO]), GONE, "lost: 1"),
        (Account(acknowledged=[ONE, TWO, dataclasses.replace(TWO, stamp=3)]), RIGHT, "lost: 1"),
        (Account(acknowledged=[TWO]), RIGHT, "unasked: 1"),
        (Account(acknowledged=[ONE, TWO, dataclasses.replace(ONE, work="three")]), RIGHT, "mistaken: 1"),
        (
            Account(acknowledged=[ONE, TWO, dataclasses.replace(TWO, stamp=3)]),
            dataclasses.replace(RIGHT, history=[(3, "bb"), *RIGHT.history]),
            "doubled: 1",
        ),
        (Account(acknowledged=[ONE, TWO], deletions=[Deletion("aa", 3.0, 4.0)]), RIGHT, "resurrected: 1"),
        (
            Account(acknowledged=[ONE, TWO]),
            dataclasses.replace(RIGHT, keys={"aa": {"one.txt"}, "bb": {"two.txt"}}),
            "updates_lost: 1",
        ),
        (Account(acknowledged=[ONE, TWO]), dataclasses.replace(RIGHT, latest="cc"), "latest names cc"),
        (Account(acknowledged=[ONE, TWO]), dataclasses.replace(RIGHT, leftovers=["a lock"]), "left behind: a lock"),
        (Account(acknowledged=[ONE, TWO], failures=["a failure"]), RIGHT, "a failure"),
        (Account(acknowledged=[ONE, TWO]), dataclasses.replace(RIGHT, unreadable=["bb"]), "cannot be read: bb"),
    ],
)
def test_judge_reports_each_fault(account: Account, state: State, problem: str) -> None:
    problems = judge(account, state, is_cumulative=not account.deletions).problems()

    assert any(each.startswith(problem) for each in problems)
