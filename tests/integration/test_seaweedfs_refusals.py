"""Refusals of a real S3 store are reported as such, and leave nothing behind."""

import functools
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import AccessDeniedError, BucketNotFoundError, QuiltError, StorageUnavailableError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.server import Identity, S3Server

NAME = PackageName("team", "package")

client_of = functools.cache(S3Server.client)
"""The administrator's client, by which tests reach the store past the core; making one takes a while."""
LARGE = bytes(9 * 1024 * 1024)


@pytest.fixture
def with_package(s3: S3Server, s3_registry: Registry, bucket: str) -> Registry:
    """The registry of an administrator, with a package and an object in it."""
    client_of(s3).put_object(Bucket=bucket, Key="data/a.txt", Body=b"a")
    push(s3_registry, Draft(package=str(NAME), entries={"a.txt": b"content"}))
    return s3_registry


def state(s3: S3Server, bucket: str) -> list[tuple[str, str]]:
    """Return every version and delete marker in a bucket."""
    answer = client_of(s3).list_object_versions(Bucket=bucket)
    return sorted((item["Key"], item["VersionId"]) for item in [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])])


def seen_by(s3: S3Server, registry: Registry, who: Identity) -> Registry:
    return Registry(registry.location, Stores(LocalStorage(), S3Storage(s3.client(who))))


Work = Callable[[Registry], object]

WORK = [
    pytest.param(lambda registry: push(registry, Draft(package="team/new", entries={"a.txt": b"x"})), id="push"),
    pytest.param(lambda registry: push(registry, Draft(package="team/new", entries={"a.bin": LARGE})), id="push in parts"),
    pytest.param(lambda registry: build(registry, Draft(package="team/new", entries={}, allow_empty=True)), id="build"),
    pytest.param(lambda registry: delete(registry, str(NAME)), id="delete"),
]


@pytest.mark.parametrize("work", WORK)
def test_reader_writes_nothing(s3: S3Server, with_package: Registry, bucket: str, work: Work) -> None:
    before = state(s3, bucket)

    with pytest.raises(AccessDeniedError, match=bucket):
        work(seen_by(s3, with_package, s3.reader))
    assert state(s3, bucket) == before
    assert client_of(s3).list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_reader_may_read(s3: S3Server, with_package: Registry) -> None:
    reader = seen_by(s3, with_package, s3.reader)

    assert list(reader.packages()) == [NAME]
    assert list(reader.revisions(NAME)) == list(with_package.revisions(NAME))
    assert [entry.logical_key for entry in reader.read(NAME).entries] == ["a.txt"]


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("wrong", ["unknown access key", "wrong secret key"])
def test_bad_keys_are_not_shown(s3: S3Server, with_package: Registry, bucket: str, work: Work, wrong: str) -> None:
    who = Identity.make() if wrong == "unknown access key" else Identity(s3.admin.access_key, Identity.make().secret_key)
    before = state(s3, bucket)

    with pytest.raises(AccessDeniedError) as caught:
        work(seen_by(s3, with_package, who))
    assert who.secret_key not in str(caught.value)
    assert state(s3, bucket) == before


@pytest.mark.parametrize("work", WORK)
def test_missing_bucket_is_not_made(s3: S3Server, s3_registry: Registry, work: Work) -> None:
    absent = Registry(RegistryLocation.parse("s3://no-such-bucket"), s3_registry.stores)

    with pytest.raises(BucketNotFoundError, match="s3://no-such-bucket") as caught:
        work(absent)
    assert not caught.value.transient
    assert "no-such-bucket" not in [found["Name"] for found in client_of(s3).list_buckets()["Buckets"]]


@pytest.mark.parametrize("entries", ["s3://no-such-bucket/data/", "s3://no-such-bucket/data", {"a": "s3://no-such-bucket/a"}])
def test_missing_source_bucket_fails(s3_registry: Registry, entries: object) -> None:
    with pytest.raises(QuiltError, match="no-such-bucket"):
        push(s3_registry, Draft(package=str(NAME), entries=entries))
    assert list(s3_registry.packages()) == []


@pytest.mark.parametrize("work", WORK)
def test_dead_store_is_transient(s3: S3Server, s3_registry: Registry, work: Work) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else gets the port, and connections are refused.
        closed = replace(s3, endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}")
        storage = S3Storage(closed.client(), RetryPolicy(seconds=0.5))

        with pytest.raises(StorageUnavailableError) as caught:
            work(Registry(s3_registry.location, Stores(LocalStorage(), storage)))
    assert caught.value.transient
