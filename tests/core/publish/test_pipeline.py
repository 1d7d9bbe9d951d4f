"""From a draft to a revision and away again: push, build and delete as a caller sees them."""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import (
    BucketNotFoundError,
    CancelledError,
    EmptyPackageError,
    EntryDamagedError,
    HashTypeError,
    InputError,
    LocationError,
    LogicalKeyError,
    MetadataError,
    PackageNameError,
    PackageNotFoundError,
    QuiltError,
    RecordSizeError,
    RevisionConflictError,
    SourceChangedError,
    SourceError,
    StorageUnavailableError,
    TopHashError,
    WorkflowConfigError,
    WorkflowError,
)
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, SHA256, hash_of
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.plan.placement import EntryInfo
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import DeleteResult
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Before, Fault, Recorder, SilentStorage, objects
from tests.core.packages import PART, commit, entry_of, put
from tests.support import read, through, timeless

EMPTY_TOP_HASH = "2a5a67156ca9238c14d12042db51c5b52260fdd5511b61ea89b58929d6e1769b"
NAME = PackageName("team", "package")


def draft(entries: object, **more: Any) -> Draft:
    return Draft(**{"package": "team/package", "entries": entries, **more})


@pytest.fixture(params=["memory", "local"])
def any_registry(request: pytest.FixtureRequest, registry: Registry, local_registry: Registry) -> Registry:
    """A registry in memory, and one on the disk."""
    return registry if request.param == "memory" else local_registry


def test_push_returns_its_result(registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
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


def test_push_names_the_copies(registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
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


def test_push_keeps_own_objects(registry: Registry, memory: MemoryStorage, recorder: Recorder) -> None:
    here = put(memory, "s3://registry/data/here.txt", b"here")
    published = push(through(registry, recorder), draft("s3://registry/data/"))

    assert read(registry, published)["here.txt"].physical_keys == (str(here),)
    assert published.bytes_copied == 0
    assert {call.operation for call in recorder.writes} == {"put"}
    assert {call.key.key.partition("/")[0] for call in recorder.writes} == {".quilt"}


def test_push_keeps_source_version(registry: Registry, memory: MemoryStorage) -> None:
    old = put(memory, "s3://source/a.txt", b"old")
    put(memory, "s3://source/a.txt", b"new")
    entries = read(registry, push(registry, draft({"a.txt": str(old)})))

    assert entries["a.txt"].hash == hash_of(b"old")
    assert memory.get(PhysicalKey.parse(entries["a.txt"].physical_keys[0])).data == b"old"


def test_same_bucket_copies_nothing(registry: Registry, recorder: Recorder) -> None:
    first = push(registry, draft({"a.txt": b"one", "b.txt": b"two"}))
    again = push(through(registry, recorder), draft(str(first.uri), package="team/other"))

    assert again.bytes_copied == 0
    assert read(registry, again) == read(registry, first)
    assert recorder.of("upload", "copy", "begin") == []
    assert recorder.bytes_read == 0


def test_same_push_makes_no_revision(registry: Registry) -> None:
    first = push(registry, draft({"a.txt": b"content"}, meta={"k": 1}, message="m"))
    again = push(registry, draft({"a.txt": b"content"}, meta={"k": 1}, message="m"))

    assert (again.created, again.top_hash, again.revision) == (False, first.top_hash, first.revision)
    assert list(registry.revisions(NAME)) == [first.revision]


def test_no_dedupe_makes_revision(any_registry: Registry, write: Callable[..., Path]) -> None:
    path = str(write("a.txt", b"content"))
    first = build(any_registry, draft({"a.txt": path}))
    again = build(any_registry, draft({"a.txt": path}, dedupe=False))

    assert (again.created, again.top_hash) == (True, first.top_hash)
    assert list(any_registry.revisions(NAME)) == [again.revision, first.revision]


def test_new_message_new_revision(any_registry: Registry, write: Callable[..., Path]) -> None:
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
def test_header_has_message_and_meta(any_registry: Registry, more: dict[str, Any], header: Mapping[str, Any]) -> None:
    published = build(any_registry, draft({}, allow_empty=True, **more))

    assert any_registry.read(NAME, published.top_hash).header == header


def test_record_has_entry_meta(registry: Registry) -> None:
    published = push(registry, draft({"a.txt": {"content": "text", "meta": {"unit": "mm"}}}))

    assert read(registry, published)["a.txt"].meta == {"user_meta": {"unit": "mm"}}


def test_build_names_files_in_place(any_registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
    there = put(memory, "s3://source/there.txt", b"there!")
    path = write("d/file.txt", b"a file")
    before = objects(memory, "source")
    published = build(any_registry, draft({"d/": str(path.parent), "there.txt": "s3://source/there.txt"}))

    entries = read(any_registry, published)
    assert entries["d/file.txt"] == Entry(LogicalKey("d/file.txt"), (path.as_uri(),), 6, hash_of(b"a file"), {})
    assert entries["there.txt"] == Entry(LogicalKey("there.txt"), (str(there),), 6, hash_of(b"there!"), {})
    assert (published.entries, published.bytes, published.bytes_copied, published.created) == (2, 12, 0, True)
    assert objects(memory, "source") == before
    assert path.read_bytes() == b"a file"


def test_local_registry_uri(local_registry: Registry) -> None:
    published = build(local_registry, draft({}, allow_empty=True))

    assert str(published.uri) == f"quilt+{local_registry.location}#package=team/package@{published.top_hash}"


def test_push_and_build_hash_alike(
    registry: Registry, local_registry: Registry, memory: MemoryStorage, write: Callable[..., Path]
) -> None:
    data = os.urandom(9 * 1024 * 1024)
    path = write("d/large.bin", data)
    put(memory, "s3://source/d/large.bin", data)
    drafts = [
        draft(str(path.parent)),
        draft("s3://source/d/", package="team/copy"),
        draft({"large.bin": data}, package="team/content"),
    ]

    hashes = {push(registry, each).top_hash for each in drafts}
    assert hashes == {build(local_registry, drafts[0]).top_hash}


def test_empty_needs_allow_empty(any_registry: Registry) -> None:
    with pytest.raises(EmptyPackageError, match="allow_empty=True"):
        build(any_registry, draft({}))
    published = build(any_registry, draft({}, allow_empty=True))

    assert published.top_hash == EMPTY_TOP_HASH
    assert (published.entries, published.bytes) == (0, 0)
    assert list(any_registry.read(NAME).entries) == []


def test_empty_package_is_pushed(registry: Registry) -> None:
    assert push(registry, draft({}, allow_empty=True)).top_hash == EMPTY_TOP_HASH


@pytest.mark.parametrize("place", ["directory", "prefix"])
def test_empty_source_is_refused(registry: Registry, tmp_path: Path, place: str) -> None:
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
        pytest.param("s3://registry/x.quilt", "x.quilt/d/a.txt", id="a name that only resembles the registry's own"),
        pytest.param("s3://registry/.quilts", ".quilts/d/a.txt", id="a longer name than the registry's own"),
    ],
)
def test_objects_land_under_dest(registry: Registry, memory: MemoryStorage, dest: str | None, place: str) -> None:
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
]


