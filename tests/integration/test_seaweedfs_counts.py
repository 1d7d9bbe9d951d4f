"""How many requests a piece of work makes of a real S3 store, and that no byte of an object passes through it without need."""

import gc
import hashlib
import os
from collections import Counter
from urllib.parse import unquote, urlsplit

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import EntryDamagedError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.hashes import CRC64NVME, SHA256, hash_of, part_ranges
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.watch import LatestWatcher
from airflow_quilt.core.runtime.threads import map_concurrently
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.loopback import Request
from testbed.proxy import S3Proxy
from testbed.server import S3Server
from tests.core.packages import commit, entry_of

MIB = 1024 * 1024
COUNT = 20


@pytest.fixture
def counted(proxy: S3Proxy, bucket: str) -> Registry:
    """A registry on the real store, every request to which is seen by the proxy."""
    return Registry(RegistryLocation.parse(f"s3://{bucket}"), Stores(LocalStorage(), S3Storage(proxy.store.client())))


def is_of_an_object(request: Request) -> bool:
    """Whether a request is for an object that is not the registry's own."""
    _, _, key = unquote(urlsplit(request.path).path).removeprefix("/").partition("/")
    return bool(key) and not key.startswith(".quilt/")


def reads(request: Request) -> bool:
    return is_of_an_object(request) and request.method == "GET"


def sends(request: Request) -> bool:
    return is_of_an_object(request) and request.method == "PUT" and request.headers.get("Content-Length", "0") != "0"


def fill(s3: S3Server, bucket: str, **checksum: str) -> str:
    client = s3.client()
    for i in range(COUNT):
        client.put_object(Bucket=bucket, Key=f"data/{i:02}", Body=os.urandom(100), **checksum)  # type: ignore[arg-type]
    return f"s3://{bucket}/data/"


def test_checksums_save_all_reads(s3: S3Server, counted: Registry, proxy: S3Proxy, other_bucket: str) -> None:
    published = build(counted, Draft(package="team/data", entries=fill(s3, other_bucket, ChecksumAlgorithm="SHA256")))

    assert published.entries == COUNT
    assert proxy.count(reads) == 0
    assert proxy.count(is_of_an_object) == COUNT
    assert proxy.count() - COUNT < 15  # The listing, and what makes a revision.


def test_unproven_objects_are_read(s3: S3Server, counted: Registry, proxy: S3Proxy, other_bucket: str) -> None:
    build(counted, Draft(package="team/data", entries=fill(s3, other_bucket)))

    assert proxy.count(reads) == 2 * COUNT  # Nothing else shows what comes without TLS.


def test_requests_ignore_size(s3: S3Server, counted: Registry, proxy: S3Proxy, other_bucket: str) -> None:
    made = []
    for name, size in (("small", 1), ("large", 40 * MIB), ("larger", 80 * MIB)):
        s3.client().put_object(Bucket=other_bucket, Key=name, Body=bytes(size), ChecksumAlgorithm=CRC64NVME)
        before = proxy.count(), proxy.count(is_of_an_object)
        build(counted, Draft(package=f"team/{name}", entries={"x": f"s3://{other_bucket}/{name}"}, hash_type=CRC64NVME))
        made.append((proxy.count() - before[0], proxy.count(is_of_an_object) - before[1]))

    (requests, of_the_object), *others = made
    assert proxy.count(reads) == 0
    assert of_the_object == 1
    assert others == [(requests - 2, 1)] * 2  # The first one of a process asks whether the store keeps conditions.
    assert requests <= 12


def test_format_parts_are_not_read(s3: S3Server, counted: Registry, proxy: S3Proxy, other_bucket: str) -> None:
    data = os.urandom(20 * MIB)
    place = PhysicalKey(other_bucket, "large")
    upload = S3Storage(s3.client()).begin(place)
    for number, (start, stop) in enumerate(part_ranges(len(data)), 1):
        upload.send(number, data[start:stop], hashlib.sha256(data[start:stop]).digest())
    upload.complete()
    published = build(counted, Draft(package="team/large", entries={"x": str(place)}))

    (entry,) = counted.read(published.package).entries
    assert entry.hash == hash_of(data)
    assert proxy.count(lambda request: reads(request) and "attributes" not in request.path) == 0
    assert proxy.count(is_of_an_object) == 3  # It is requested when it is found, and when it is named; and its parts.


