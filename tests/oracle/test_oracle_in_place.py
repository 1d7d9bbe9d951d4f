"""quilt3 and our engine build packages of objects that stay where they are in S3."""

import hashlib
from typing import TYPE_CHECKING

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.verify import verify
from testbed.server import S3Server
from tests.oracle.quilt3_client import Directory, Quilt3, Spec, s3_registry_in

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1024 * 1024
SMALL = {
    "a b+c/50%.txt": b"1",
    "a#b?c&d=e;f@g:h.csv": b"2",
    "a%20b": b"3",
    "\u00e9/e\u0301 \U0001f427.txt": b"4",
    "empty": b"",
    "d/b": b"5",
    "d.txt": b"6",
    "d-b": b"7",
}
PART_GRIDS = {
    "the format's parts": [8, 8, 4],
    "larger parts": [10, 6],
    "parts as many as the format's": [9, 7],
    "smaller parts": [5, 5, 5, 1],
    "one part": [16],
    "one small part": [1],
}
"""Sizes of parts in MiB that an object may have been uploaded in; its composite checksum depends on them."""


@pytest.fixture(params=["versioned", "plain"])
def sources(request: pytest.FixtureRequest) -> str:
    """A bucket where source objects lie, with versions or without."""
    return request.getfixturevalue({"versioned": "other_bucket", "plain": "plain_bucket"}[request.param])


@pytest.fixture
def client(s3: S3Server) -> "S3Client":
    """A client that knows nothing of packages."""
    return s3.client()


def test_in_place_manifest_is_equal(
    sources: str, client: "S3Client", s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str, *, namespace: str
) -> None:
    spec = put_objects(client, sources, namespace, SMALL)
    published = build(s3_registry, spec.draft(name))
    ours = manifest(client, s3_registry, published.top_hash)
    assert quilt3.build(bucket_url, name, spec) == published.top_hash
    assert manifest(client, s3_registry, published.top_hash) == ours
    assert published.bytes_copied == 0


def test_quilt3_reads_in_place_bytes(
    sources: str, client: "S3Client", s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str, *, namespace: str
) -> None:
    published = build(s3_registry, put_objects(client, sources, namespace, SMALL).draft(name))
    found = quilt3.browse(bucket_url, name)
    assert found["top_hash"] == published.top_hash
    assert {each["logical_key"]: quilt3.read(bucket_url, name, each["logical_key"]) for each in found["entries"]} == SMALL
    assert {PhysicalKey.parse(each["physical_keys"][0]).bucket for each in found["entries"]} == {sources}


def test_quilt3_reads_packed_version(
    other_bucket: str, client: "S3Client", s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str, *, namespace: str
) -> None:
    build(s3_registry, put_objects(client, other_bucket, namespace, {"a": b"packed"}).draft(name))
    client.put_object(Bucket=other_bucket, Key=f"{namespace}/a", Body=b"changed")
    assert quilt3.read(bucket_url, name, "a") == b"packed"


def test_prefix_equals_quilt3s(
    sources: str, client: "S3Client", s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str, *, namespace: str
) -> None:
    spec = put_objects(client, sources, namespace, SMALL)
    client.put_object(Bucket=sources, Key=f"{namespace}/directory/", Body=b"")
    client.put_object(Bucket=sources, Key=f"{namespace}.txt", Body=b"beside the prefix")
    client.put_object(Bucket=sources, Key=f"{namespace}/gone", Body=b"deleted again")
    client.delete_object(Bucket=sources, Key=f"{namespace}/gone")
    published = build(s3_registry, Draft(package=name, entries=f"s3://{sources}/{namespace}/"))
    ours = manifest(client, s3_registry, published.top_hash)
    assert quilt3.build(bucket_url, name, spec) == published.top_hash
    assert manifest(client, s3_registry, published.top_hash) == ours


def test_null_versions_equal_quilt3s(s3: S3Server, client: "S3Client", quilt3: Quilt3, name: str) -> None:
    """Name ``null`` where the bucket kept no versions yet, of objects, of a prefix, and of the workflows config."""
    bucket = s3.make_bucket(f"oracle-late-{name.partition('/')[0]}", versioned=False)
    spec = put_objects(client, bucket, "data", SMALL)
    workflows = b'version: "1"\nis_workflow_required: true\ndefault_workflow: alpha\nworkflows:\n  alpha:\n    name: Alpha\n'
    client.put_object(Bucket=bucket, Key=".quilt/workflows/config.yml", Body=workflows)
    s3.set_versioning(bucket, "Enabled")
    registry, url = s3_registry_in(s3, bucket), f"s3://{bucket}"
    below = {"below/": f"{url}/data/"}
    for entries, made in ((spec.files, (spec,)), (below, (Spec(files={}), *(Directory(*each) for each in below.items())))):
        published = build(registry, Draft(package=name, entries=entries))
        ours = manifest(client, registry, published.top_hash)
        assert ours.count(b"?versionId=null") == len(SMALL) + 1
        assert quilt3.build(url, name, *made) == published.top_hash
        assert entry_lines(manifest(client, registry, published.top_hash)) == entry_lines(ours)

    for key in SMALL:
        client.put_object(Bucket=bucket, Key=f"data/{key}", Body=b"overwritten")
    assert {key: quilt3.read(url, name, f"below/{key}") for key in SMALL} == SMALL
    verify(registry, Reference(name)).check()