@pytest.mark.parametrize("package", BAD_NAMES)
@pytest.mark.parametrize("publish", [push, build])
@pytest.mark.parametrize("dest", [None, "s3://registry/x"])
def test_bad_name_writes_nothing(
    registry: Registry, recorder: Recorder, package: Any, publish: Callable[..., PublishResult], dest: str | None
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
        pytest.param("", "give a prefix", id="empty"),
        pytest.param("https://registry/x", "give a prefix", id="another scheme"),
    ],
)
def test_bad_dest_writes_nothing(registry: Registry, recorder: Recorder, dest: str, message: str) -> None:
    with pytest.raises(LocationError, match=message):
        push(through(registry, recorder), draft({"a.txt": b"content"}), dest)
    assert recorder.calls == []


def test_own_area_writes_nothing(registry: Registry, recorder: Recorder) -> None:
    entries = {"a.txt": b"content", ".quilt/named_packages/team/package/latest": b"x" * 64}

    with pytest.raises(LocationError, match=r"\.quilt/named_packages/team/package/latest"):
        push(through(registry, recorder), draft(entries), "s3://registry")
    assert recorder.writes == []
    assert push(registry, draft(entries)).entries == 2  # Below the package's own prefix the key does no harm.


@pytest.mark.parametrize("url", ["s3://registry/prefix", "s3://registry/prefix/", "s3://registry?versionId=1"])
def test_registry_is_whole_bucket(url: str) -> None:
    with pytest.raises(LocationError, match="whole bucket"):
        resolve_registry(url)


def test_local_push_names_build(local_registry: Registry, recorder: Recorder) -> None:
    with pytest.raises(LocationError, match="use build"):
        push(through(local_registry, recorder), draft({"a.txt": b"content"}))
    assert recorder.calls == []


@pytest.mark.parametrize("entries", [{"d/a.txt": b"x"}, {"d/a.txt": {"content": "x"}}, {"d/a.txt.json": {"k": 1}}])
def test_build_of_content_refused(any_registry: Registry, recorder: Recorder, entries: object) -> None:
    with pytest.raises(SourceError, match=r"'d/a\.txt.*content"):
        build(through(any_registry, recorder), draft(entries))
    assert recorder.writes == []


