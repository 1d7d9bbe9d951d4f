"""An update starts from a revision and changes the named entries, and nothing else."""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import (
    EmptyPackageError,
    InputError,
    LogicalKeyError,
    PackageNotFoundError,
    RevisionConflictError,
    SourceError,
    TopHashError,
)
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, SHA256, hash_of
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.core.faulty import Before, Recorder, is_put_of, objects
from tests.core.packages import HASH_TYPES, commit, entry_of, put
from tests.support import Clock, read, through

NAME = PackageName("team", "package")
NOW = 1_700_000_000


def draft(entries: object = None, **more: Any) -> Draft:
    """Return the draft of an update."""
    return Draft(**{"package": "team/package", "entries": entries, "mode": "update", **more})


@pytest.fixture(params=["memory", "local"])
def base(request: pytest.FixtureRequest, registry: Registry, local_registry: Registry, memory: MemoryStorage) -> Registry:
    """A registry in memory, or on the disk, whose package has three objects with metadata."""
    target = registry if request.param == "memory" else local_registry
    entries = [
        entry_of(key, key.encode(), put(memory, f"s3://registry/data/{key}", key.encode()), user_meta={"of": key})
        for key in ("a.txt", "d/b.txt", "d/c.txt")
    ]
    header = {"version": "v0", "user_meta": {"week": 1, "by": "them"}, "message": "first", "theirs": [1]}
    commit(target, NAME, entries, header, {"d/": {"of": "d"}})
    return target


@pytest.fixture
def new(memory: MemoryStorage) -> str:
    """The URL of an object to update with."""
    put(memory, "s3://registry/new/x.txt", b"new")
    return "s3://registry/new/x.txt"


def content(registry: Registry, published: PublishResult) -> dict[str, tuple[bytes, Any]]:
    """Return the bytes and the user's metadata of each entry."""
    return {key: (registry.read_bytes(entry), entry.user_meta) for key, entry in read(registry, published).items()}


OLD: dict[str, tuple[bytes, Any]] = {key: (key.encode(), {"of": key}) for key in ("a.txt", "d/b.txt", "d/c.txt")}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param("b.txt", {**OLD, "b.txt": (b"new", {})}, id="new-file"),
        pytest.param("d/a/x.txt", {**OLD, "d/a/x.txt": (b"new", {})}, id="new-file-in-a-directory"),
        pytest.param("d/", {**OLD, "d/x.txt": (b"new", {})}, id="new-file-for-a-directory"),
        pytest.param("a.txt", {**OLD, "a.txt": (b"new", {})}, id="a-file-that-is-there"),
        pytest.param("d/c.txt", {**OLD, "d/c.txt": (b"new", {})}, id="a-file-of-a-directory-that-is-there"),
    ],
)
def test_entry_added_or_replaced(base: Registry, new: str, key: str, expected: dict[str, tuple[bytes, Any]]) -> None:
    assert content(base, build(base, draft({key: new}))) == expected


def test_unnamed_entries_unchanged(base: Registry, new: str) -> None:
    before = {entry.logical_key: entry for entry in base.read(NAME).entries}
    published = build(base, draft({"b.txt": {"path": new, "meta": {"n": 1}}}))
    after = read(base, published)

    assert after.pop("b.txt").meta == {"user_meta": {"n": 1}}
    assert after == before


def test_directories_are_merged(base: Registry, write: Callable[..., Path]) -> None:
    write("new/c.txt", b"newer c")
    directory = write("new/e/f.txt", b"f").parent.parent
    if base.location.is_local:
        published = build(base, draft({"d/": str(directory)}))
    else:
        published = push(base, draft({"d/": str(directory)}))

    assert content(base, published) == {**OLD, "d/c.txt": (b"newer c", {}), "d/e/f.txt": (b"f", {})}


