from collections.abc import Callable, Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from airflow_quilt.core.errors import LocationError, RecordSizeError, SourceError
from airflow_quilt.core.format.hashes import CRC64NVME, Hash
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Action, Copy, HashInPlace, Source, Upload, plan_build, plan_push

DEST = PhysicalKey("registry", "team/data")
HASH = Hash("sha2-256-chunked", "x" * 44)

LOCAL = PhysicalKey(None, "/data/a.txt")
INSIDE = PhysicalKey("registry", "raw/a.txt", "v1")
OUTSIDE = PhysicalKey("source", "raw/a.txt", "v1")
THERE = PhysicalKey("registry", "team/data/sub/a.txt", "v1")


def source(origin: PhysicalKey | bytes, key: str = "sub/a.txt", **more: Any) -> Source:
    return Source(logical_key=LogicalKey(key), origin=origin, size=5, **more)


def packed(place: PhysicalKey, *others: str, **more: Any) -> Source:
    """Return the entry of a package as a source."""
    entry = Entry(LogicalKey("sub/a.txt"), (str(place), *others), 5, HASH, {"user_meta": {"x": 1}, "theirs": 2})
    return replace(Source.of_entry(entry), **more)


def everything(_source: Source) -> bool:
    return True


def nothing(_source: Source) -> bool:
    return False


def plan(sources: Iterable[Source], copies: Callable[[Source], bool] = everything, dest: PhysicalKey = DEST) -> list[Action]:
    return list(plan_push(sources, copies, lambda source: dest.join(source.logical_key)))


def test_copies_land_at_destination() -> None:
    target = PhysicalKey("registry", "team/data/sub/a.txt")
    local, content, outside, inside = source(LOCAL), source(b"hello"), source(OUTSIDE, hash=HASH), source(INSIDE)

    assert plan([local, content, outside, inside]) == [
        Upload(local, target),
        Upload(content, target),
        Copy(outside, OUTSIDE, target),
        Copy(inside, INSIDE, target),
    ]


@pytest.mark.parametrize("place", [INSIDE, OUTSIDE], ids=["inside", "outside"])
def test_kept_object_keeps_version(place: PhysicalKey) -> None:
    known, unknown = source(place, hash=HASH, meta={"user_meta": {"x": 1}}), source(place)

    assert plan([known, unknown], nothing) == [
        Entry(LogicalKey("sub/a.txt"), (str(place),), 5, HASH, {"user_meta": {"x": 1}}),
        HashInPlace(unknown, place),
    ]


@pytest.mark.parametrize("copies", [everything, nothing])
@pytest.mark.parametrize("place", [THERE, THERE.at_version(None)], ids=["at a version", "without a version"])
def test_object_at_destination_stays(place: PhysicalKey, copies: Callable[[Source], bool]) -> None:
    known, unknown = source(place, hash=HASH), source(place)

    assert plan([known, unknown], copies) == [
        Entry(LogicalKey("sub/a.txt"), (str(place),), 5, HASH, {}),
        HashInPlace(unknown, place),
    ]


def test_only_copies_are_placed() -> None:
    asked: list[str] = []

    def land(source: Source) -> PhysicalKey:
        asked.append(source.logical_key)
        return DEST.join(source.logical_key)

    list(plan_push([source(INSIDE, "stays"), source(INSIDE, "moves")], lambda source: source.logical_key == "moves", land))

    assert asked == ["moves"]


@pytest.mark.parametrize("origin", [LOCAL, b"hello"], ids=["file", "content"])
def test_only_objects_can_stay(origin: PhysicalKey | bytes) -> None:
    with pytest.raises(SourceError, match=r"'sub/a\.txt'.*copy policy"):
        plan([source(origin)], nothing)


def test_kept_entry_is_unchanged() -> None:
    kept = packed(INSIDE, "s3://mirror/a.txt", "file:///backup/a.txt", hash_type=CRC64NVME)

    assert plan([kept], nothing) == [
        Entry(
            LogicalKey("sub/a.txt"),
            (str(INSIDE), "s3://mirror/a.txt", "file:///backup/a.txt"),
            5,
            HASH,
            {"user_meta": {"x": 1}, "theirs": 2},
        )
    ]