BAD_DRAFTS = [
    pytest.param({"conflict": "merge"}, InputError, "conflict 'merge'", id="unknown conflict"),
    pytest.param({"hash_type": "SHA256"}, HashTypeError, "new entries get", id="older type of hash"),
    pytest.param({"hash_type": "MD5"}, HashTypeError, "'MD5'", id="unknown type of hash"),
    pytest.param({"hash_type": None}, HashTypeError, "None", id="no type of hash"),
    pytest.param({"workflow": "alpha"}, WorkflowConfigError, "no workflows config", id="workflow where there are none"),
    pytest.param({"workflow": 7}, WorkflowConfigError, "7", id="a number as a workflow"),
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
def test_bad_draft_writes_nothing(
    registry: Registry,
    memory: MemoryStorage,
    more: dict[str, Any],
    error: type[QuiltError],
    message: str,
    publish: Callable[..., PublishResult],
) -> None:
    put(memory, "s3://registry/data/a.txt", b"a")
    put(memory, "s3://source/b.txt", b"b")
    before = objects(memory, "registry", "source")
    recorder = Recorder()

    with pytest.raises(error, match=message):
        publish(through(registry, recorder), draft(**{"entries": {"x": "s3://source/b.txt"}, **more}))
    assert recorder.writes == []
    assert objects(memory, "registry", "source") == before


def test_long_copy_record_refused(registry: Registry, memory: MemoryStorage, recorder: Recorder) -> None:
    put(memory, "s3://source/b", b"b")
    room = 1_000_000 - 350
    entries = {"a": {"path": "s3://source/b", "meta": {"k": "x" * room}}}

    with pytest.raises(RecordSizeError, match="'a'"):
        push(through(registry, recorder), draft(entries), "s3://registry/" + "d" * 900)
    assert recorder.writes == []
    assert push(registry, draft(entries)).entries == 1


def test_moved_latest_is_conflict(registry: Registry) -> None:
    first = push(registry, draft({"a.txt": b"first"}))
    theirs: list[PublishResult] = []
    racing = Before(lambda call: call.operation == "upload", lambda: theirs.append(push(registry, draft({"a.txt": b"theirs"}))))

    with pytest.raises(RevisionConflictError) as caught:
        push(through(registry, racing), draft({"a.txt": b"mine"}))
    assert (caught.value.expected, caught.value.found) == (first.top_hash, theirs[0].top_hash)
    assert list(registry.revisions(NAME)) == [theirs[0].revision, first.revision]


def test_overwrite_ignores_conflict(registry: Registry) -> None:
    first = push(registry, draft({"a.txt": b"first"}))
    theirs: list[PublishResult] = []
    racing = Before(lambda call: call.operation == "upload", lambda: theirs.append(push(registry, draft({"a.txt": b"theirs"}))))
    mine = push(through(registry, racing), draft({"a.txt": b"mine"}, conflict="overwrite"))

    assert list(registry.revisions(NAME)) == [mine.revision, theirs[0].revision, first.revision]
    assert registry.resolve(NAME) == mine.top_hash


@pytest.mark.parametrize("publish", [push, build])
@pytest.mark.parametrize("source", ["s3://source/data/", "s3://registry/data/", "quilt+s3://registry#package=team/base"])
def test_stopped_publishes_nothing(
    registry: Registry, memory: MemoryStorage, publish: Callable[..., PublishResult], source: str
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


def test_no_thread_is_left(registry: Registry, memory: MemoryStorage) -> None:
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


def test_push_logs_plan_and_result(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    published = push(registry, draft({"a.txt": b"12345", "b.bin": bytes(2048)}))

    lines = messages(caplog)
    assert lines[0] == "Pushing team/package to s3://registry: 2 entries, 2.0 KiB, 2.0 KiB to copy"
    assert timeless(lines[-1]).splitlines() == [
        f"Published team/package@{published.top_hash[:12]} in s3://registry: +2 ~0 -0 files in its first revision",
        "2 files, 2.0 KiB; 2.0 KiB copied, 0 B reused; <time>",
        "+ 'a.txt'",
        "+ 'b.bin'",
    ]


def test_unchanged_push_is_logged(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    published = push(registry, draft({"a.txt": b"12345"}))
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    push(registry, draft({"a.txt": b"12345"}))

    lines = messages(caplog)
    assert lines[0] == "Pushing team/package to s3://registry: 1 entry, 5 B, 5 B to copy"
    at = published.published_at.format("YYYY-MM-DD HH:mm:ss")
    assert timeless(lines[-1]).splitlines() == [
        f"Nothing changed since {at} UTC: team/package@{published.top_hash[:12]} in s3://registry stays",
        "1 file, 5 B; 0 B copied, 5 B reused; <time>",
    ]


def test_build_logs_no_copy(local_registry: Registry, write: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    published = build(local_registry, draft({"a.txt": str(write("a.txt", b"12345"))}))

    lines = messages(caplog)
    assert lines[0] == f"Building team/package to {local_registry.location}: 1 entry, 5 B, 0 B to copy"
    assert lines[-1].startswith(f"Published team/package@{published.top_hash[:12]} in {local_registry.location}: ")
    assert messages(caplog, logging.WARNING) == []


def test_build_warns_of_local_files(
    registry: Registry, memory: MemoryStorage, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    put(memory, "s3://source/b.txt", b"b")
    write("d/one")
    directory = write("d/two").parent
    published = build(registry, draft({"d/": str(directory), "b.txt": "s3://source/b.txt"}))

    (warning,) = messages(caplog, logging.WARNING)
    assert warning.startswith("2 of the 3 entries of team/package are files of this machine")
    assert published.created


def test_build_of_objects_is_silent(registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture) -> None:
    put(memory, "s3://source/b.txt", b"b")
    build(registry, draft({"b.txt": "s3://source/b.txt"}))

    assert messages(caplog, logging.WARNING) == []


def test_content_is_not_logged(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    push(registry, draft({"a.txt": b"SECRET-CONTENT"}, meta={"k": "SECRET-META"}))

    assert "SECRET" not in caplog.text


def three(registry: Registry) -> list[str]:
    """Publish three revisions; return their top hashes, newest first."""
    return [build(registry, draft({}, allow_empty=True, message=str(i))).top_hash for i in range(3)][::-1]


def test_delete_keeps_others(any_registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    hashes = three(any_registry)
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    caplog.clear()
    deleted = delete(any_registry, "team/package", hashes[0][:10])

    assert (deleted.top_hash, len(deleted.times)) == (hashes[0], 1)
    assert [revision.top_hash for revision in any_registry.revisions(NAME)] == hashes[1:]
    assert any_registry.resolve(NAME) == hashes[1]
    (line,) = messages(caplog)
    assert line.startswith(f"Deleted 1 revision of team/package from {any_registry.location}")


def test_delete_keeps_data(registry: Registry, memory: MemoryStorage) -> None:
    published = push(registry, draft({"a.txt": b"content"}))
    before = {url: data for url, data in objects(memory, "registry").items() if "named_packages" not in url}
    assert delete(registry, "team/package") == DeleteResult((published.revision.published_at,))

    assert objects(memory, "registry") == before
    assert len(before) == 2
    assert list(registry.read(NAME, published.top_hash).entries) != []
    assert list(registry.packages()) == []


@pytest.mark.parametrize("top_hash", [None, "0" * 64, "012345"], ids=["package", "revision", "short"])
def test_delete_missing_is_an_error(any_registry: Registry, caplog: pytest.LogCaptureFixture, top_hash: str | None) -> None:
    caplog.set_level(logging.INFO, logger="airflow_quilt")

    with pytest.raises(PackageNotFoundError, match="team/package"):
        delete(any_registry, "team/package", top_hash)
    assert delete(any_registry, "team/package", top_hash, missing_ok=True) == DeleteResult()
    assert messages(caplog)[-1].startswith("Nothing to delete")


def test_delete_absent_revision(any_registry: Registry) -> None:
    hashes = three(any_registry)

    with pytest.raises(PackageNotFoundError, match=r"\b0{12}\b"):
        delete(any_registry, "team/package", "0" * 64)
    assert delete(any_registry, "team/package", "0" * 64, missing_ok=True) == DeleteResult()
    assert [revision.top_hash for revision in any_registry.revisions(NAME)] == hashes


@pytest.mark.parametrize("top_hash", ["", "abc", "ABCDEF", "latest", "0" * 65])
def test_delete_malformed_hash(any_registry: Registry, top_hash: str) -> None:
    hashes = three(any_registry)

    with pytest.raises(TopHashError):
        delete(any_registry, "team/package", top_hash, missing_ok=True)
    assert [revision.top_hash for revision in any_registry.revisions(NAME)] == hashes


@pytest.mark.parametrize("package", ["a", "a/b/c", "a/b\n", "../x", "", None, "team/*", "team/pack age"])
def test_delete_bad_name(registry: Registry, recorder: Recorder, package: Any) -> None:
    with pytest.raises(PackageNameError):
        delete(through(registry, recorder), package, missing_ok=True)
    assert recorder.writes == []  # A name that others may have given is looked up in a listing.


def test_delete_quilt3_name(registry: Registry, memory: MemoryStorage) -> None:
    name = PackageName.parse_existing("ä/b")
    for pointer in ("1700000000", "latest"):
        memory.put(PhysicalKey("registry", f".quilt/named_packages/ä/b/{pointer}"), b"0" * 64)

    assert len(delete(registry, "ä/b").times) == 1
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
def test_absent_bucket_is_an_error(
    registry: Registry, memory: MemoryStorage, location: str, work: Callable[[Registry], object]
) -> None:
    put(memory, "s3://source/data/a.txt", b"a")

    with pytest.raises(BucketNotFoundError, match=location):
        work(Registry(resolve_registry(location), registry.stores))


def test_failed_push_is_no_package(registry: Registry, memory: MemoryStorage) -> None:
    with pytest.raises(StorageUnavailableError):
        push(through(registry, Fault(1, among=lambda call: call.operation == "put")), draft({"a.txt": b"content"}))

    assert list(registry.packages()) == []
    assert [PhysicalKey.parse(url).key for url in objects(memory, "registry")] == ["team/package/a.txt"]


def test_unversioned_bucket_warns(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(RegistryLocation.parse("s3://plain"), Stores(LocalStorage(), MemoryStorage(["plain"], versioned=False)))
    push(registry, draft({"a.txt": b"a", "b.txt": b"b"}))

    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("s3://plain/team/package/a.txt has no version")


def test_damaged_object_not_copied(registry: Registry, memory: MemoryStorage) -> None:
    source = Registry(RegistryLocation.parse("s3://source"), Stores(LocalStorage(), memory))
    commit(source, NAME, [entry_of("a.txt", b"true", put(memory, "s3://source/a.txt", b"lies", "SHA256"))])

    with pytest.raises(EntryDamagedError, match="does not hold the bytes that it names"):
        push(registry, draft("quilt+s3://source#package=team/package"))
    assert list(registry.packages()) == []


def test_build_keeps_pushed_readable(registry: Registry, tmp_path: Path) -> None:
    """Packages with the same content, metadata and message share one manifest."""
    (tmp_path / "a.txt").write_text("content")
    pushed = push(registry, draft({"a.txt": str(tmp_path / "a.txt")}))
    built = build(registry, Draft(package="other/package", entries={"a.txt": str(tmp_path / "a.txt")}))

    assert built.top_hash == pushed.top_hash
    for name in (NAME, PackageName("other", "package")):
        (entry,) = registry.read(name).entries
        assert entry.physical_keys[0].startswith("s3://registry/team/package/a.txt?versionId=")


def test_push_makes_build_readable(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("content")
    build(registry, draft({"a.txt": str(tmp_path / "a.txt")}))
    push(registry, Draft(package="other/package", entries={"a.txt": str(tmp_path / "a.txt")}))

    (entry,) = registry.read(NAME).entries
    assert entry.physical_keys[0].startswith("s3://registry/other/package/a.txt?versionId=")


# Copy policies and destinations.


@pytest.fixture
def sources(registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> dict[str, object]:
    """One source of every kind, all of them of the bytes ``data``, by logical keys that name the kind."""
    inside, outside = put(memory, "s3://registry/raw/inside", b"data"), put(memory, "s3://source/raw/outside", b"data")
    put(memory, "s3://registry/team/package/there", b"data")
    entries = [
        entry_of("inside", b"data", inside, "s3://mirror/inside", hash_type=SHA256, theirs=1),
        entry_of("outside", b"data", outside, hash_type=SHA256, theirs=2),
    ]
    top_hash = commit(registry, PackageName("team", "base"), entries)
    return {
        "content": b"data",
        "file": str(write("file", b"data")),
        "inside": str(inside),
        "outside": str(outside),
        "packed/": f"quilt+s3://registry#package=team/base@{top_hash}",
        "there": "s3://registry/team/package/there",
    }


OBJECTS = {"inside", "outside", "packed/inside", "packed/outside", "there"}
COPIES: Mapping[str, tuple[Any, set[str], set[str]]] = {
    "if-outside": ("if-outside", {"content", "file", "outside", "packed/outside"}, {"inside", "packed/inside", "there"}),
    "all": ("all", {"content", "file", *OBJECTS} - {"there"}, {"there"}),
    "local-only": ("local-only", {"content", "file"}, OBJECTS),
    "none": ("none", set(), OBJECTS),
    "function for all": (lambda _key, _candidate: True, {"content", "file", *OBJECTS} - {"there"}, {"there"}),
    "function for none": (lambda _key, _candidate: False, {"content"}, OBJECTS),
    "function by key": (
        lambda key, _candidate: key in {"file", "packed/inside"},
        {"content", "file", "packed/inside"},
        OBJECTS - {"packed/inside"},
    ),
}
"""The copied and the kept sources of each policy; files and content in neither cannot be published."""


def keyed(sources: Mapping[str, object], keys: set[str]) -> dict[str, object]:
    """Return the sources from which these logical keys come."""
    return {key: source for key, source in sources.items() if any(each.startswith(key) for each in keys)}


@pytest.mark.parametrize(("copy", "copied", "kept"), COPIES.values(), ids=COPIES)
def test_copy_policy_decides(
    registry: Registry, memory: MemoryStorage, sources: dict[str, object], copy: Any, copied: set[str], kept: set[str]
) -> None:
    published = push(registry, draft(keyed(sources, copied | kept)), copy=copy)
    entries = read(registry, published)
    here = {
        key for key, entry in entries.items() if entry.physical_keys[0].startswith(f"s3://registry/team/package/{key}?versionId=")
    }

    assert entries.keys() == copied | kept
    assert here - {"there"} == copied
    assert published.bytes_copied == 4 * len(copied)
    assert {registry.read_bytes(entry) for entry in entries.values()} == {b"data"}
    hashes = {key: entry.hash.type for key, entry in entries.items()}
    assert hashes == {key: SHA256 if key in kept and key.startswith("packed") else CHUNKED for key in entries}
    if "packed/inside" in kept:
        assert entries["packed/inside"].physical_keys[1:] == ("s3://mirror/inside",)
    assert entries["packed/inside"].meta == {"theirs": 1}


@pytest.mark.parametrize(
    ("copy", "key"),
    [
        pytest.param("none", "content", id="content"),
        pytest.param("none", "file", id="file"),
        pytest.param(lambda _key, _candidate: False, "file", id="file-by-function"),
    ],
)
def test_uncopied_file_refused(registry: Registry, sources: dict[str, object], recorder: Recorder, copy: Any, key: str) -> None:
    with pytest.raises(SourceError, match=f"entry '{key}': .*copy policy"):
        push(through(registry, recorder), draft({key: sources[key], "inside": sources["inside"]}), copy=copy)
    assert recorder.writes == []


@pytest.mark.parametrize("package", ["team/package", "a"])
@pytest.mark.parametrize("copy", ["ALL", None, True, ["all"]], ids=repr)
def test_bad_policy_is_refused(registry: Registry, recorder: Recorder, copy: Any, package: str) -> None:
    with pytest.raises(InputError):
        push(through(registry, recorder), draft({"a": b"a"}, package=package), copy=copy)
    assert recorder.calls == []


@pytest.mark.parametrize(
    "functions",
    [
        pytest.param({"copy": lambda _key, _candidate: 1}, id="copy"),
        pytest.param({"dest": lambda _key, _candidate: None}, id="dest"),
        pytest.param({"dest": lambda _key, _candidate: "s3://registry/same"}, id="dest-for-two"),
        pytest.param({"dest": lambda key, _candidate: f"s3://registry/.quilt/packages/{key}"}, id="dest-in-the-registrys-area"),
        pytest.param({"dest": lambda key, _candidate: f"s3://source/.quilt/packages/{key}"}, id="dest-in-the-area-of-another"),
        pytest.param({"dest": lambda key, _candidate: f"s3://registry/{key}?versionId=1"}, id="dest-at-a-version"),
        pytest.param({"dest": lambda key, _candidate: f"/data/{key}"}, id="dest-on-the-disk"),
    ],
)
def test_bad_answer_writes_nothing(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, functions: dict[str, Any]
) -> None:
    entries = {key: str(put(memory, f"s3://source/{key}", b"x")) for key in ("a", "b")}
    before = objects(memory, "registry", "source")

    with pytest.raises(InputError, match=r"'(a|b)'"):
        push(through(registry, recorder), draft(entries), **functions)
    assert recorder.writes == []
    assert objects(memory, "registry", "source") == before


def test_dest_function_any_bucket(registry: Registry, memory: MemoryStorage, sources: dict[str, object]) -> None:
    asked: dict[str, tuple[object, ...]] = {}

    def dest(key: LogicalKey, candidate: EntryInfo) -> str:
        asked[key] = (candidate.physical_key, candidate.size, candidate.hash, candidate.meta)
        return f"s3://{'source' if key == 'content' else 'registry'}/by/hand/{key}.copy"

    entries = {"content": sources["content"], "outside": {"path": sources["outside"], "meta": {"n": 1}}}
    published = push(registry, draft(entries), dest)

    assert asked == {
        "content": (None, 4, None, {}),
        "outside": (PhysicalKey.parse(str(sources["outside"])), 4, None, {"n": 1}),
    }
    places = {key: entry.physical_keys for key, entry in read(registry, published).items()}
    assert places == {
        "content": (str(memory.stat(PhysicalKey("source", "by/hand/content.copy")).key),),
        "outside": (str(memory.stat(PhysicalKey("registry", "by/hand/outside.copy")).key),),
    }


def test_dest_function_may_keep(registry: Registry, memory: MemoryStorage, recorder: Recorder) -> None:
    old = put(memory, "s3://source/a", b"old")
    put(memory, "s3://source/a", b"new")
    published = push(through(registry, recorder), draft({"a": str(old)}), lambda _key, _candidate: "s3://source/a")

    assert read(registry, published)["a"].physical_keys == (str(old),)
    assert recorder.of("copy", "upload", "begin") == []


# Types of hash.


@pytest.mark.parametrize("size", [0, 5, PART, 2 * PART + 5], ids=["empty", "small", "one part", "in parts"])
@pytest.mark.parametrize("store", [MemoryStorage, SilentStorage], ids=["store reports checksums", "store reports none"])
@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
def test_hash_type_for_all_sources(write: Callable[..., Path], hash_type: str, store: type[MemoryStorage], size: int) -> None:
    memory = store(["registry", "source"])
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    data = os.urandom(size)
    entries = {
        "content": data,
        "copy": str(put(memory, "s3://source/copy", data)),
        "file": str(write("file", data)),
        "place": str(put(memory, "s3://registry/place", data)),
        "known": str(put(memory, "s3://registry/known", data, "SHA256", "CRC64NVME")),
    }
    pushed = read(registry, push(registry, draft(entries, hash_type=hash_type)))
    del entries["content"]
    built = read(registry, build(registry, draft(entries, package="team/built", hash_type=hash_type)))

    assert {entry.hash for entries in (pushed, built) for entry in entries.values()} == {hash_of(data, hash_type)}
    assert all(registry.read_bytes(entry) == data for entry in pushed.values())


@pytest.mark.parametrize("publish", [push, build])
def test_known_crc_is_not_read(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, publish: Callable[..., PublishResult]
) -> None:
    put(memory, "s3://registry/data/small", b"small", "CRC64NVME")
    put(memory, "s3://registry/data/large", bytes(2 * PART + 5), "CRC64NVME")
    publish(through(registry, recorder), draft("s3://registry/data/", hash_type=CRC64NVME))

    assert recorder.bytes_read == 0


# Objects without versions, and links.


@pytest.mark.parametrize("publish", [push, build])
def test_unversioned_kept_objects(registry: Registry, memory: MemoryStorage, publish: Callable[..., PublishResult]) -> None:
    pinned = put(memory, "s3://registry/data/pinned", b"old")
    for name in ("pinned", "a", "b"):
        put(memory, f"s3://registry/data/{name}", b"new", *(["SHA256"] if name == "a" else []))
    published = publish(registry, draft({"all/": "s3://registry/data/", "pinned": str(pinned)}, unversioned=True))

    entries = read(registry, published)
    assert {key: entry.physical_keys for key, entry in entries.items()} == {
        **{f"all/{name}": (f"s3://registry/data/{name}",) for name in ("a", "b", "pinned")},
        "pinned": (str(pinned),),
    }
    assert [registry.read_bytes(entry) for entry in entries.values()] == [b"new", b"new", b"new", b"old"]


def test_unversioned_change_is_seen(registry: Registry, memory: MemoryStorage) -> None:
    put(memory, "s3://registry/a", b"old")
    replacing = Before(lambda call: call.operation == "stream", lambda: put(memory, "s3://registry/a", b"new"))

    with pytest.raises(SourceChangedError):
        build(through(registry, replacing), draft({"a": "s3://registry/a"}, unversioned=True))
    assert list(registry.packages()) == []


def test_unversioned_copy_is_pinned(registry: Registry, memory: MemoryStorage) -> None:
    put(memory, "s3://source/a", b"data")
    published = push(registry, draft({"a": "s3://source/a"}, unversioned=True))

    assert read(registry, published)["a"].physical_keys == (str(memory.stat(PhysicalKey("registry", "team/package/a")).key),)


def test_follow_symlinks_packs_links(any_registry: Registry, write: Callable[..., Path]) -> None:
    secret = write("elsewhere/secret.txt", b"secret")
    directory = write("raw/a.txt", b"a").parent
    (directory / "link.txt").symlink_to(secret)

    with pytest.raises(SourceError, match=r"link\.txt: this link leads out of .*follow_symlinks=True"):
        build(any_registry, draft(str(directory)))
    entries = read(any_registry, build(any_registry, draft(str(directory), follow_symlinks=True)))
    assert {key: (entry.physical_keys, entry.hash) for key, entry in entries.items()} == {
        "a.txt": (((directory / "a.txt").as_uri(),), hash_of(b"a")),
        "link.txt": ((secret.as_uri(),), hash_of(b"secret")),
    }


# Metadata of directories.


def test_directory_meta_is_written(any_registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
    put(memory, "s3://source/p/a", b"a")
    there = entry_of("x/y/a", b"a", put(memory, "s3://registry/a", b"a"))
    commit(any_registry, PackageName("team", "base"), [there], None, {"x/": {"of": "x"}, "x/y/": {"of": "y"}})
    base = f"quilt+{any_registry.location}#package=team/base"
    entries = {
        "alone/": {"meta": {"n": 1}},
        "described/": {"path": str(write("raw/a").parent), "meta": {"n": 2}},
        "prefix/": {"path": "s3://source/p/", "meta": {"n": 3}},
        "package/": base,
        "part/": f"{base}&path=x",
        "renamed/": {"path": f"{base}&path=x/", "meta": {"n": 4}},
        "empty/": {"meta": {}},
    }
    manifest = any_registry.read(NAME, build(any_registry, draft(entries)).top_hash)
    list(manifest.entries)

    assert manifest.directories == {
        "alone/": {"n": 1},
        "described/": {"n": 2},
        "prefix/": {"n": 3},
        "package/x/": {"of": "x"},
        "package/x/y/": {"of": "y"},
        "part/": {"of": "x"},
        "part/y/": {"of": "y"},
        "renamed/": {"n": 4},
        "renamed/y/": {"of": "y"},
    }


def test_directory_meta_not_in_hash(registry: Registry) -> None:
    plain = push(registry, draft({"d/a": b"a"}))
    described = push(registry, draft({"d/a": b"a", "d/": {"meta": {"n": 1}}}, package="team/other"))

    assert plain.top_hash == described.top_hash


def test_directory_meta_no_revision(registry: Registry) -> None:
    push(registry, draft({"d/a": b"a"}))
    described = draft({"d/a": b"a", "d/": {"meta": {"n": 1}}})
    manifests = [registry.read(NAME, push(registry, each).top_hash) for each in (described, replace(described, dedupe=False))]
    for manifest in manifests:
        list(manifest.entries)

    assert [manifest.directories for manifest in manifests] == [{}, {"d/": {"n": 1}}]


def test_directory_meta_is_no_entry(registry: Registry) -> None:
    with pytest.raises(EmptyPackageError):
        push(registry, draft({"d/": {"meta": {"n": 1}}}))
    assert push(registry, draft({"d/": {"meta": {"n": 1}}}, allow_empty=True)).entries == 0


def test_long_directory_meta_refused(registry: Registry, recorder: Recorder) -> None:
    with pytest.raises(RecordSizeError, match="directory 'd/'"):
        push(through(registry, recorder), draft({"d/a": b"a", "d/": {"meta": {"x": "y" * 1_000_000}}}))
    assert recorder.writes == []


# Workflows.

CONFIG = """
version: "1"
is_workflow_required: {required}
default_workflow: alpha
workflows:
  alpha:
    name: Alpha
    is_message_required: true
    metadata_schema: package
    entries_schema: entries
  beta:
    name: Beta
    handle_pattern: ^beta/
schemas:
  package: {{url: "{root}/schemas/package.json"}}
  entries: {{url: "{root}/schemas/entries.json"}}
"""
PACKAGE_SCHEMA = {"type": "object", "required": ["week"]}
ENTRIES_SCHEMA = {
    "type": "array",
    "items": {"type": "object", "properties": {"logical_key": {"pattern": "txt$"}, "size": {"maximum": 5}}},
    "minItems": 2,
}


@pytest.fixture
def ruled(any_registry: Registry) -> Registry:
    """A registry whose packages must have a message, a week, and two small text files or more."""
    texts = {
        ".quilt/workflows/config.yml": CONFIG.format(required="false", root=any_registry.location),
        "schemas/package.json": json.dumps(PACKAGE_SCHEMA),
        "schemas/entries.json": json.dumps(ENTRIES_SCHEMA),
    }
    for path, text in texts.items():
        key = any_registry.location.root.join(path)
        any_registry.stores.of(key).put(key, text.encode())
    return any_registry


@pytest.fixture
def two(memory: MemoryStorage) -> str:
    """A prefix with two small text files, in the bucket of the registry."""
    put(memory, "s3://registry/data/a.txt", b"a")
    put(memory, "s3://registry/data/b.txt", b"b")
    return "s3://registry/data/"


def read_at(registry: Registry, path: str) -> str:
    """Return the URL of a file of the registry at the version that is there now."""
    key = registry.location.root.join(path)
    return str(registry.stores.of(key).get(key).key)


@pytest.mark.parametrize(
    ("workflow", "name", "schemas"),
    [
        pytest.param({}, "alpha", {"package", "entries"}, id="default"),
        pytest.param({"workflow": "alpha"}, "alpha", {"package", "entries"}, id="chosen"),
        pytest.param({"workflow": None}, None, set(), id="none"),
    ],
)
def test_header_records_workflow(
    ruled: Registry, two: str, workflow: dict[str, Any], name: str | None, schemas: set[str]
) -> None:
    published = build(ruled, draft(two, meta={"week": 1}, message="m", **workflow))

    recorded = {"id": name, "config": read_at(ruled, ".quilt/workflows/config.yml")}
    if schemas:
        recorded["schemas"] = {schema: read_at(ruled, f"schemas/{schema}.json") for schema in schemas}
    assert ruled.read(NAME, published.top_hash).header == {
        "version": "v0",
        "user_meta": {"week": 1},
        "workflow": recorded,
        "message": "m",
    }


@pytest.mark.parametrize(
    ("more", "violation"),
    [
        pytest.param({"message": None}, "a message is required", id="message"),
        pytest.param({"meta": {}}, "metadata: 'week' is a required property", id="empty-metadata"),
        pytest.param({"meta": None}, "metadata: 'week' is a required property", id="metadata"),
        pytest.param({"entries": {"a.txt": "s3://registry/data/a.txt"}}, "entries: ", id="entries"),
        pytest.param({"entries": {"b.csv": "s3://registry/data/b.txt", "a.txt": "s3://registry/data/a.txt"}}, "b.csv", id="key"),
        pytest.param({"workflow": "beta"}, "package name 'team/package' does not match", id="name"),
    ],
)
def test_workflow_refuses_package(ruled: Registry, two: str, recorder: Recorder, more: dict[str, Any], violation: str) -> None:
    publish: Callable[..., PublishResult] = build if ruled.location.is_local else push

    with pytest.raises(WorkflowError) as caught:
        publish(through(ruled, recorder), draft(**{"entries": two, "meta": {"week": 1}, "message": "m", **more}))
    (found,) = caught.value.violations
    assert violation in found
    assert recorder.writes == []
    assert recorder.bytes_read == 0
    assert list(ruled.packages()) == []


def test_refused_uploads_nothing(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, write: Callable[..., Path]
) -> None:
    put(memory, "s3://registry/.quilt/workflows/config.yml", CONFIG.format(required="true", root="s3://registry").encode())
    for name, schema in (("package", PACKAGE_SCHEMA), ("entries", ENTRIES_SCHEMA)):
        put(memory, f"s3://registry/schemas/{name}.json", json.dumps(schema).encode())
    put(memory, "s3://source/c.txt", b"c")
    entries = {"a.txt": b"123456", "b.txt": str(write("b.txt", b"b")), "c.txt": "s3://source/c.txt"}
    before = objects(memory, "registry", "source")

    with pytest.raises(WorkflowError) as caught:
        push(through(registry, recorder), draft(entries))
    assert len(caught.value.violations) == 3
    assert recorder.writes == []
    assert objects(memory, "registry", "source") == before


def test_required_workflow_not_none(registry: Registry, memory: MemoryStorage, recorder: Recorder) -> None:
    put(memory, "s3://registry/.quilt/workflows/config.yml", CONFIG.format(required="true", root="s3://registry").encode())

    with pytest.raises(WorkflowConfigError, match="requires one"):
        push(through(registry, recorder), draft({"a": b"a"}, workflow=None))
    assert recorder.writes == []


def test_workflow_judges_update(ruled: Registry, two: str, memory: MemoryStorage) -> None:
    build(ruled, draft(two, meta={"week": 1}, message="m"))
    put(memory, "s3://registry/more/c.csv", b"c")
    refused = [
        {"remove": ["a.txt"]},
        {"entries": "s3://registry/more/"},
        {"meta": {}},
    ]

    for more in refused:
        with pytest.raises(WorkflowError):
            build(ruled, draft(**{"entries": None, "mode": "update", "message": "m", **more}))
    with pytest.raises(WorkflowError, match="a message is required"):
        build(ruled, draft({"c.txt": "s3://registry/more/c.csv"}, mode="update"))
    updated = build(ruled, draft({"c.txt": "s3://registry/more/c.csv"}, mode="update", message="n", remove=["a.txt"]))
    assert list(read(ruled, updated)) == ["b.txt", "c.txt"]
    assert ruled.read(NAME, updated.top_hash).header["workflow"]["id"] == "alpha"


def test_write_check_precedes_bytes(registry: Registry, tmp_path: Path) -> None:
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    recorder = Recorder()
    refused = Fault(1, among=lambda call: call.key.key == ".quilt/packages/write-check")

    with pytest.raises(StorageUnavailableError, match="write-check"):
        push(through(registry, recorder, refused), draft({"large.bin": str(tmp_path / "large.bin")}))
    assert [str(call) for call in recorder.writes] == ["begin s3://registry/.quilt/packages/write-check"]


def test_small_push_has_no_check(registry: Registry) -> None:
    recorder = Recorder()
    push(through(registry, recorder), draft({"a": b"a"}))

    assert recorder.of("begin") == []


def test_store_oserror_is_kept(registry: Registry) -> None:
    """Keep an `OSError` of the store apart from one of the temporary file."""
    broken = OSError("the store's own")

    def fail() -> None:
        raise broken

    with pytest.raises(OSError, match="the store's own") as caught:
        push(through(registry, Before(lambda call: "/packages/" in call.key.key, fail)), draft({"a": b"a"}))
    assert caught.value is broken