def test_copies_send_no_bytes(s3: S3Server, counted: Registry, proxy: S3Proxy, other_bucket: str) -> None:
    published = push(counted, Draft(package="team/data", entries=fill(s3, other_bucket, ChecksumAlgorithm="SHA256")))

    assert published.bytes_copied == COUNT * 100
    assert proxy.count(lambda request: "x-amz-copy-source" in request.headers) == COUNT
    assert (proxy.count(reads), proxy.count(sends)) == (0, 0)


def test_old_hashes_are_read_once(s3: S3Server, counted: Registry, proxy: S3Proxy, other_bucket: str) -> None:
    """A given hash is compared before the copy; without TLS too, one reading is enough where it has that hash."""
    theirs, root = Registry(RegistryLocation.parse(f"s3://{other_bucket}"), counted.stores), fill(s3, other_bucket)
    names = [f"{i:02}" for i in range(COUNT)]
    objects = {name: s3.client().get_object(Bucket=other_bucket, Key=f"data/{name}")["Body"].read() for name in names}
    old = [entry_of(name, data, f"{root}{name}", hash_type=SHA256) for name, data in objects.items()]
    commit(theirs, PackageName("their", "old"), old)
    published = push(counted, Draft(package="team/data", entries=f"quilt+s3://{other_bucket}#package=their/old"))

    assert {entry.logical_key: entry.hash for entry in counted.read("team/data").entries} == {
        key: hash_of(data) for key, data in objects.items()
    }
    assert published.bytes_copied == COUNT * 100
    assert (proxy.count(reads), proxy.count(sends)) == (COUNT, 0)


def test_content_is_sent_once(counted: Registry, proxy: S3Proxy) -> None:
    push(counted, Draft(package="team/data", entries={"a": b"content"}))

    assert proxy.count(sends) == 1


def test_unchanged_update_lists_once(s3: S3Server, counted: Registry, proxy: S3Proxy, bucket: str) -> None:
    """Twenty kept objects cost one listing, and a request for the one that is not the current version any more."""
    first = push(counted, Draft(package="team/data", entries={f"{i:02}": b"%d" % i for i in range(COUNT)}))
    kept = [PhysicalKey.parse(entry.physical_keys[0]) for entry in counted.read("team/data").entries]
    s3.client().put_object(Bucket=bucket, Key=kept[3].key, Body=b"newer")
    proxy.requests.clear()
    again = push(counted, Draft(package="team/data", mode="update"))

    assert (again.created, again.top_hash) == (False, first.top_hash)
    assert [
        (each.method, urlsplit(each.path).path.endswith(kept[3].key)) for each in proxy.requests if is_of_an_object(each)
    ] == [("HEAD", True)]
    assert len([each for each in proxy.requests if "versions" in urlsplit(each.path).query]) == 1
    s3.client().delete_object(Bucket=bucket, Key=kept[5].key, VersionId=kept[5].version_id or "")
    with pytest.raises(EntryDamagedError, match="1 entry names an object that is gone or overwritten"):
        push(counted, Draft(package="team/data", mode="update"))


def test_polls_leave_few_objects(counted: Registry) -> None:
    storage, root = counted.stores.remote, counted.location.root
    names = [f"team/p{number:03}" for number in range(1000)]
    pointers = [root.join(layout.pointer(PackageName.parse(name), layout.LATEST)) for name in names]
    list(map_concurrently(lambda pointer: storage.put(pointer, b"a" * 64), pointers, 16))
    watch = LatestWatcher(counted)
    first = watch.poll(names)
    collections: Counter[int] = Counter()

    def note(phase: str, info: dict[str, int]) -> None:
        collections[info["generation"]] += phase == "stop"

    gc.collect()
    gc.callbacks.append(note)
    try:
        looks = [watch.poll(names) for _ in range(10)]
    finally:
        gc.callbacks.remove(note)

    assert looks == [first] * 10
    assert len(first) == 1000
    assert collections[1] <= 2  # With a tree of each answer there are eighteen, and each eleventh may be a full one.
    assert collections[2] == 0
