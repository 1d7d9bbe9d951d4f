"""Promises of every storage; each storage's own test file inherits these tests.

A subclass gives the fixtures ``storage`` and ``root``, a prefix or directory that no other test uses, and ``tight``, a storage
that has ``root`` too and reads no more than 10 bytes whole. An object store gives ``plain_root``, a prefix in a bucket without
versions, ``late_root``, one in a bucket that will keep them once ``set_versioning`` is called, and ``open_uploads`` as well.
"""

import base64
import hashlib
import io
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal

import pytest
from awscrt.checksums import crc64nvme

from airflow_quilt.core.errors import (
    ChecksumMismatchError,
    EntryDamagedError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PreconditionError,
    UploadVanishedError,
)
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, SHA256, StoreAlgorithm, hash_of, verify_stream
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import FileStore, ObjectStore, Storage
from airflow_quilt.core.storage.objects import IfMatch, ObjectInfo, WriteMode

MIB = 1024 * 1024
WRITERS = 16

ODD_NAMES = [
    pytest.param("a b  c", id="spaces"),
    pytest.param("a+b", id="plus"),
    pytest.param("100%", id="percent"),
    pytest.param("a%20b%2F", id="looks-escaped"),
    pytest.param("a?versionId=b", id="question-mark"),
    pytest.param("a#b", id="hash"),
    pytest.param("a&b&amp;c", id="ampersand"),
    pytest.param("<a>", id="angles"),
    pytest.param("'a\"b`", id="quotes"),
    pytest.param("é/ü", id="unicode"),
    pytest.param("データ😀", id="outside-the-basic-plane"),
    pytest.param("a;b,c:d=e@f$g!(h)[i]{j}|k^l*m~", id="punctuation"),
    pytest.param("...", id="dots"),
]


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def crc(data: bytes) -> bytes:
    return crc64nvme(data).to_bytes(8, "big")


DIGESTS: dict[StoreAlgorithm, Callable[[bytes], bytes]] = {"SHA256": digest, "CRC64NVME": crc}
ALGORITHMS: list[StoreAlgorithm] = [*DIGESTS]


def told(stat: ObjectInfo, algorithm: StoreAlgorithm) -> str | None:
    return {"SHA256": stat.sha256, "CRC64NVME": stat.crc64nvme}[algorithm]


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that differ from place to place, and between seeds."""
    block = bytes((value + seed) % 251 for value in range(251)) * 64
    return (block * (size // len(block) + 1))[:size]


def race(calls: Sequence[Callable[[], ObjectInfo]]) -> list[ObjectInfo | None]:
    """Make all calls at the same moment; None stands for the ones whose condition did not hold."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], ObjectInfo]) -> ObjectInfo | None:
        start.wait(30)
        try:
            return call()
        except PreconditionError:
            return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