def test_multipart_prefix_agrees(
    sources: str, client: "S3Client", s3_registry: Registry, quilt3: Quilt3, name: str, namespace: str
) -> None:
    upload_in_parts(client, sources, f"{namespace}/large", [8, 4])
    published = build(s3_registry, Draft(package=name, entries=f"s3://{sources}/{namespace}/"))
    assert published.top_hash == quilt3.top_hash(Spec(files={"large": f"s3://{sources}/{namespace}/large"}))


@pytest.mark.parametrize("parts", PART_GRIDS.values(), ids=PART_GRIDS)
def test_part_sizes_keep_the_hash(
    parts: list[int], other_bucket: str, client: "S3Client", s3_registry: Registry, quilt3: Quilt3, name: str, *, namespace: str
) -> None:
    upload_in_parts(client, other_bucket, namespace, parts)
    spec = Spec(files={"large": f"s3://{other_bucket}/{namespace}"})
    assert build(s3_registry, spec.draft(name)).top_hash == quilt3.top_hash(spec)


@pytest.mark.parametrize("size", [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1], ids=str)
@pytest.mark.parametrize("algorithm", ["SHA256", "CRC64NVME"])
def test_checksums_keep_the_hash(
    algorithm: str,
    size: int,
    other_bucket: str,
    client: "S3Client",
    s3_registry: Registry,
    quilt3: Quilt3,
    *,
    name: str,
    namespace: str,
) -> None:
    client.put_object(Bucket=other_bucket, Key=namespace, Body=noise(size), ChecksumAlgorithm=algorithm)
    spec = Spec(files={"object": f"s3://{other_bucket}/{namespace}"})
    assert build(s3_registry, spec.draft(name)).top_hash == quilt3.top_hash(spec)


def test_old_version_is_packed(
    other_bucket: str, client: "S3Client", s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str, *, namespace: str
) -> None:
    older = client.put_object(Bucket=other_bucket, Key=f"{namespace}+", Body=b"older")["VersionId"]
    client.put_object(Bucket=other_bucket, Key=f"{namespace}+", Body=b"newer")
    spec = Spec(files={"a": f"s3://{other_bucket}/{namespace}%2B?versionId={older}"})
    assert build(s3_registry, spec.draft(name)).top_hash == quilt3.top_hash(spec)
    assert quilt3.read(bucket_url, name, "a") == b"older"


def test_copies_keep_quilt3s_hash(
    sources: str, client: "S3Client", s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str, *, namespace: str
) -> None:
    spec = put_objects(client, sources, namespace, SMALL | {"large": noise(8 * MIB + 1)})
    published = push(s3_registry, spec.draft(name))
    found = quilt3.browse(bucket_url, name)
    assert published.top_hash == found["top_hash"] == quilt3.top_hash(spec)
    assert {each["logical_key"]: quilt3.read(bucket_url, name, each["logical_key"]) for each in found["entries"]} == {
        **SMALL,
        "large": noise(8 * MIB + 1),
    }
    assert {f"s3://{PhysicalKey.parse(each['physical_keys'][0]).bucket}" for each in found["entries"]} == {bucket_url}


def test_own_bucket_stays_in_place(
    client: "S3Client", bucket: str, s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str, *, namespace: str
) -> None:
    spec = put_objects(client, bucket, namespace, SMALL)
    published = push(s3_registry, spec.draft(name))
    ours = manifest(client, s3_registry, published.top_hash)
    assert quilt3.push(bucket_url, name, spec) == published.top_hash
    assert manifest(client, s3_registry, published.top_hash) == ours


def put_objects(client: "S3Client", bucket: str, prefix: str, objects: dict[str, bytes]) -> Spec:
    """Put objects below a prefix; return the package of them."""
    for key, data in objects.items():
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)
    return Spec(files={key: str(PhysicalKey(bucket, f"{prefix}/{key}")) for key in objects})


def upload_in_parts(client: "S3Client", bucket: str, key: str, sizes: list[int]) -> None:
    """Upload an object in parts of so many MiB each, with a checksum of each."""
    upload = client.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256")["UploadId"]
    parts = []
    for number, size in enumerate(sizes, 1):
        sent = client.upload_part(
            Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=noise(size * MIB), ChecksumAlgorithm="SHA256"
        )
        parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": sent["ChecksumSHA256"]})
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


def manifest(client: "S3Client", registry: Registry, top_hash: str) -> bytes:
    """Return the bytes of a manifest in an S3 registry."""
    assert registry.location.root.bucket
    return client.get_object(Bucket=registry.location.root.bucket, Key=f".quilt/packages/{top_hash}")["Body"].read()


def entry_lines(manifest: bytes) -> list[bytes]:
    """Return the lines of files: quilt3 writes one for the directory that ``set_dir`` packs, too."""
    return [line for line in manifest.splitlines() if b"physical_keys" in line]


def noise(size: int) -> bytes:
    """Return bytes of which no part is like another."""
    return hashlib.shake_128(b"noise").digest(size)
