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


def test_what_is_copied_lands_where_it_is_told_to() -> None:
    target = PhysicalKey("registry", "team/data/sub/a.txt")
    local, content, outside, inside = source(LOCAL), source(b"hello"), source(OUTSIDE, hash=HASH), source(INSIDE)

    assert plan([local, content, outside, inside]) == [
        Upload(local, target),
        Upload(content, target),
        Copy(outside, OUTSIDE, target),
        Copy(inside, INSIDE, target),
    ]


@pytest.mark.parametrize("place", [INSIDE, OUTSIDE], ids=["inside", "outside"])
def test_an_object_that_is_not_copied_stays_where_it_is_at_its_version(place: PhysicalKey) -> None:
    known, unknown = source(place, hash=HASH, meta={"user_meta": {"x": 1}}), source(place)

    assert plan([known, unknown], nothing) == [
        Entry(LogicalKey("sub/a.txt"), (str(place),), 5, HASH, {"user_meta": {"x": 1}}),
        HashInPlace(unknown, place),
    ]


@pytest.mark.parametrize("copies", [everything, nothing])
@pytest.mark.parametrize("place", [THERE, THERE.at_version(None)], ids=["at a version", "without a version"])
def test_an_object_that_lies_at_its_destination_stays_whatever_its_version(
    place: PhysicalKey, copies: Callable[[Source], bool]
) -> None:
    known, unknown = source(place, hash=HASH), source(place)

    assert plan([known, unknown], copies) == [
        Entry(LogicalKey("sub/a.txt"), (str(place),), 5, HASH, {}),
        HashInPlace(unknown, place),
    ]


def test_where_something_lands_is_asked_only_of_what_is_copied() -> None:
    asked: list[str] = []

    def land(source: Source) -> PhysicalKey:
        asked.append(source.logical_key)
        return DEST.join(source.logical_key)

    list(plan_push([source(INSIDE, "stays"), source(INSIDE, "moves")], lambda source: source.logical_key == "moves", land))

    assert asked == ["moves"]


@pytest.mark.parametrize("origin", [LOCAL, b"hello"], ids=["file", "content"])
def test_what_is_no_object_cannot_stay_where_it_is(origin: PhysicalKey | bytes) -> None:
    with pytest.raises(SourceError, match=r"'sub/a\.txt'.*copy policy"):
        plan([source(origin)], nothing)


def test_an_entry_that_stays_keeps_all_that_its_manifest_says_of_it() -> None:
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


def test_an_entry_that_is_copied_has_one_place_and_keeps_its_metadata() -> None:
    copied = packed(OUTSIDE, "s3://mirror/a.txt")
    target = PhysicalKey("registry", "team/data/sub/a.txt", "v9")

    assert plan([copied]) == [Copy(copied, OUTSIDE, target.at_version(None))]
    assert copied.entry(target, HASH) == Entry(
        LogicalKey("sub/a.txt"), (str(target),), 5, HASH, {"user_meta": {"x": 1}, "theirs": 2}
    )


def test_an_entry_may_take_another_key_and_other_metadata_with_it() -> None:
    moved = packed(OUTSIDE, logical_key=LogicalKey("b.txt"), meta={})

    assert (moved.logical_key, moved.meta, moved.origin, moved.hash) == ("b.txt", {}, OUTSIDE, HASH)


@pytest.mark.parametrize("place", ["https://x/y", "", "s3:///y"])
def test_an_entry_whose_place_is_none_is_no_source(place: str) -> None:
    with pytest.raises(SourceError, match="entry 'a': the package that it comes from is damaged"):
        Source.of_entry(Entry(LogicalKey("a"), (place,), 5, HASH))


def test_a_file_of_some_other_machine_cannot_be_copied() -> None:
    with pytest.raises(SourceError, match=r"'sub/a\.txt'.*file:///data/a\.txt, a file of some other machine"):
        plan([packed(LOCAL, movable=False)])


def test_build_keeps_the_name_of_a_file_of_some_other_machine() -> None:
    (action,) = plan_build([packed(LOCAL, movable=False)])

    assert isinstance(action, Entry)
    assert action.physical_keys == ("file:///data/a.txt",)


def test_an_entry_may_not_land_in_the_registrys_own_area() -> None:
    with pytest.raises(LocationError, match=r"'\.quilt/packages/x'"):
        plan([source(b"x", ".quilt/packages/x")], dest=PhysicalKey("registry", ""))


def test_a_key_like_the_registrys_own_is_fine_below_a_prefix() -> None:
    (action,) = plan([source(b"x", ".quilt/packages/x")])

    assert isinstance(action, Upload)
    assert action.destination.key == "team/data/.quilt/packages/x"


def test_build_names_every_file_where_it_is() -> None:
    sources = [source(LOCAL), source(OUTSIDE, hash=HASH), source(INSIDE)]
    entry = Entry(LogicalKey("sub/a.txt"), ("s3://source/raw/a.txt?versionId=v1",), 5, HASH, {})

    assert list(plan_build(sources)) == [
        HashInPlace(sources[0], LOCAL),
        entry,
        HashInPlace(sources[2], INSIDE),
    ]


def test_build_refuses_content_which_has_no_place() -> None:
    with pytest.raises(SourceError, match=r"'sub/a\.txt'.*push"):
        list(plan_build([source(b"x")]))


@pytest.mark.parametrize(
    "origin", [LOCAL, b"hello", INSIDE, OUTSIDE, THERE], ids=["local", "content", "inside", "outside", "there"]
)
def test_a_record_that_will_be_too_long_is_refused_before_any_byte_moves(origin: PhysicalKey | bytes) -> None:
    with pytest.raises(RecordSizeError, match=r"'sub/a\.txt'"):
        plan([source(origin, meta={"user_meta": {"x": "y" * 1_000_000}})])


def test_the_record_that_is_checked_has_room_for_hash_and_version() -> None:
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