class StorageContract:
    """The contract of memory, the local disk and S3."""

    @pytest.fixture
    def key(self, root: PhysicalKey) -> PhysicalKey:
        return root.join("file.txt")

    def test_put_is_read_back(self, storage: Storage, key: PhysicalKey) -> None:
        stat = storage.put(key, b"hello")
        blob = storage.get(key)

        assert blob.data == b"hello"
        assert stat.key.at_version(None) == key
        assert stat.size == 5

    @pytest.mark.parametrize("data", [b"", b"\0\xff\r\n", pattern(3 * MIB)], ids=["empty", "binary", "large"])
    def test_any_bytes_round_trip(self, storage: Storage, key: PhysicalKey, data: bytes) -> None:
        storage.put(key, data)

        assert storage.get(key).data == data
        assert storage.stat(key).size == len(data)
        assert b"".join(storage.stream(key, 0, len(data))) == data

    def test_file_object_can_be_put(self, storage: Storage, key: PhysicalKey) -> None:
        with tempfile.SpooledTemporaryFile(max_size=10) as body:
            body.write(pattern(100_000))
            body.seek(0)
            stat = storage.put(key, body)

        assert stat.size == 100_000
        assert storage.get(key).data == pattern(100_000)

    def test_empty_file_can_be_put(self, storage: Storage, key: PhysicalKey) -> None:
        assert storage.put(key, io.BytesIO()).size == 0
        assert storage.get(key).data == b""

    def test_etag_is_consistent(self, storage: Storage, key: PhysicalKey) -> None:
        etag = storage.put(key, b"hello").etag

        assert etag == storage.get(key).etag == storage.stat(key).etag

    def test_version_is_consistent(self, storage: Storage, key: PhysicalKey) -> None:
        written = storage.put(key, b"one")

        assert storage.get(key).key == storage.get(written.key).key == storage.stat(key).key == written.key

    def test_other_bytes_change_etag(self, storage: Storage, key: PhysicalKey) -> None:
        etags = [storage.put(key, f"{number:064}".encode()).etag for number in range(20)]

        assert len(set(etags)) == 20

    def test_put_overwrites_object(self, storage: Storage, key: PhysicalKey) -> None:
        storage.put(key, b"one")
        storage.put(key, b"two", "overwrite")

        assert storage.get(key).data == b"two"

    def test_get_refuses_large_object(self, tight: Storage, key: PhysicalKey) -> None:
        tight.put(key, b"0123456789")
        assert tight.get(key).data == b"0123456789"
        tight.put(key, b"0123456789+")
        with pytest.raises(ObjectTooLargeError, match="it has 11 bytes, and no more than 10 ") as caught:
            tight.get(key, 1024)
        with pytest.raises(ObjectTooLargeError, match="it has 11 bytes, and no more than 3 "):
            tight.get(key, 3)

        assert (caught.value.location, caught.value.transient) == (str(key), False)
        assert b"".join(tight.stream(key, 0, 11)) == b"0123456789+"

    # Ranges.

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, 1), (0, 10), (3, 7), (9, 10), (0, 0), (5, 5)],
        ids=["first", "all", "middle", "last", "nothing", "nothing-inside"],
    )
    def test_range_ends_at_stop(self, storage: Storage, key: PhysicalKey, start: int, stop: int) -> None:
        storage.put(key, b"0123456789")

        assert b"".join(storage.stream(key, start, stop)) == b"0123456789"[start:stop]

    @pytest.mark.parametrize(("start", "stop"), [(5, 100), (10, 20), (50, 60)], ids=["across", "at-the-end", "beyond"])
    def test_short_object_ends_range(self, storage: Storage, key: PhysicalKey, start: int, stop: int) -> None:
        storage.put(key, b"0123456789")

        assert b"".join(storage.stream(key, start, stop)) == b"0123456789"[start:stop]

    def test_large_range_is_chunked(self, storage: Storage, key: PhysicalKey) -> None:
        data = pattern(4 * MIB)
        storage.put(key, data)
        chunks = list(storage.stream(key, 1, 4 * MIB - 1))

        assert b"".join(chunks) == data[1:-1]
        assert max(map(len, chunks)) <= MIB

    # Conditions.

    def test_create_writes_new_object(self, storage: Storage, key: PhysicalKey) -> None:
        storage.put(key, b"hello", "create")

        assert storage.get(key).data == b"hello"

    @pytest.mark.parametrize("data", [b"hello", b""], ids=["bytes", "empty"])
    def test_create_keeps_existing(self, storage: Storage, key: PhysicalKey, data: bytes) -> None:
        storage.put(key, data)
        with pytest.raises(PreconditionError):
            storage.put(key, b"other", "create")

        assert storage.get(key).data == data

    def test_create_works_after_delete(self, storage: Storage, key: PhysicalKey) -> None:
        storage.put(key, b"one", "create")
        storage.delete([key])
        storage.put(key, b"two", "create")

        assert storage.get(key).data == b"two"

    def test_if_match_overwrites(self, storage: Storage, key: PhysicalKey) -> None:
        storage.put(key, b"one")
        storage.put(key, b"two", IfMatch(storage.get(key).etag))

        assert storage.get(key).data == b"two"

    def test_stale_if_match_is_refused(self, storage: Storage, key: PhysicalKey) -> None:
        seen = storage.put(key, b"one").etag
        storage.put(key, b"two")
        with pytest.raises(PreconditionError):
            storage.put(key, b"six", IfMatch(seen))

        assert storage.get(key).data == b"two"

    def test_if_match_needs_an_object(self, storage: Storage, root: PhysicalKey) -> None:
        seen = storage.put(root.join("other"), b"one").etag
        with pytest.raises(PreconditionError):
            storage.put(root.join("never"), b"two", IfMatch(seen))
        with pytest.raises(ObjectNotFoundError):
            storage.get(root.join("never"))

    def test_if_match_fails_after_delete(self, storage: Storage, key: PhysicalKey) -> None:
        seen = storage.put(key, b"one").etag
        storage.delete([key])
        with pytest.raises(PreconditionError):
            storage.put(key, b"two", IfMatch(seen))
        with pytest.raises(ObjectNotFoundError):
            storage.get(key)

    def test_one_writer_creates(self, storage: Storage, key: PhysicalKey) -> None:
        bodies = [f"writer {number:02}".encode() for number in range(WRITERS)]
        outcomes = race([lambda body=body: storage.put(key, body, "create") for body in bodies])  # type: ignore[misc]
        winners = [body for body, outcome in zip(bodies, outcomes, strict=True) if outcome]

        assert len(winners) == 1
        assert storage.get(key).data == winners[0]

    def test_one_writer_replaces(self, storage: Storage, key: PhysicalKey) -> None:
        mode = IfMatch(storage.put(key, b"writer --").etag)
        bodies = [f"writer {number:02}".encode() for number in range(WRITERS)]
        outcomes = race([lambda body=body: storage.put(key, body, mode) for body in bodies])  # type: ignore[misc]
        winners = [body for body, outcome in zip(bodies, outcomes, strict=True) if outcome]

        assert len(winners) == 1
        assert storage.get(key).data == winners[0]

    def test_distinct_keys_all_succeed(self, storage: Storage, root: PhysicalKey) -> None:
        keys = [root.join(f"new/place/{number:02}") for number in range(WRITERS)]
        outcomes = race([lambda key=key: storage.put(key, str(key).encode(), "create") for key in keys])  # type: ignore[misc]

        assert all(outcomes)
        assert [storage.get(key).data for key in keys] == [str(key).encode() for key in keys]

    # Missing objects.

    @pytest.mark.parametrize(
        "read",
        [
            pytest.param(lambda storage, key: storage.get(key), id="get"),
            pytest.param(lambda storage, key: storage.stat(key), id="stat"),
            pytest.param(lambda storage, key: list(storage.stream(key, 0, 10)), id="stream"),
        ],
    )
    @pytest.mark.parametrize("name", ["never", "new/place/never", "deleted", "sub", "file.txt/below"])
    def test_missing_object_is_named(
        self, storage: Storage, root: PhysicalKey, read: Callable[[Storage, PhysicalKey], object], name: str
    ) -> None:
        for put in ("deleted", "sub/file.txt", "file.txt"):
            storage.put(root.join(put), b"hello")
        storage.delete([root.join("deleted")])
        with pytest.raises(ObjectNotFoundError) as caught:
            read(storage, root.join(name))

        assert caught.value.location == str(root.join(name))

    def test_refused_write_leaves_nothing(self, storage: Storage, root: PhysicalKey) -> None:
        storage.put(root.join("a"), b"one")
        with pytest.raises(PreconditionError):
            storage.put(root.join("a"), b"two", "create")
        with pytest.raises(PreconditionError):
            storage.put(root.join("a"), b"two", IfMatch("no such etag"))

        assert [stat.key for stat in storage.list_objects(root)] == [root.join("a")]

    # Listing.

    @pytest.mark.parametrize("mode", ["create", "overwrite"])
    def test_writer_tag_lasts_one_write(self, storage: Storage, key: PhysicalKey, mode: WriteMode) -> None:
        storage.put(key, b"x", mode, "pending work writer")
        assert (storage.get(key).data, storage.get(key).writer_tag) == (b"x", "pending work writer")

        storage.put(key, b"x", IfMatch(storage.get(key).etag), "published work writer")
        assert storage.get(key).writer_tag == "published work writer"
        storage.put(key, b"x")
        assert storage.get(key).writer_tag is None

    def test_probe_keeps_the_object(self, storage: Storage, key: PhysicalKey) -> None:
        before = storage.put(key, b"x", writer_tag="a mark")

        assert storage.supports_conditional_writes(key, b"x")
        assert storage.stat(key).etag == before.etag
        assert storage.get(key).writer_tag == "a mark"

    def test_listing_is_recursive(self, storage: Storage, root: PhysicalKey) -> None:
        sizes = {"d/a.txt": 1, "d/b/c/d.txt": 2, "d/.hidden": 3, "d/empty": 0}
        stats = {name: storage.put(root.join(name), b"x" * size) for name, size in sizes.items()}
        for name in ("e", "da.txt", "d.txt"):
            storage.put(root.join(name), b"no")
        found = {stat.key: stat for stat in storage.list_objects(root.join("d/"))}

        assert found.keys() == {root.join(name) for name in sizes}
        for name, size in sizes.items():
            assert found[root.join(name)].size == size
            assert found[root.join(name)].etag == stats[name].etag

    def test_names_are_one_level_deep(self, storage: Storage, root: PhysicalKey) -> None:
        for name in ("d/a", "d/b/c", "d/b/d/e", "d/b0/x", "d/c/f", "d.txt", "da/g"):
            storage.put(root.join(name), b"x")

        assert sorted(storage.list_names(root.join("d/"))) == ["a", "b/", "b0/", "c/"]
        assert list(storage.list_names(root.join("d/c/"))) == ["f"]
        assert list(storage.list_names(root.join("no/such/place/"))) == []
        assert not storage.remove_directory(root.join("d/c/"))
        storage.delete([root.join("d/c/f"), root.join("d/a")])
        assert sorted(storage.list_names(root.join("d/"))) == ["b/", "b0/"]

    def test_empty_prefix_lists_nothing(self, storage: Storage, root: PhysicalKey) -> None:
        assert list(storage.list_objects(root.join("no/such/place/"))) == []

    def test_deleted_key_is_not_listed(self, storage: Storage, root: PhysicalKey) -> None:
        for name in ("d/a", "d/b"):
            storage.put(root.join(name), b"x")
        storage.delete([root.join("d/a")])

        assert [stat.key for stat in storage.list_objects(root.join("d/"))] == [root.join("d/b")]

    @pytest.mark.parametrize(
        ("after", "left"), [("", 4), ("0", 4), ("10", 3), ("105", 3), ("11", 2), ("k", 1), ("latest", 0), ("z", 0)]
    )
    def test_listing_starts_after_key(self, storage: Storage, root: PhysicalKey, after: str, left: int) -> None:
        names = ["10", "11", "12", "latest"]
        for name in (*(f"d/{name}" for name in names), "c/99", "e/99"):
            storage.put(root.join(name), b"x")
        found = {stat.key for stat in storage.list_objects(root.join("d/"), after)}

        assert found == {root.join(f"d/{name}") for name in names[len(names) - left :]}

    def test_rewrite_changes_written(self, storage: Storage, root: PhysicalKey, key: PhysicalKey) -> None:
        told = set()
        for _ in range(3):
            storage.put(key, b"x")
            (stat,) = storage.list_objects(root)
            assert not stat.written or stat.written not in told
            told.add(stat.written)

    # Deleting.

    def test_delete_keeps_other_keys(self, storage: Storage, root: PhysicalKey) -> None:
        keys = [root.join(f"d/{number}") for number in range(5)]
        for key in keys:
            storage.put(key, b"x")
        storage.delete(keys[:3])

        assert {stat.key for stat in storage.list_objects(root.join("d/"))} == set(keys[3:])

    def test_delete_of_missing_succeeds(self, storage: Storage, root: PhysicalKey, key: PhysicalKey) -> None:
        storage.put(key, b"x")
        storage.delete([root.join("never"), root.join("no/such/place"), key])
        storage.delete([key])
        storage.delete([])

        assert list(storage.list_objects(root)) == []

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_name_round_trips(self, storage: Storage, root: PhysicalKey, name: str) -> None:
        key = root.join(f"d/{name}")
        etag = storage.put(key, b"hello", "create").etag

        assert storage.get(key).data == b"hello"
        assert b"".join(storage.stream(key, 1, 3)) == b"el"
        assert storage.stat(key).key.at_version(None) == key
        assert [(stat.key, stat.etag) for stat in storage.list_objects(root.join("d/"))] == [(key, etag)]
        assert list(storage.list_names(root.join("d/"))) == [f"{name.partition('/')[0]}/" if "/" in name else name]
        assert PhysicalKey.parse(str(key)) == key
        storage.delete([key])
        assert list(storage.list_objects(root.join("d/"))) == []

    def test_odd_directories_are_listed(self, storage: Storage, root: PhysicalKey) -> None:
        names = {str(each.values[0]).partition("/")[0] for each in ODD_NAMES}
        for name in names:
            storage.put(root.join(f"d/{name}/x"), b"")

        assert sorted(storage.list_names(root.join("d/"))) == sorted(f"{name}/" for name in names)


