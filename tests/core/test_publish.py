"""From a draft to a revision and away again: push, build and delete as a caller sees them."""

import hashlib
import io
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.checksums import Hash, StoreAlgorithm, hash_of, to_s3
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import (
    BucketNotFoundError,
    CancelledError,
    EmptyPackageError,
    EntryDamagedError,
    InputError,
    LocationError,
    LogicalKeyError,
    MetadataError,
    PackageNameError,
    PackageNotFoundError,
    QuiltError,
    RecordSizeError,
    RevisionConflictError,
    SourceError,
    StorageUnavailableError,
    TopHashError,
)
from airflow_quilt.core.locations import PhysicalKey, QuiltUri, RegistryLocation
from airflow_quilt.core.manifest import Entry, make_header, write_manifest
from airflow_quilt.core.names import LogicalKey, PackageName
from airflow_quilt.core.publish import Draft, Published
from airflow_quilt.core.push import push
from airflow_quilt.core.registry import Registry
from airflow_quilt.core.storage.base import Stores
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.core.faulty import Before, Fault, Recorder, objects
from tests.support import read, through

EMPTY_TOP_HASH = "2a5a67156ca9238c14d12042db51c5b52260fdd5511b61ea89b58929d6e1769b"
NAME = PackageName("team", "package")


def draft(entries: object, **more: Any) -> Draft:
    return Draft(**{"package": "team/package", "entries": entries, **more})


def put(memory: MemoryStorage, url: str, data: bytes, *, checksum: bool = True) -> PhysicalKey:
    """Store an object and return its key at its version."""
    told: dict[StoreAlgorithm, str] = {"SHA256": to_s3(hashlib.sha256(data).digest())} if checksum else {}
    return memory.store(PhysicalKey.parse(url), data, "overwrite", told).key


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(params=["memory", "local"])
def any_registry(request: pytest.FixtureRequest, registry: Registry, local_registry: Registry) -> Registry:
    """A registry in memory, and one on the disk."""
    return registry if request.param == "memory" else local_registry


