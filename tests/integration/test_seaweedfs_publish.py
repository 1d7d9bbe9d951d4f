"""Packages are published on a real S3 store."""

import functools
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import CancelledError, SourceChangedError, StorageUnavailableError
from airflow_quilt.core.format.hashes import hash_of
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import DeleteResult
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.server import S3Server
from tests.core.faulty import Before, Call, Fault, Recorder
from tests.support import read, through

MIB = 1024 * 1024
NAME = PackageName("team", "package")

client_of = functools.cache(S3Server.client)
"""The administrator's client, by which tests reach the store past the core; making one takes a while."""


def download(s3: S3Server, entry: Entry) -> bytes:
    """Read an entry with a client of its own."""
    key = PhysicalKey.parse(entry.physical_keys[0])
    assert key.bucket is not None
    version = {"VersionId": key.version_id} if key.version_id else {}
    return client_of(s3).get_object(Bucket=key.bucket, Key=key.key, **version)["Body"].read()


def keys(s3: S3Server, bucket: str) -> list[str]:
    return [item["Key"] for item in client_of(s3).list_objects_v2(Bucket=bucket).get("Contents", [])]


def open_uploads(s3: S3Server, bucket: str) -> list[str]:
    return [upload["Key"] for upload in client_of(s3).list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


@pytest.fixture
def directory(write: Callable[..., Path]) -> Path:
    """A directory with files of every size that matters, one with a name that URLs must quote."""
    write("data/empty", b"")
    write("data/sub/é +%?#&.txt", b"odd")
    write("data/one part.bin", os.urandom(8 * MIB))
    return write("data/large.bin", os.urandom(40 * MIB)).parent


def test_pushed_files_read_back(s3: S3Server, s3_registry: Registry, bucket: str, directory: Path) -> None:
    recorder = Recorder()
    published = push(through(s3_registry, recorder), Draft(package=str(NAME), entries=str(directory), message="all"))
    entries = read(s3_registry, published)

    assert list(entries) == ["empty", "large.bin", "one part.bin", "sub/é +%?#&.txt"]
    for logical_key, entry in entries.items():
        data = (directory / logical_key).read_bytes()
        assert (entry.size, entry.hash) == (len(data), hash_of(data))
        assert download(s3, entry) == data
        assert PhysicalKey.parse(entry.physical_keys[0]).version_id is not None
    assert published.bytes_copied == published.bytes == 48 * MIB + 3
    assert [call.size for call in recorder.of("send part")] == [8 * MIB] * 5
    assert open_uploads(s3, bucket) == []


def test_repeated_push_is_skipped(s3_registry: Registry, write: Callable[..., Path]) -> None:
    path = str(write("a.txt", b"content"))
    first = push(s3_registry, Draft(package=str(NAME), entries={"a.txt": path}))
    again = push(s3_registry, Draft(package=str(NAME), entries={"a.txt": path}))

    assert (again.created, again.revision) == (False, first.revision)
    assert list(s3_registry.revisions(NAME)) == [first.revision]


def test_push_build_and_copy_agree(
    s3: S3Server, s3_registry: Registry, local_registry: Registry, other_bucket: str, directory: Path
) -> None:
    client = client_of(s3)
    for path in (path for path in directory.rglob("*") if path.is_file()):
        client.upload_file(str(path), other_bucket, f"data/{path.relative_to(directory)}")

    built = build(local_registry, Draft(package=str(NAME), entries=str(directory)))
    pushed = push(s3_registry, Draft(package=str(NAME), entries=str(directory)))
    copied = push(s3_registry, Draft(package="team/copy", entries=f"s3://{other_bucket}/data/"))
    assert pushed.top_hash == built.top_hash == copied.top_hash


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        pytest.param(0, 8, id="empty"),
        pytest.param(5, 8, id="small"),
        pytest.param(8 * MIB, 5, id="one part that arrived in two"),
        pytest.param(8 * MIB, 8, id="one part"),
        pytest.param(20 * MIB, 5, id="20 MiB that arrived in parts of 5"),
        pytest.param(20 * MIB, 8, id="20 MiB that arrived in parts of 8"),
        pytest.param(20 * MIB, 32, id="20 MiB that arrived in one piece"),
    ],
)
def test_copy_hashes_equal_a_build(
    s3: S3Server,
    s3_registry: Registry,
    local_registry: Registry,
    other_bucket: str,
    write: Callable[..., Path],
    size: int,
    parts: int,
) -> None:
    """The hash lies on the format's grid, in any parts the object once arrived."""
    path = write("object", os.urandom(size))
    upload_in_parts(s3, other_bucket, "object", path.read_bytes(), parts * MIB)
    recorder = Recorder()
    published = push(through(s3_registry, recorder), Draft(package=str(NAME), entries={"a": f"s3://{other_bucket}/object"}))

    built = build(local_registry, Draft(package=str(NAME), entries={"a": str(path)}))
    assert published.top_hash == built.top_hash
    assert published.bytes_copied == size
    entry = read(s3_registry, published)["a"]
    assert entry.physical_keys[0].startswith(f"{s3_registry.location}/team/package/a")
    assert download(s3, entry) == path.read_bytes()
    assert [call for call in recorder.of("stream") if call.key.bucket == other_bucket] == []