class FileStoreContract(StorageContract):
    """The contract of the stores that packages are installed to."""

    def test_writes_come_in_any_order(self, storage: FileStore, key: PhysicalKey) -> None:
        data = pattern(4 * MIB + 17)
        edges = [*range(0, len(data), 300_007), len(data)]
        file = storage.create(key, len(data))

        def write(part: tuple[int, int]) -> None:
            start, stop = part
            file.write(start, [data[start : start + 1], b"", data[start + 1 : stop]])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, reversed(list(itertools.pairwise(edges)))))
        file.complete()

        assert storage.stat(key).size == len(data)
        assert storage.get(key).data == data

    def test_empty_file_is_created(self, storage: FileStore, key: PhysicalKey) -> None:
        storage.create(key, 0).complete()

        assert storage.get(key).data == b""

    @pytest.mark.parametrize("chunks", [[], [b""]], ids=["none", "empty"])
    def test_empty_write_changes_nothing(self, storage: FileStore, key: PhysicalKey, chunks: list[bytes]) -> None:
        file = storage.create(key, 5)
        file.write(0, [b"hello"])
        file.write(3, chunks)
        file.complete()

        assert storage.get(key).data == b"hello"

    def test_write_may_be_repeated(self, storage: FileStore, key: PhysicalKey) -> None:
        file = storage.create(key, 10)
        file.write(5, [b"wrong"])
        file.write(0, [b"first"])
        file.write(5, [b"again"])
        file.complete()

        assert storage.get(key).data == b"firstagain"

    def test_file_appears_on_complete(self, storage: FileStore, root: PhysicalKey, key: PhysicalKey) -> None:
        file = storage.create(key, 5)
        file.write(0, [b"hello"])

        assert list(storage.list_objects(root)) == []
        with pytest.raises(ObjectNotFoundError):
            storage.stat(key)
        file.complete()
        assert [(stat.key, stat.size) for stat in storage.list_objects(root)] == [(key, 5)]

    def test_old_object_until_complete(self, storage: FileStore, key: PhysicalKey) -> None:
        before = storage.put(key, b"before")
        file = storage.create(key, 5)
        file.write(0, [b"after"])

        assert storage.stat(key).etag == before.etag
        assert storage.get(key).data == b"before"
        file.complete()
        assert storage.get(key).data == b"after"

    @pytest.mark.parametrize("existing", [None, b"before"], ids=["nothing-there", "a-file-there"])
    @pytest.mark.parametrize("parts", [0, 1, 2])
    def test_abort_keeps_old_object(
        self, storage: FileStore, root: PhysicalKey, key: PhysicalKey, parts: int, existing: bytes | None
    ) -> None:
        if existing is not None:
            storage.put(key, existing)
        before = [(stat.key, stat.etag) for stat in storage.list_objects(root)]
        file = storage.create(key, 10)
        for part in range(parts):
            file.write(5 * part, [b"hello"])
        file.abort()

        assert [(stat.key, stat.etag) for stat in storage.list_objects(root)] == before

    def test_repeated_abort_is_harmless(self, storage: FileStore, root: PhysicalKey, key: PhysicalKey) -> None:
        dropped, kept = storage.create(root.join("dropped"), 5), storage.create(key, 5)
        kept.write(0, [b"hello"])
        kept.complete()
        for file in (dropped, dropped, kept):
            file.abort()

        assert [stat.key for stat in storage.list_objects(root)] == [key]
        assert storage.get(key).data == b"hello"

    def test_create_makes_directories(self, storage: FileStore, root: PhysicalKey) -> None:
        key = root.join("new/deep/place/file")
        storage.create(key, 0).complete()

        assert [stat.key for stat in storage.list_objects(root)] == [key]

    def test_source_error_is_raised(self, storage: FileStore, root: PhysicalKey, key: PhysicalKey) -> None:
        file = storage.create(key, 10)
        chunks = verify_stream([b"hello"], 5, hash_of(b"other"), "here")
        with pytest.raises(EntryDamagedError, match="^here: "):
            file.write(0, chunks)
        file.abort()

        assert list(storage.list_objects(root)) == []

    def test_last_complete_wins(self, storage: FileStore, root: PhysicalKey, key: PhysicalKey) -> None:
        one, other = storage.create(key, 3), storage.create(key, 5)
        one.write(0, [b"one"])
        other.write(0, [b"other"])
        one.complete()
        assert storage.get(key).data == b"one"
        other.complete()

        assert [(stat.key, stat.size) for stat in storage.list_objects(root)] == [(key, 5)]
        assert storage.get(key).data == b"other"

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_name_is_created(self, storage: FileStore, root: PhysicalKey, name: str) -> None:
        key = root.join(f"d/{name}")
        file = storage.create(key, 5)
        file.write(0, [b"hello"])
        file.complete()

        assert [stat.key for stat in storage.list_objects(root)] == [key]
        assert storage.get(key).data == b"hello"


