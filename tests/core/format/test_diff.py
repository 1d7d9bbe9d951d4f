"""Changes between two streams of entries."""

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from airflow_quilt.core.format.diff import Change, compare
from airflow_quilt.core.format.hashes import CRC64NVME, SHA256, hash_of
from airflow_quilt.core.format.manifest import Entry
from tests.core.packages import entry_of


def entry(key: str, data: bytes = b"data", **meta: Any) -> Entry:
    return entry_of(key, data, f"s3://source/{key}?versionId=1", **meta)


def kinds(old: list[Entry], new: list[Entry]) -> list[tuple[str, str]]:
    return [(change.logical_key, change.kind) for change in compare(old, new)]


A = entry("a", user_meta={"x": 1})


@pytest.mark.parametrize(
    ("other", "is_change"),
    [
        pytest.param(entry("a", user_meta={"x": 1}), False, id="the-same"),
        pytest.param(entry("a", b"atad", user_meta={"x": 1}), True, id="other-bytes-of-the-same-size"),
        pytest.param(replace(A, size=5), True, id="size-only"),
        pytest.param(replace(A, meta={"user_meta": {"x": 2}}), True, id="metadata-only"),
        pytest.param(replace(A, meta={"user_meta": {"x": 1}, "theirs": 1}), True, id="metadata-of-others-only"),
        pytest.param(replace(A, meta={}), True, id="metadata-gone"),
        pytest.param(replace(A, hash=hash_of(b"data", CRC64NVME)), True, id="another-type-of-hash-of-the-same-bytes"),
        pytest.param(replace(A, hash=hash_of(b"data", SHA256)), True, id="the-older-type-of-hash-of-the-same-bytes"),
        pytest.param(replace(A, physical_keys=("s3://source/a?versionId=2",)), False, id="another-version-of-the-same-bytes"),
        pytest.param(replace(A, physical_keys=("file:///a", "s3://b/a")), False, id="other-places-of-the-same-bytes"),
    ],
)
def test_modified_by_size_hash_meta(other: Entry, *, is_change: bool) -> None:
    assert list(compare([A], [other])) == ([Change(A, other)] if is_change else [])
    assert [change.kind for change in compare([A], [other])] == (["modified"] if is_change else [])


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        pytest.param([], [], [], id="nothing-to-nothing"),
        pytest.param([], ["a", "b"], [("a", "added"), ("b", "added")], id="from-nothing"),
        pytest.param(["a", "b"], [], [("a", "deleted"), ("b", "deleted")], id="to-nothing"),
        pytest.param(["b"], ["a", "b", "c"], [("a", "added"), ("c", "added")], id="before-and-after"),
        pytest.param(["a", "b", "c"], ["b"], [("a", "deleted"), ("c", "deleted")], id="first-and-last-gone"),
        pytest.param(["a", "c"], ["b", "d"], [("a", "deleted"), ("b", "added"), ("c", "deleted"), ("d", "added")], id="in-turn"),
        pytest.param(["a"], ["a/b"], [("a", "deleted"), ("a/b", "added")], id="file-to-directory"),
        pytest.param(["a/b"], ["a"], [("a", "added"), ("a/b", "deleted")], id="directory-to-file"),
        pytest.param(["a/z", "a-b"], ["a-b", "a.c"], [("a/z", "deleted"), ("a.c", "added")], id="walk-order-not-that-of-letters"),
        pytest.param(["a/z", "a-b"], ["a/z", "a/z2", "a-b"], [("a/z2", "added")], id="inside-a-directory"),
    ],
)
def test_added_deleted_in_walk_order(old: list[str], new: list[str], changes: list[tuple[str, str]]) -> None:
    assert kinds([entry(key) for key in old], [entry(key) for key in new]) == changes


def test_change_holds_its_entries() -> None:
    newer = replace(A, size=9)
    changes = list(compare([A, entry("b")], [newer, entry("c")]))

    assert changes == [Change(A, newer), Change(entry("b"), None), Change(None, entry("c"))]
    assert [change.logical_key for change in changes] == ["a", "b", "c"]


def test_empty_change_has_no_key() -> None:
    with pytest.raises(ValueError, match="an entry on one side"):
        _ = Change(None, None).logical_key


def test_streams_are_read_lazily() -> None:
    read: list[str] = []

    def stream(side: str) -> Iterator[Entry]:
        for number in range(1000):
            read.append(f"{side}{number}")
            yield entry(f"{number:04}", side.encode())

    changes = compare(stream("x"), stream("y"))
    next(changes)

    assert read == ["x0", "y0"]