def test_push_tells_what_it_published(registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
    put(memory, "s3://registry/data/here.txt", b"here")
    put(memory, "s3://source/there.txt", b"there!")
    path = write("file.txt", b"a file")
    published = push(
        registry,
        draft(
            {
                "here.txt": "s3://registry/data/here.txt",
                "there.txt": "s3://source/there.txt",
                "f/": str(path),
                "c.txt": b"content",
            }
        ),
    )

    assert published.registry == registry.location
    assert published.package == NAME
    assert (published.entries, published.bytes, published.bytes_copied) == (4, 4 + 6 + 6 + 7, 6 + 6 + 7)
    assert published.created
    assert published.revision in list(registry.revisions(NAME))
    assert published.revision.top_hash == published.top_hash
    assert published.uri == QuiltUri(registry=registry.location, package=NAME, top_hash=published.top_hash)


def test_push_copies_what_lies_elsewhere_and_names_the_copies(
    registry: Registry, memory: MemoryStorage, write: Callable[..., Path]
) -> None:
    put(memory, "s3://source/a/there.txt", b"there!")
    path = write("file.txt", b"a file")
    entries = read(
        registry, push(registry, draft({"x/there.txt": "s3://source/a/there.txt", "f/": str(path), "c.txt": b"content"}))
    )

    expected = {"x/there.txt": b"there!", "f/file.txt": b"a file", "c.txt": b"content"}
    assert {key: (entry.size, entry.hash) for key, entry in entries.items()} == {
        key: (len(data), hash_of(data)) for key, data in expected.items()
    }
    for key, data in expected.items():
        stat = memory.stat(PhysicalKey("registry", f"team/package/{key}"))
        assert entries[key].physical_keys == (str(stat.key),)
        assert stat.key.version_id is not None
        assert memory.get(stat.key).data == data


def test_push_leaves_objects_of_the_registrys_bucket_where_they_are(
    registry: Registry, memory: MemoryStorage, recorder: Recorder
) -> None:
    here = put(memory, "s3://registry/data/here.txt", b"here")
    published = push(through(registry, recorder), draft("s3://registry/data/"))

    assert read(registry, published)["here.txt"].physical_keys == (str(here),)
    assert published.bytes_copied == 0
    assert {call.operation for call in recorder.writes} == {"put"}
    assert {call.key.key.partition("/")[0] for call in recorder.writes} == {".quilt"}


def test_push_of_a_version_publishes_that_version(registry: Registry, memory: MemoryStorage) -> None:
    old = put(memory, "s3://source/a.txt", b"old")
    put(memory, "s3://source/a.txt", b"new")
    entries = read(registry, push(registry, draft({"a.txt": str(old)})))

    assert entries["a.txt"].hash == hash_of(b"old")
    assert memory.get(PhysicalKey.parse(entries["a.txt"].physical_keys[0])).data == b"old"


def test_push_of_an_unchanged_package_of_the_same_bucket_copies_nothing(registry: Registry, recorder: Recorder) -> None:
    first = push(registry, draft({"a.txt": b"one", "b.txt": b"two"}))
    again = push(through(registry, recorder), draft(str(first.uri), package="team/other"))

    assert again.bytes_copied == 0
    assert read(registry, again) == read(registry, first)
    assert recorder.of("upload", "copy", "begin") == []
    assert recorder.bytes_read == registry_manifest_size(registry, first)


def registry_manifest_size(registry: Registry, published: Published) -> int:
    return registry.stores.remote.stat(registry.location.root.join(f".quilt/packages/{published.top_hash}")).size


def test_the_same_push_again_makes_no_revision(registry: Registry) -> None:
    first = push(registry, draft({"a.txt": b"content"}, meta={"k": 1}, message="m"))
    again = push(registry, draft({"a.txt": b"content"}, meta={"k": 1}, message="m"))

    assert (again.created, again.top_hash, again.revision) == (False, first.top_hash, first.revision)
    assert list(registry.revisions(NAME)) == [first.revision]


def test_without_dedupe_the_same_content_makes_a_second_revision(any_registry: Registry, write: Callable[..., Path]) -> None:
    path = str(write("a.txt", b"content"))
    first = build(any_registry, draft({"a.txt": path}))
    again = build(any_registry, draft({"a.txt": path}, dedupe=False))

    assert (again.created, again.top_hash) == (True, first.top_hash)
    assert list(any_registry.revisions(NAME)) == [again.revision, first.revision]


def test_another_message_makes_another_revision_of_the_same_files(any_registry: Registry, write: Callable[..., Path]) -> None:
    path = str(write("a.txt", b"content"))
    first = build(any_registry, draft({"a.txt": path}, message="one"))
    second = build(any_registry, draft({"a.txt": path}, message="two"))

    assert second.created
    assert second.top_hash != first.top_hash
    assert [revision.top_hash for revision in any_registry.revisions(NAME)] == [second.top_hash, first.top_hash]


@pytest.mark.parametrize(
    ("more", "header"),
    [
        pytest.param({}, {"version": "v0", "message": None}, id="nothing"),
        pytest.param({"message": "é"}, {"version": "v0", "message": "é"}, id="message"),
        pytest.param({"meta": {}}, {"version": "v0", "user_meta": {}, "message": None}, id="empty metadata"),
        pytest.param(
            {"meta": {"k": [1.5, None]}}, {"version": "v0", "user_meta": {"k": [1.5, None]}, "message": None}, id="meta"
        ),
    ],
)
def test_message_and_metadata_are_in_the_header(any_registry: Registry, more: dict[str, Any], header: Mapping[str, Any]) -> None:
    published = build(any_registry, draft({}, allow_empty=True, **more))

    assert any_registry.read(NAME, published.top_hash).header == header


def test_metadata_of_an_entry_is_in_its_record(registry: Registry) -> None:
    published = push(registry, draft({"a.txt": {"content": "text", "meta": {"unit": "mm"}}}))

    assert read(registry, published)["a.txt"].meta == {"user_meta": {"unit": "mm"}}


def test_build_names_files_where_they_are(any_registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
    there = put(memory, "s3://source/there.txt", b"there!", checksum=False)
    path = write("d/file.txt", b"a file")
    before = objects(memory, "source")
    published = build(any_registry, draft({"d/": str(path.parent), "there.txt": "s3://source/there.txt"}))

    entries = read(any_registry, published)
    assert entries["d/file.txt"] == Entry(LogicalKey("d/file.txt"), (path.as_uri(),), 6, hash_of(b"a file"), {})
    assert entries["there.txt"] == Entry(LogicalKey("there.txt"), (str(there),), 6, hash_of(b"there!"), {})
    assert (published.entries, published.bytes, published.bytes_copied, published.created) == (2, 12, 0, True)
    assert objects(memory, "source") == before
    assert path.read_bytes() == b"a file"


def test_a_package_of_a_local_registry_has_a_uri_of_our_own(local_registry: Registry) -> None:
    published = build(local_registry, draft({}, allow_empty=True))

    assert str(published.uri) == f"quilt+{local_registry.location}#package=team/package@{published.top_hash}"


def test_push_and_build_of_the_same_bytes_have_the_same_top_hash(
    registry: Registry, local_registry: Registry, memory: MemoryStorage, write: Callable[..., Path]
) -> None:
    data = os.urandom(9 * 1024 * 1024)
    path = write("d/large.bin", data)
    put(memory, "s3://source/d/large.bin", data, checksum=False)
    drafts = [
        draft(str(path.parent)),
        draft("s3://source/d/", package="team/copy"),
        draft({"large.bin": data}, package="team/content"),
    ]

    hashes = {push(registry, each).top_hash for each in drafts}
    assert hashes == {build(local_registry, drafts[0]).top_hash}


def test_an_empty_package_is_published_only_when_that_is_allowed(any_registry: Registry) -> None:
    with pytest.raises(EmptyPackageError, match="allow_empty=True"):
        build(any_registry, draft({}))
    published = build(any_registry, draft({}, allow_empty=True))

    assert published.top_hash == EMPTY_TOP_HASH
    assert (published.entries, published.bytes) == (0, 0)
    assert list(any_registry.read(NAME).entries) == []


def test_an_empty_package_can_be_pushed(registry: Registry) -> None:
    assert push(registry, draft({}, allow_empty=True)).top_hash == EMPTY_TOP_HASH


@pytest.mark.parametrize("place", ["directory", "prefix"])
def test_a_source_without_files_is_refused_by_its_key_unless_allowed(registry: Registry, tmp_path: Path, place: str) -> None:
    (tmp_path / "nothing").mkdir()
    source = str(tmp_path / "nothing") if place == "directory" else "s3://source/nothing/"

    with pytest.raises(EmptyPackageError, match="'data/'"):
        push(registry, draft({"data/": source, "a.txt": b"x"}))
    assert push(registry, draft({"data/": source, "a.txt": b"x"}, allow_empty=True)).entries == 1


@pytest.mark.parametrize(
    ("dest", "place"),
    [
        pytest.param(None, "team/package/d/a.txt", id="default"),
        pytest.param("s3://registry/some/where", "some/where/d/a.txt", id="prefix"),
        pytest.param("s3://registry/some/where/", "some/where/d/a.txt", id="prefix with a slash"),
        pytest.param("s3://registry/some%20%C3%A9", "some é/d/a.txt", id="quoted"),
        pytest.param("s3://registry", "d/a.txt", id="the whole bucket"),
        pytest.param("s3://registry/", "d/a.txt", id="the whole bucket with a slash"),
        pytest.param("s3://registry/x.quilt", "x.quilt/d/a.txt", id="a name that only looks like the registry's own"),
        pytest.param("s3://registry/.quilts", ".quilts/d/a.txt", id="a longer name than the registry's own"),
    ],
)
def test_pushed_objects_land_under_dest(registry: Registry, memory: MemoryStorage, dest: str | None, place: str) -> None:
    published = push(registry, draft({"d/a.txt": b"content"}), dest)

    stat = memory.stat(PhysicalKey("registry", place))
    assert read(registry, published)["d/a.txt"].physical_keys == (str(stat.key),)


BAD_NAMES = [
    pytest.param("a", id="one part"),
    pytest.param("a/b/c", id="three parts"),
    pytest.param("a/b\n", id="newline"),
    pytest.param("../x", id="dots"),
    pytest.param("ä/b", id="not ASCII"),
    pytest.param("", id="empty"),
    pytest.param("/b", id="no namespace"),
    pytest.param("a/", id="no name"),
    pytest.param("a b/c", id="space"),
    pytest.param(".quilt/packages", id="the registry's own"),
    pytest.param(None, id="None"),
    pytest.param(7, id="number"),
    pytest.param(PackageName("a", "b"), id="a name object"),
]


@pytest.mark.parametrize("package", BAD_NAMES)
@pytest.mark.parametrize("publish", [push, build])
@pytest.mark.parametrize("dest", [None, "s3://registry/x"])
def test_a_bad_package_name_is_refused_before_anything_is_written(
    registry: Registry, recorder: Recorder, package: Any, publish: Callable[..., Published], dest: str | None
) -> None:
    more = {"dest": dest} if publish is push else {}

    with pytest.raises(PackageNameError, match="namespace/name"):
        publish(through(registry, recorder), Draft(package=package, entries="s3://source/data/"), **more)
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("dest", "message"),
    [
        pytest.param("s3://source/x", "s3://registry/", id="another bucket"),
        pytest.param("/data/x", "s3://registry/", id="a local path"),
        pytest.param("file:///data/x", "s3://registry/", id="a file URL"),
        pytest.param("s3://registry/x?versionId=v1", "version", id="a version"),
        pytest.param("s3://registry/.quilt", "own files", id="the registry's own area"),
        pytest.param("s3://registry/.quilt/", "own files", id="the registry's own area with a slash"),
        pytest.param("s3://registry/.quilt/named_packages/team", "own files", id="below the registry's own area"),
        pytest.param("s3://registry/%2Equilt/x", "own files", id="the registry's own area, quoted"),
        pytest.param("s3:///x", "no bucket", id="no bucket"),
        pytest.param("", "empty", id="empty"),
        pytest.param("https://registry/x", "expected s3://", id="another scheme"),
    ],
)
def test_a_dest_that_cannot_be_used_is_refused_before_anything_is_written(
    registry: Registry, recorder: Recorder, dest: str, message: str
) -> None:
    with pytest.raises(LocationError, match=message):
        push(through(registry, recorder), draft({"a.txt": b"content"}), dest)
    assert recorder.calls == []


def test_a_key_that_would_land_in_the_registrys_own_area_is_refused_before_anything_is_written(
    registry: Registry, recorder: Recorder
) -> None:
    entries = {"a.txt": b"content", ".quilt/named_packages/team/package/latest": b"x" * 64}

    with pytest.raises(LocationError, match=r"\.quilt/named_packages/team/package/latest"):
        push(through(registry, recorder), draft(entries), "s3://registry")
    assert recorder.writes == []
    assert push(registry, draft(entries)).entries == 2  # Below the package's own prefix the key does no harm.


@pytest.mark.parametrize("url", ["s3://registry/prefix", "s3://registry/prefix/", "s3://registry?versionId=1"])
def test_a_registry_is_a_whole_bucket(url: str) -> None:
    with pytest.raises(LocationError, match="whole bucket"):
        RegistryLocation.parse(url)


def test_push_to_a_local_registry_is_refused_and_names_build(local_registry: Registry, recorder: Recorder) -> None:
    with pytest.raises(LocationError, match="use build"):
        push(through(local_registry, recorder), draft({"a.txt": b"content"}))
    assert recorder.calls == []


@pytest.mark.parametrize("entries", [{"d/a.txt": b"x"}, {"d/a.txt": {"content": "x"}}, {"d/a.txt.json": {"k": 1}}])
def test_build_of_content_is_refused_and_names_the_key(any_registry: Registry, recorder: Recorder, entries: object) -> None:
    with pytest.raises(SourceError, match=r"'d/a\.txt.*content"):
        build(through(any_registry, recorder), draft(entries))
    assert recorder.writes == []


BAD_DRAFTS = [
    pytest.param({"conflict": "merge"}, InputError, "conflict 'merge'", id="unknown conflict"),
    pytest.param({"conflict": None}, InputError, "conflict None", id="no conflict"),
    pytest.param({"message": 7}, MetadataError, "message", id="message"),
    pytest.param({"meta": [1]}, MetadataError, "meta", id="metadata is a list"),
    pytest.param({"meta": {"k": float("nan")}}, MetadataError, r"meta\.k", id="metadata is not JSON"),
    pytest.param({"meta": {"k": "x" * 1_000_000}}, RecordSizeError, "metadata", id="metadata is too large"),
    pytest.param(
        {"entries": {"a": "s3://registry/data/a.txt", "a/b": "s3://registry/data/a.txt"}}, LogicalKeyError, "'a'", id="tree"
    ),
    pytest.param({"entries": {"../a": "s3://registry/data/a.txt"}}, LogicalKeyError, "'../a'", id="logical key"),
    pytest.param({"entries": {"a": None}}, SourceError, "'a'", id="None as a source"),
    pytest.param({"entries": None}, SourceError, "None", id="no entries"),
    pytest.param({"entries": {"a": 7}}, SourceError, "'a'", id="a number as a source"),
    pytest.param({"entries": {"a": "s3://source/absent"}}, SourceError, "'a'.*no file", id="absent object"),
    pytest.param({"entries": {"a": "/absent/file"}}, SourceError, "'a'.*no file", id="absent file"),
    pytest.param({"entries": {"a": "s3://registry/data/"}}, SourceError, "'a'.*directory", id="directory under a file's key"),
    pytest.param({"entries": {}}, EmptyPackageError, "no entries", id="empty package"),
    pytest.param(
        {"entries": {"a": {"path": "s3://source/b.txt", "meta": {"k": "x" * 1_000_000}}}},
        RecordSizeError,
        "'a'",
        id="long record",
    ),
    pytest.param({"entries": {"a": "s3://absent/a"}}, BucketNotFoundError, "s3://absent", id="absent bucket"),
    pytest.param(
        {"entries": "quilt+s3://registry#package=no/such"}, PackageNotFoundError, "no/such", id="absent package as a source"
    ),
]


@pytest.mark.parametrize(("more", "error", "message"), BAD_DRAFTS)
@pytest.mark.parametrize("publish", [push, build])
def test_what_cannot_be_published_is_refused_before_anything_is_written(
    registry: Registry,
    memory: MemoryStorage,
    more: dict[str, Any],
    error: type[QuiltError],
    message: str,
    publish: Callable[..., Published],
) -> None:
    put(memory, "s3://registry/data/a.txt", b"a")
    put(memory, "s3://source/b.txt", b"b")
    before = objects(memory, "registry", "source")
    recorder = Recorder()

    with pytest.raises(error, match=message):
        publish(through(registry, recorder), draft(**{"entries": {"x": "s3://source/b.txt"}, **more}))
    assert recorder.writes == []
    assert objects(memory, "registry", "source") == before


def test_a_record_that_only_its_copy_makes_too_long_is_refused_before_any_byte_moves(
    registry: Registry, memory: MemoryStorage, recorder: Recorder
) -> None:
    put(memory, "s3://source/b", b"b")
    room = 1_000_000 - 350
    entries = {"a": {"path": "s3://source/b", "meta": {"k": "x" * room}}}

    with pytest.raises(RecordSizeError, match="'a'"):
        push(through(registry, recorder), draft(entries), "s3://registry/" + "d" * 900)
    assert recorder.writes == []
    assert push(registry, draft(entries)).entries == 1


def test_latest_that_moves_during_the_push_is_a_conflict(registry: Registry) -> None:
    first = push(registry, draft({"a.txt": b"first"}))
    theirs: list[Published] = []
    racing = Before(lambda call: call.operation == "upload", lambda: theirs.append(push(registry, draft({"a.txt": b"theirs"}))))

    with pytest.raises(RevisionConflictError) as caught:
        push(through(registry, racing), draft({"a.txt": b"mine"}))
    assert (caught.value.expected, caught.value.found) == (first.top_hash, theirs[0].top_hash)
    assert list(registry.revisions(NAME)) == [theirs[0].revision, first.revision]


def test_latest_that_moves_during_the_push_is_overwritten_where_that_was_asked_for(registry: Registry) -> None:
    first = push(registry, draft({"a.txt": b"first"}))
    theirs: list[Published] = []
    racing = Before(lambda call: call.operation == "upload", lambda: theirs.append(push(registry, draft({"a.txt": b"theirs"}))))
    mine = push(through(registry, racing), draft({"a.txt": b"mine"}, conflict="overwrite"))

    assert list(registry.revisions(NAME)) == [mine.revision, theirs[0].revision, first.revision]
    assert registry.resolve(NAME) == mine.top_hash


@pytest.mark.parametrize("publish", [push, build])
@pytest.mark.parametrize("source", ["s3://source/data/", "s3://registry/data/", "quilt+s3://registry#package=team/base"])
def test_work_that_was_told_to_stop_publishes_nothing(
    registry: Registry, memory: MemoryStorage, publish: Callable[..., Published], source: str
) -> None:
    put(memory, "s3://source/data/a.txt", b"a")
    put(memory, "s3://registry/data/a.txt", b"a")
    build(registry, draft("s3://registry/data/", package="team/base"))
    stop = threading.Event()
    stop.set()

    with pytest.raises(CancelledError):
        publish(registry, draft(source), stop=stop)
    assert registry.latest(NAME) is None
    assert list(registry.revisions(NAME)) == []


def test_no_thread_stays_behind(registry: Registry, memory: MemoryStorage) -> None:
    for i in range(40):
        put(memory, f"s3://source/data/{i}", b"%d" % i)
    before = set(threading.enumerate())
    push(registry, draft("s3://source/data/"))
    push(registry, draft("s3://source/data/"))
    with pytest.raises(StorageUnavailableError):
        push(through(registry, Fault(30)), draft("s3://source/data/"))
    delete(registry, "team/package")

    assert set(threading.enumerate()) <= before


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_push_logs_what_it_is_about_to_do_and_what_it_published(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    published = push(registry, draft({"a.txt": b"12345", "b.bin": bytes(2048)}))

    lines = messages(caplog)
    assert lines[0] == "Pushing team/package to s3://registry: 2 entries, 2.0 KiB, 2.0 KiB to copy"
    assert lines[-1] == f"Published quilt+s3://registry#package=team/package@{published.top_hash}"


def test_an_unchanged_push_says_so(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    published = push(registry, draft({"a.txt": b"12345"}))
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    push(registry, draft({"a.txt": b"12345"}))

    lines = messages(caplog)
    assert lines[0] == "Pushing team/package to s3://registry: 1 entry, 5 B, 5 B to copy"
    assert lines[-1] == f"Unchanged, no new revision: {published.uri}"


def test_build_logs_that_it_copies_nothing(
    local_registry: Registry, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    published = build(local_registry, draft({"a.txt": str(write("a.txt", b"12345"))}))

    lines = messages(caplog)
    assert lines[0] == f"Building team/package to {local_registry.location}: 1 entry, 5 B, 0 B to copy"
    assert lines[-1] == f"Published {published.uri}"
    assert messages(caplog, logging.WARNING) == []


def test_build_of_local_files_into_a_remote_registry_warns_how_many_only_this_machine_can_read(
    registry: Registry, memory: MemoryStorage, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    put(memory, "s3://source/b.txt", b"b")
    write("d/one")
    directory = write("d/two").parent
    published = build(registry, draft({"d/": str(directory), "b.txt": "s3://source/b.txt"}))

    (warning,) = messages(caplog, logging.WARNING)
    assert warning.startswith("2 of the 3 entries of team/package are files of this machine")
    assert published.created


def test_build_of_objects_alone_warns_of_nothing(
    registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    put(memory, "s3://source/b.txt", b"b")
    build(registry, draft({"b.txt": "s3://source/b.txt"}))

    assert messages(caplog, logging.WARNING) == []


def test_nothing_of_the_content_or_the_metadata_is_logged(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    push(registry, draft({"a.txt": b"SECRET-CONTENT"}, meta={"k": "SECRET-META"}))

    assert "SECRET" not in caplog.text


def three(registry: Registry) -> list[str]:
    """Publish three revisions; return their top hashes, newest first."""
    return [build(registry, draft({}, allow_empty=True, message=str(i))).top_hash for i in range(3)][::-1]


def test_delete_of_a_revision_tells_it_and_keeps_the_others(any_registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    hashes = three(any_registry)
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    caplog.clear()
    deleted = delete(any_registry, "team/package", hashes[0][:10])

    assert [revision.top_hash for revision in deleted] == hashes[:1]
    assert [revision.top_hash for revision in any_registry.revisions(NAME)] == hashes[1:]
    assert any_registry.resolve(NAME) == hashes[1]
    (line,) = messages(caplog)
    assert line.startswith(f"Deleted 1 revision of team/package from {any_registry.location}")


def test_delete_of_a_package_leaves_data_and_manifests(registry: Registry, memory: MemoryStorage) -> None:
    push(registry, draft({"a.txt": b"content"}))
    before = {url: data for url, data in objects(memory, "registry").items() if "named_packages" not in url}
    (deleted,) = delete(registry, "team/package")

    assert objects(memory, "registry") == before
    assert len(before) == 2
    assert list(registry.read(NAME, deleted.top_hash).entries) != []
    assert list(registry.packages()) == []


@pytest.mark.parametrize("top_hash", [None, "0" * 64, "012345"], ids=["package", "revision", "short"])
def test_delete_of_what_is_gone_is_an_error_unless_that_is_fine(
    any_registry: Registry, caplog: pytest.LogCaptureFixture, top_hash: str | None
) -> None:
    caplog.set_level(logging.INFO, logger="airflow_quilt")

    with pytest.raises(PackageNotFoundError, match="team/package"):
        delete(any_registry, "team/package", top_hash)
    assert delete(any_registry, "team/package", top_hash, missing_ok=True) == []
    assert messages(caplog)[-1].startswith("Nothing to delete")


def test_delete_of_an_absent_revision_of_a_package_touches_nothing(any_registry: Registry) -> None:
    hashes = three(any_registry)

    with pytest.raises(PackageNotFoundError, match="0" * 64):
        delete(any_registry, "team/package", "0" * 64)
    assert delete(any_registry, "team/package", "0" * 64, missing_ok=True) == []
    assert [revision.top_hash for revision in any_registry.revisions(NAME)] == hashes


@pytest.mark.parametrize("top_hash", ["", "abc", "ABCDEF", "latest", "0" * 65])
def test_delete_of_a_malformed_hash_is_refused_even_where_absence_is_fine(any_registry: Registry, top_hash: str) -> None:
    hashes = three(any_registry)

    with pytest.raises(TopHashError):
        delete(any_registry, "team/package", top_hash, missing_ok=True)
    assert [revision.top_hash for revision in any_registry.revisions(NAME)] == hashes


@pytest.mark.parametrize("package", ["a", "a/b/c", "a/b\n", "../x", "", None, "team/*", "team/pack age"])
def test_delete_of_a_bad_name_is_refused(registry: Registry, recorder: Recorder, package: Any) -> None:
    with pytest.raises(PackageNameError):
        delete(through(registry, recorder), package, missing_ok=True)
    assert recorder.calls == []


def test_a_package_with_quilt3s_wider_alphabet_can_be_deleted(registry: Registry, memory: MemoryStorage) -> None:
    name = PackageName.parse_existing("ä/b")
    for pointer in ("1700000000", "latest"):
        memory.put(PhysicalKey("registry", f".quilt/named_packages/ä/b/{pointer}"), b"0" * 64)

    assert len(delete(registry, "ä/b")) == 1
    assert registry.latest(name) is None


@pytest.mark.parametrize("location", ["s3://absent"])
@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda registry: push(registry, draft({"a.txt": b"x"})), id="push"),
        pytest.param(lambda registry: build(registry, draft("s3://source/data/")), id="build"),
        pytest.param(lambda registry: delete(registry, "team/package", missing_ok=True), id="delete"),
    ],
)
def test_a_registry_whose_bucket_is_absent_is_told(
    registry: Registry, memory: MemoryStorage, location: str, work: Callable[[Registry], object]
) -> None:
    put(memory, "s3://source/data/a.txt", b"a")

    with pytest.raises(BucketNotFoundError, match=location):
        work(Registry(RegistryLocation.parse(location), registry.stores))


def test_a_file_that_was_uploaded_by_a_push_that_failed_is_no_package(registry: Registry, memory: MemoryStorage) -> None:
    with pytest.raises(StorageUnavailableError):
        push(through(registry, Fault(1, among=lambda call: call.operation == "put")), draft({"a.txt": b"content"}))

    assert list(registry.packages()) == []
    assert [PhysicalKey.parse(url).key for url in objects(memory, "registry")] == ["team/package/a.txt"]


def test_a_bucket_without_versions_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(RegistryLocation.parse("s3://plain"), Stores(LocalStorage(), MemoryStorage(["plain"], versioned=False)))
    push(registry, draft({"a.txt": b"a", "b.txt": b"b"}))

    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("s3://plain/team/package/a.txt has no version")


def test_an_object_that_belies_its_package_is_not_copied_into_another(registry: Registry, memory: MemoryStorage) -> None:
    source = Registry(RegistryLocation.parse("s3://source"), Stores(LocalStorage(), memory))
    push(source, draft({"a.txt": b"true"}))
    entry = next(source.read(NAME).entries)
    lie = replace(entry, hash=Hash(entry.hash.type, "A" * 43 + "="))
    manifest = io.BytesIO()
    top_hash = write_manifest(make_header(None, None), [lie], manifest).top_hash
    manifest.seek(0)
    source.commit(NAME, top_hash, manifest, None, "overwrite")

    with pytest.raises(EntryDamagedError, match="does not have the hash that its package says"):
        push(registry, draft("quilt+s3://source#package=team/package"))
    assert list(registry.packages()) == []


def test_a_build_of_local_files_does_not_take_a_pushed_package_from_its_readers(registry: Registry, tmp_path: Path) -> None:
    """Packages with the same content, metadata and message share one manifest."""
    (tmp_path / "a.txt").write_text("content")
    pushed = push(registry, draft({"a.txt": str(tmp_path / "a.txt")}))
    built = build(registry, Draft(package="other/package", entries={"a.txt": str(tmp_path / "a.txt")}))

    assert built.top_hash == pushed.top_hash
    for name in (NAME, PackageName("other", "package")):
        (entry,) = registry.read(name).entries
        assert entry.physical_keys[0].startswith("s3://registry/team/package/a.txt?versionId=")


def test_a_push_makes_a_package_readable_that_was_built_of_local_files(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("content")
    build(registry, draft({"a.txt": str(tmp_path / "a.txt")}))
    push(registry, Draft(package="other/package", entries={"a.txt": str(tmp_path / "a.txt")}))

    (entry,) = registry.read(NAME).entries
    assert entry.physical_keys[0].startswith("s3://registry/other/package/a.txt?versionId=")