class ObjectStoreContract(StorageContract):
    """The contract of the stores that packages are pushed to."""

    lists_digests: ClassVar = True
    """Whether the store lists the digests of the parts of an upload, as S3 does."""

    @pytest.fixture
    def key(self, root: PhysicalKey) -> PhysicalKey:
        return root.join("object.bin")

    # Versions.

    def test_every_put_is_a_version(self, storage: ObjectStore, key: PhysicalKey) -> None:
        one, two = storage.put(key, b"one").key, storage.put(key, b"second").key

        assert one.version_id
        assert two.version_id
        assert one != two
        assert storage.get(key).data == storage.get(two).data == b"second"
        assert storage.get(one).data == b"one"
        assert b"".join(storage.stream(one, 0, 3)) == b"one"
        assert (storage.stat(one).key, storage.stat(one).size) == (one, 3)
        assert storage.stat(key).key == two

    def test_write_ignores_key_version(self, storage: ObjectStore, key: PhysicalKey) -> None:
        one = storage.put(key, b"one").key
        other = storage.put(key.at_version(None).join("other"), b"other")  # S3 copies no object onto itself.
        writes = [
            storage.put(one, b"two"),
            storage.upload(one, b"two", digest(b"two")),
            storage.copy(storage.stat(other.key), one),
        ]

        assert len({one, *(stat.key for stat in writes)}) == 4
        assert storage.get(one).data == b"one"

    def test_version_outlives_delete(self, storage: ObjectStore, key: PhysicalKey) -> None:
        one = storage.put(key, b"one").key
        storage.delete([key])

        assert storage.get(one).data == b"one"
        assert storage.stat(one).key == one

    @pytest.mark.parametrize("existing", [True, False], ids=["object-there", "object-not-there"])
    def test_unknown_version_is_missing(self, storage: ObjectStore, root: PhysicalKey, *, existing: bool) -> None:
        stranger = storage.put(root.join("other"), b"x").key.version_id
        key = root.join("object")
        if existing:
            storage.put(key, b"one")

        with pytest.raises(ObjectNotFoundError):
            storage.stat(key.at_version(stranger))
        with pytest.raises(ObjectNotFoundError):
            storage.get(key.at_version(stranger))

    def test_unversioned_has_no_ids(self, storage: ObjectStore, plain_root: PhysicalKey) -> None:
        key = plain_root.join("object")
        upload = storage.begin(key)
        upload.send(1, b"one", digest(b"one"))
        stats = [
            upload.complete(),
            storage.put(key, b"one"),
            storage.upload(key, b"two", digest(b"two")),
            storage.stat(key),
            storage.copy(storage.stat(key), plain_root.join("copy")),
            *storage.list_objects(plain_root),
            *storage.list_versions(plain_root),
        ]

        assert len(stats) == 9
        assert [stat.key.version_id for stat in stats] == [None] * 9
        assert storage.get(key).data == storage.get(plain_root.join("copy")).data == b"two"

    def test_unversioned_delete_is_final(self, storage: ObjectStore, plain_root: PhysicalKey) -> None:
        storage.put(plain_root.join("object"), b"one")
        storage.delete([plain_root.join("object")])

        with pytest.raises(ObjectNotFoundError):
            storage.stat(plain_root.join("object"))
        assert list(storage.list_versions(plain_root)) == []

    def test_null_is_a_version(
        self, storage: ObjectStore, late_root: PhysicalKey, set_versioning: Callable[[Literal["Enabled", "Suspended"]], None]
    ) -> None:
        """``null`` names an object from before versioning, or from while it is suspended (S3 User Guide, "Using versioning")."""
        key = late_root.join("object")
        null = key.at_version("null")
        assert storage.put(key, b"one").key == storage.stat(key).key == key
        assert [stat.key for stat in storage.list_versions(late_root)] == [key]

        set_versioning("Enabled")
        assert storage.stat(key).key == storage.stat(null).key == storage.get(key).key == storage.get(null).key == null
        assert storage.stat(key) == storage.stat(null)
        assert [stat.key for stat in storage.list_versions(late_root)] == [null]
        second = storage.put(key, b"second").key
        assert second.is_immutable
        assert not null.is_immutable
        assert [stat.key for stat in storage.list_versions(late_root)] == [second]
        copied = storage.copy(storage.stat(null), late_root.join("copy"))
        upload = storage.begin(late_root.join("parts"))
        upload.copy(1, storage.stat(null), 0, 3)
        for made in (null, copied.key, upload.complete().key):
            assert storage.get(made).data == b"".join(storage.stream(made, 0, 10)) == b"one"

        set_versioning("Suspended")
        for path, others in (("object", [second]), ("new", [])):
            key = late_root.join(path)
            null = key.at_version("null")
            assert storage.put(key, b"third").key in {key, null}  # Amazon S3 answers without it, and a pointer needs none.
            storage.put(key, b"fourth")
            assert storage.get(null).data == b"fourth"
            assert [storage.get(other).data for other in others] == [b"second"] * len(others)
        upload = storage.begin(late_root.join("in parts"))
        upload.send(1, b"one", digest(b"one"))
        copied, sent = late_root.join("copied"), late_root.join("sent")
        written = [storage.copy(storage.stat(null), copied), storage.upload(sent, b"one", digest(b"one")), upload.complete()]
        assert [stat.key.version_id for stat in written] == ["null"] * 3
        assert storage.stat(key).key == storage.get(key).key == null
        assert null in [stat.key for stat in storage.list_versions(late_root)]
        storage.delete([key])
        with pytest.raises(ObjectNotFoundError):
            storage.stat(null)

    # Current versions.

    def test_current_versions_are_listed(self, storage: ObjectStore, root: PhysicalKey) -> None:
        storage.put(root.join("d/a"), b"old")
        storage.put(root.join("d/deleted"), b"x")
        storage.put(root.join("d/back"), b"old")
        storage.delete([root.join("d/deleted"), root.join("d/back")])
        current = [storage.put(root.join(f"d/{name}"), name.encode()) for name in ("a", "back", "sub/c")]
        storage.put(root.join("da"), b"no")
        found = list(storage.list_versions(root.join("d/")))

        assert {stat.key for stat in found} == {stat.key for stat in current}
        assert {(stat.key, stat.size, stat.etag) for stat in found} == {(stat.key, stat.size, stat.etag) for stat in current}

    def test_empty_prefix_has_no_versions(self, storage: ObjectStore, root: PhysicalKey) -> None:
        assert list(storage.list_versions(root.join("no/such/"))) == []

    # Checksums.

    @pytest.mark.parametrize("data", [b"hello", b"", pattern(2 * MIB)], ids=["small", "empty", "large"])
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_digest_becomes_checksum(
        self, storage: ObjectStore, key: PhysicalKey, algorithm: StoreAlgorithm, data: bytes
    ) -> None:
        uploaded = storage.upload(key, data, DIGESTS[algorithm](data), algorithm)
        stat = storage.stat(key)

        assert uploaded == stat
        assert stat.key.version_id
        assert (stat.size, told(stat, algorithm)) == (len(data), in_base64(DIGESTS[algorithm](data)))
        assert storage.get(key).data == b"".join(storage.stream(key, 0, len(data))) == data

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_wrong_digest_is_refused(self, storage: ObjectStore, key: PhysicalKey, algorithm: StoreAlgorithm) -> None:
        with pytest.raises(ChecksumMismatchError) as caught:
            storage.upload(key, b"hello", DIGESTS[algorithm](b"other"), algorithm)

        assert str(key) in str(caught.value)
        with pytest.raises(ObjectNotFoundError):
            storage.stat(key)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_wrong_digest_keeps_object(self, storage: ObjectStore, key: PhysicalKey, algorithm: StoreAlgorithm) -> None:
        before = storage.put(key, b"before").key
        with pytest.raises(ChecksumMismatchError):
            storage.upload(key, b"hello", DIGESTS[algorithm](b"other"), algorithm)

        assert storage.stat(key).key == before

    def test_plain_put_has_no_sha256(self, storage: ObjectStore, key: PhysicalKey) -> None:
        storage.put(key, b"hello")

        assert storage.stat(key).sha256 is None

    def test_plain_put_may_have_a_crc(self, storage: ObjectStore, key: PhysicalKey) -> None:
        storage.put(key, b"hello")

        assert storage.stat(key).crc64nvme in {None, in_base64(crc(b"hello"))}

    @pytest.mark.parametrize("size", [0, 5, 8 * MIB, 8 * MIB + 1])
    def test_sha256_proves_one_part(self, storage: ObjectStore, key: PhysicalKey, size: int) -> None:
        data = pattern(size)
        storage.upload(key, data, digest(data))
        stat = storage.stat(key)

        assert stat.proven(CHUNKED) == (hash_of(data) if size <= 8 * MIB else None)
        assert stat.proven(SHA256) == hash_of(data, SHA256)
        assert stat.proven(CRC64NVME) in {None, hash_of(data, CRC64NVME)}
        assert not stat.contradicts(hash_of(data))
        assert stat.contradicts(hash_of(b"other", SHA256))

    @pytest.mark.parametrize("size", [0, 5, 8 * MIB + 1])
    def test_crc_proves_only_crc(self, storage: ObjectStore, key: PhysicalKey, size: int) -> None:
        data = pattern(size)
        storage.upload(key, data, crc(data), "CRC64NVME")
        stat = storage.stat(key)

        assert stat.proven(CRC64NVME) == hash_of(data, CRC64NVME)
        assert stat.proven(CHUNKED) is None
        assert stat.proven(SHA256) is None
        assert stat.contradicts(hash_of(b"other", CRC64NVME))
        assert not stat.contradicts(hash_of(b"other", SHA256))

    # Copies.

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_copy_has_own_version(self, storage: ObjectStore, root: PhysicalKey, algorithm: StoreAlgorithm) -> None:
        source = storage.upload(root.join("source"), b"hello", DIGESTS[algorithm](b"hello"), algorithm)
        copied = storage.copy(source, root.join("copy"), algorithm)

        assert copied.key.at_version(None) == root.join("copy")
        assert copied.key.version_id
        assert (copied.size, told(copied, algorithm)) == (5, in_base64(DIGESTS[algorithm](b"hello")))
        assert storage.get(copied.key).data == b"hello"
        assert storage.stat(root.join("copy")).key == copied.key

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_copy_checksum_may_be_none(self, storage: ObjectStore, root: PhysicalKey, algorithm: StoreAlgorithm) -> None:
        """S3 and LocalStack compute the checksum that was asked for; SeaweedFS copies those that the source has."""
        storage.put(root.join("source"), b"hello")
        copied = storage.copy(storage.stat(root.join("source")), root.join("copy"), algorithm)

        assert told(copied, algorithm) in {None, in_base64(DIGESTS[algorithm](b"hello"))}

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_copy_may_change_algorithm(self, storage: ObjectStore, root: PhysicalKey, algorithm: StoreAlgorithm) -> None:
        """S3 and LocalStack compute the checksum that was asked for; SeaweedFS copies those that the source has."""
        (other,) = DIGESTS.keys() - {algorithm}
        source = storage.upload(root.join("source"), b"hello", DIGESTS[other](b"hello"), other)
        copied = storage.copy(source, root.join("copy"), algorithm)

        assert copied.size == 5
        assert all(told(copied, each) in {None, in_base64(DIGESTS[each](b"hello"))} for each in ALGORITHMS)
        assert storage.get(copied.key).data == b"hello"

    def test_old_version_can_be_copied(self, storage: ObjectStore, root: PhysicalKey) -> None:
        old = storage.put(root.join("source"), b"old")
        storage.put(root.join("source"), b"newer")
        copied = storage.copy(old, root.join("copy"))

        assert storage.get(copied.key).data == b"old"

    def test_changed_source_is_not_copied(self, storage: ObjectStore, root: PhysicalKey) -> None:
        storage.put(root.join("source"), b"seen")
        (seen,) = storage.list_objects(root.join("source"))
        storage.put(root.join("source"), b"changed")
        with pytest.raises(PreconditionError):
            storage.copy(seen, root.join("copy"))
        with pytest.raises(ObjectNotFoundError):
            storage.stat(root.join("copy"))

    def test_missing_source_is_not_copied(self, storage: ObjectStore, root: PhysicalKey) -> None:
        storage.put(root.join("source"), b"seen")
        (seen,) = storage.list_objects(root.join("source"))
        storage.delete([root.join("source")])
        with pytest.raises(ObjectNotFoundError):
            storage.copy(seen, root.join("copy"))

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_name_is_copied(self, storage: ObjectStore, root: PhysicalKey, name: str) -> None:
        source = storage.upload(root.join(f"s/{name}"), b"hello", digest(b"hello"))
        copied = storage.copy(source, root.join(f"d/{name}"))
        upload = storage.begin(root.join(f"m/{name}"))
        upload.copy(1, source, 0, 5)
        completed = upload.complete()

        assert source.key.at_version(None) == root.join(f"s/{name}")
        for stat in (source, copied, completed):
            assert storage.get(stat.key).data == b"hello"
        assert {stat.key for stat in storage.list_versions(root)} == {source.key, copied.key, completed.key}

    # Uploads in parts.

    def test_parts_arrive_in_any_order(self, storage: ObjectStore, key: PhysicalKey) -> None:
        parts = [pattern(5 * MIB), pattern(5 * MIB, seed=1), pattern(1000, seed=2)]
        upload = storage.begin(key)
        for number in (3, 1, 2):
            upload.send(number, parts[number - 1], digest(parts[number - 1]))
        completed = upload.complete()
        stat = storage.stat(key)

        assert b"".join(storage.stream(completed.key, 0, 11 * MIB)) == b"".join(parts)
        assert completed.key.version_id
        assert completed.key == stat.key
        assert stat.size == 10 * MIB + 1000
        assert stat.sha256 == in_base64(digest(b"".join(map(digest, parts)))) + "-3"
        assert stat.proven(CHUNKED) is None

    def test_part_sizes_are_listed(self, storage: ObjectStore, key: PhysicalKey) -> None:
        upload = storage.begin(key)
        for number, size in enumerate((6 * MIB, 5 * MIB, 1000), 1):
            upload.send(number, part := pattern(size, seed=number), digest(part))
        stat = storage.stat(upload.complete().key)

        assert list(storage.part_sizes(stat)) == [6 * MIB, 5 * MIB, 1000]

    def test_single_part_has_no_sizes(self, storage: ObjectStore, key: PhysicalKey) -> None:
        stat = storage.upload(key, b"data", digest(b"data"))

        assert list(storage.part_sizes(stat)) in ([], [4])

    def test_crc_covers_whole_object(self, storage: ObjectStore, key: PhysicalKey) -> None:
        parts = [pattern(5 * MIB), pattern(5 * MIB, seed=1), pattern(1000, seed=2)]
        upload = storage.begin(key, "CRC64NVME")
        for number in (3, 1, 2):
            upload.send(number, parts[number - 1], crc(parts[number - 1]))
        completed = upload.complete()
        stat = storage.stat(key)
        data = b"".join(parts)

        assert b"".join(storage.stream(completed.key, 0, 11 * MIB)) == data
        assert completed == stat
        assert (stat.size, stat.crc64nvme, stat.sha256) == (len(data), in_base64(crc(data)), None)
        assert stat.proven(CRC64NVME) == hash_of(data, CRC64NVME)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_complete_agrees_with_stat(self, storage: ObjectStore, key: PhysicalKey, algorithm: StoreAlgorithm) -> None:
        upload = storage.begin(key, algorithm)
        upload.send(1, b"hello", DIGESTS[algorithm](b"hello"))

        assert upload.complete() == storage.stat(key)

    def test_threads_may_send_parts(self, storage: ObjectStore, key: PhysicalKey) -> None:
        parts = [pattern(5 * MIB, seed) for seed in range(4)]
        upload = storage.begin(key)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda item: upload.send(item[0], item[1], digest(item[1])), enumerate(parts, 1)))
        upload.complete()

        assert b"".join(storage.stream(key, 0, 20 * MIB)) == b"".join(parts)

    def test_part_may_be_sent_again(self, storage: ObjectStore, key: PhysicalKey) -> None:
        upload = storage.begin(key)
        upload.send(1, b"first try", digest(b"first try"))
        upload.send(1, b"second try", digest(b"second try"))
        upload.complete()

        assert storage.get(key).data == b"second try"

    def test_upload_appears_on_complete(
        self, storage: ObjectStore, root: PhysicalKey, key: PhysicalKey, open_uploads: Callable[[], Sequence[object]]
    ) -> None:
        before = storage.put(key, b"before").key
        upload = storage.begin(key)
        upload.send(1, b"after", digest(b"after"))

        assert len(open_uploads()) == 1
        assert storage.stat(key).key == before
        assert [stat.key for stat in storage.list_versions(root)] == [before]
        completed = upload.complete()
        assert len(open_uploads()) == 0
        assert storage.get(key).data == b"after"
        assert [stat.key for stat in storage.list_versions(root)] == [completed.key]

    @pytest.mark.parametrize("kind", ALGORITHMS)
    def test_unfinished_upload_resumes(self, storage: ObjectStore, key: PhysicalKey, kind: StoreAlgorithm) -> None:
        began = time.time()
        parts = [pattern(5 * MIB, 1), pattern(5 * MIB, 2), b"the end"]
        begun = storage.begin(key, kind)
        begun.send(1, parts[0], DIGESTS[kind](parts[0]))
        (upload,) = storage.unfinished(key, began - 60, kind)

        assert upload.has(1, parts[0], DIGESTS[kind](parts[0]))
        assert not upload.has(1, parts[1], DIGESTS[kind](parts[1]))
        assert not upload.has(2, parts[1], DIGESTS[kind](parts[1]))
        for number in (2, 3):
            upload.send(number, parts[number - 1], DIGESTS[kind](parts[number - 1]))
        stat = upload.complete()
        assert storage.get(stat.key).data == b"".join(parts)
        assert storage.unfinished(key, began - 60, kind) == []

    @pytest.mark.parametrize("kind", ALGORITHMS)
    def test_copied_part_is_recognized(
        self, storage: ObjectStore, key: PhysicalKey, root: PhysicalKey, kind: StoreAlgorithm
    ) -> None:
        """Find it by its size where the store lists its digest."""
        data = pattern(5 * MIB + 1, 1)
        source = storage.stat(storage.upload(root.join("the source"), data, digest(data)).key)
        told = storage.begin(key, kind).copy(1, source, 0, 5 * MIB)
        (upload,) = storage.unfinished(key, 0.0, kind)
        arrived = upload.arrived(1, 5 * MIB)

        assert arrived == (told if self.lists_digests else None)
        assert told == DIGESTS[kind](data[: 5 * MIB])
        assert (upload.arrived(1, 5 * MIB - 1), upload.arrived(2, 5 * MIB)) == (None, None)
        if not arrived:
            upload.copy(1, source, 0, 5 * MIB)
        upload.copy(2, source, 5 * MIB, len(data))
        assert storage.get(upload.complete().key).data == data

    def test_other_uploads_are_not_found(self, storage: ObjectStore, key: PhysicalKey, root: PhysicalKey) -> None:
        upload = storage.begin(key)

        assert storage.unfinished(key, time.time() + 60) == []
        assert storage.unfinished(root.join(key.name[:-1]), 0.0) == []
        upload.abort()
        assert storage.unfinished(key, 0.0) == []

    def test_foreign_abort_ends_upload(self, storage: ObjectStore, key: PhysicalKey) -> None:
        mine = storage.begin(key)
        (other,) = storage.unfinished(key, 0.0)
        other.abort()

        for call in (lambda: mine.send(1, b"x", digest(b"x")), mine.complete):
            with pytest.raises(UploadVanishedError):
                call()

    @pytest.mark.parametrize("parts", [0, 2])
    def test_abort_removes_the_upload(
        self, storage: ObjectStore, root: PhysicalKey, open_uploads: Callable[[], Sequence[object]], parts: int
    ) -> None:
        upload = storage.begin(root.join("object"))
        for number in range(1, parts + 1):
            upload.send(number, pattern(5 * MIB), digest(pattern(5 * MIB)))
        upload.abort()

        assert len(open_uploads()) == 0
        assert list(storage.list_objects(root)) == []
        with pytest.raises(ObjectNotFoundError):
            storage.stat(root.join("object"))

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_wrong_part_digest_is_refused(self, storage: ObjectStore, key: PhysicalKey, algorithm: StoreAlgorithm) -> None:
        upload = storage.begin(key, algorithm)
        with pytest.raises(ChecksumMismatchError) as caught:
            upload.send(1, b"hello", DIGESTS[algorithm](b"other"))
        upload.abort()

        assert str(key) in str(caught.value)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_parts_copy_from_an_object(
        self, storage: ObjectStore, root: PhysicalKey, key: PhysicalKey, algorithm: StoreAlgorithm
    ) -> None:
        data = pattern(6 * MIB)
        source = storage.upload(root.join("source"), data, DIGESTS[algorithm](data), algorithm)
        ranges = [(0, 5 * MIB), (5 * MIB, 6 * MIB)]
        upload = storage.begin(key, algorithm)
        digests = [upload.copy(number, source, start, stop) for number, (start, stop) in enumerate(ranges, 1)]
        completed = upload.complete()
        expected = [DIGESTS[algorithm](data[start:stop]) for start, stop in ranges]

        assert b"".join(storage.stream(completed.key, 0, 6 * MIB)) == data
        assert all(one in {None, other} for one, other in zip(digests, expected, strict=True))
        assert completed.crc64nvme in {None, in_base64(crc(data))}

    def test_changed_part_source_fails(self, storage: ObjectStore, root: PhysicalKey, key: PhysicalKey) -> None:
        storage.put(root.join("source"), b"seen")
        (seen,) = storage.list_objects(root.join("source"))
        storage.put(root.join("source"), b"else")
        upload = storage.begin(key)
        with pytest.raises(PreconditionError):
            upload.copy(1, seen, 0, 4)
        upload.abort()

        with pytest.raises(ObjectNotFoundError):
            storage.stat(key)

    def test_keys_beyond_xml_are_deleted(self, storage: ObjectStore, root: PhysicalKey) -> None:
        keys = [root.join(name) for name in ("a\x01b", "a\ufffe", "plain", "line\nline", "line\r")]
        for key in keys:
            storage.put(key, b"")

        assert sorted(storage.list_names(root)) == sorted(key.key.removeprefix(root.key) for key in keys)
        storage.delete(keys)
        assert list(storage.list_objects(root)) == []

    def test_directory_marker_is_no_name(self, storage: ObjectStore, root: PhysicalKey) -> None:
        """List a directory that only an empty object stands for; but not the name of that object in it."""
        marker = storage.put(root.join("d/"), b"").key.at_version(None)

        assert list(storage.list_names(root)) == ["d/"]
        assert list(storage.list_names(marker)) == []
        assert [stat.key for stat in storage.list_objects(marker)] == [marker]
        storage.delete([marker])
        assert list(storage.list_names(root)) == []

    def test_many_keys_list_and_delete(self, storage: ObjectStore, root: PhysicalKey) -> None:
        keys = [root.join(f"d/{number:04}/x") for number in range(1005)]
        with ThreadPoolExecutor(8) as pool:
            stats = list(pool.map(lambda key: storage.put(key, b""), keys))

        assert sorted(stat.key.key for stat in storage.list_objects(root)) == [key.key for key in keys]
        assert {stat.key for stat in storage.list_versions(root)} == {stat.key for stat in stats}
        assert sorted(storage.list_names(root.join("d/"))) == [f"{number:04}/" for number in range(1005)]
        storage.delete(keys)
        assert list(storage.list_objects(root)) == []
        assert list(storage.list_versions(root)) == []


def raised(call: Callable[[], Any]) -> Any:
    """Make a call, and read its result to the end where that is a stream."""
    answer = call()
    return list(answer) if isinstance(answer, Iterator) else answer
