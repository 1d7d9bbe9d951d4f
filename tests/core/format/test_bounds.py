"""Keys, URLs and names of strangers have bounds, and stand in errors cut and escaped."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_quilt.core.errors import ManifestError, QuiltError, StorageError, VerificationError, WorkflowError, plain, quoted
from airflow_quilt.core.format.hashes import algorithm
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.manifest_reader import read_manifest
from airflow_quilt.core.format.names import (
    PackageName,
    are_keys,
    check_pattern,
    match_hash,
    parse_directory_key,
    parse_logical_key,
    parse_top_hash,
)
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.sources.parse import parse_entries
from airflow_quilt.core.storage.paths import resolve_location, resolve_registry
from tests.property.hostile import value_or_refusal

MIB: Final = 1024 * 1024
PARSERS: Final[Mapping[str, Callable[[str], object]]] = {
    "physical key": PhysicalKey.parse,
    "location": resolve_location,
    "registry": resolve_registry,
    "registry location": RegistryLocation.parse,
    "Quilt+ URI": QuiltUri.parse,
    "package to publish": PackageName.parse,
    "package to read": PackageName.parse_existing,
    "package to delete": PackageName.parse_listed,
    "pattern": check_pattern,
    "logical key": parse_logical_key,
    "directory key": parse_directory_key,
    "top hash": parse_top_hash,
    "prefix of a hash": lambda text: match_hash(text, []),
    "hash type": algorithm,
    "entry": lambda text: list(parse_entries({text: None})),
    "source": lambda text: list(parse_entries({"a": text})),
}
SHAPES: Final = (
    "{}", "file:///{}", "s3://bucket/{}", "s3://{}/key", "s3://bucket/key?versionId={}", "s3://bucket/key?{}", "s3://[{}/key",
    "s3://bucket/key#{}", "/{}", "{}/", "team/{}", "team/{}*", "{}/data", "quilt+s3://bucket#package=team/{}",
    "quilt+s3://{}#package=team/data", "quilt+s3://bucket#package=team/data:{}", "quilt+s3://bucket#package=team/data@{}",
    "quilt+s3://bucket#package=team/data&path={}", "quilt+s3://bucket#package=team/data&{}=1", "quilt+s3://bucket#{}=%ff",
    "quilt+file:///{}#package=team/data",
)  # fmt: skip


def is_tame(message: str, most: int = 1500) -> bool:
    """Whether a message is of one line, without characters that steer a terminal, and short."""
    return message.isprintable() and len(message) <= most


@pytest.mark.parametrize("unit", ["a", "a/", "./", "é", "%41", "\n\x1b[31m\u202e", "%"])
def test_megabytes_are_refused_in_short(unit: str) -> None:
    whole = unit * (640 * 1024 // len(unit))
    taken = []
    for label, parse in PARSERS.items():
        for shape in SHAPES:
            result = value_or_refusal(lambda parse=parse, shape=shape: parse(shape.format(whole)))
            if not isinstance(result, QuiltError) or not is_tame(str(result)):
                taken.append((label, shape, str(result)[:300]))

    assert taken == []


@pytest.mark.parametrize(
    ("parse", "shape", "most"),
    [
        (PhysicalKey.parse, "s3://bucket/{}", 1024),
        (PhysicalKey.parse, "s3://bucket/key?versionId={}", 1024),
        (PhysicalKey.parse, "file:///{}", 4094),
        (PhysicalKey.parse, "/{}", 4094),
        (parse_logical_key, "{}", 4096),
        (PackageName.parse, "team/{}", 1019),
    ],
)
@pytest.mark.parametrize("unit", ["a", "é", "😀"])
def test_bounds_count_bytes(parse: Callable[[str], object], shape: str, most: int, unit: str) -> None:
    if parse == PackageName.parse and unit != "a":
        return
    longest = unit * (most // len(unit.encode()))

    assert parse(shape.format(longest))
    with pytest.raises(QuiltError, match="longer than|expected namespace/name"):
        parse(shape.format(longest + unit))


def read(keys: list[str]) -> list[Entry]:
    record = '{"logical_key": "%s", "physical_keys": ["s3://b/k"], "size": 5, "hash": {"type": "x", "value": "0"}, "meta": {}}'
    return list(read_manifest(["\n".join(["{}", *(record % key for key in keys), ""]).encode()]).entries)


def test_block_of_keys_has_bounds() -> None:
    for longest in ("a" * 4096, "é" * 2048):
        assert are_keys(["A", longest])
        assert [entry.logical_key for entry in read(["A", longest])] == ["A", longest]
        with pytest.raises(ManifestError, match="line 3: logical key '.*longer than 4,096 bytes"):
            read(["A", f"{longest}a"])


def test_join_makes_no_endless_key() -> None:
    assert len(PhysicalKey("bucket", "dir").join("é" * 510).key.encode()) == 1024
    with pytest.raises(QuiltError, match="longer than the 1,024 bytes"):
        PhysicalKey("bucket", "dir").join("é" * 511)
    assert PhysicalKey(None, "/dir").join("a" * 2000).key.startswith("/dir/a")


@given(st.sampled_from(list(PARSERS)), st.sampled_from(SHAPES), st.text(min_size=1), st.sampled_from([1, 30, 9000]))
def test_any_text_in_errors_is_tame(label: str, shape: str, text: str, times: int) -> None:
    result = value_or_refusal(lambda: PARSERS[label](shape.format(text * times)))

    assert not isinstance(result, QuiltError) or is_tame(str(result))


ANY: Final = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(ANY, st.integers(1, 300))
def test_quoted_and_plain_are_tame(value: Any, times: int) -> None:
    if isinstance(value, str | bytes | list):
        value *= times

    assert is_tame(quoted(value), 200)
    assert is_tame(plain(value), 200)
    if isinstance(value, str) and len(repr(value)) <= 200:
        assert quoted(value) == repr(value)


def test_quoted_takes_odd_values() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    assert quoted(deep) == "a value of type list"
    assert quoted(10**5000) == "a value of type int"
    assert quoted("\ud800\n") == r"'\ud800\n'"
    while deep:
        deep = deep[0]


@pytest.mark.parametrize(
    "error",
    [
        QuiltError("x" * MIB),
        WorkflowError("x" * MIB, ["y\n" * MIB] * 200),
        VerificationError("0" * 64, {"extra": ["z\x1b" * MIB] * 200}),
        StorageError("x" * MIB, "s3://bucket/key"),
    ],
)
def test_no_message_is_megabytes(error: QuiltError) -> None:
    assert len(str(error)) <= 65_536
    assert all(line.isprintable() for line in str(error).splitlines())