def test_copied_entry_keeps_meta() -> None:
    """Keep the metadata of a copied entry, with one physical key only."""
    copied = packed(OUTSIDE, "s3://mirror/a.txt")
    target = PhysicalKey("registry", "team/data/sub/a.txt", "v9")

    assert plan([copied]) == [Copy(copied, OUTSIDE, target.at_version(None))]
    assert copied.entry(target, HASH) == Entry(
        LogicalKey("sub/a.txt"), (str(target),), 5, HASH, {"user_meta": {"x": 1}, "theirs": 2}
    )


def test_entry_may_be_renamed() -> None:
    moved = packed(OUTSIDE, logical_key=LogicalKey("b.txt"), meta={})

    assert (moved.logical_key, moved.meta, moved.origin, moved.hash) == ("b.txt", {}, OUTSIDE, HASH)


@pytest.mark.parametrize("place", ["https://x/y", "", "s3:///y"])
def test_bad_physical_key_refused(place: str) -> None:
    with pytest.raises(SourceError, match="entry 'a': the package that it comes from is damaged"):
        Source.of_entry(Entry(LogicalKey("a"), (place,), 5, HASH))


def test_foreign_file_is_not_copied() -> None:
    with pytest.raises(SourceError, match=r"'sub/a\.txt'.*file:///data/a\.txt, a file of some other machine"):
        plan([packed(LOCAL, movable=False)])


def test_build_keeps_foreign_file() -> None:
    (action,) = plan_build([packed(LOCAL, movable=False)])

    assert isinstance(action, Entry)
    assert action.physical_keys == ("file:///data/a.txt",)


def test_registry_area_is_refused() -> None:
    with pytest.raises(LocationError, match=r"'\.quilt/packages/x'"):
        plan([source(b"x", ".quilt/packages/x")], dest=PhysicalKey("registry", ""))


def test_prefix_may_hold_quilt_key() -> None:
    (action,) = plan([source(b"x", ".quilt/packages/x")])

    assert isinstance(action, Upload)
    assert action.destination.key == "team/data/.quilt/packages/x"


def test_build_names_in_place() -> None:
    sources = [source(LOCAL), source(OUTSIDE, hash=HASH), source(INSIDE)]
    entry = Entry(LogicalKey("sub/a.txt"), ("s3://source/raw/a.txt?versionId=v1",), 5, HASH, {})

    assert list(plan_build(sources)) == [
        HashInPlace(sources[0], LOCAL),
        entry,
        HashInPlace(sources[2], INSIDE),
    ]


def test_build_refuses_content() -> None:
    with pytest.raises(SourceError, match=r"'sub/a\.txt'.*push"):
        list(plan_build([source(b"x")]))


@pytest.mark.parametrize(
    "origin", [LOCAL, b"hello", INSIDE, OUTSIDE, THERE], ids=["local", "content", "inside", "outside", "there"]
)
def test_long_record_is_refused(origin: PhysicalKey | bytes) -> None:
    with pytest.raises(RecordSizeError, match=r"'sub/a\.txt'"):
        plan([source(origin, meta={"user_meta": {"x": "y" * 1_000_000}})])


def test_record_check_leaves_room() -> None:
    """Leave room for hash and version in the check of the record's size."""

    def fits(padding: int) -> bool:
        try:
            plan([source(b"x", meta={"user_meta": {"x": "y" * padding}})])
        except RecordSizeError:
            return False
        return True

    empty = (
        '{"logical_key": "sub/a.txt", "physical_keys": ["s3://registry/team/data/sub/a.txt?versionId=01234567890123456789012345678901"], '
        '"size": 5, "hash": {"type": "sha2-256-chunked", "value": "01234567890123456789012345678901234567890123"}, '
        '"meta": {"user_meta": {"x": ""}}}'
    )
    room = 1_000_000 - len(empty)

    assert fits(room)
    assert not fits(room + 1)