@pytest.mark.parametrize(
    ("removed", "left", "directories"),
    [
        pytest.param(["a.txt"], ["d/b.txt", "d/c.txt"], {"d/": {"of": "d"}}, id="file"),
        pytest.param(("d/b.txt", "d/c.txt"), ["a.txt"], {"d/": {"of": "d"}}, id="files"),
        pytest.param(["d"], ["a.txt"], {}, id="directory"),
        pytest.param(["d/"], ["a.txt"], {}, id="directory-with-slash"),
    ],
)
def test_keys_are_removed(base: Registry, removed: Any, left: list[str], directories: dict[str, Any]) -> None:
    published = build(base, draft(remove=removed))
    manifest = base.read(NAME, published.top_hash)

    assert [entry.logical_key for entry in manifest.entries] == left
    assert manifest.directories == directories


def test_absent_removal_warns(base: Registry, caplog: pytest.LogCaptureFixture) -> None:
    published = build(base, draft(remove=["a.txt", "z.txt", "d/b.txt/", "e/"]))

    assert list(read(base, published)) == ["d/b.txt", "d/c.txt"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.endswith("nothing to remove: z.txt, d/b.txt/, e/")


def test_removal_does_not_warn(base: Registry, caplog: pytest.LogCaptureFixture) -> None:
    build(base, draft(remove=["a.txt", "d"], allow_empty=True))

    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == []


def test_removal_precedes_addition(base: Registry, new: str) -> None:
    published = build(base, draft({"d": new, "a.txt/b": new}, remove=["d", "a.txt"]))

    assert content(base, published) == {"d": (b"new", {}), "a.txt/b": (b"new", {})}


def test_file_and_directory_refused(base: Registry, new: str) -> None:
    for key in ("d", "a.txt/b"):
        with pytest.raises(LogicalKeyError, match="is a file, and a directory"):
            build(base, draft({key: new}))
    assert base.read(NAME).header["message"] == "first"


def test_remove_all_needs_allow_empty(base: Registry) -> None:
    with pytest.raises(EmptyPackageError, match="allow_empty"):
        build(base, draft(remove=["a.txt", "d"]))
    assert build(base, draft(remove=["a.txt", "d"], allow_empty=True)).entries == 0


@pytest.mark.parametrize("remove", [["../a"], ["a//b"], [""], ["/"], [7], [None], 7, None, b"a"], ids=repr)
def test_bad_removal_is_refused(base: Registry, remove: Any) -> None:
    with pytest.raises(InputError):
        build(base, draft(remove=remove))


def test_str_is_no_removal_list(base: Registry) -> None:
    recorder = Recorder()

    with pytest.raises(InputError, match="remove 'a.txt': expected a list"):
        build(through(base, recorder), draft(remove="a.txt"))
    assert recorder.calls == []


@pytest.mark.parametrize(
    "more", [{"revision": "latest"}, {"remove": ["a"]}, {"revision": "0" * 64, "remove": ("a",)}], ids=["base", "remove", "both"]
)
def test_base_needs_update_mode(base: Registry, new: str, more: dict[str, Any]) -> None:
    recorder = Recorder()

    with pytest.raises(InputError, match="revision and remove are for mode='update'"):
        build(through(base, recorder), draft({"a": new}, mode="replace", **more))
    assert recorder.calls == []


@pytest.mark.parametrize("mode", ["Update", "", None, "merge"])
def test_bad_mode_is_refused(base: Registry, new: str, mode: Any) -> None:
    with pytest.raises(InputError, match=f"mode {mode!r}: expected 'replace' or 'update'"):
        build(base, draft({"a": new}, mode=mode))


# The base.


def test_absent_package_starts_empty(registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    put(memory, "s3://source/a.txt", b"a")
    updated = push(registry, draft({"a.txt": "s3://source/a.txt"}, meta={"k": 1}, message="m"))
    replaced = push(registry, Draft(package="team/other", entries={"a.txt": "s3://source/a.txt"}, meta={"k": 1}, message="m"))

    assert updated.top_hash == replaced.top_hash
    assert "There is no package team/package in s3://registry yet: the update starts from nothing" in caplog.messages


def test_empty_update_is_empty(registry: Registry) -> None:
    with pytest.raises(EmptyPackageError):
        push(registry, draft())
    assert push(registry, draft(allow_empty=True)).entries == 0


@pytest.mark.parametrize(
    ("revision", "error"),
    [
        pytest.param("latest", PackageNotFoundError, id="latest"),
        pytest.param("0" * 64, PackageNotFoundError, id="hash"),
        pytest.param("000000", PackageNotFoundError, id="short-hash"),
        pytest.param("2026-01-01", PackageNotFoundError, id="time"),
        pytest.param("xyz", TopHashError, id="something-else"),
    ],
)
def test_named_base_must_exist(registry: Registry, revision: str, error: type[Exception]) -> None:
    recorder = Recorder()

    with pytest.raises(error):
        push(through(registry, recorder), draft({"a": b"a"}, revision=revision))
    assert recorder.writes == []


@pytest.fixture
def history(registry: Registry) -> tuple[Registry, list[PublishResult]]:
    """A registry and three revisions a minute apart, oldest first, each of which has one file of its number."""
    clock = Clock(NOW)
    timed = Registry(registry.location, registry.stores, clock=clock)
    published = []
    for number in range(3):
        clock.now = NOW + 60 * number
        published.append(push(timed, Draft(package=str(NAME), entries={f"{number}.txt": b"%d" % number}, meta={"n": number})))
    return timed, published


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(lambda found: found.top_hash, id="hash"),
        pytest.param(lambda found: found.top_hash[:8], id="short-hash"),
        pytest.param(lambda found: str(found.revision.published_at.int_timestamp), id="stamp"),
        pytest.param(lambda found: (found.revision.published_at + timedelta(seconds=59)).isoformat(), id="time"),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_update_starts_from_its_base(
    history: tuple[Registry, list[PublishResult]], number: int, name: Callable[[PublishResult], str]
) -> None:
    registry, published = history
    updated = push(registry, draft({"x.txt": b"x"}, revision=name(published[number])))

    assert list(read(registry, updated)) == [f"{number}.txt", "x.txt"]
    assert registry.read(NAME, updated.top_hash).user_meta == {"n": number}
    assert list(registry.revisions(NAME)) == [updated.revision, *(each.revision for each in published[::-1])]


def test_default_base_is_latest(history: tuple[Registry, list[PublishResult]]) -> None:
    registry, published = history
    registry.rollback(NAME, published[0].top_hash)

    assert list(read(registry, push(registry, draft({"x.txt": b"x"})))) == ["0.txt", "x.txt"]


def test_old_base_is_published_again(
    history: tuple[Registry, list[PublishResult]],
) -> None:
    registry, published = history
    updated = push(registry, draft(revision=published[0].top_hash))

    assert (updated.top_hash, updated.created) == (published[0].top_hash, True)
    assert registry.resolve(NAME) == published[0].top_hash


# The header.


@pytest.mark.parametrize(
    ("more", "header"),
    [
        pytest.param({}, {"user_meta": {"week": 1, "by": "them"}, "message": None}, id="nothing"),
        pytest.param({"meta": {}}, {"user_meta": {}, "message": None}, id="empty-metadata"),
        pytest.param({"meta": {"week": 2}}, {"user_meta": {"week": 2}, "message": None}, id="metadata"),
        pytest.param({"message": "m"}, {"user_meta": {"week": 1, "by": "them"}, "message": "m"}, id="message"),
    ],
)
def test_header_of_an_update(base: Registry, new: str, more: dict[str, Any], header: dict[str, Any]) -> None:
    """Take a new message; replace or keep the metadata whole; keep other keys."""
    published = build(base, draft({"b.txt": new}, **more))

    assert base.read(NAME, published.top_hash).header == {"version": "v0", "theirs": [1], **header}


def test_base_workflow_is_dropped(registry: Registry, memory: MemoryStorage, new: str) -> None:
    entry = entry_of("a", b"a", put(memory, "s3://registry/a", b"a"))
    commit(registry, NAME, [entry], {"version": "v0", "message": None, "workflow": {"id": "alpha", "config": "s3://x/y"}})
    published = build(registry, draft({"b": new}))

    assert registry.read(NAME, published.top_hash).header == {"version": "v0", "message": None}


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_base_version_stays(registry: Registry, memory: MemoryStorage, new: str, version: str) -> None:
    entry = entry_of("a", b"a", put(memory, "s3://registry/a", b"a"))
    commit(registry, NAME, [entry], {"version": version, "message": None})

    assert registry.read(NAME, build(registry, draft({"b": new})).top_hash).header["version"] == version


# Directories and entries in the manifest.


@pytest.mark.parametrize(
    ("entries", "directories"),
    [
        pytest.param({"d/": {"meta": {"of": "new"}}}, {"d/": {"of": "new"}}, id="replaced"),
        pytest.param({"d/": {"meta": {}}}, {}, id="cleared"),
        pytest.param({"d/e/": {"meta": {"of": "e"}}}, {"d/": {"of": "d"}, "d/e/": {"of": "e"}}, id="added"),
        pytest.param({"b.txt": b"b"}, {"d/": {"of": "d"}}, id="left"),
    ],
)
def test_directory_meta_is_updated(
    registry: Registry, memory: MemoryStorage, entries: object, directories: dict[str, Any]
) -> None:
    entry = entry_of("d/a", b"a", put(memory, "s3://registry/a", b"a"))
    commit(registry, NAME, [entry], None, {"d/": {"of": "d"}})
    manifest = registry.read(NAME, push(registry, draft(entries, message="new")).top_hash)
    list(manifest.entries)

    assert manifest.directories == directories


def test_directory_meta_is_replaced(base: Registry, memory: MemoryStorage) -> None:
    put(memory, "s3://registry/more/x.txt", b"x")
    published = build(base, draft({"d/": {"path": "s3://registry/more/", "meta": {"of": "more"}}}))
    manifest = base.read(NAME, published.top_hash)

    assert [entry.logical_key for entry in manifest.entries] == ["a.txt", "d/b.txt", "d/c.txt", "d/x.txt"]
    assert manifest.directories == {"d/": {"of": "more"}}


@pytest.fixture
def foreign(registry: Registry, memory: MemoryStorage) -> list[Entry]:
    """Entries of a base that quilt3 and others may have written; they lie in the registry's bucket."""
    place, other = put(memory, "s3://registry/old/a", b"a"), put(memory, "s3://registry/old/a", b"a")
    entries = [
        entry_of("a", b"a", place, "s3://mirror/a", "file:///backup/a", hash_type=SHA256, user_meta={"n": 1}, theirs={"x": [2]}),
        entry_of("b", b"a", other.at_version(None), hash_type=CRC64NVME, user_meta=None),
        entry_of("c", b"a", other, user_meta={}),
    ]
    commit(registry, NAME, entries)
    return entries


@pytest.mark.parametrize("publish", [push, build])
def test_kept_entries_are_unchanged(
    registry: Registry, foreign: list[Entry], new: str, publish: Callable[..., PublishResult]
) -> None:
    recorder = Recorder()
    published = publish(through(registry, recorder), draft({"x": new}, hash_type=CRC64NVME))
    after = read(registry, published)

    assert after.pop("x").hash == hash_of(b"new", CRC64NVME)
    assert list(after.values()) == foreign
    assert published.bytes_copied == 0
    assert [call.key.key for call in recorder.of("stream", "stat") if call.key.key.startswith("old/")] == []


@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
def test_copied_entries_keep_meta(registry: Registry, memory: MemoryStorage, foreign: list[Entry], hash_type: str) -> None:
    published = push(registry, draft({"x": b"x"}, hash_type=hash_type), copy="all")

    after = read(registry, published)
    assert {entry.hash for key, entry in after.items() if key != "x"} == {hash_of(b"a", hash_type)}
    assert [entry.meta for key, entry in after.items() if key != "x"] == [entry.meta for entry in foreign]
    for key, entry in after.items():
        place = memory.stat(registry.location.root.join(f"team/package/{key}")).key
        assert entry.physical_keys == (str(place),)


def test_outside_entries_are_copied(registry: Registry, memory: MemoryStorage) -> None:
    places = {kind: put(memory, f"s3://source/{kind}", b"a") for kind in HASH_TYPES}
    commit(registry, NAME, [entry_of(kind, b"a", places[kind], hash_type=kind) for kind in sorted(HASH_TYPES)])
    published = push(registry, draft({"x": b"x"}))

    after = read(registry, published)
    assert {after[kind].hash for kind in HASH_TYPES} == {hash_of(b"a")}
    assert all(entry.physical_keys[0].startswith("s3://registry/team/package/") for entry in after.values())
    assert published.bytes_copied == 4


# A base on S3 that names files of some machine.


@pytest.fixture
def secret(registry: Registry, write: Callable[..., Path]) -> Path:
    """A file that the base of an S3 registry names beside an object; it may lie on this machine by chance, or by malice."""
    path = write("secret.txt", b"secret")
    commit(registry, NAME, [entry_of("secret", b"secret", path.as_uri(), user_meta={"n": 1})])
    return path


def test_build_keeps_base_files(registry: Registry, secret: Path, new: str) -> None:
    recorder = Recorder()
    before = list(registry.read(NAME).entries)
    published = build(through(registry, recorder), draft({"x": new}))

    assert [entry for key, entry in read(registry, published).items() if key != "x"] == before
    assert [call for call in recorder.calls if call.key.is_local] == []


@pytest.mark.parametrize("copy", ["if-outside", "all", "local-only", "none"])
def test_push_refuses_base_files(registry: Registry, memory: MemoryStorage, secret: Path, new: str, copy: Any) -> None:
    recorder = Recorder()
    before = objects(memory, "registry")

    with pytest.raises(SourceError, match="'secret'"):
        push(through(registry, recorder), draft({"x": new}), copy=copy)
    assert [call for call in recorder.calls if call.key.is_local] == []
    assert recorder.writes == []
    assert objects(memory, "registry") == before


def test_base_files_are_replaceable(registry: Registry, secret: Path) -> None:
    recorder = Recorder()
    removed = push(through(registry, recorder), draft({"x": b"x"}, remove=["secret"]))
    build(registry, Draft(package="team/package", entries={"secret": str(secret)}))
    replaced = push(through(registry, recorder), draft({"secret": b"mine"}))

    assert content(registry, removed) == {"x": (b"x", {})}
    assert content(registry, replaced) == {"secret": (b"mine", {})}
    assert [call for call in recorder.calls if call.key.is_local] == []


def test_given_file_is_pushed(registry: Registry, secret: Path) -> None:
    assert content(registry, push(registry, draft({"secret": str(secret)}))) == {"secret": (b"secret", {})}


def test_local_base_files_stay(local_registry: Registry, write: Callable[..., Path]) -> None:
    first, second = write("a.txt", b"a"), write("b.txt", b"b")
    build(local_registry, Draft(package=str(NAME), entries={"a": str(first)}))
    published = build(local_registry, draft({"b": str(second)}))

    assert content(local_registry, published) == {"a": (b"a", {}), "b": (b"b", {})}


def test_local_package_is_pushed(registry: Registry, local_registry: Registry, write: Callable[..., Path]) -> None:
    path = write("a.txt", b"a")
    built = build(local_registry, Draft(package=str(NAME), entries={"a": {"path": str(path), "meta": {"n": 1}}}))
    published = push(registry, draft({"in/": str(built.uri)}))

    assert content(registry, published) == {"in/a": (b"a", {"n": 1})}


# Again, and at the same time as others.


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"entries": {"x": b"x"}}, id="content"),
        pytest.param({"entries": {"a.txt": {"content": "new", "meta": {"n": 1}}}, "meta": {"week": 2}, "message": "m"}, id="all"),
        pytest.param({"remove": ["d", "none"]}, id="removal"),
        pytest.param({"entries": {"a.txt": b"x"}, "remove": ["a.txt"]}, id="removal-and-addition-of-one"),
        pytest.param({"entries": {"d/": {"meta": {"x": 1}}}}, id="metadata-of-a-directory"),
        pytest.param({"entries": {"x": b"x"}, "hash_type": CRC64NVME}, id="another-type-of-hash"),
        pytest.param({}, id="nothing"),
    ],
)
def test_same_update_no_revision(registry: Registry, more: dict[str, Any]) -> None:
    push(registry, Draft(package=str(NAME), entries={"a.txt": b"a", "d/b": b"b"}, message="first"))
    updated = push(registry, draft(**more))
    again = push(registry, draft(**more))

    assert updated.created
    assert (again.created, again.top_hash, again.revision) == (False, updated.top_hash, updated.revision)
    assert len(list(registry.revisions(NAME))) == 2


