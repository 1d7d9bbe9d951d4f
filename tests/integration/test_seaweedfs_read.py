"""Packages are installed, verified and updated on a real S3 store, with every type of hash."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import EntryDamagedError, StorageUnavailableError
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, hash_of
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.verify import Verification, verify
from testbed.server import S3Server
from tests.core.faulty import Fault, Recorder
from tests.core.packages import HASH_TYPES, PART, commit, entry_of, files_below
from tests.support import read, through

NAME = PackageName("team", "package")
PACKAGE = Reference(str(NAME))
FILES = {"empty": b"", "small.txt": b"small", "sub/large.bin": os.urandom(2 * PART + 5), "sub/é +%?#&.txt": b"odd"}
SIZE = sum(map(len, FILES.values()))

client_of = functools.cache(S3Server.client)
"""The administrator's client, by which tests reach the store past the core; making one takes a while."""


def put(s3: S3Server, bucket: str, key: str, data: bytes) -> PhysicalKey:
    """Store an object past the engine; return its key at its version."""
    answer = client_of(s3).put_object(Bucket=bucket, Key=key, Body=data)
    return PhysicalKey(bucket, key, answer.get("VersionId"))


def objects_below(s3: S3Server, bucket: str, prefix: str) -> dict[str, bytes]:
    client = client_of(s3)
    found = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {item["Key"].removeprefix(prefix): client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}


def is_clean(found: Verification) -> bool:
    return (found.missing, found.modified, found.extra) == ([], [], [])


@pytest.fixture(params=HASH_TYPES)
def packed(request: pytest.FixtureRequest, s3: S3Server, s3_registry: Registry, other_bucket: str) -> Registry:
    """A registry with a package of objects in another bucket, with hashes of one type."""
    entries = [
        entry_of(key, data, put(s3, other_bucket, f"data/{key}", data), hash_type=request.param) for key, data in FILES.items()
    ]
    commit(s3_registry, NAME, entries)
    return s3_registry


