"""Conditions on revisions that a sensor waits for."""

from datetime import UTC, datetime, timedelta

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.condition import RevisionCondition
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.storage.memory import MemoryStorage


@pytest.fixture(autouse=True)
def files(memory: MemoryStorage) -> None:
    for name in ("a.csv", "plots/b.png"):
        memory.put(PhysicalKey("registry", f"raw/{name}"), name.encode())


def publish(registry: Registry, message: str = "first") -> PublishResult:
    entries = {"a.csv": "s3://registry/raw/a.csv", "plots/b.png": "s3://registry/raw/plots/b.png"}
    return build(registry, Draft(package="team/data", entries=entries, message=message))


def found(registry: Registry, **awaited: object) -> str | None:
    result = RevisionCondition(package="team/data", **awaited).find(registry)  # type: ignore[arg-type]
    return result.top_hash if result else None


def test_first_revision_is_found(registry: Registry) -> None:
    assert found(registry) is None

    published = publish(registry)

    result = RevisionCondition(package="team/data").find(registry)
    assert result
    assert (result.top_hash, result.published_at) == (published.top_hash, published.revision.published_at)


def test_newer_than_a_revision(registry: Registry) -> None:
    first = publish(registry).top_hash
    assert found(registry, newer_than=first) is None
    assert found(registry, newer_than=first[:8]) is None

    second = publish(registry, "second").top_hash
    assert found(registry, newer_than=first) == second


def test_newer_than_a_time(registry: Registry) -> None:
    began = datetime.now(UTC) - timedelta(seconds=5)
    later = datetime.now(UTC) + timedelta(hours=1)
    top_hash = publish(registry).top_hash

    assert found(registry, newer_than=began) == top_hash
    assert found(registry, newer_than=began.isoformat()) == top_hash
    assert found(registry, newer_than=str(began.replace(tzinfo=None))) == top_hash
    assert found(registry, newer_than=later) is None


def test_rollback_is_not_newer(registry: Registry) -> None:
    first, second = publish(registry), publish(registry, "second")
    rollback(registry, "team/data", first.top_hash)

    assert found(registry, newer_than=first.revision.published_at) is None
    assert found(registry, newer_than=second.top_hash) == first.top_hash


@pytest.mark.parametrize(
    ("path", "is_there"),
    [("a.csv", True), ("plots", True), ("plots/", True), ("a.csv/", False), ("plot", False), ("b.png", False)],
)
def test_revision_holding_a_path(registry: Registry, path: str, is_there: bool) -> None:  # noqa: FBT001
    top_hash = publish(registry).top_hash

    assert found(registry, path=path) == (top_hash if is_there else None)


@pytest.mark.parametrize("awaited", [{"newer_than": "xyz"}, {"newer_than": "2026-13-45"}, {"path": "../a"}])
def test_bad_condition_is_refused(registry: Registry, awaited: dict[str, str]) -> None:
    with pytest.raises(InputError):
        found(registry, **awaited)
