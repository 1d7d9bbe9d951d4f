"""Hashes of every type that quilt3 knows: those of others, those of the core, and mismatches."""

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import EntryDamagedError, HashTypeError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.verify import verify
from testbed.server import S3Server
from tests.oracle.quilt3_client import Manuscript, Quilt3, Quilt3Error, Spec, long_ago, place, plant, tree, write

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1024 * 1024
CHUNKED, SHA256, CRC64NVME = "sha2-256-chunked", "SHA256", "CRC64NVME"
SMALL = {"empty": b"", "one": b"1", "d/nine": b"123456789", "d/kib": bytes(range(256)) * 4}
LARGE = {"just under a part": bytes(8 * MIB - 1), "a part": b"1" * 8 * MIB, "two parts and a bit": b"12" * 8 * MIB + b"bit"}


@functools.cache
def crc_table() -> list[int]:
    """Return the table of the CRC-64/NVME, by its polynomial: neither client's library computes it here."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x9A6C9329AC4BC9B5 if value & 1 else 0)
        table.append(value)
    return table


@functools.cache
def crc64nvme(data: bytes) -> int:
    """Return the CRC-64/NVME of bytes."""
    value, table = 2**64 - 1, crc_table()
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value ^ (2**64 - 1)


def value_of(hash_type: str, data: bytes) -> str:
    """Return the hash of a file, by the rules of its type."""
    if hash_type == SHA256:
        return hashlib.sha256(data).hexdigest()
    if hash_type == CRC64NVME:
        return base64.b64encode(crc64nvme(data).to_bytes(8, "big")).decode()
    parts = (data[start : start + 8 * MIB] for start in range(0, len(data), 8 * MIB))
    return base64.b64encode(hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()).decode()


def hash_of(hash_type: str, data: bytes) -> tuple[str, str]:
    """Return the hash of a file with its type."""
    return hash_type, value_of(hash_type, data)


def test_crc_matches_the_catalogue() -> None:
    assert crc64nvme(b"123456789") == 0xAE8B14860A799888


@pytest.fixture(params=["local_registry", "s3_registry"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """A registry of each kind."""
    return request.getfixturevalue(request.param)


def written_by_others(registry: Registry, name: str, files: dict[str, bytes], hashes: dict[str, tuple[str, str]]) -> Manuscript:
    """Write files into a registry; return a revision that names them, with these hashes."""
    records: list[dict[str, Any]] = [
        {
            "logical_key": key,
            "physical_keys": [str(write(registry, f"data of {name}/{key}", files[key]))],
            "size": len(files[key]),
            "hash": dict(zip(("type", "value"), hashes[key], strict=True)),
            "meta": {},
        }
        for key in sorted(files)
    ]
    return Manuscript({"version": "v0", "message": None}, records)


@pytest.mark.parametrize("hash_type", [CHUNKED, SHA256, CRC64NVME, "mixed"])
def test_foreign_package_is_readable(hash_type: str, registry: Registry, quilt3: Quilt3, tmp_path: Path, name: str) -> None:
    files = SMALL | {"large": LARGE["two parts and a bit"]}
    types = dict(zip(sorted(files), [SHA256, CRC64NVME, CHUNKED, CRC64NVME, SHA256], strict=True))
    hashes = {key: hash_of(types[key] if hash_type == "mixed" else hash_type, data) for key, data in files.items()}
    [top_hash] = plant(registry, name, written_by_others(registry, name, files, hashes))
    url = str(registry.location)

    assert quilt3.browse(url, name)["top_hash"] == registry.resolve(PackageName.parse(name)) == top_hash
    verify(registry, Reference(name), read_all=True).check()
    install(registry, Reference(name), str(tmp_path / "ours"))
    quilt3.install(url, name, tmp_path / "theirs")
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs") == files
    assert quilt3.verify(url, name, tmp_path / "ours")
    verify(registry, Reference(name), str(tmp_path / "theirs")).check()


@pytest.mark.parametrize("key", ["empty", "one"])
@pytest.mark.parametrize("hash_type", [CHUNKED, SHA256, CRC64NVME])
def test_wrong_hash_fails_in_both(
    hash_type: str, key: str, registry: Registry, quilt3: Quilt3, tmp_path: Path, *, name: str
) -> None:
    hashes = {each: hash_of(hash_type, data) for each, data in SMALL.items()}
    hashes[key] = hash_of(hash_type, b"2")
    plant(registry, name, written_by_others(registry, name, SMALL, hashes))
    place(tmp_path / "files", SMALL)
    [wrong] = [entry for entry in registry.read(PackageName.parse(name)).entries if entry.logical_key == key]

    assert not quilt3.verify(str(registry.location), name, tmp_path / "files")
    for found in (verify(registry, Reference(name)), verify(registry, Reference(name), str(tmp_path / "files"))):
        assert [found.missing, found.modified, found.extra] == [[], [key], []]
    with pytest.raises(Quilt3Error, match="Hash validation failed"):
        quilt3.read(str(registry.location), name, key)
    with pytest.raises(EntryDamagedError):
        registry.read_bytes(wrong)
    with pytest.raises(EntryDamagedError):
        install(registry, Reference(name), str(tmp_path / "installed"))
    assert key not in (tree(tmp_path / "installed") if (tmp_path / "installed").exists() else {})


@pytest.mark.parametrize("hash_type", ["MD5", "sha256", "", "SHA2-256-CHUNKED"])
def test_unknown_hash_type_fails(hash_type: str, registry: Registry, quilt3: Quilt3, tmp_path: Path, name: str) -> None:
    hashes = {key: (hash_type, value_of(SHA256, data)) for key, data in SMALL.items()}
    plant(registry, name, written_by_others(registry, name, SMALL, hashes))
    place(tmp_path, SMALL)
    with pytest.raises(Quilt3Error, match="Unsupported hash type"):
        quilt3.verify(str(registry.location), name, tmp_path)
    for src in (None, str(tmp_path)):
        with pytest.raises(HashTypeError, match="expected one of"):
            verify(registry, Reference(name), src)


def test_quilt3_verifies_our_crc(registry: Registry, quilt3: Quilt3, tmp_path: Path, name: str) -> None:
    files = SMALL | LARGE
    publish = build if registry.location.is_local else push
    spec = Spec(files=place(tmp_path / "files", files))
    published = publish(registry, spec.draft(name, hash_type=CRC64NVME))
    found = quilt3.browse(str(registry.location), name)
    values = {each["logical_key"]: each["hash"]["value"] for each in found["entries"]}

    assert found["top_hash"] == published.top_hash
    assert {each["hash"]["type"] for each in found["entries"]} == {CRC64NVME}
    assert {key: values[key] for key in SMALL} == {key: value_of(CRC64NVME, data) for key, data in SMALL.items()}
    quilt3.install(str(registry.location), name, tmp_path / "installed")
    assert tree(tmp_path / "installed") == files
    assert quilt3.verify(str(registry.location), name, tmp_path / "installed")
    (tmp_path / "installed/two parts and a bit").write_bytes(LARGE["two parts and a bit"][:-1] + b"?")
    assert not quilt3.verify(str(registry.location), name, tmp_path / "installed")


def upload(client: "S3Client", bucket: str, key: str, data: bytes, algorithm: Any) -> None:
    """Upload an object in parts of 5 MiB, each with a checksum."""
    begun = client.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm=algorithm)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(data), 5 * MIB), 1):
        part = client.upload_part(
            Bucket=bucket,
            Key=key,
            UploadId=begun,
            PartNumber=number,
            Body=data[start : start + 5 * MIB],
            ChecksumAlgorithm=algorithm,
        )
        parts.append({"PartNumber": number, "ETag": part["ETag"], f"Checksum{algorithm}": part[f"Checksum{algorithm}"]})
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=begun, MultipartUpload={"Parts": cast("Any", parts)})


def test_in_place_crc_verifies(
    s3: S3Server, s3_registry: Registry, other_bucket: str, quilt3: Quilt3, tmp_path: Path, namespace: str, *, name: str
) -> None:
    client, data = s3.client(), LARGE["two parts and a bit"]
    files = {}
    for algorithm in ("CRC64NVME", "SHA256", "CRC32"):
        for key, content in {"empty": b"", "small": b"123456789"}.items():
            client.put_object(
                Bucket=other_bucket, Key=f"{namespace}/{algorithm}/{key}", Body=content, ChecksumAlgorithm=algorithm
            )
            files[f"{algorithm}/{key}"] = content
    for algorithm in ("CRC64NVME", "SHA256"):
        upload(client, other_bucket, f"{namespace}/{algorithm}/parts", data, algorithm)
        files[f"{algorithm}/parts"] = data
    published = build(s3_registry, Draft(package=name, entries=f"s3://{other_bucket}/{namespace}/", hash_type=CRC64NVME))
    quilt3.install(str(s3_registry.location), name, tmp_path / "installed")

    assert published.bytes_copied == 0
    assert tree(tmp_path / "installed") == files
    assert quilt3.verify(str(s3_registry.location), name, tmp_path / "installed")
    verify(s3_registry, Reference(name), read_all=True).check()
    found = {each["logical_key"]: each["hash"] for each in quilt3.browse(str(s3_registry.location), name)["entries"]}
    assert {key: each["type"] for key, each in found.items()} == dict.fromkeys(files, CRC64NVME)
    assert found["SHA256/small"]["value"] == value_of(CRC64NVME, b"123456789")


@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
def test_update_keeps_hash_types(hash_type: str, registry: Registry, quilt3: Quilt3, tmp_path: Path, name: str) -> None:
    types = dict(zip(sorted(SMALL), [SHA256, CRC64NVME, CHUNKED, SHA256], strict=True))
    hashes = {key: hash_of(types[key], data) for key, data in SMALL.items()}
    [base] = plant(registry, name, written_by_others(registry, name, SMALL, hashes))
    new = place(tmp_path, {"new": b"new"})["new"]
    publish = build if registry.location.is_local else push
    draft = Draft(package=name, mode="update", entries={"new": new}, message="more", hash_type=hash_type)
    published = publish(long_ago(registry), draft)
    theirs = quilt3.revise(str(registry.location), name, ("", "set", ["new", new]), top_hash=base, message="more")
    ours = {entry.logical_key: entry.hash.type for entry in registry.read(PackageName.parse(name), published.top_hash).entries}

    assert ours == types | {"new": hash_type}
    assert (theirs == published.top_hash) == (hash_type == CHUNKED)
