"""Writes on conditions, on stores that keep them, ignore them, or do not know them."""

import logging
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import PreconditionError, RevisionConflictError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import ShardingOptions, commit_shards, plan_shards, staging_of, transfer_shard
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.storage.conditional import ConditionalWriter
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import IfMatch, WriteMode
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Before
from tests.core.weak import IgnoringStorage, RefusingStorage
from tests.support import read, through

KEY = PhysicalKey("registry", "key")
NAME = PackageName("team", "package")


WEAK = [IgnoringStorage, RefusingStorage]


@pytest.fixture(params=WEAK)
def weak(request: pytest.FixtureRequest) -> MemoryStorage:
    """A store without conditional writes."""
    storage: MemoryStorage = request.param(["registry"])
    return storage


@pytest.fixture
def weak_registry(weak: MemoryStorage) -> Registry:
    """A registry on it."""
    return Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), weak))


def publish(registry: Registry, message: str) -> PublishResult:
    return build(registry, Draft(package=str(NAME), entries={}, message=message, allow_empty=True))


@pytest.mark.parametrize("mode", ["create", IfMatch("other")])
def test_writer_checks_conditions(weak: MemoryStorage, mode: WriteMode) -> None:
    """Check the condition in the writer, where the store keeps none."""
    writer = ConditionalWriter(weak)
    writer.put(KEY, b"one", "create")
    writer.probe(KEY, b"one")

    with pytest.raises(PreconditionError):
        writer.put(KEY, b"two", mode)
    assert weak.get(KEY).data == b"one"
    writer.put(KEY, b"two", IfMatch(weak.get(KEY).etag))
    assert weak.get(KEY).data == b"two"


def test_replace_of_absent_refused(weak: MemoryStorage) -> None:
    writer = ConditionalWriter(weak)
    writer.probe(KEY, b"one")

    with pytest.raises(PreconditionError):
        writer.put(KEY, b"two", IfMatch("e1"))
    assert list(weak.list_objects(PhysicalKey("registry", ""))) == []


def test_weak_store_warns_once(weak_registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for message in ("one", "two", "three"):
        publish(weak_registry, message)
    delete(weak_registry, str(NAME), publish(weak_registry, "four").top_hash)

    warnings = [record.getMessage() for record in caplog.records if "conditional writes" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("s3://registry keeps no conditional writes")


def test_strong_store_is_silent(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    publish(registry, "one")
    publish(registry, "two")

    assert caplog.records == []


def test_one_writer_loses_nothing(weak_registry: Registry) -> None:
    first, second, third = (publish(weak_registry, message) for message in ("one", "two", "three"))
    assert list(weak_registry.revisions(NAME)) == [third.revision, second.revision, first.revision]

    rollback(weak_registry, str(NAME), first.top_hash)
    assert weak_registry.resolve(NAME) == first.top_hash
    delete(weak_registry, str(NAME), first.top_hash)
    assert weak_registry.resolve(NAME) == third.top_hash
    assert list(weak_registry.revisions(NAME)) == [third.revision, second.revision]


def test_weak_store_takes_local_builds(weak: MemoryStorage, weak_registry: Registry, write: Callable[..., Path]) -> None:
    """A manifest that names files of one machine replaces none that others can read, also in a fresh process."""
    files = {f"{number}.txt": str(write(f"{number}.txt", b"%d" % number)) for number in range(20)}
    pushed = push(weak_registry, Draft(package=str(NAME), entries=files))
    fresh = Registry(weak_registry.location, Stores(LocalStorage(), weak))
    built = build(fresh, Draft(package="team/other", entries=files))
    other = build(fresh, Draft(package="team/other", entries=files, message="names files"))

    assert (built.top_hash, built.created) == (pushed.top_hash, True)
    assert {entry.physical_keys[0][:5] for entry in read(weak_registry, built).values()} == {"s3://"}
    assert {entry.physical_keys[0][:5] for entry in read(weak_registry, other).values()} == {"file:"}


def test_large_object_is_not_read(weak: MemoryStorage) -> None:
    """Check the condition by the state of the object, which may be a manifest of any size, and not by its bytes."""
    tight = type(weak)(["registry"], most=10)
    writer = ConditionalWriter(tight)
    writer.put(KEY, BytesIO(bytes(100)), "create")
    writer.probe(KEY, bytes(100))

    with pytest.raises(PreconditionError):
        writer.put(KEY, BytesIO(bytes(200)), "create")
    writer.put(KEY, BytesIO(bytes(200)), IfMatch(tight.stat(KEY).etag))
    assert tight.stat(KEY).size == 200


def test_weak_store_takes_shards(weak_registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    staging = staging_of(PhysicalKey("registry", "staging/"), Attempt("work"), 1_700_000_000)
    given = Draft(package=str(NAME), entries={f"{number}.txt": b"%d" % number for number in range(4)})
    for _ in range(2):  # Each step twice, as a retry does.
        plan = plan_shards(weak_registry, given, push_planner(weak_registry, NAME), staging, ShardingOptions(shards=2))
        results = [transfer_shard(weak_registry, NAME, plan.location, number) for number in range(plan.shards)]
    published = commit_shards(weak_registry, NAME, plan.location, results)

    assert len(read(weak_registry, published)) == 4
    assert caplog.text.count("keeps no conditional writes") == 1


def test_visible_conflict_is_raised(weak_registry: Registry) -> None:
    publish(weak_registry, "one")
    racing = Before(lambda call: call.operation == "put", lambda: publish(weak_registry, "theirs"))  # Its manifest.

    with pytest.raises(RevisionConflictError):
        publish(through(weak_registry, racing), "mine")
    assert [weak_registry.read(NAME, found.top_hash).header["message"] for found in weak_registry.revisions(NAME)] == [
        "theirs",
        "one",
    ]
