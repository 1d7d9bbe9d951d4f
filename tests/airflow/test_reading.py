"""The methods of QuiltHook that read packages, on the real store."""

from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from airflow_quilt.core import Draft, entry, open_registry, push
from airflow_quilt.core.build import build
from airflow_quilt.core.errors import (
    EntryDamagedError,
    EntryFormatError,
    EntryNotFoundError,
    InputError,
    ObjectTooLargeError,
    PackageNotFoundError,
    QuiltError,
)
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.hooks.quilt import QuiltHook
from testbed.server import S3Server

FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
FILES = {
    "frames/a.csv": FRAME,
    "frames/a.parquet": FRAME,
    "value.json": {"n": [1]},
    "text.txt": entry(content="text", meta={"unit": "mm"}),
}


class Pushed(NamedTuple):
    """A package of two revisions."""

    hook: QuiltHook
    registry: Registry
    old: str
    new: str
    uri: str


@pytest.fixture(scope="module")
def pushed(module_registry: str) -> Pushed:
    """The package ``team/data`` in the registry of the connection, and one of another team."""
    hook = QuiltHook()
    registry = hook.registry()
    old = push(registry, Draft(package="team/data", entries={"text.txt": b"old", "gone": b""}))
    new = push(registry, Draft(package="team/data", entries=FILES))
    push(registry, Draft(package="other/data", entries={"a": b""}))
    return Pushed(hook, registry, old.top_hash, new.top_hash, str(new.uri))


def test_packages_and_revisions(pushed: Pushed, tmp_path: Path) -> None:
    hook, url = pushed.hook, str(pushed.registry.location)

    assert sorted(map(str, hook.packages())) == ["other/data", "team/data"]
    assert [name.namespace for name in hook.packages("t*/d*")] == ["team"]
    assert [*hook.packages("team/nothing")] == []
    assert [*map(str, QuiltHook(None).packages("team/*", registry=url))] == ["team/data"]
    revisions = list(hook.revisions(pushed.uri))
    assert [each.top_hash for each in revisions] == [pushed.new, pushed.old]
    before = revisions[0].published_at - timedelta(seconds=1)
    assert [each.logical_key for each in hook.entries("team/data", before)] == ["gone", "text.txt"]

    (tmp_path / "a.txt").write_text("a")
    local = str(tmp_path / "registry")
    built = build(open_registry(local), Draft(package="team/local", entries={"a.txt": str(tmp_path / "a.txt")}))
    assert hook.read_bytes("team/local", "a.txt", registry=local) == hook.read_bytes(str(built.uri), "a.txt") == b"a"


def test_entries_and_diff(pushed: Pushed) -> None:
    hook = pushed.hook
    [text] = hook.entries("team/data", path="text.txt")

    assert (text.size, text.user_meta) == (4, {"unit": "mm"})
    assert [each.logical_key for each in hook.entries(f"{pushed.uri}&path=frames")] == ["frames/a.csv", "frames/a.parquet"]
    assert [each.logical_key for each in hook.entries("team/data", pushed.old[:6])] == ["gone", "text.txt"]
    changes = [(each.kind, each.logical_key) for each in hook.diff("team/data", pushed.old)]
    assert changes == [
        ("added", "frames/a.csv"),
        ("added", "frames/a.parquet"),
        ("deleted", "gone"),
        ("modified", "text.txt"),
        ("added", "value.json"),
    ]
    assert [*hook.diff("team/data", pushed.new)] == [*hook.diff("team/data", pushed.old, pushed.old)] == []
    assert [each.logical_key for each in hook.diff(f"{pushed.uri}&path=text.txt", pushed.old)] == ["text.txt"]


def test_files_are_values(pushed: Pushed) -> None:
    hook = pushed.hook

    assert hook.read_bytes("team/data", "text.txt") == b"text"
    assert hook.read_bytes("team/data", "text.txt", pushed.old) == b"old"
    assert hook.read_bytes(f"{pushed.uri}&path=text.txt") == b"text"
    assert hook.read_json("team/data", "value.json") == {"n": [1]}
    for key in ("frames/a.csv", "frames/a.parquet"):
        pd.testing.assert_frame_equal(hook.read_frame("team/data", key), FRAME, check_dtype=False)


def test_errors_name_the_cure(pushed: Pushed) -> None:
    hook, where = pushed.hook, f"{pushed.registry.location}: package team/data"
    calls = [
        (lambda: hook.revisions("team/nothing"), PackageNotFoundError, "no package team/nothing"),
        (lambda: hook.entries("team/nothing"), PackageNotFoundError, "no package team/nothing"),
        (lambda: [*hook.entries("team/data", path="frames/b")], EntryNotFoundError, "'frames/b'"),
        (lambda: hook.read_bytes("team/data", "nothing"), EntryNotFoundError, "'nothing'"),
        (lambda: hook.read_bytes("team/data"), InputError, "name the file to read"),
        (
            lambda: hook.read_bytes("team/data", "text.txt", most=3),
            ObjectTooLargeError,
            "has 4 bytes, and no more than 3 .*install it",
        ),
        (lambda: hook.read_json("team/data", "text.txt"), EntryFormatError, f"^{where}.*: entry 'text.txt': it is not JSON"),
        (lambda: hook.read_frame("team/data", "text.txt"), EntryFormatError, "'.txt'; a data frame is read from"),
        (lambda: hook.packages("team"), InputError, "expected namespace/name"),
    ]
    for call, kind, says in calls:
        with pytest.raises(kind, match=says) as caught:
            call()
        assert isinstance(caught.value, QuiltError)


def test_bytes_are_checked(pushed: Pushed, s3: S3Server) -> None:
    """The version that the manifest names is read; and an object that has other bytes than it names is an error."""
    registry, hook = pushed.registry, pushed.hook
    push(registry, Draft(package="team/moved", entries={"a.txt": b"old"}))
    origin = registry.origin(registry.entry("team/moved", "a.txt"))
    s3.client().put_object(Bucket=origin.bucket, Key=origin.key, Body=b"new")
    assert hook.read_bytes("team/moved", "a.txt") == b"old"

    place = f"s3://{origin.bucket}/{origin.key}"
    push(registry, Draft(package="team/named", entries={"a.txt": place}, unversioned=True), copy="none")
    s3.client().put_object(Bucket=origin.bucket, Key=origin.key, Body=b"bad")
    with pytest.raises(EntryDamagedError, match="package team/named.*: entry 'a.txt' .*differ"):
        hook.read_bytes("team/named", "a.txt")
