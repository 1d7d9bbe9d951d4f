"""How many round trips each piece of work takes: requests that do not need an earlier answer are made at once (ADR 0035)."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.condition import RevisionCondition
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.registry.watch import LatestWatcher
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.storage.memory import MemoryStorage
from testbed.rounds import Rounds
from tests.core.faulty import Call, T
from tests.core.packages import put
from tests.support import through

NAME = PackageName("team", "data")
SOURCE = "s3://source/object"


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


@pytest.fixture
def counted(registry: Registry, rounds: Rounds, memory: MemoryStorage) -> Registry:
    """A registry in memory that counts the rounds of its requests; another bucket has an object with a checksum."""
    put(memory, SOURCE, b"object", "SHA256")

    def count(call: Call, run: Callable[[], T]) -> T:
        if call.key.is_local:
            return run()
        with rounds.request(str(call)):
            return run()

    return through(registry, count)


def taken(rounds: Rounds, act: Callable[[], object]) -> tuple[int, object]:
    rounds.clear()
    result = act()
    return rounds.count, result


def test_rounds_of_a_push(counted: Registry, rounds: Rounds, tmp_path: Path) -> None:
    def push_text(text: str, mode: str = "replace") -> int:
        (tmp_path / "file").write_text(text)
        draft = Draft(package=str(NAME), entries={"file": str(tmp_path / "file")}, mode=mode)
        return taken(rounds, lambda: push(counted, draft))[0]

    # `latest` and workflows; object; manifest and listing; pointer, and conditions of the store; `latest`; the tag of the pointer.
    assert push_text("first") == 6, str(rounds)
    # The second is beside a listing of what is there; the third is of the pointers, and of all that the manifest names.
    assert push_text("first") == 3, str(rounds)
    assert push_text("second") == 7, str(rounds)
    assert push_text("third", "update") <= 9, str(rounds)


def test_rounds_of_a_build(counted: Registry, rounds: Rounds) -> None:
    def build_from(source: str) -> int:
        return taken(rounds, lambda: build(counted, Draft(package=str(NAME), entries={"x": source})))[0]

    assert build_from(SOURCE) == 5, str(rounds)
    assert build_from(SOURCE) == 2, str(rounds)


def test_rounds_of_reading(counted: Registry, rounds: Rounds, tmp_path: Path, memory: MemoryStorage) -> None:
    push(counted, Draft(package=str(NAME), entries={"a": b"a", "b": b"b"}))
    reference = Reference(str(NAME))
    assert taken(rounds, lambda: install(counted, reference, str(tmp_path / "out")))[0] <= 4, str(rounds)

    for second in range(100):
        memory.put(counted.location.root.join(layout.pointer(NAME, str(10**9 + second))), b"a" * 64)
    count, revisions = taken(rounds, lambda: list(counted.revisions(NAME)))
    assert count <= 3, str(rounds)
    assert len(revisions) == 101  # type: ignore[arg-type]


def test_rounds_of_polls(counted: Registry, rounds: Rounds) -> None:
    now = datetime.now(UTC)
    watcher = LatestWatcher(counted)
    conditions = [{}, {"newer_than": now - timedelta(days=1)}, {"newer_than": now + timedelta(days=1)}, {"path": "absent"}]
    sensors = [RevisionCondition(package=NAME, **condition) for condition in conditions]  # type: ignore[arg-type]
    others = ["team/other"]

    def polled() -> list[int]:
        return [
            *[taken(rounds, lambda sensor=sensor: sensor.find(counted))[0] for sensor in sensors],
            taken(rounds, lambda: watcher.poll([str(NAME), *others]))[0],
        ]

    assert polled() == [1] * 5
    published = push(counted, Draft(package=str(NAME), entries={"a": b"a"}))
    # Found by the tag of `latest`; by a listing before it; not found; the manifest is read, once.
    assert polled() == [1, 2, 1, 3, 1]
    assert polled() == [1, 2, 1, 1, 1]
    newer = RevisionCondition(package=NAME, newer_than=published.top_hash)
    assert taken(rounds, lambda: newer.find(counted)) == (1, None)


def test_rounds_of_other_changes(counted: Registry, rounds: Rounds) -> None:
    first, second = (build(counted, Draft(package=str(NAME), entries={}, message=each, allow_empty=True)) for each in "ab")

    assert taken(rounds, lambda: rollback(counted, str(NAME), first.top_hash))[0] <= 8, str(rounds)
    assert taken(rounds, lambda: delete(counted, str(NAME), second.top_hash))[0] <= 9, str(rounds)
    assert taken(rounds, lambda: delete(counted, str(NAME)))[0] <= 9, str(rounds)
