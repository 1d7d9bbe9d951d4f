"""One push by many workers on a real store."""

import itertools
from pathlib import Path

import pytest

from airflow_quilt.core.errors import SourceChangedError
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import (
    ShardingOptions,
    commit_shards,
    discard,
    plan_shards,
    staging_of,
    transfer_shard,
)
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.server import S3Server
from tests.core.packages import PART

_serial = itertools.count(1)
ATTEMPT = Attempt("work")


@pytest.fixture(params=[True, False], ids=["versions", "no versions"])
def place(request: pytest.FixtureRequest, s3: S3Server) -> str:
    """A bucket with versions, and one without."""
    return s3.make_bucket(f"shards-{next(_serial)}", versioned=request.param)


def worker(s3: S3Server, bucket: str) -> Registry:
    """Return the registry as another process has it."""
    return Registry(RegistryLocation.parse(f"s3://{bucket}"), Stores(LocalStorage(), S3Storage(s3.client())))


def test_shards_publish_as_one(s3: S3Server, place: str, tmp_path: Path) -> None:
    for name, data in {"a.txt": b"a", "d/large": b"x" * (PART + 1), "d/é": b"e", "z": b""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    draft = Draft(package="team/shards", entries=str(tmp_path))
    staging = staging_of(PhysicalKey(place, "staging/"), ATTEMPT, 1.7e9)
    planner = push_planner(worker(s3, place), draft.package)
    plan = plan_shards(worker(s3, place), draft, planner, staging, ShardingOptions(shards=3))
    shards = reversed(range(plan.shards))
    done = [transfer_shard(worker(s3, place), draft.package, plan.location, number) for number in shards]
    published = commit_shards(worker(s3, place), draft.package, plan.location, done, attempt=ATTEMPT)

    assert (published.created, published.entries, published.bytes_copied) == (True, 4, PART + 3)
    again = push(worker(s3, place), draft)
    assert (again.created, again.top_hash) == (False, published.top_hash)
    assert discard(worker(s3, place), staging) == 2 * plan.shards + 1
    assert list(worker(s3, place).stores.remote.list_objects(staging)) == []


def test_overwritten_source_is_named(s3: S3Server, bucket: str) -> None:
    source = PhysicalKey(s3.make_bucket(f"shards-{next(_serial)}", versioned=False), "d/a.txt")
    registry = worker(s3, bucket)
    registry.stores.remote.put(source, b"bytes")
    draft = Draft(package="team/shards", entries=f"s3://{source.bucket}/d/")
    staging = staging_of(PhysicalKey(bucket, "staging/"), ATTEMPT, 1.7e9)
    plan = plan_shards(registry, draft, push_planner(registry, draft.package), staging, ShardingOptions())
    registry.stores.remote.put(source, b"other")

    with pytest.raises(SourceChangedError, match=r"d/a\.txt"):
        transfer_shard(worker(s3, bucket), draft.package, plan.location, 0)
