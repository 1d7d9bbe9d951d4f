"""Conditional writes through stores that answer 409 (in this moment another writer is busy) or 501 (conditions are not known)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import StorageUnavailableError
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import ShardingOptions, commit_shards, plan_shards, staging_of, transfer_shard
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.runtime.retry import NO_RETRY, RetryPolicy
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.faults import Code, without_conditions
from testbed.loopback import Request
from testbed.proxy import S3Proxy
from tests.support import read

PACKAGE = "team/package"
CONFLICTS: list[Code] = ["ConditionalRequestConflict", "OperationAborted"]


def registry_through(proxy: S3Proxy, bucket: str, retry: RetryPolicy) -> Registry:
    stores = Stores(LocalStorage(), S3Storage(proxy.store.client(), retry), retry)
    return Registry(RegistryLocation.parse(f"s3://{bucket}"), stores)


def is_put_below(path: str) -> Callable[[Request], bool]:
    return lambda request: request.method == "PUT" and path in request.path


def pointers(registry: Registry) -> list[str]:
    return [info.key.key for info in registry.stores.remote.list_objects(registry.location.root.join(".quilt/named_packages/"))]


@pytest.mark.parametrize("code", CONFLICTS)
def test_conflict_is_repeated(proxy: S3Proxy, bucket: str, write: Callable[..., Path], code: Code) -> None:
    registry = registry_through(proxy, bucket, RetryPolicy(longest=0.01))
    for path in (".quilt/packages/", ".quilt/named_packages/", "/latest"):
        proxy.fail(code, is_put_below(path), times=3)
    published = build(registry, Draft(package=PACKAGE, entries={"a.txt": str(write("a.txt", b"a"))}))

    assert list(read(registry, published)) == ["a.txt"]
    assert proxy.count_faults() == {"conflict": 9}


def test_lasting_conflict_is_transient(proxy: S3Proxy, bucket: str, write: Callable[..., Path]) -> None:
    """Nothing that was not written counts as there: no pointer without its manifest."""
    registry = registry_through(proxy, bucket, NO_RETRY)
    draft = Draft(package=PACKAGE, entries={"a.txt": str(write("a.txt", b"a"))})
    proxy.fail("ConditionalRequestConflict", is_put_below(".quilt/packages/"))
    with pytest.raises(StorageUnavailableError) as caught:
        build(registry, draft)
    assert caught.value.transient
    assert pointers(registry) == []


def test_store_without_conditions(
    proxy: S3Proxy, bucket: str, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    registry = registry_through(proxy, bucket, NO_RETRY)
    local = {"a.txt": str(write("a.txt", b"a"))}
    staging = staging_of(PhysicalKey(bucket, "staging/"), Attempt("work"), 1_700_000_000)
    with proxy.disturbed(without_conditions):
        published = build(registry, Draft(package=PACKAGE, entries=local))
        assert build(registry, Draft(package="team/other", entries=local)).top_hash == published.top_hash
        pushed = push(registry, Draft(package=PACKAGE, entries={"b.bin": bytes(9 * 1024 * 1024)}))
        third = Draft(package=PACKAGE, entries=local, message="third")
        plan = plan_shards(registry, third, push_planner(registry, PACKAGE), staging, ShardingOptions(shards=1)).location
        sharded = commit_shards(registry, PACKAGE, plan, [transfer_shard(registry, PACKAGE, plan, 0)])
        rollback(registry, PACKAGE, pushed.top_hash)
        assert registry.resolve(PACKAGE) == pushed.top_hash
        delete(registry, PACKAGE, pushed.top_hash)

    assert {revision.top_hash for revision in registry.revisions(PACKAGE)} == {published.top_hash, sharded.top_hash}
    assert proxy.count_faults() == {"unknown": 1}  # Learned once,
    assert caplog.text.count(f"s3://{bucket} keeps no conditional writes") == 1  # and told once.
