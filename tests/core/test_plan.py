from typing import Any

import pytest

from airflow_quilt.core.checksums import Hash
from airflow_quilt.core.errors import LocationError, RecordSizeError, SourceError
from airflow_quilt.core.locations import PhysicalKey, RegistryLocation
from airflow_quilt.core.manifest import Entry
from airflow_quilt.core.names import LogicalKey, PackageName
from airflow_quilt.core.plan import Copy, HashInPlace, Keep, Source, Upload, default_dest, parse_dest, plan_build, plan_push

REGISTRY = RegistryLocation.parse("s3://registry")
DEST = PhysicalKey("registry", "team/data")
HASH = Hash("sha2-256-chunked", "x" * 44)

LOCAL = PhysicalKey(None, "/data/a.txt")
INSIDE = PhysicalKey("registry", "raw/a.txt", "v1")
OUTSIDE = PhysicalKey("source", "raw/a.txt", "v1")


def source(origin: PhysicalKey | bytes, key: str = "sub/a.txt", **more: Any) -> Source:
    return Source(logical_key=LogicalKey(key), origin=origin, size=5, **more)


def test_objects_land_below_the_packages_name() -> None:
    assert default_dest(REGISTRY, PackageName("team", "data")) == DEST


@pytest.mark.parametrize(
    ("text", "dest"),
    [
        ("s3://registry", PhysicalKey("registry", "")),
        ("s3://registry/", PhysicalKey("registry", "")),
        ("s3://registry/raw", PhysicalKey("registry", "raw")),
        ("s3://registry/raw/%C3%A9/", PhysicalKey("registry", "raw/é/")),
        ("s3://registry/.quilted/", PhysicalKey("registry", ".quilted/")),
        ("s3://registry/a/.quilt/", PhysicalKey("registry", "a/.quilt/")),
    ],
)
def test_a_dest_is_a_prefix_in_the_registrys_bucket(text: str, dest: PhysicalKey) -> None:
    assert parse_dest(text, REGISTRY) == dest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("s3://elsewhere/raw", "s3://registry/", id="other-bucket"),
        pytest.param("/raw", "s3://registry/", id="local"),
        pytest.param("s3://registry/raw?versionId=v", "no version", id="version"),
        pytest.param("s3://registry/.quilt", "its own files", id="own-area"),
        pytest.param("s3://registry/.quilt/", "its own files", id="own-area-with-slash"),
        pytest.param("s3://registry/.quilt/packages/x", "its own files", id="below-own-area"),
        pytest.param("", "location", id="empty"),
    ],
)
def test_any_other_dest_is_refused(text: str, words: str) -> None:
    with pytest.raises(LocationError) as caught:
        parse_dest(text, REGISTRY)

    assert words in str(caught.value)


def test_what_lies_elsewhere_is_copied_below_dest_under_its_logical_key() -> None:
    target = PhysicalKey("registry", "team/data/sub/a.txt")
    local, content, outside = source(LOCAL), source(b"hello"), source(OUTSIDE, hash=HASH)

    assert list(plan_push([local, content, outside], DEST)) == [
        Upload(local, target),
        Upload(content, target),
        Copy(outside, OUTSIDE, target),
    ]


def test_an_object_in_the_registrys_bucket_stays_where_it_is_at_its_version() -> None:
    known, unknown = source(INSIDE, hash=HASH, meta={"user_meta": {"x": 1}}), source(INSIDE)

    assert list(plan_push([known, unknown], DEST)) == [
        Keep(known, Entry(LogicalKey("sub/a.txt"), ("s3://registry/raw/a.txt?versionId=v1",), 5, HASH, {"user_meta": {"x": 1}})),
        HashInPlace(unknown, INSIDE),
    ]


@pytest.mark.parametrize("dest", ["", "raw/"])
def test_a_dest_with_or_without_slash_gives_one_slash(dest: str) -> None:
    (action,) = plan_push([source(b"x")], PhysicalKey("registry", dest))

    assert isinstance(action, Upload)
    assert action.destination == PhysicalKey("registry", f"{dest}sub/a.txt")


def test_an_entry_may_not_land_in_the_registrys_own_area() -> None:
    with pytest.raises(LocationError, match=r"'\.quilt/packages/x'"):
        list(plan_push([source(b"x", ".quilt/packages/x")], PhysicalKey("registry", "")))


def test_a_key_like_the_registrys_own_is_fine_below_a_prefix() -> None:
    (action,) = plan_push([source(b"x", ".quilt/packages/x")], DEST)

    assert isinstance(action, Upload)
    assert action.destination.key == "team/data/.quilt/packages/x"


def test_build_names_every_file_where_it_is() -> None:
    sources = [source(LOCAL), source(OUTSIDE, hash=HASH), source(INSIDE)]
    entry = Entry(LogicalKey("sub/a.txt"), ("s3://source/raw/a.txt?versionId=v1",), 5, HASH, {})

    assert list(plan_build(sources)) == [
        HashInPlace(sources[0], LOCAL),
        Keep(sources[1], entry),
        HashInPlace(sources[2], INSIDE),
    ]


def test_build_refuses_content_which_has_no_place() -> None:
    with pytest.raises(SourceError, match=r"'sub/a\.txt'.*push"):
        list(plan_build([source(b"x")]))


@pytest.mark.parametrize("origin", [LOCAL, b"hello", INSIDE, OUTSIDE], ids=["local", "content", "inside", "outside"])
def test_a_record_that_will_be_too_long_is_refused_before_any_byte_moves(origin: PhysicalKey | bytes) -> None:
    with pytest.raises(RecordSizeError, match=r"'sub/a\.txt'"):
        list(plan_push([source(origin, meta={"user_meta": {"x": "y" * 1_000_000}})], DEST))


def test_the_record_that_is_checked_has_room_for_hash_and_version() -> None:
    def fits(padding: int) -> bool:
        try:
            list(plan_push([source(b"x", meta={"user_meta": {"x": "y" * padding}})], DEST))
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