def test_install_reuses_files(packed: Registry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, again = Recorder(), Recorder()
    installed = install(through(packed, first), PACKAGE, str(out))

    assert files_below(out) == FILES
    assert (installed.paths, installed.bytes, installed.reused) == ([str(out / key) for key in FILES], SIZE, 0)
    (out / "small.txt").write_bytes(b"wrong")
    assert install(through(packed, again), PACKAGE, str(out)).reused == 3
    assert [call.key.name for call in again.of("stream") if call.key.key.startswith("data/")] == ["small.txt"]
    assert files_below(out) == FILES
    assert is_clean(verify(packed, PACKAGE, str(out)))


def test_install_reuses_copies(s3: S3Server, packed: Registry, bucket: str) -> None:
    again = Recorder()
    installed = install(packed, PACKAGE, f"s3://{bucket}/copy/")

    assert objects_below(s3, bucket, "copy/") == FILES
    assert (len(installed.paths), installed.bytes, installed.reused) == (4, SIZE, 0)
    put(s3, bucket, "copy/small.txt", b"wrong")
    assert verify(packed, PACKAGE, f"s3://{bucket}/copy").modified == ["small.txt"]
    assert install(through(packed, again), PACKAGE, f"s3://{bucket}/copy").reused == 3
    assert [(call.operation, call.key.name) for call in again.writes] == [("copy", "small.txt")]
    assert is_clean(verify(packed, PACKAGE, f"s3://{bucket}/copy", read_all=True))


def test_objects_and_copies_verify(s3: S3Server, packed: Registry, other_bucket: str) -> None:
    assert is_clean(verify(packed, PACKAGE))
    assert is_clean(verify(packed, PACKAGE, f"s3://{other_bucket}/data/"))
    put(s3, other_bucket, "data/small.txt", b"large")
    put(s3, other_bucket, "data/sub/more", b"more")
    client_of(s3).delete_object(Bucket=other_bucket, Key="data/empty")
    found = verify(packed, PACKAGE, f"s3://{other_bucket}/data/")

    assert (found.missing, found.modified, found.extra) == (["empty"], ["small.txt"], ["sub/more"])
    assert is_clean(verify(packed, PACKAGE))  # The versions that it names are still there.


def test_damaged_object_gets_no_file(s3: S3Server, s3_registry: Registry, plain_bucket: str, tmp_path: Path) -> None:
    places = {key: put(s3, plain_bucket, key, data) for key, data in FILES.items()}
    commit(s3_registry, NAME, [entry_of(key, data, places[key]) for key, data in FILES.items()])
    put(s3, plain_bucket, "sub/large.bin", FILES["sub/large.bin"][::-1])

    with pytest.raises(EntryDamagedError, match=r"'sub/large\.bin'"):
        install(s3_registry, PACKAGE, str(tmp_path / "out"))
    assert files_below(tmp_path / "out").items() <= {key: data for key, data in FILES.items() if key != "sub/large.bin"}.items()
    assert verify(s3_registry, PACKAGE).modified == ["sub/large.bin"]


@pytest.mark.parametrize("operation", ["stream", "create", "write part", "complete"])
def test_failed_install_reruns(s3_registry: Registry, tmp_path: Path, operation: str) -> None:
    push(s3_registry, Draft(package=str(NAME), entries={"large.bin": FILES["sub/large.bin"]}))
    fault = Fault(
        2 if operation == "write part" else 1, among=lambda call: call.operation == operation and "large" in call.key.key
    )

    with pytest.raises(StorageUnavailableError):
        install(through(s3_registry, fault), PACKAGE, str(tmp_path / "out"))
    assert files_below(tmp_path / "out") == {}
    install(s3_registry, PACKAGE, str(tmp_path / "out"))
    assert files_below(tmp_path / "out") == {"large.bin": FILES["sub/large.bin"]}


@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
def test_every_source_gets_hash_type(
    s3: S3Server, s3_registry: Registry, bucket: str, other_bucket: str, write: Callable[..., Path], hash_type: str
) -> None:
    for key, data in FILES.items():
        write(f"files/{key}", data)
        put(s3, bucket, f"here/{key}", data)
        put(s3, other_bucket, f"there/{key}", data)
    kinds: dict[str, object] = {
        "file/": str(write("files/small.txt", b"small").parent),
        "here/": f"s3://{bucket}/here/",
        "there/": f"s3://{other_bucket}/there/",
        **{f"content/{key}": data for key, data in FILES.items()},
    }
    entries = read(s3_registry, push(s3_registry, Draft(package=str(NAME), entries=kinds, hash_type=hash_type)))

    assert len(entries) == 4 * len(FILES)
    for key, entry in entries.items():
        data = FILES[key.partition("/")[2]]
        assert (entry.size, entry.hash) == (len(data), hash_of(data, hash_type))
        assert s3_registry.read_bytes(entry) == data
    assert is_clean(verify(s3_registry, PACKAGE, read_all=True))


def test_crc_build_equals_push(s3_registry: Registry, local_registry: Registry, write: Callable[..., Path]) -> None:
    for key, data in FILES.items():
        write(f"files/{key}", data)
    draft = Draft(package=str(NAME), entries=str(write("files/small.txt", b"small").parent), hash_type=CRC64NVME)

    assert push(s3_registry, draft).top_hash == build(local_registry, draft).top_hash


def test_crc_verify_reads_nothing(s3_registry: Registry) -> None:
    published = push(s3_registry, Draft(package=str(NAME), entries=dict(FILES), hash_type=CRC64NVME))
    stat = s3_registry.stores.remote.stat
    told = {
        key: stat(PhysicalKey.parse(entry.physical_keys[0])).proven(CRC64NVME)
        for key, entry in read(s3_registry, published).items()
    }
    recorder = Recorder()

    assert is_clean(verify(through(s3_registry, recorder), PACKAGE))
    streamed = {call.key.key.removeprefix("team/package/") for call in recorder.of("stream")}
    assert streamed & FILES.keys() == {key for key, crc in told.items() if crc is None}


def test_repeated_update_is_skipped(s3: S3Server, s3_registry: Registry, bucket: str) -> None:
    first = push(s3_registry, Draft(package=str(NAME), entries={**FILES, "sub/": {"meta": {"n": 1}}}, meta={"week": 1}))
    draft = Draft(
        package=str(NAME), entries={"small.txt": b"newer", "new.txt": b"new"}, mode="update", remove=["empty"], message="m"
    )
    recorder = Recorder()
    updated, again = push(through(s3_registry, recorder), draft), push(s3_registry, draft)
    manifest = s3_registry.read(NAME)
    found = {entry.logical_key: s3_registry.read_bytes(entry) for entry in manifest.entries}

    assert found == {"new.txt": b"new", "small.txt": b"newer", **{key: FILES[key] for key in FILES if key.startswith("sub/")}}
    assert (manifest.user_meta, manifest.directories) == ({"week": 1}, {"sub/": {"n": 1}})
    assert [call.key.key for call in recorder.of("upload", "copy", "begin")] == ["team/package/new.txt", "team/package/small.txt"]
    assert not again.created
    assert list(s3_registry.revisions(NAME)) == [updated.revision, first.revision]


def test_old_copies_are_rehashed(packed: Registry) -> None:
    published = push(packed, Draft(package="team/other", entries=f"quilt+{packed.location}#package={NAME}"))

    assert {key: entry.hash for key, entry in read(packed, published).items()} == {
        key: hash_of(data) for key, data in FILES.items()
    }


def test_diff_lists_changes(packed: Registry) -> None:
    old = packed.resolve(NAME)
    push(packed, Draft(package=str(NAME), entries={"new": b"new"}, mode="update", remove=["empty"]))
    kinds = {change.logical_key: change.kind for change in packed.diff(NAME, old)}

    assert kinds["empty"] == "deleted"
    assert kinds["new"] == "added"
    assert ("small.txt" in kinds) == (next(packed.read(NAME, old).entries).hash.type != CHUNKED)
