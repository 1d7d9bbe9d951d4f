"""Sources that a push copies, and their destinations."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from airflow_quilt.core.errors import InputError, LocationError
from airflow_quilt.core.format.arguments import parse_dest
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.plan.actions import Source
from airflow_quilt.core.plan.placement import EntryInfo, copy_policy, landing

REGISTRY = RegistryLocation.parse("s3://registry")
NAME = PackageName("team", "data")
HASH = Hash("sha2-256-chunked", "x" * 44)
META = {"user_meta": {"unit": "mm"}, "theirs": 1}

ORIGINS: Mapping[str, PhysicalKey | bytes] = {
    "file": PhysicalKey(None, "/data/a.txt"),
    "content": b"hello",
    "inside": PhysicalKey("registry", "raw/a.txt", "v1"),
    "outside": PhysicalKey("source", "raw/a.txt", "v1"),
}


def source(origin: PhysicalKey | bytes, key: str = "sub/a.txt", **more: Any) -> Source:
    return Source(logical_key=LogicalKey(key), origin=origin, size=5, **more)


def land(dest: Any, *sources: Source) -> list[PhysicalKey]:
    """Return the destinations of sources, one after the other."""
    return list(map(landing(dest, REGISTRY, NAME), sources))


@pytest.mark.parametrize(
    ("copy", "copied"),
    [
        ("if-outside", {"file", "content", "outside"}),
        ("all", {"file", "content", "inside", "outside"}),
        ("local-only", {"file", "content"}),
        ("none", set()),
    ],
)
def test_policy_copies_by_kind(copy: Any, copied: set[str]) -> None:
    is_copied = copy_policy(copy, REGISTRY)

    assert {kind for kind, origin in ORIGINS.items() if is_copied(source(origin))} == copied


@pytest.mark.parametrize("copy", ["", "ALL", "if-inside", None, True, 1, ["all"], {"all"}], ids=repr)
def test_unknown_policy_refused(copy: Any) -> None:
    with pytest.raises(InputError, match="expected one of 'if-outside', 'all', 'local-only', 'none', or a function"):
        copy_policy(copy, REGISTRY)


@pytest.mark.parametrize("kind", ["file", "inside", "outside"])
@pytest.mark.parametrize("answer", [True, False])
def test_copy_function_decides(kind: str, *, answer: bool) -> None:
    asked: list[tuple[str, EntryInfo]] = []

    def copy(key: LogicalKey, candidate: EntryInfo) -> bool:
        asked.append((key, candidate))
        return answer

    origin = ORIGINS[kind]
    assert isinstance(origin, PhysicalKey)
    assert copy_policy(copy, REGISTRY)(source(origin, hash=HASH, meta=META)) is answer
    assert asked == [("sub/a.txt", EntryInfo(origin, 5, HASH, {"unit": "mm"}))]


def test_content_is_always_copied() -> None:
    def copy(_key: LogicalKey, _candidate: EntryInfo) -> bool:
        raise AssertionError

    assert copy_policy(copy, REGISTRY)(source(b"hello"))


@pytest.mark.parametrize("answer", [None, 0, 1, "", "yes", []], ids=repr)
def test_non_bool_copy_is_refused(answer: Any) -> None:
    with pytest.raises(InputError, match=r"entry 'sub/a\.txt': the function given as copy returned .*expected True or False"):
        copy_policy(lambda _key, _candidate: answer, REGISTRY)(source(ORIGINS["inside"]))


def test_function_errors_propagate() -> None:
    def broken(_key: LogicalKey, _candidate: EntryInfo) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        copy_policy(broken, REGISTRY)(source(ORIGINS["inside"]))
    with pytest.raises(ZeroDivisionError):
        land(broken, source(b"hello"))


def test_default_dest_is_the_name() -> None:
    assert land(None, source(b"hello")) == [PhysicalKey("registry", "team/data/sub/a.txt")]


@pytest.mark.parametrize(
    ("dest", "place"),
    [
        pytest.param("s3://registry", "sub/a.txt", id="bucket"),
        pytest.param("s3://registry/", "sub/a.txt", id="bucket-with-slash"),
        pytest.param("s3://registry/raw", "raw/sub/a.txt", id="prefix"),
        pytest.param("s3://registry/raw/", "raw/sub/a.txt", id="prefix-with-slash"),
    ],
)
def test_dest_adds_one_slash(dest: str, place: str) -> None:
    assert land(dest, source(b"hello")) == [PhysicalKey("registry", place)]


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
def test_dest_is_a_bucket_prefix(text: str, dest: PhysicalKey) -> None:
    assert parse_dest(text, REGISTRY) == dest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("s3://elsewhere/raw", "s3://registry/", id="other-bucket"),
        pytest.param("/raw", "s3://registry/", id="local"),
        pytest.param("s3://registry/raw?versionId=v", "leave the version out", id="version"),
        pytest.param("s3://registry/.quilt", "its own files", id="own-area"),
        pytest.param("s3://registry/.quilt/", "its own files", id="own-area-with-slash"),
        pytest.param("s3://registry/.quilt/packages/x", "its own files", id="below-own-area"),
        pytest.param("", "a prefix", id="empty"),
    ],
)
def test_bad_dest_is_refused(text: str, words: str) -> None:
    with pytest.raises(LocationError) as caught:
        landing(text, REGISTRY, NAME)

    assert words in str(caught.value)


@pytest.mark.parametrize("kind", ORIGINS)
def test_dest_function_places(kind: str) -> None:
    asked: list[tuple[str, EntryInfo]] = []

    def dest(key: LogicalKey, candidate: EntryInfo) -> str:
        asked.append((key, candidate))
        return "s3://anywhere/x%20y/b.txt"

    origin = ORIGINS[kind]

    assert land(dest, source(origin, hash=HASH, meta=META)) == [PhysicalKey("anywhere", "x y/b.txt")]
    assert asked == [("sub/a.txt", EntryInfo(origin if isinstance(origin, PhysicalKey) else None, 5, HASH, {"unit": "mm"}))]


def test_entry_info_may_be_empty() -> None:
    def dest(_key: LogicalKey, candidate: EntryInfo) -> str:
        assert candidate == EntryInfo(None, 5, None, {})
        return "s3://registry/a"

    assert land(dest, source(b"hello")) == [PhysicalKey("registry", "a")]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(None, "expected an s3:// URL", id="none"),
        pytest.param(PhysicalKey("registry", "a"), "expected an s3:// URL", id="key"),
        pytest.param(b"s3://registry/a", "expected an s3:// URL", id="bytes"),
        pytest.param("/data/a", "expected s3://bucket/key without a version", id="path"),
        pytest.param("team/data/a", "expected s3://bucket/key without a version", id="relative-path"),
        pytest.param("file:///data/a", "expected s3://bucket/key without a version", id="file"),
        pytest.param("s3://registry/a?versionId=v1", "expected s3://bucket/key without a version", id="version"),
        pytest.param("s3://registry", "expected s3://bucket/key without a version", id="bucket"),
        pytest.param("s3://registry/raw/", "expected s3://bucket/key without a version", id="prefix"),
    ],
)
def test_dest_must_name_an_object(answer: Any, words: str) -> None:
    with pytest.raises(LocationError) as caught:
        land(lambda _key, _candidate: answer, source(b"hello"))

    assert f"entry 'sub/a.txt': the function given as dest returned {answer!r}" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("answer", ["", "https://registry/a", "s3:///a", "s3://registry/a?x=y", "s3://registry/a#b"])
def test_dest_must_be_a_location(answer: str) -> None:
    with pytest.raises(LocationError):
        land(lambda _key, _candidate: answer, source(b"hello"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("s3://registry/a b", "s3://registry/a b", id="the-same"),
        pytest.param("s3://registry/a b", "s3://registry/a%20b", id="another-spelling"),
    ],
)
def test_shared_dest_is_refused(one: str, other: str) -> None:
    places: Callable[[LogicalKey, EntryInfo], str] = lambda key, _candidate: one if key == "first" else other  # noqa: E731

    with pytest.raises(LocationError, match="entry 'second': .* as for 'first'; two entries cannot share one object"):
        land(places, source(b"hello", "first"), source(b"hello", "second"))


def test_same_key_in_two_buckets() -> None:
    keys = land(lambda key, _candidate: f"s3://{key}/a", source(b"x", "one"), source(b"x", "two"))

    assert keys == [PhysicalKey("one", "a"), PhysicalKey("two", "a")]


def test_each_push_places_anew() -> None:
    def dest(_key: LogicalKey, _candidate: EntryInfo) -> str:
        return "s3://registry/a"

    assert land(dest, source(b"x")) == land(dest, source(b"x"))
