"""``null``, the version of objects from before their bucket kept versions, is a version wherever a package meets it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import EntryDamagedError, SourceChangedError
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import ShardingOptions, plan_shards, staging_of, transfer_shard
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import verify
from tests.core.packages import files_below
from tests.support import read

PACKAGE = Reference("team/package")
OLD = PhysicalKey("source", "d/old.txt")


@pytest.fixture
def memory() -> MemoryStorage:
    """A store whose buckets have an object each from before they kept versions."""
    memory = MemoryStorage(["registry", "source"], versioned=False)
    memory.put(OLD, b"old bytes")
    memory.set_versioning("Enabled")
    return memory


@pytest.fixture
def registry(memory: MemoryStorage) -> Registry:
    return Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))


def draft(entries: object, **more: object) -> Draft:
    return Draft(package="team/package", entries=entries, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("entries", [{"old.txt": str(OLD)}, "s3://source/d/"], ids=["object", "prefix"])
def test_null_version_outlives_overwrite(registry: Registry, memory: MemoryStorage, tmp_path: Path, entries: object) -> None:
    published = build(registry, draft(entries))
    memory.put(OLD, b"new bytes")

    assert read(registry, published)["old.txt"].physical_keys == (f"{OLD}?versionId=null",)
    verify(registry, PACKAGE).check()
    install(registry, PACKAGE, str(tmp_path))
    assert files_below(tmp_path) == {"old.txt": b"old bytes"}
    install(registry, PACKAGE, "s3://registry/copy")  # By the store.
    assert memory.get(PhysicalKey("registry", "copy/old.txt")).data == b"old bytes"
    pushed = push(registry, Draft(package="team/copy", entries="quilt+s3://registry#package=team/package"))
    assert memory.get(PhysicalKey.parse(read(registry, pushed)["old.txt"].physical_keys[0])).data == b"old bytes"


def test_replaced_null_is_noticed(registry: Registry, memory: MemoryStorage, tmp_path: Path) -> None:
    build(registry, draft("s3://source/d/"))
    memory.set_versioning("Suspended")
    memory.put(OLD, b"new bytes")

    assert verify(registry, PACKAGE).modified == ["old.txt"]
    with pytest.raises(EntryDamagedError):
        install(registry, PACKAGE, str(tmp_path))
    memory.destroy(OLD.at_version("null"))
    assert verify(registry, PACKAGE).missing == ["old.txt"]


def test_null_proves_no_content(registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
    """Send a file again whose object has the version that the revision names, and other bytes by now."""
    there = PhysicalKey("registry", "team/package/a.txt")
    memory.set_versioning("Suspended")
    memory.put(there, b"same size")
    build(registry, draft({"a.txt": str(there)}))
    memory.put(there, b"size same")

    entries = {"a.txt": str(write("a.txt", b"same size"))}
    published = push(registry, draft(entries, message="again"))
    assert published.bytes_copied == 9
    verify(registry, PACKAGE).check()


def test_shard_notices_replaced_null(registry: Registry, memory: MemoryStorage) -> None:
    staging = staging_of(PhysicalKey("registry", "staging/"), Attempt("work"), 1_700_000_000)
    given = draft("s3://source/d/")
    plan = plan_shards(registry, given, push_planner(registry, given.package), staging, ShardingOptions(shards=1))
    memory.set_versioning("Suspended")
    memory.put(OLD, b"new bytes")

    with pytest.raises(SourceChangedError):
        transfer_shard(registry, given.package, plan.location, 0)


def test_suspended_bucket_is_warned_of(registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture) -> None:
    memory.set_versioning("Suspended")
    memory.put(OLD, b"other bytes")
    published = push(registry, draft({"a.txt": b"a"}))
    assert read(registry, published)["a.txt"].physical_keys == ("s3://registry/team/package/a.txt?versionId=null",)

    assert "let the bucket keep versions" in caplog.text
    assert not memory.keeps_versions(registry.location.root)
