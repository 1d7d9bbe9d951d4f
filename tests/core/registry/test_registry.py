"""Revisions become visible in one order, never overwrite each other, and go away without losing the rest."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pendulum
import pytest

from airflow_quilt.core.errors import (
    EntryDamagedError,
    EntryNotFoundError,
    HashTypeError,
    LocationError,
    ManifestError,
    ObjectNotFoundError,
    PackageNameError,
    PackageNotFoundError,
    RevisionConflictError,
    StorageUnavailableError,
    TopHashError,
)
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.arguments import Conflict
from airflow_quilt.core.format.diff import Change
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import make_header
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import PackageName, TopHash, walk_order
from airflow_quilt.core.format.quilt_uri import Pin
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import DeleteResult, Latest, Revision
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Before, Call, Fault, Recorder, T, Tap, is_put_of, tapped
from tests.core.packages import HASH_TYPES, PART, entry_of, put
from tests.core.packages import commit as commit_entries
from tests.support import Clock

NAME = PackageName("team", "package")
NOW = 1_700_000_000
CURRENT: Any = object()


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture(params=["s3", "local"])
def timed(request: pytest.FixtureRequest, tmp_path: Path, stores: Stores, clock: Clock) -> Registry:
    """A registry whose clock the test sets, in memory and on the disk."""
    url = "s3://registry" if request.param == "s3" else str(tmp_path / "registry")
    return Registry(resolve_registry(url), stores, clock=clock)


def through(registry: Registry, *taps: Tap) -> Registry:
    """Return the same registry as a second process sees it, its calls going through taps."""
    return Registry(registry.location, tapped(registry.stores, *taps), clock=lambda: NOW)


def manifest(message: str) -> tuple[TopHash, BytesIO]:
    out = BytesIO()
    top_hash = write_manifest(make_header(message, None), [], out).top_hash
    out.seek(0)
    return top_hash, out


def commit(
    registry: Registry, message: str, conflict: Conflict = "fail", base: Latest | None = CURRENT, attempt: Attempt | None = None
) -> Revision:
    """Publish an empty package whose top hash depends on the message, on top of the latest revision by default."""
    top_hash, out = manifest(message)
    known = registry.latest(NAME) if base is CURRENT else base
    revision, _ = registry.commit(NAME, top_hash, out, known, overwrite=conflict == "overwrite", attempt=attempt)
    return revision


def whole(*revisions: Revision) -> DeleteResult:
    """Return the result of deleting a package with these revisions."""
    return DeleteResult(tuple(revision.published_at for revision in revisions))


def one(*revisions: Revision) -> DeleteResult:
    """Return the result of deleting a revision that was published so often."""
    (top_hash,) = {revision.top_hash for revision in revisions}
    return DeleteResult(tuple(revision.published_at for revision in revisions), top_hash)


def latest_hash(registry: Registry) -> str | None:
    latest = registry.latest(NAME)
    return latest.top_hash if latest else None


def key(registry: Registry, path: str) -> PhysicalKey:
    return registry.location.root.join(path)


def pointer_key(registry: Registry, name: str) -> PhysicalKey:
    return key(registry, f".quilt/named_packages/team/package/{name}")


def write_pointer(registry: Registry, name: str, data: str) -> None:
    pointer = pointer_key(registry, name)
    registry.stores.of(pointer).put(pointer, data.encode())


def has_manifest(registry: Registry, top_hash: str) -> bool:
    place = key(registry, f".quilt/packages/{top_hash}")
    try:
        registry.stores.of(place).stat(place)
    except ObjectNotFoundError:
        return False
    return True


def test_manifest_pointer_then_latest(timed: Registry) -> None:
    recorder = Recorder()
    revision = commit(through(timed, recorder), "first")

    paths = [str(call.key).removeprefix(f"{timed.location}/") for call in recorder.writes]
    pointers = ".quilt/named_packages/team/package"
    manifest, again = f".quilt/packages/{revision.top_hash}", f"{pointers}/{NOW}"  # Again: marked as published.
    assert paths == [manifest, f"{pointers}/{NOW}", f"{pointers}/latest", again]
    assert revision.published_at == pendulum.from_timestamp(NOW)
    for name in (str(NOW), "latest"):
        place = pointer_key(timed, name)
        assert timed.stores.of(place).get(place).data == revision.top_hash.encode()


def test_revision_round_trips(timed: Registry) -> None:
    revision = commit(timed, "first")

    for top_hash in (None, revision.top_hash, revision.top_hash[:6]):
        read = timed.read(NAME, top_hash)
        assert (read.header, list(read.entries)) == ({"version": "v0", "message": "first"}, [])


def test_one_second_per_revision(timed: Registry) -> None:
    revisions = [commit(timed, str(i)) for i in range(5)]

    assert [revision.published_at.int_timestamp for revision in revisions] == [NOW + i for i in range(5)]
    assert list(timed.revisions(NAME)) == revisions[::-1]


def test_taken_second_is_skipped(timed: Registry) -> None:
    other = manifest("theirs")[0]
    racing = Before(is_put_of(f"/{NOW}"), lambda: write_pointer(timed, str(NOW), other))
    revision = commit(through(timed, racing), "mine")

    assert revision.published_at.int_timestamp == NOW + 1
    assert [found.top_hash for found in timed.revisions(NAME)] == [revision.top_hash, other]


def test_clock_back_keeps_order(timed: Registry, clock: Clock) -> None:
    revisions = []
    for i, now in enumerate((NOW, NOW - 3600, NOW + 10, NOW + 5)):
        clock.now = now
        revisions.append(commit(timed, str(i)))

    assert list(timed.revisions(NAME)) == revisions[::-1]
    assert [revision.published_at.int_timestamp - NOW for revision in revisions] == [0, 1, 10, 11]


def test_fractions_are_cut_off(timed: Registry, clock: Clock) -> None:
    clock.now = NOW + 0.999

    assert commit(timed, "first").published_at == pendulum.from_timestamp(NOW)


def at_once(writers: int, work: Callable[[int], T]) -> list[T]:
    """Let so many threads begin to work at the same moment; return their results."""
    start = threading.Barrier(writers)

    def begin(writer: int) -> T:
        start.wait(60)
        return work(writer)

    with ThreadPoolExecutor(writers) as pool:
        return list(pool.map(begin, range(writers)))


def by_time(revisions: Iterable[Revision]) -> list[Revision]:
    return sorted(revisions, key=lambda revision: revision.published_at)


def test_parallel_writers_all_stay(timed: Registry) -> None:
    made = [
        revision
        for revisions in at_once(8, lambda writer: [commit(timed, f"{writer}-{i}", "overwrite") for i in range(4)])
        for revision in revisions
    ]

    history = list(timed.revisions(NAME))
    assert len(made) == 32
    assert by_time(history) == by_time(made)
    assert latest_hash(timed) in {revision.top_hash for revision in history}


def test_one_writer_wins_a_base(timed: Registry) -> None:
    first = commit(timed, "first")
    base = timed.latest(NAME)

    def work(writer: int) -> Revision | RevisionConflictError:
        try:
            return commit(timed, str(writer), base=base)
        except RevisionConflictError as error:
            return error

    made = [answer for answer in at_once(8, work) if isinstance(answer, Revision)]

    assert len(made) == 1
    assert list(timed.revisions(NAME)) == [made[0], first]
    assert latest_hash(timed) == made[0].top_hash


@pytest.mark.parametrize("is_new", ["new package", "second revision"])
def test_moved_base_writes_nothing(timed: Registry, is_new: str) -> None:
    first = None if is_new == "new package" else commit(timed, "first")
    base = timed.latest(NAME)
    theirs = commit(timed, "theirs")
    recorder = Recorder()

    # A small manifest, which no reader sees, takes no round trip of its own.
    for message, written in (("m" * 600_000, []), ("mine", ["packages"])):
        with pytest.raises(RevisionConflictError, match="team/package") as caught:
            commit(through(timed, recorder), message, base=base)
        assert (caught.value.expected, caught.value.found) == (first.top_hash if first else None, theirs.top_hash)
        assert caught.value.transient
        assert [Path(call.key.key).parent.name for call in recorder.writes] == written


@pytest.mark.parametrize("is_new", ["new package", "second revision"])
def test_late_conflict_no_pointer(timed: Registry, is_new: str) -> None:
    first = None if is_new == "new package" else commit(timed, "first")
    base = timed.latest(NAME)
    theirs: list[Revision] = []
    racing = Before(is_put_of("/latest"), lambda: theirs.append(commit(timed, "theirs")))

    with pytest.raises(RevisionConflictError) as caught:
        commit(through(timed, racing), "mine", base=base)
    assert (caught.value.expected, caught.value.found) == (first.top_hash if first else None, theirs[0].top_hash)
    assert list(timed.revisions(NAME)) == [theirs[0], *([first] if first else [])]
    assert latest_hash(timed) == theirs[0].top_hash


def test_deleted_base_is_conflict(timed: Registry) -> None:
    first = commit(timed, "first")
    racing = Before(is_put_of("/latest"), lambda: timed.delete(NAME))

    with pytest.raises(RevisionConflictError) as caught:
        commit(through(timed, racing), "mine", base=timed.latest(NAME))
    assert (caught.value.expected, caught.value.found) == (first.top_hash, None)
    assert list(timed.revisions(NAME)) == []


def test_overwrite_wins(timed: Registry) -> None:
    first = commit(timed, "first")
    base = timed.latest(NAME)
    theirs = commit(timed, "theirs")
    mine = commit(timed, "mine", "overwrite", base)

    assert list(timed.revisions(NAME)) == [mine, theirs, first]
    assert latest_hash(timed) == mine.top_hash


def test_stopped_commit_is_resumed(timed: Registry) -> None:
    first = commit(timed, "first")
    work = Attempt("work")
    with pytest.raises(StorageUnavailableError):
        commit(through(timed, Fault(1, among=is_put_of("/latest"))), "second", base=timed.latest(NAME), attempt=work)
    (unfinished, _) = timed.revisions(NAME)
    assert latest_hash(timed) == first.top_hash

    second = commit(timed, "second", attempt=replace(work, since=NOW))
    assert second.top_hash == unfinished.top_hash
    assert list(timed.revisions(NAME)) == [second, first]
    assert latest_hash(timed) == second.top_hash


def test_vanished_pointer_ignored(timed: Registry) -> None:
    """Another writer takes its pointer away because it met a conflict."""
    first = commit(timed, "first")
    write_pointer(timed, str(NOW + 1), ONE)
    theirs = pointer_key(timed, str(NOW + 1))
    vanishing = Before(
        lambda call: call.operation == "get" and call.key == theirs, lambda: timed.stores.of(theirs).delete([theirs])
    )
    mine = commit(through(timed, vanishing), "mine", base=timed.latest(NAME))

    assert vanishing.done
    assert list(timed.revisions(NAME)) == [mine, first]


def test_republished_gets_pointer(timed: Registry) -> None:
    first = commit(timed, "first")
    second = commit(timed, "second")
    again = commit(timed, "first")

    assert again.top_hash == first.top_hash
    assert list(timed.revisions(NAME)) == [again, second, first]


def test_recommit_gets_a_pointer(timed: Registry) -> None:
    first = commit(timed, "first")
    again = commit(timed, "first")

    assert list(timed.revisions(NAME)) == [again, first]
    assert first.top_hash == again.top_hash == latest_hash(timed)


def test_finished_by_other_stays(timed: Registry) -> None:
    """Two attempts of one task publish the same content; the second finishes the work of the first."""
    commit(timed, "first")
    base = timed.latest(NAME)
    theirs: list[Revision] = []
    racing = Before(is_put_of("/latest"), lambda: theirs.append(commit(timed, "same", base=base)))
    with contextlib.suppress(RevisionConflictError):  # Either answer is honest; the other writer's result must stay true.
        commit(through(timed, racing), "same", base=base)

    assert theirs[0] in list(timed.revisions(NAME))
    assert latest_hash(timed) == theirs[0].top_hash


def test_finished_and_passed_stays(timed: Registry) -> None:
    """Keep a revision that another writer finished and a third one followed."""
    commit(timed, "first")
    base = timed.latest(NAME)
    theirs: list[Revision] = []

    def publish_twice() -> None:
        theirs.append(commit(timed, "same", base=base))
        theirs.append(commit(timed, "next"))

    with pytest.raises(RevisionConflictError):
        commit(through(timed, Before(is_put_of("/latest"), publish_twice)), "same", base=base)

    history = list(timed.revisions(NAME))
    assert [revision for revision in theirs if revision not in history] == []
    assert latest_hash(timed) == theirs[1].top_hash


@pytest.mark.parametrize(
    "name",
    ["123", "notes.txt", "1700000099.bak", "17000000990", "latest.old", "v1700000099", ".1700000099.tmp", "1700000099/inner"],
)
def test_stray_names_are_ignored(timed: Registry, name: str) -> None:
    revision = commit(timed, "first")
    write_pointer(timed, name, "something")

    assert list(timed.revisions(NAME)) == [revision]
    assert commit(timed, "second").published_at.int_timestamp == NOW + 1
    assert timed.delete(NAME, revision.top_hash) == one(revision)


def test_similar_packages_kept_apart(timed: Registry) -> None:
    commit(timed, "first")
    longer = PackageName("team", "package-2")
    top_hash, out = manifest("other")
    timed.commit(longer, top_hash, out, None)

    assert [revision.top_hash for revision in timed.revisions(longer)] == [top_hash]
    assert top_hash not in {revision.top_hash for revision in timed.revisions(NAME)}
    timed.delete(NAME)
    assert [revision.top_hash for revision in timed.revisions(longer)] == [top_hash]


def test_packages_listed_once(timed: Registry) -> None:
    assert list(timed.packages()) == []
    names = [PackageName("a", "one"), PackageName("a", "two"), PackageName("b", "one")]
    for name in names:
        for message in ("first", "second"):
            top_hash, out = manifest(message)
            timed.commit(name, top_hash, out, timed.latest(name))
    stray = key(timed, ".quilt/named_packages/README")
    timed.stores.of(stray).put(stray, b"not a package")

    assert sorted(timed.packages()) == names
    timed.delete(names[1])
    assert sorted(timed.packages()) == [names[0], names[2]]


TAG, NESTED = "2020-05", "old/1600000000"


def test_delete_takes_tags_along(timed: Registry, history: list[Revision]) -> None:
    """Delete pointers of all names, and leftovers of other clients, or quilt3 lists the package for ever."""
    for name in (TAG, NESTED, "17000000990", "notes.txt", f"old/.{'0' * 32}.tmp"):
        write_pointer(timed, name, ONE)
    if not timed.location.is_local:
        write_pointer(timed, "", "")

    assert timed.delete(NAME) == whole(*history)
    assert list(timed.packages()) == []
    assert left(timed) == []


def test_tags_alone_are_deleted(timed: Registry) -> None:
    """Delete a package of which an earlier attempt, or quilt3, left anything."""
    for leave in (TAG, NESTED):
        write_pointer(timed, leave, "anything")
        assert list(timed.packages()) == [NAME]
        assert timed.delete(NAME) == whole()
        assert left(timed) == []
    with pytest.raises(PackageNotFoundError):
        timed.delete(NAME)


def test_tag_during_deletion_goes(timed: Registry, history: list[Revision]) -> None:
    for operation in ("delete", "scan"):
        late = Before(lambda call, kind=operation: call.operation == kind, lambda: write_pointer(timed, TAG, ONE))
        assert through(timed, late).delete(NAME) in (whole(*history), whole(*history[:1]))
        assert left(timed) == []
        history = [commit(timed, "again")]


def test_delete_takes_tags_of_hash(timed: Registry, history: list[Revision]) -> None:
    """Delete the tags of a revision, as quilt3 does, and no others."""
    for name, revision in ((TAG, history[1]), (NESTED, history[1]), ("stable", history[2]), ("words", None)):
        write_pointer(timed, name, revision.top_hash if revision else "no hash")

    assert timed.delete(NAME, history[1].top_hash[:9]) == one(history[1])
    assert left(timed) == ["1700000000", "1700000002", "latest", "stable", "words"]
    assert timed.delete(NAME, history[2].top_hash) == one(history[2])
    assert left(timed) == ["1700000002", "latest", "words"]
    assert timed.delete(NAME, history[0].top_hash) == one(history[0])
    assert left(timed) == []


def test_tagged_revision_is_kept(timed: Registry) -> None:
    """Keep a tag of another revision when the last one of the history goes, and delete it by its hash."""
    only = commit(timed, "first")
    write_pointer(timed, TAG, ONE)

    assert timed.delete(NAME, only.top_hash) == one(only)
    assert left(timed) == [TAG]
    assert timed.latest(NAME) is None
    assert timed.delete(NAME, ONE[:6]) == DeleteResult(top_hash=TopHash(ONE))
    assert left(timed) == []


def test_delete_keeps_foreign_latest(timed: Registry) -> None:
    """Leave ``latest`` alone where it names another revision, though that one has no pointer: it gets one."""
    only = commit(timed, "first")
    write_pointer(timed, layout.LATEST, ONE)

    assert timed.delete(NAME, only.top_hash) == one(only)
    assert latest_hash(timed) == ONE
    assert [revision.top_hash for revision in timed.revisions(NAME)] == [ONE]


@pytest.mark.parametrize("name", ["team/data\n", "team/a\x01b", "te am/da.ta v2", "tëam/データ", "a+b/%2F?&#"])
def test_any_listed_name_is_deleted(timed: Registry, name: str) -> None:
    place = key(timed, f"{layout.NAMES}{name}/")
    for pointer in (str(NOW), layout.LATEST):
        timed.stores.of(place).put(place.join(pointer), ONE.encode())
    (listed,) = timed.packages()

    assert str(listed) == name
    assert [revision.top_hash for revision in timed.revisions(listed)] == [ONE]
    assert len(timed.delete(name).times) == 1
    assert list(timed.packages()) == []
    with pytest.raises((PackageNameError, PackageNotFoundError)):
        timed.delete(name)


@pytest.mark.parametrize("name", ["team/..", "../data", "./x", "team/", "/data", "team", "a/b/c", "", "te am/gone", "a/b\0"])
def test_bad_name_deletes_nothing(timed: Registry, name: str) -> None:
    recorder = Recorder()

    with pytest.raises(PackageNameError):
        through(timed, recorder).delete(name)
    assert recorder.writes == []


def left(registry: Registry) -> list[str]:
    """Return the names of all that is there of the package, directories too."""
    directory = pointer_key(registry, "")
    if directory.is_local:
        root = Path(directory.key)
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) if root.exists() else []
    found = registry.stores.of(directory).list_objects(directory)
    return sorted(stat.key.key.removeprefix(directory.key) for stat in found)


def test_absent_package_is_empty(timed: Registry) -> None:
    assert timed.latest(NAME) is None
    assert list(timed.revisions(NAME)) == []
    for read in (timed.resolve, timed.read):
        with pytest.raises(PackageNotFoundError, match="team/package"):
            read(NAME)


def test_absent_revision_not_read(timed: Registry) -> None:
    commit(timed, "first")

    with pytest.raises(PackageNotFoundError, match=r"\b0{12}\b"):
        timed.read(NAME, "0" * 64)


ONE, TWO, OTHER = "abcdef11" + "0" * 56, "abcdef22" + "0" * 56, "123456" + "0" * 58


@pytest.fixture
def with_hashes(timed: Registry) -> Registry:
    """A registry whose package has two revisions that begin alike, and one published twice."""
    for i, top_hash in enumerate((ONE, TWO, OTHER, OTHER)):
        write_pointer(timed, str(NOW + i), top_hash)
    write_pointer(timed, layout.LATEST, OTHER)
    return timed


@pytest.mark.parametrize(
    ("short", "full"),
    [
        pytest.param("abcdef1", ONE, id="the shortest that is unique"),
        pytest.param(TWO[:63], TWO, id="all but one digit"),
        pytest.param(TWO, TWO, id="whole"),
        pytest.param("123456", OTHER, id="six digits of one that was published twice"),
    ],
)
def test_short_hash_finds_revision(with_hashes: Registry, short: str, full: str) -> None:
    assert with_hashes.resolve(NAME, short) == full


@pytest.mark.parametrize(
    ("short", "message"),
    [
        pytest.param("abcdef", f"give more digits; it matches {ONE[:12]}, {TWO[:12]}", id="several"),
        pytest.param("999999", "no revision", id="none"),
        pytest.param("12345", "6 to 64 lower-case hex digits", id="too short"),
        pytest.param("", "6 to 64 lower-case hex digits", id="empty"),
        pytest.param("ABCDEF1", "6 to 64 lower-case hex digits", id="upper case"),
        pytest.param(ONE.upper(), "6 to 64 lower-case hex digits", id="whole in upper case"),
        pytest.param("123456\n", "6 to 64 lower-case hex digits", id="newline"),
        pytest.param("newest", "6 to 64 lower-case hex digits", id="a word"),
        pytest.param("1" * 65, "6 to 64 lower-case hex digits", id="too long"),
    ],
)
def test_bad_short_hash_refused(with_hashes: Registry, short: str, message: str) -> None:
    with pytest.raises(TopHashError, match=message):
        with_hashes.resolve(NAME, short)


@pytest.mark.parametrize(
    "data",
    [b"", b"abc", b"\xff" * 64, ONE.upper().encode(), OTHER.encode() + b"0", b"<html>"],
    ids=["empty", "short", "not text", "upper case", "too long", "something else"],
)
@pytest.mark.parametrize("pointer", ["latest", str(NOW + 1)])
def test_damaged_pointer_is_named(with_hashes: Registry, pointer: str, data: bytes) -> None:
    place = pointer_key(with_hashes, pointer)
    with_hashes.stores.of(place).put(place, data)

    with pytest.raises(ManifestError, match=f"team/package:{pointer}"):
        _ = with_hashes.latest(NAME) if pointer == "latest" else list(with_hashes.revisions(NAME))


def test_pointer_newline_is_ignored(with_hashes: Registry) -> None:
    write_pointer(with_hashes, "latest", f"{ONE}\n")

    assert latest_hash(with_hashes) == ONE


@pytest.fixture
def history(timed: Registry) -> list[Revision]:
    """Three revisions of the package, newest first."""
    return [commit(timed, message) for message in ("first", "second", "third")][::-1]


def effects(recorder: Recorder) -> list[Call]:
    """Return the calls that changed something, but for the lock that was held meanwhile."""
    return [call for call in recorder.writes if "/locks/" not in call.key.key]


def delete_order(registry: Registry, top_hash: str | None) -> list[tuple[str, str]]:
    """Delete through a recorder; return the writes, in order."""
    recorder = Recorder()
    through(registry, recorder).delete(NAME, top_hash)
    return [(call.operation, call.key.name) for call in effects(recorder)]


@pytest.mark.parametrize("index", [1, 2])
def test_delete_older_takes_pointer(timed: Registry, history: list[Revision], index: int) -> None:
    assert delete_order(timed, history[index].top_hash) == [("delete", str(history[index].published_at.int_timestamp))]
    assert list(timed.revisions(NAME)) == [revision for revision in history if revision != history[index]]
    assert latest_hash(timed) == history[0].top_hash


def test_delete_moves_latest_first(timed: Registry, history: list[Revision]) -> None:
    assert delete_order(timed, history[0].top_hash[:8]) == [("put", "latest"), ("delete", str(NOW + 2))]
    assert list(timed.revisions(NAME)) == history[1:]
    assert latest_hash(timed) == history[1].top_hash


def test_delete_package_order(timed: Registry, history: list[Revision]) -> None:
    """Delete `latest` first, then the pointers, and leave the manifests."""
    order = delete_order(timed, None)

    assert order[0] == ("delete", "latest")
    assert sorted(order[1:]) == [("delete", str(NOW + i)) for i in range(3)]
    assert timed.latest(NAME) is None
    assert list(timed.revisions(NAME)) == []
    assert all(has_manifest(timed, revision.top_hash) for revision in history)


def test_delete_reports_newest_first(timed: Registry, history: list[Revision]) -> None:
    assert timed.delete(NAME, history[1].top_hash) == one(history[1])
    assert timed.delete(NAME) == whole(history[0], history[2])


def test_delete_only_revision(timed: Registry) -> None:
    revision = commit(timed, "first")

    assert timed.delete(NAME, revision.top_hash) == one(revision)
    assert timed.latest(NAME) is None
    assert list(timed.packages()) == []


def test_delete_takes_all_pointers(timed: Registry) -> None:
    old, between, again = commit(timed, "same"), commit(timed, "other"), commit(timed, "same")

    assert timed.delete(NAME, old.top_hash) == one(again, old)
    assert list(timed.revisions(NAME)) == [between]
    assert latest_hash(timed) == between.top_hash


def test_delete_hash_of_latest_only(timed: Registry, history: list[Revision]) -> None:
    write_pointer(timed, "latest", ONE)

    assert timed.delete(NAME, ONE[:8]) == DeleteResult(top_hash=TopHash(ONE))
    assert list(timed.revisions(NAME)) == history
    assert latest_hash(timed) == history[0].top_hash


def test_delete_latest_only_package(timed: Registry) -> None:
    write_pointer(timed, "latest", ONE)

    assert timed.delete(NAME) == whole()
    assert list(timed.packages()) == []


def test_delete_without_latest(timed: Registry, history: list[Revision]) -> None:
    timed.stores.of(timed.location.root).delete([pointer_key(timed, "latest")])

    assert timed.delete(NAME) == whole(*history)
    assert list(timed.packages()) == []


def test_publish_after_delete(timed: Registry, history: list[Revision]) -> None:
    timed.delete(NAME)
    again = commit(timed, "third")

    assert again.top_hash == history[0].top_hash
    assert list(timed.revisions(NAME)) == [again]


@pytest.mark.parametrize("top_hash", [None, "0" * 64, "0" * 6], ids=["whole", "full hash", "short hash"])
def test_delete_absent_package(timed: Registry, top_hash: str | None) -> None:
    with pytest.raises(PackageNotFoundError, match="team/package"):
        timed.delete(NAME, top_hash)


@pytest.mark.parametrize(
    ("top_hash", "error"),
    [
        pytest.param("0" * 64, PackageNotFoundError, id="absent"),
        pytest.param("999999", PackageNotFoundError, id="absent short"),
        pytest.param("abcdef", TopHashError, id="several"),
        pytest.param("12345", TopHashError, id="too short though it fits"),
        pytest.param("", TopHashError, id="empty"),
        pytest.param("ABCDEF11", TopHashError, id="upper case"),
        pytest.param("latest", TopHashError, id="a word"),
        pytest.param(f"{ONE}0", TopHashError, id="too long"),
    ],
)
def test_delete_ambiguous_refused(with_hashes: Registry, top_hash: str, error: type[Exception]) -> None:
    recorder = Recorder()

    with pytest.raises(error):
        through(with_hashes, recorder).delete(NAME, top_hash)
    assert effects(recorder) == []


def test_delete_while_latest_moves(timed: Registry, history: list[Revision]) -> None:
    theirs: list[Revision] = []
    racing = Before(is_put_of("/latest"), lambda: theirs.append(commit(timed, "theirs")))

    assert through(timed, racing).delete(NAME, history[0].top_hash) == one(history[0])
    assert list(timed.revisions(NAME)) == [theirs[0], *history[1:]]
    assert latest_hash(timed) == theirs[0].top_hash


def test_delete_package_conflict(timed: Registry, history: list[Revision]) -> None:
    theirs: list[Revision] = []
    racing = Before(lambda call: call.operation == "scan", lambda: theirs.append(commit(timed, "theirs")))

    with pytest.raises(RevisionConflictError) as caught:
        through(timed, racing).delete(NAME)
    assert (caught.value.expected, caught.value.found) == (history[0].top_hash, theirs[0].top_hash)
    assert list(timed.revisions(NAME)) == [theirs[0], *history]
    assert latest_hash(timed) == theirs[0].top_hash


def test_delete_keeps_new_revision(timed: Registry, history: list[Revision]) -> None:
    """Either the deletion is refused, or the new revision is all that is left; it never loses its ``latest``."""
    theirs: list[Revision] = []
    racing = Before(lambda call: call.operation == "delete", lambda: theirs.append(commit(timed, "theirs")))
    try:
        through(timed, racing).delete(NAME)
    except RevisionConflictError:
        assert list(timed.revisions(NAME)) == [theirs[0], *history]

    assert theirs[0] in list(timed.revisions(NAME))
    assert latest_hash(timed) == theirs[0].top_hash


def test_vanished_revision_left_out(timed: Registry, history: list[Revision]) -> None:
    gone = pointer_key(timed, str(NOW + 1))
    vanishing = Before(lambda call: call.operation == "get", lambda: timed.stores.of(gone).delete([gone]))
    found = list(through(timed, vanishing).revisions(NAME))

    assert found in ([history[0], history[2]], history)  # Threads read: the one that vanishes may have been read before.
    assert list(timed.revisions(NAME)) == [history[0], history[2]]


def test_long_history_is_in_order(timed: Registry) -> None:
    count = 120
    for i in range(count):
        write_pointer(timed, str(NOW + i), f"{i:064x}")

    assert [int(revision.top_hash, 16) for revision in timed.revisions(NAME)] == list(range(count))[::-1]


@pytest.mark.parametrize("read", [Registry.packages, lambda registry: registry.revisions(NAME)], ids=["packages", "revisions"])
def test_failing_store_is_not_empty(timed: Registry, read: Callable[[Registry], Any]) -> None:
    commit(timed, "first")

    with pytest.raises(StorageUnavailableError):
        list(read(through(timed, Fault(1))))


# Rollback.


def test_rollback_keeps_history(timed: Registry) -> None:
    first, second, third = (commit(timed, message) for message in ("first", "second", "third"))

    assert timed.rollback(NAME, first.top_hash[:8]) == (first, third.top_hash)
    assert latest_hash(timed) == first.top_hash
    assert list(timed.revisions(NAME)) == [third, second, first]


def test_rollback_to_latest_no_write(timed: Registry) -> None:
    first = commit(timed, "first")
    recorder = Recorder()

    assert through(timed, recorder).rollback(NAME, first.top_hash) == (first, first.top_hash)
    assert effects(recorder) == []


def test_rollback_needs_a_revision(timed: Registry) -> None:
    with pytest.raises(PackageNotFoundError, match="there is no package"):
        timed.rollback(NAME, ONE)
    first = commit(timed, "first")
    with pytest.raises(PackageNotFoundError, match="has no revision"):
        timed.rollback(NAME, manifest("never published")[0])
    with pytest.raises(TopHashError):
        timed.rollback(NAME, "xyz")
    assert latest_hash(timed) == first.top_hash


def test_rollback_needs_a_manifest(timed: Registry) -> None:
    first = commit(timed, "first")
    second = commit(timed, "second")
    gone = timed.location.root.join(layout.manifest(first.top_hash))
    timed.stores.of(gone).delete([gone])

    with pytest.raises(PackageNotFoundError, match="the manifest .* is gone"):
        timed.rollback(NAME, first.top_hash)
    assert latest_hash(timed) == second.top_hash


def test_rollback_conflict(timed: Registry) -> None:
    first = commit(timed, "first")
    second = commit(timed, "second")
    meanwhile = Before(lambda call: call.operation == "put" and call.key.key.endswith("/latest"), lambda: commit(timed, "third"))

    with pytest.raises(RevisionConflictError) as caught:
        through(timed, meanwhile).rollback(NAME, first.top_hash)
    assert caught.value.expected == second.top_hash
    assert latest_hash(timed) == manifest("third")[0]


# Revisions by time and by the name of their pointer.


@pytest.fixture
def weekly(timed: Registry, clock: Clock) -> list[Revision]:
    """Three revisions of the package, ten seconds apart, oldest first."""
    revisions = []
    for number in range(3):
        clock.now = NOW + 10 * number
        revisions.append(commit(timed, str(number)))
    return revisions


FIRST = datetime.fromtimestamp(NOW, UTC)


@pytest.mark.parametrize(
    ("seconds", "number"),
    [
        pytest.param(0, 0, id="the-second-of-the-first"),
        pytest.param(0.5, 0, id="half-a-second-later"),
        pytest.param(9, 0, id="just-before-the-second"),
        pytest.param(9.999999, 0, id="a-microsecond-before-the-second"),
        pytest.param(10, 1, id="the-second-of-the-second"),
        pytest.param(15, 1, id="between"),
        pytest.param(20, 2, id="the-second-of-the-third"),
        pytest.param(10**9, 2, id="long-after"),
    ],
)
@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(lambda moment: moment, id="datetime"),
        pytest.param(lambda moment: moment.replace(tzinfo=None), id="naive-datetime"),
        pytest.param(lambda moment: moment.astimezone(timezone(timedelta(hours=-7))), id="datetime-of-another-zone"),
        pytest.param(lambda moment: pendulum.instance(moment).in_timezone("Asia/Kolkata"), id="pendulum"),
        pytest.param(lambda moment: moment.isoformat(), id="text"),
        pytest.param(lambda moment: moment.isoformat().replace("+00:00", "Z"), id="text-with-z"),
        pytest.param(lambda moment: moment.replace(tzinfo=None).isoformat(" "), id="naive-text-with-a-space"),
        pytest.param(lambda moment: moment.astimezone(timezone(timedelta(hours=5, minutes=45))).isoformat(), id="text-of-nepal"),
    ],
)
def test_time_finds_newest_then(
    timed: Registry, weekly: list[Revision], spell: Callable[[datetime], Any], seconds: float, number: int
) -> None:
    assert timed.resolve(NAME, spell(FIRST + timedelta(seconds=seconds))) == weekly[number].top_hash


def test_day_begins_at_midnight_utc(timed: Registry, weekly: list[Revision]) -> None:
    assert timed.resolve(NAME, "2023-11-15") == weekly[2].top_hash
    with pytest.raises(PackageNotFoundError):
        timed.resolve(NAME, "2023-11-14")


@pytest.mark.parametrize("moment", [FIRST - timedelta(microseconds=1), "1970-01-01", "2023-11-14T22:13:19Z"], ids=str)
def test_time_before_the_first(timed: Registry, weekly: list[Revision], moment: datetime | str) -> None:
    with pytest.raises(PackageNotFoundError, match=r"there was no package team/package at .*\+00:00"):
        timed.resolve(NAME, moment)


def test_time_of_absent_package(timed: Registry) -> None:
    with pytest.raises(PackageNotFoundError):
        timed.resolve(NAME, FIRST)


@pytest.mark.parametrize("text", ["yesterday-ish", "2023-13-01", "-", "2023-11-14T25:00:00", "12-34", "2023-11"])
def test_bad_time_is_refused(timed: Registry, weekly: list[Revision], text: str) -> None:
    with pytest.raises(TopHashError, match="neither a top hash nor a time"):
        timed.resolve(NAME, text)


@pytest.mark.parametrize("revision", [7, 1_700_000_000, 1.5, b"abcdef", [], True], ids=repr)
def test_bad_revision_type_refused(timed: Registry, weekly: list[Revision], revision: Any) -> None:
    with pytest.raises(TopHashError):
        timed.resolve(NAME, revision)


def test_time_ignores_rollback(timed: Registry, weekly: list[Revision]) -> None:
    timed.rollback(NAME, weekly[0].top_hash)

    assert timed.resolve(NAME, FIRST + timedelta(days=1)) == weekly[2].top_hash
    assert timed.resolve(NAME) == timed.resolve(NAME, "latest") == weekly[0].top_hash


@pytest.mark.parametrize("number", range(3))
def test_pointer_name_finds_revision(timed: Registry, weekly: list[Revision], number: int) -> None:
    assert timed.resolve(NAME, str(NOW + 10 * number)) == weekly[number].top_hash


def test_ten_digits_may_be_a_hash(timed: Registry) -> None:
    top_hash = "1700000007" + "a" * 54
    write_pointer(timed, str(NOW), top_hash)

    assert timed.resolve(NAME, "1700000007") == top_hash
    with pytest.raises(TopHashError, match="no revision"):
        timed.resolve(NAME, "1700000008")


def test_pointer_name_precedes_hash(timed: Registry) -> None:
    write_pointer(timed, str(NOW), str(NOW) + "a" * 54)
    write_pointer(timed, str(NOW + 1), ONE)
    write_pointer(timed, str(NOW + 2), str(NOW + 1) + "b" * 54)

    assert timed.resolve(NAME, str(NOW + 1)) == ONE


def test_read_by_any_name(timed: Registry, weekly: list[Revision]) -> None:
    names = [weekly[1].top_hash, weekly[1].top_hash[:8], FIRST + timedelta(seconds=12), "2023-11-14 22:13:35", str(NOW + 10)]

    assert [timed.read(NAME, name).header["message"] for name in names] == ["1"] * 5


# The pins of Quilt+ URIs.


def test_pin_finds_revision(timed: Registry, weekly: list[Revision]) -> None:
    """A hash is never taken for a time, nor a time for a hash; any pointer is a tag, which only other programs write."""
    write_pointer(timed, "v1.0+final", weekly[0].top_hash)
    write_pointer(timed, str(NOW + 11), "1700000010" + "c" * 54)
    for pin, top_hash in {
        Pin("tag", "latest"): weekly[2].top_hash,
        Pin("tag", str(NOW + 10)): weekly[1].top_hash,
        Pin("tag", "v1.0+final"): weekly[0].top_hash,
        Pin("hash", weekly[1].top_hash): weekly[1].top_hash,
        Pin("hash", weekly[1].top_hash[:7]): weekly[1].top_hash,
        Pin("hash", str(NOW + 10)): "1700000010" + "c" * 54,
    }.items():
        assert timed.resolve(NAME, pin) == top_hash, pin


def test_absent_pin_is_named(timed: Registry, weekly: list[Revision]) -> None:
    for pin, error, words in (
        (Pin("tag", "prod"), PackageNotFoundError, "team/package has no revision or tag 'prod'"),
        (Pin("tag", str(NOW + 1)), PackageNotFoundError, f"'{NOW + 1}'"),
        (Pin("tag", weekly[0].top_hash), PackageNotFoundError, weekly[0].top_hash),
        (Pin("hash", "abc1"), TopHashError, "6 to 64"),
        (Pin("hash", "2023110"), TopHashError, "no revision"),
    ):
        with pytest.raises(error, match=words):
            timed.resolve(NAME, pin)
    write_pointer(timed, "broken", "no hash")
    with pytest.raises(ManifestError, match="team/package:broken"):
        timed.resolve(NAME, Pin("tag", "broken"))


# Entries and their bytes.

DATA = os.urandom(2 * PART + 5)


@pytest.fixture(params=HASH_TYPES)
def packed(request: pytest.FixtureRequest, timed: Registry, memory: MemoryStorage) -> Registry:
    """A registry whose package has entries with hashes of one type, some of them with other bytes than they should have."""
    place = {name: put(memory, f"s3://source/{name}", data) for name, data in BYTES.items()}
    claimed = {"a": b"right", "empty": b"", "large": DATA, "damaged": b"right", "short": b"right", "large-damaged": DATA[::-1]}
    entries = [entry_of(f"d/{key}", data, place[key], "s3://no/such", hash_type=request.param) for key, data in claimed.items()]
    top_hash = commit_entries(timed, NAME, sorted(entries, key=lambda entry: walk_order(entry.logical_key)))
    assert timed.resolve(NAME) == top_hash
    return timed


BYTES = {"a": b"right", "empty": b"", "large": DATA, "damaged": b"wrong", "short": b"righ", "large-damaged": DATA}


@pytest.mark.parametrize("key", ["a", "empty", "large"])
def test_entry_bytes_are_checked(packed: Registry, key: str) -> None:
    entry = packed.entry(NAME, f"d/{key}")

    assert (entry.logical_key, entry.size) == (f"d/{key}", len(BYTES[key]))
    assert packed.read_bytes(entry) == b"".join(packed.stream(entry)) == BYTES[key]


@pytest.mark.parametrize("key", ["damaged", "short", "large-damaged"])
def test_wrong_bytes_are_an_error(packed: Registry, key: str) -> None:
    entry = packed.entry(NAME, f"d/{key}")

    with pytest.raises(EntryDamagedError, match=f"'d/{key}' .*s3://source/{key}"):
        packed.read_bytes(entry)
    with pytest.raises(EntryDamagedError):
        list(packed.stream(entry))


def test_grown_object_is_cut_off(timed: Registry, memory: MemoryStorage) -> None:
    entry = entry_of("a", b"data", put(memory, "s3://source/a", b"data and more"))

    assert timed.read_bytes(entry) == b"data"


def test_gone_object_is_not_found(timed: Registry) -> None:
    with pytest.raises(ObjectNotFoundError, match="s3://source/gone"):
        timed.read_bytes(entry_of("a", b"data", "s3://source/gone"))


@pytest.mark.parametrize("place", ["https://x/y", "", "s3:///y", "s3://b/k?x=y"])
def test_bad_physical_key_refused(timed: Registry, place: str) -> None:
    with pytest.raises(LocationError):
        timed.read_bytes(entry_of("a", b"data", place))


def test_unknown_hash_type_refused(timed: Registry, memory: MemoryStorage) -> None:
    entry = msgspec.structs.replace(entry_of("a", b"data", put(memory, "s3://source/a", b"data")), hash=Hash("MD5", "0"))

    with pytest.raises(HashTypeError, match="'MD5'"):
        timed.read_bytes(entry)


def test_file_needs_local_registry(timed: Registry, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    entry = entry_of("a", b"secret", (tmp_path / "secret").as_uri())
    recorder = Recorder()

    if timed.location.is_local:
        assert timed.read_bytes(entry) == b"secret"
    else:
        with pytest.raises(LocationError, match="entry 'a': .*secret is a file of some other machine"):
            through(timed, recorder).read_bytes(entry)
        assert recorder.calls == []


def test_entry_of_chosen_revision(timed: Registry) -> None:
    old = commit_entries(timed, NAME, [entry_of("a", b"old", "s3://source/old"), entry_of("b", b"b", "s3://source/b")])
    commit_entries(timed, NAME, [entry_of("a", b"new", "s3://source/new")])

    assert timed.entry(NAME, "a").physical_keys == ("s3://source/new",)
    assert timed.entry(NAME, "a", old[:8]).physical_keys == ("s3://source/old",)
    for key, revision in (("b", None), ("c", old), ("a/", old), ("", old), ("A", old)):
        with pytest.raises(EntryNotFoundError, match=f"package team/package@[0-9a-f]* has no entry {key!r}"):
            timed.entry(NAME, key, revision)


def test_damaged_manifest_no_entry(timed: Registry) -> None:
    top_hash = commit_entries(timed, NAME, [entry_of("a", b"a", "s3://source/a"), entry_of("b", b"b", "s3://source/b")])
    place = key(timed, layout.manifest(top_hash))
    store = timed.stores.of(place)
    store.put(place, store.get(place).data.replace(b'"b"', b'"c"'))

    with pytest.raises(ManifestError, match="changed or damaged"):
        timed.entry(NAME, "a")


# What changed.


def test_diff_by_any_name(timed: Registry, clock: Clock) -> None:
    a, b, b2, c = (entry_of(name[0], name.encode(), f"s3://source/{name}") for name in ("a", "b", "b2", "c"))
    old = commit_entries(timed, NAME, [a, b])
    clock.now = NOW + 60
    new = commit_entries(timed, NAME, [b2, c])
    changes = [Change(a, None), Change(b, b2), Change(None, c)]

    for first, second in ((old, new), (old[:8], None), (str(NOW), "latest"), (FIRST, FIRST + timedelta(days=1))):
        assert list(timed.diff(NAME, first, second)) == changes
    assert list(timed.diff(NAME, old)) == changes
    assert [change.kind for change in timed.diff(NAME, new, old)] == ["added", "modified", "deleted"]
    assert list(timed.diff(NAME, None, new)) == []


def test_diff_of_absent_revision(timed: Registry) -> None:
    top_hash = commit_entries(timed, NAME, [entry_of("a", b"a", "s3://source/a")])

    with pytest.raises(PackageNotFoundError):
        list(timed.diff(NAME, "0" * 64, top_hash))
    with pytest.raises(PackageNotFoundError):
        list(timed.diff(PackageName("no", "such"), None))


# The workflows config.


def test_workflows_config_version(timed: Registry) -> None:
    assert timed.workflows_config() is None
    place = key(timed, ".quilt/workflows/config.yml")
    stat = timed.stores.of(place).put(place, b"version: 1")
    config = timed.workflows_config()

    assert config
    assert (config.data, config.key) == (b"version: 1", stat.key)


def test_failed_config_read_raises(timed: Registry) -> None:
    with pytest.raises(StorageUnavailableError):
        through(timed, Fault(1)).workflows_config()