def upload_in_parts(s3: S3Server, bucket: str, key: str, data: bytes, size: int) -> None:
    """Write an object in parts of a size, each with its SHA-256, or in one piece where it has only one."""
    client = client_of(s3)
    if len(data) <= size:
        client.put_object(Bucket=bucket, Key=key, Body=data, ChecksumAlgorithm="SHA256")
        return
    target = {"Bucket": bucket, "Key": key}
    upload = client.create_multipart_upload(**target, ChecksumAlgorithm="SHA256")["UploadId"]
    done = []
    for number, start in enumerate(range(0, len(data), size), 1):
        body = data[start : start + size]
        answer = client.upload_part(**target, UploadId=upload, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256")
        done.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": answer["ChecksumSHA256"]})
    client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": done})


def test_prefix_stays_in_place(s3: S3Server, s3_registry: Registry, bucket: str) -> None:
    client = client_of(s3)
    client.put_object(Bucket=bucket, Key="data/a.txt", Body=b"old")
    versions = {
        key: client.put_object(Bucket=bucket, Key=f"data/{key}", Body=key.encode(), ChecksumAlgorithm="SHA256")["VersionId"]
        for key in ("a.txt", "sub/b.txt")
    }
    client.put_object(Bucket=bucket, Key="data/gone", Body=b"x")
    client.delete_object(Bucket=bucket, Key="data/gone")
    client.put_object(Bucket=bucket, Key="data/sub/", Body=b"")
    client.put_object(Bucket=bucket, Key="database", Body=b"not below the prefix")
    before = keys(s3, bucket)
    recorder = Recorder()
    published = push(through(s3_registry, recorder), Draft(package=str(NAME), entries=f"s3://{bucket}/data/"))

    entries = read(s3_registry, published)
    assert {key: entry.physical_keys[0] for key, entry in entries.items()} == {
        key: f"s3://{bucket}/data/{key}?versionId={version}" for key, version in versions.items()
    }
    assert {key: entry.hash for key, entry in entries.items()} == {key: hash_of(key.encode()) for key in versions}
    assert published.bytes_copied == 0
    assert recorder.of("stream") == []  # The store knows the checksums.
    assert [key for key in keys(s3, bucket) if not key.startswith(".quilt/")] == before


def test_plain_http_reads_twice(s3: S3Server, s3_registry: Registry, bucket: str) -> None:
    data = os.urandom(20 * MIB)
    upload_in_parts(s3, bucket, "data/large", data, 5 * MIB)
    recorder = Recorder()
    published = push(through(s3_registry, recorder), Draft(package=str(NAME), entries=f"s3://{bucket}/data/"))

    assert read(s3_registry, published)["large"].hash == hash_of(data)
    assert recorder.bytes_read == 2 * len(data)


def test_unversioned_registry_works(s3: S3Server, s3_registry: Registry, plain_bucket: str, directory: Path) -> None:
    registry = Registry(RegistryLocation.parse(f"s3://{plain_bucket}"), s3_registry.stores)
    published = push(registry, Draft(package=str(NAME), entries=str(directory)))

    for logical_key, entry in read(registry, published).items():
        assert "?" not in entry.physical_keys[0]
        assert download(s3, entry) == (directory / logical_key).read_bytes()
    again = push(registry, Draft(package=str(NAME), entries={"a.txt": b"other"}))
    assert list(registry.revisions(NAME)) == [again.revision, published.revision]
    assert delete(registry, str(NAME), again.top_hash[:8]) == DeleteResult((again.revision.published_at,), again.top_hash)
    assert registry.resolve(NAME) == published.top_hash


def test_unversioned_source_is_used(s3: S3Server, s3_registry: Registry, plain_bucket: str) -> None:
    data = os.urandom(9 * MIB)
    client_of(s3).put_object(Bucket=plain_bucket, Key="data/é x", Body=data)
    draft = Draft(package=str(NAME), entries=f"s3://{plain_bucket}/data/")
    pushed, built = push(s3_registry, draft), build(s3_registry, replace(draft, package="team/built"))

    assert pushed.top_hash == built.top_hash
    assert read(s3_registry, built)["é x"].physical_keys == (f"s3://{plain_bucket}/data/%C3%A9%20x",)
    assert download(s3, read(s3_registry, pushed)["é x"]) == data


@pytest.mark.parametrize("size", [50, 20 * MIB], ids=["small", "in parts"])
@pytest.mark.parametrize("publish", [push, build])
def test_replaced_source_fails(
    s3: S3Server, s3_registry: Registry, plain_bucket: str, publish: Callable[..., PublishResult], size: int
) -> None:
    client = client_of(s3)
    client.put_object(Bucket=plain_bucket, Key="object", Body=os.urandom(size))
    replacing = Before(
        lambda call: call.operation in {"copy", "copy part", "stream"} and not call.key.key.startswith(".quilt/"),
        lambda: client.put_object(Bucket=plain_bucket, Key="object", Body=os.urandom(size)),
    )

    with pytest.raises(SourceChangedError, match=f"s3://{plain_bucket}/object"):
        publish(through(s3_registry, replacing), Draft(package=str(NAME), entries={"a": f"s3://{plain_bucket}/object"}))
    assert replacing.done
    assert s3_registry.latest(NAME) is None
    assert open_uploads(s3, bucket_of(s3_registry)) == []


def bucket_of(registry: Registry) -> str:
    assert registry.location.root.bucket is not None
    return registry.location.root.bucket


def is_second_part(call: Call) -> bool:
    return call.operation in {"send part", "copy part"} and call.number == 2


@pytest.mark.parametrize("kind", ["file", "object"])
def test_stopped_push_aborts_upload(
    s3: S3Server, s3_registry: Registry, bucket: str, other_bucket: str, write: Callable[..., Path], kind: str
) -> None:
    path = write("large.bin", os.urandom(40 * MIB))
    client_of(s3).upload_file(str(path), other_bucket, "large.bin")
    stop = threading.Event()
    seen: list[str] = []

    def halt() -> None:
        seen.extend(open_uploads(s3, bucket))
        stop.set()

    source = str(path) if kind == "file" else f"s3://{other_bucket}/large.bin"
    with pytest.raises(CancelledError):
        push(through(s3_registry, Before(is_second_part, halt)), Draft(package=str(NAME), entries={"a": source}), stop=stop)
    assert seen == ["team/package/a"]  # There was an upload to be aborted.
    assert open_uploads(s3, bucket) == []
    assert keys(s3, bucket) == []


@pytest.mark.parametrize("operation", ["send part", "complete"])
@pytest.mark.parametrize("mode", ["before", "after"])
def test_failed_push_aborts_uploads(
    s3: S3Server, s3_registry: Registry, bucket: str, write: Callable[..., Path], operation: str, mode: str
) -> None:
    path = write("large.bin", os.urandom(20 * MIB))
    draft = Draft(package=str(NAME), entries={"a": str(path)})
    fault = Fault(1, "after" if mode == "after" else "before", among=lambda call: call.operation == operation)

    with pytest.raises(StorageUnavailableError, match="fault at call"):
        push(through(s3_registry, fault), draft)
    assert open_uploads(s3, bucket) == []
    published = push(s3_registry, draft)
    assert list(s3_registry.revisions(NAME)) == [published.revision]
    assert download(s3, read(s3_registry, published)["a"]) == path.read_bytes()


def test_delete_keeps_data(s3: S3Server, s3_registry: Registry) -> None:
    published = push(s3_registry, Draft(package=str(NAME), entries={"a.txt": b"content"}))
    entry = read(s3_registry, published)["a.txt"]

    assert delete(s3_registry, str(NAME)) == DeleteResult((published.revision.published_at,))
    assert list(s3_registry.packages()) == []
    assert download(s3, entry) == b"content"
    assert s3_registry.read(NAME, published.top_hash).header["version"] == "v0"


def test_other_registry_is_copied(s3: S3Server, s3_registry: Registry, other_bucket: str) -> None:
    other = Registry(RegistryLocation.parse(f"s3://{other_bucket}"), Stores(LocalStorage(), S3Storage(s3.client())))
    source = push(
        other, Draft(package="team/source", entries={"d/a.txt": b"one", "d/b.txt": {"content": "two", "meta": {"k": 1}}})
    )
    published = push(s3_registry, Draft(package=str(NAME), entries=str(source.uri)))

    assert published.top_hash == source.top_hash
    for entry in read(s3_registry, published).values():
        assert entry.physical_keys[0].startswith(f"{s3_registry.location}/team/package/d/")
