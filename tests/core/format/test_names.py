from collections.abc import Callable, Sequence

import pytest

from airflow_quilt.core.errors import LogicalKeyError, PackageNameError, TopHashError
from airflow_quilt.core.format.names import (
    LogicalKey,
    PackageName,
    TopHash,
    check_next,
    match_hash,
    parse_logical_key,
    parse_top_hash,
    walk_order,
)

HASH_A = TopHash("abcdef" + "0" * 58)
HASH_B = TopHash("abcdef" + "1" * 58)
HASH_C = TopHash("123456" + "7" * 58)


@pytest.mark.parametrize("text", ["a/b", "genomics/run-42", "A_b/C-d", "0/9", "-/_"])
def test_ascii_name_is_publishable(text: str) -> None:
    name = PackageName.parse(text)

    assert f"{name.namespace}/{name.name}" == text == str(name)


BAD_NAMES = [
    pytest.param("", id="empty"),
    pytest.param("team", id="one-word"),
    pytest.param("/", id="only-a-slash"),
    pytest.param("team/", id="no-name"),
    pytest.param("/data", id="no-namespace"),
    pytest.param("a/b/c", id="three-words"),
    pytest.param("a//b", id="two-slashes"),
    pytest.param("team/data\n", id="newline-after"),
    pytest.param("\nteam/data", id="newline-before"),
    pytest.param("te\nam/data", id="newline-inside"),
    pytest.param(" team/data", id="space"),
    pytest.param("team/da.ta", id="dot"),
    pytest.param("../data", id="parent"),
    pytest.param("team/data@latest", id="pin"),
    pytest.param(None, id="none"),
    pytest.param(7, id="number"),
    pytest.param(b"team/data", id="bytes"),
]


@pytest.mark.parametrize("parse", [PackageName.parse, PackageName.parse_existing], ids=["publish", "read"])
@pytest.mark.parametrize("text", BAD_NAMES)
def test_bad_package_name_refused(parse: Callable[[object], PackageName], text: object) -> None:
    with pytest.raises(PackageNameError) as caught:
        parse(text)

    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["équipe/données", "チーム/データ", "team/数"])
def test_unicode_name_is_read_only(text: str) -> None:
    assert str(PackageName.parse_existing(text)) == text
    with pytest.raises(PackageNameError, match="ASCII"):
        PackageName.parse(text)


@pytest.mark.parametrize(
    "text", ["a", "a/b.txt", "plots/bill length.png", ".hidden", "...", "a/..b", "é/ü", "+%?#&<>", "a\\b", " "]
)
def test_path_is_a_logical_key(text: str) -> None:
    assert parse_logical_key(text) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("/", id="slash"),
        pytest.param("a/", id="directory"),
        pytest.param("/a", id="absolute"),
        pytest.param("a//b", id="empty-part"),
        pytest.param(".", id="dot"),
        pytest.param("..", id="dots"),
        pytest.param("a/./b", id="dot-inside"),
        pytest.param("a/../b", id="dots-inside"),
        pytest.param("../a", id="parent"),
        pytest.param("a/..", id="dots-at-the-end"),
        pytest.param("a\ud800", id="lone-surrogate"),
        pytest.param(None, id="none"),
        pytest.param(5, id="number"),
        pytest.param(b"a", id="bytes"),
    ],
)
def test_bad_logical_key_is_named(text: object) -> None:
    with pytest.raises(LogicalKeyError) as caught:
        parse_logical_key(text)

    assert repr(text) in str(caught.value)


def test_directory_sorts_first() -> None:
    keys = ["a.txt", "a/b.txt", "b", "a/b/c", "a-b", "A", "a/b"]

    assert sorted(keys, key=walk_order) == ["A", "a/b", "a/b/c", "a/b.txt", "a-b", "a.txt", "b"]


def check_each(keys: Sequence[LogicalKey]) -> None:
    for previous, key in zip([None, *keys], keys, strict=False):
        check_next(previous, key)


def test_similar_keys_make_a_tree() -> None:
    check_each(sorted(map(LogicalKey, ["a/b", "a/c", "a.b", "ab", "a b/c"]), key=walk_order))


def test_duplicate_key_refused() -> None:
    with pytest.raises(LogicalKeyError, match=r"'a/b' is given twice"):
        check_each(list(map(LogicalKey, ["a/a", "a/b", "a/b"])))


@pytest.mark.parametrize("below", ["a/b", "a/b/c", "a/!"])
def test_file_and_directory_refused(below: str) -> None:
    keys = sorted(map(LogicalKey, ["a", below, "a!", "a.txt"]), key=walk_order)

    with pytest.raises(LogicalKeyError) as caught:
        check_each(keys)

    assert "'a' is a file, and a directory" in str(caught.value)
    assert repr(below) in str(caught.value)


def test_top_hash_is_64_hex_digits() -> None:
    assert parse_top_hash("0123456789abcdef" * 4) == "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 63, id="63"),
        pytest.param("a" * 65, id="65"),
        pytest.param("A" * 64, id="upper-case"),
        pytest.param("g" * 64, id="not-hex"),
        pytest.param("a" * 64 + "\n", id="newline"),
        pytest.param("", id="empty"),
        pytest.param(None, id="none"),
    ],
)
def test_bad_top_hash_refused(text: object) -> None:
    with pytest.raises(TopHashError, match="64 lower-case hex digits"):
        parse_top_hash(text)


@pytest.mark.parametrize("digits", [6, 7, 32, 63, 64])
def test_short_hash_finds_revision(digits: int) -> None:
    assert match_hash(HASH_C[:digits], [HASH_A, HASH_B, HASH_C, HASH_C]) == HASH_C


def test_ambiguous_hash_lists_all() -> None:
    with pytest.raises(TopHashError) as caught:
        match_hash("abcdef", [HASH_B, HASH_A, HASH_C])

    assert f"{HASH_A[:12]}, {HASH_B[:12]}" in str(caught.value)


def test_unmatched_hash_refused() -> None:
    with pytest.raises(TopHashError, match="'fedcba' matches no revision"):
        match_hash("fedcba", [HASH_A])


@pytest.mark.parametrize("prefix", ["", "abcde", "ABCDEF", "abcdeg", "a" * 65, "abcdef\n", None, 123456])
def test_malformed_hash_refused(prefix: object) -> None:
    with pytest.raises(TopHashError, match="6 to 64"):
        match_hash(prefix, [HASH_A])