@pytest.mark.parametrize("publish", [push, build])
@pytest.mark.parametrize("there", ["a package", "no package yet"])
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda call: call.operation == "scan", id="while-sources-are-found"),
        pytest.param(is_put_of("/latest"), id="at-the-last-moment"),
    ],
)
def test_rival_is_a_conflict(
    registry: Registry, memory: MemoryStorage, publish: Callable[..., PublishResult], there: str, moment: Callable[..., bool]
) -> None:
    put(memory, "s3://registry/new/x.txt", b"new")
    first = push(registry, draft({"a": b"a"})) if there == "a package" else None
    theirs: list[PublishResult] = []
    racing = Before(moment, lambda: theirs.append(push(registry, draft({"theirs": b"theirs"}))))

    with pytest.raises(RevisionConflictError) as caught:
        publish(through(registry, racing), draft("s3://registry/new/", conflict="fail"))
    assert (caught.value.expected, caught.value.found) == (first.top_hash if first else None, theirs[0].top_hash)
    assert registry.resolve(NAME) == theirs[0].top_hash
    again = publish(registry, draft("s3://registry/new/"))
    assert list(read(registry, again)) == [*(["a"] if first else []), "theirs", "x.txt"]


def test_overwrite_keeps_read_base(registry: Registry) -> None:
    push(registry, draft({"a": b"a"}))
    theirs: list[PublishResult] = []
    racing = Before(lambda call: call.operation == "upload", lambda: theirs.append(push(registry, draft({"theirs": b"theirs"}))))
    mine = push(through(registry, racing), draft({"x": b"x"}, conflict="overwrite"))

    assert list(read(registry, mine)) == ["a", "x"]
    assert [revision.top_hash for revision in registry.revisions(NAME)][:2] == [mine.top_hash, theirs[0].top_hash]


def test_old_base_minds_rivals(
    history: tuple[Registry, list[PublishResult]],
) -> None:
    registry, published = history
    racing = Before(is_put_of("/latest"), lambda: push(registry, draft({"theirs": b"theirs"})))

    with pytest.raises(RevisionConflictError) as caught:
        push(through(registry, racing), draft({"x": b"x"}, revision=published[0].top_hash))
    assert caught.value.expected == published[2].top_hash


def test_base_is_of_its_registry(registry: Registry, memory: MemoryStorage) -> None:
    other = Registry(RegistryLocation.parse("s3://source"), registry.stores)
    there = push(other, draft({"a": b"a"}))

    with pytest.raises(PackageNotFoundError):
        push(registry, draft({"b": b"b"}, revision=there.top_hash))
