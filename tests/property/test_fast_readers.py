"""Readers that take shortcuts through a manifest accept the same manifests as the strict reader."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_quilt.core.errors import EntryNotFoundError, ManifestError, QuiltError
from airflow_quilt.core.format.manifest_reader import read_manifest
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.registry.condition import RevisionCondition
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference, select
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from tests.property.hostile import MIB, value_or_refusal

NAME: Final = PackageName("team", "package")
HEADER: Final = b'{"version": "v0", "message": null}\n'
PLAIN: Final = (
    '{"logical_key": "%s", "physical_keys": ["s3://b/k"], "size": 5, "hash": {"type": "SHA256", "value": "0"}, "meta": {}}'
)
LINES: Final = tuple((PLAIN % key).encode() for key in ("a/b", "a/c", "a.txt", "b", "c/d/e", "d"))
LAST: Final = b' {"logical_key":"~~","physical_keys":["s3://b/k"],"size":5,"hash":{"type":"SHA256","value":"0"}}\n'
"""A line of another spelling: the block that it is in is read line by line."""


def of_times(count: int, opening: bytes, closing: bytes) -> bytes:
    return b'{"x": ' + opening * count + closing * count + b", "


CHANGES: Final = (
    (b'"size": 5', b'"size": 4, "size": 5'),
    (b'"logical_key"', b'"logical_key": "zz", "logical_key"'),
    (b'"type"', b'"type": "x", "type"'),
    (b'"meta": {}', b'"meta": {"user_meta": {"x": 1, "x": 2}}'),
    (b', "meta": {}', b""),
    (b', "meta": {}', b', "more": {}'),
    (b', "meta": {}', b', "meta": 1, "meta": {}'),
    (b'"meta": {}', b'"meta": {"user_meta": {"x": NaN}}'),
    (b'"meta": {}', b'"meta": {} '),
    (b"5", b"5.0"),
    (b"5", b"5e0"),
    (b"5", b"-0"),
    (b"5", b"05"),
    (b"5", b"true"),
    (b"5", b"9223372036854775808"),
    (b", ", b",\n"),
    (b", ", b",\r"),
    (b"{", b"{\n"),
    (b"{", b"{\t"),
    (b"{", b"\xef\xbb\xbf{"),
    (b"}}\n", b"}} "),
    (b"\n", b"\n\n"),
    (b"\n", b"\r\n"),
    (b"a/b", b"a/\\u0062"),
    (b"a/c", b"a/b"),
    (b"a/c", b"a//c"),
    (b"a.txt", b"a"),
    (b"a.txt", b"a/"),
    (b"a.txt", b"a\\ud800"),
    (b"a.txt", b"a\x00"),
    (b"s3://b/k", b"s3://b/\\ud800"),
    (b'["s3://b/k"]', b"[]"),
    (b'["s3://b/k"]', b'["s3://b/k", 5]'),
    (b'{"logical_key"', of_times(300, b"[", b"]") + b'"logical_key"'),
    (b'{"logical_key"', of_times(5000, b'{"y":', b"}") + b'"logical_key"'),
    (b'"meta": {}', b'"meta": ' + b"[" * 250 + b"]" * 250),
    (b'"meta": {}', b'"meta": ' + b"[" * 800 + b"]" * 800),
    (b'"meta": {}', b'"meta": ' + b"[" * 100_000),
    (b'{"logical_key": "b"', b'[], {"logical_key": "b"'),
    (PLAIN.encode() % b"b", b"[[]]"),
    (PLAIN.encode() % b"b", b'{"logical_key": "c/", "meta": {"x": 1}}'),
    (PLAIN.encode() % b"b", b'{"logical_key": "d/", "meta": {"x": 1}}'),
)


@st.composite
def manifests(draw: st.DrawFn) -> bytes:
    """Lines of entries, some of which are changed."""
    lines = draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=6, unique=True))
    if draw(st.booleans()):
        lines = [line for line in LINES if line in lines]
    data = b"".join(line + b"\n" for line in lines)
    for old, new in draw(st.lists(st.sampled_from(CHANGES), max_size=2)):
        places = [at for at in range(len(data)) if data.startswith(old, at)]
        if places:
            at = draw(st.sampled_from(places))
            data = data[:at] + new + data[at + len(old) :]
    return data if data.endswith(b"\n") else data + b"\n"


Outcome = list[tuple[str, Any]] | None


def outcome(read: Callable[[], Iterable[Any]]) -> Outcome:
    """Return keys and metadata of entries; None for a manifest that is refused."""
    result = value_or_refusal(lambda: [(entry.logical_key, json.dumps(entry.meta)) for entry in read()])
    assert not isinstance(result, QuiltError) or isinstance(result, ManifestError)
    return None if isinstance(result, QuiltError) else result


@settings(max_examples=150)
@given(manifests())
@example(LINES[0].replace(b", ", b",\n") + b"\n")
@example(LINES[0] + b" " + LINES[1] + b"\n")
def test_blocks_are_as_strict_as_lines(data: bytes) -> None:
    fast = outcome(lambda: read_manifest([HEADER + data]).entries)
    slow = outcome(lambda: read_manifest([HEADER + data + LAST]).entries)

    assert slow == (None if fast is None else [*fast, ("~~", "{}")])


def planted(data: bytes, top_hash: str) -> Registry:
    memory = MemoryStorage(["registry"])
    pointers = [(f".quilt/named_packages/{NAME}/{stamp}", top_hash.encode()) for stamp in ("1700000000", "latest")]
    for path, body in (*pointers, (f".quilt/packages/{top_hash}", data)):
        memory.put(PhysicalKey("registry", path), body)
    return Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))


@settings(max_examples=150)
@given(data=manifests(), path=st.sampled_from(["a/b", "a", "a/", "d", "~"]), is_forged=st.booleans())
@example(data=b"".join(line + b"\n" for line in LINES), path="a/b", is_forged=True)
@example(data=b"".join(line + b"\n" for line in LINES), path="~", is_forged=True)
@example(data=LINES[0] + b"\n" + b"[" * 100_000, path="a/b", is_forged=False)
def test_one_path_as_strict_as_all(*, data: bytes, path: str, is_forged: bool) -> None:
    counted = value_or_refusal(lambda: top_hash_of(data))
    top_hash = "0" * 64 if is_forged or isinstance(counted, QuiltError) else counted
    registry = planted(HEADER + data, top_hash)
    whole = outcome(lambda: registry.read(NAME).entries)

    condition = RevisionCondition(package=NAME, path=path)
    sensed = value_or_refusal(lambda: condition.find(registry))
    entry = value_or_refusal(lambda: registry.entry(NAME, path))
    selected = value_or_refusal(lambda: select(registry, Reference(NAME, path=path)))

    if whole is None:
        assert [type(each) for each in (sensed, entry, selected)] == [ManifestError] * 3
        return
    keys = [key for key, _ in whole]
    is_there = path in keys or any(key.startswith(f"{path.rstrip('/')}/") for key in keys)
    assert (sensed is not None) == is_there
    assert isinstance(entry, EntryNotFoundError) == (path not in keys)
    assert isinstance(selected, EntryNotFoundError) != is_there


def top_hash_of(data: bytes) -> TopHash:
    """Return the top hash of the entries of a manifest."""
    digest = hashlib.sha256(b'{"message":null,"version":"v0"}')
    for entry in read_manifest([HEADER + data]).entries:
        fields = {"hash": {"type": entry.hash.type, "value": entry.hash.value}, "logical_key": entry.logical_key}
        record = fields | {"meta": entry.meta, "size": entry.size}
        digest.update(json.dumps(record, sort_keys=True, separators=(",", ":")).encode())
    return TopHash(digest.hexdigest())


# Memory, in relation to the bytes of a manifest.


def metadata_of(size: int) -> bytes:
    return b"[" + b"[]," * (size // 3) + b"[]]"


def entry_with(key: str, meta: bytes) -> bytes:
    return (PLAIN % key).encode().replace(b'"meta": {}', b'"meta": {"user_meta": %b}' % meta)


def directory_with(key: str, meta: bytes) -> bytes:
    return b'{"logical_key": "%b/", "meta": %b}' % (key.encode(), meta)


MANY: Final = 6
LONG: Final = metadata_of(MIB // 4)
COSTLY: Final = {
    "a header": [b'{"x": ' + metadata_of(8 * MIB) + b"}", LINES[0]],
    "a list in place of a header": [metadata_of(8 * MIB)],
    "a list in place of an entry": [HEADER[:-1], metadata_of(8 * MIB)],
    "a long entry": [HEADER[:-1], entry_with("a/b", metadata_of(8 * MIB))],
    "places": [HEADER[:-1], LINES[0].replace(b'"s3://b/k"', b'"",' * MIB + b'""')],
    "entries in order": [HEADER[:-1], *(entry_with(f"a/{number:03}", LONG) for number in range(MANY))],
    "entries in no order": [HEADER[:-1], *(entry_with(f"a/{number:03}", LONG) for number in reversed(range(MANY)))],
    "directories": [HEADER[:-1], *(directory_with(f"a{number:03}", LONG) for number in range(MANY)), LINES[3]],
}


@pytest.mark.parametrize("lines", COSTLY.values(), ids=COSTLY)
def test_memory_follows_bytes(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    registry = planted(data, "0" * 64)
    condition = RevisionCondition(package=NAME, path="a")

    # Decoded whole, empty lists have 22 times their bytes.
    result = value_or_refusal(lambda: condition.find(registry), memory=5 * len(data) + 8 * MIB)

    assert isinstance(result, ManifestError)


def test_many_directories_are_sorted_once() -> None:
    keys = [f"d{number:05}" for number in range(2000)]
    lines = itertools.chain((directory_with(key, b"{}") for key in keys), ((PLAIN % f"{key}/x").encode() for key in keys))
    found = list(read_manifest([b"\n".join([HEADER[:-1], *lines])]).entries)

    assert len(found) == len(keys)
