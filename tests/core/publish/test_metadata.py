"""Metadata of packages, entries and directories: kept by a promotion, and never replaced without a word."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import InputError, MetadataError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import ShardingOptions, commit_shards, plan_shards, staging_of, transfer_shard
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.core.packages import commit, entry_of, put
from tests.support import read

NAME = PackageName("team", "package")
HEADER: Mapping[str, Any] = {"version": "v0", "message": "m", "user_meta": {"week": 1, "by": "them"}, "theirs": [1]}
ABSENT = object()


def draft(entries: object = None, **more: Any) -> Draft:
    return Draft(**{"package": str(NAME), "entries": entries, **more})


def base(registry: Registry, memory: MemoryStorage, user_meta: object = ABSENT) -> str:
    """Publish a package with metadata of every kind in the bucket ``source``; return its URI."""
    entry = entry_of("d/a.txt", b"a", put(memory, "s3://source/a", b"a"), user_meta={"unit": "mm", "n": 1})
    header = dict(HEADER) if user_meta is ABSENT else {**HEADER, "user_meta": user_meta}
    top_hash = commit(registry, NAME, [entry], header, {"d/": {"of": "d", "n": 1}})
    return f"quilt+{registry.location}#package={NAME}@{top_hash}"


def by_shards(registry: Registry, given: Draft) -> PublishResult:
    staging = staging_of(PhysicalKey("registry", "staging/"), Attempt("work"), 1_700_000_000)
    plan = plan_shards(registry, given, push_planner(registry, given.package), staging, ShardingOptions(shards=2))
    done = [transfer_shard(registry, given.package, plan.location, number) for number in range(plan.shards)]
    return commit_shards(registry, given.package, plan.location, done)


def header_of(registry: Registry, published: PublishResult) -> Mapping[str, Any]:
    return registry.read(published.package, published.top_hash).header


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("publish", [push, build, by_shards])
@pytest.mark.parametrize("shape", ["alone", "root", "list", "path"])
def test_promotion_keeps_everything(
    registry: Registry, local_registry: Registry, memory: MemoryStorage, publish: Any, shape: str
) -> None:
    """A package that is the one source keeps its metadata, and so its top hash."""
    uri = base(local_registry, memory)
    shapes = {"alone": uri, "root": {"/": uri}, "list": [uri], "path": {"path": uri}}
    published = publish(registry, draft(shapes[shape], message="m"))
    manifest = registry.read(NAME, published.top_hash)

    assert published.top_hash == uri.rpartition("@")[2]
    assert [entry.user_meta for entry in manifest.entries] == [{"unit": "mm", "n": 1}]
    assert (manifest.header, manifest.directories) == (HEADER, {"d/": {"of": "d", "n": 1}})


def test_update_from_nothing_promotes(registry: Registry, local_registry: Registry, memory: MemoryStorage) -> None:
    """An update that starts from nothing makes the revision that a replacement makes; a later one keeps its metadata."""
    uri = base(local_registry, memory)
    first = push(registry, draft(uri, mode="update", message="m"))
    assert first.top_hash == uri.rpartition("@")[2]

    push(registry, draft({"b": b"b"}, meta={"own": 1}))
    updated = push(registry, draft(uri, mode="update"))
    assert header_of(registry, updated)["user_meta"] == {"own": 1}
    assert list(read(registry, updated)) == ["b", "d/a.txt"]


@pytest.mark.parametrize("user_meta", [None, {}, "text", ["a", 1]], ids=["null", "empty", "text", "list"])
def test_promotion_keeps_foreign_meta(
    registry: Registry, local_registry: Registry, memory: MemoryStorage, user_meta: object
) -> None:
    published = push(registry, draft(base(local_registry, memory, user_meta), message="m"))

    assert header_of(registry, published) == {**HEADER, "user_meta": user_meta}


@pytest.mark.parametrize(
    ("more", "user_meta"),
    [
        pytest.param({"meta": {}}, {}, id="empty"),
        pytest.param({"meta": {"week": 2}}, {"week": 2}, id="given"),
        pytest.param({"meta": {"week": 2}, "meta_mode": "merge"}, {"week": 2, "by": "them"}, id="merged"),
        pytest.param({"own_meta": {"airflow": 1}}, {"week": 1, "by": "them", "airflow": 1}, id="provenance"),
        pytest.param({"meta": {"x": 1}, "own_meta": {"airflow": 1}}, {"x": 1, "airflow": 1}, id="given-with-provenance"),
    ],
)
@pytest.mark.parametrize("mode", ["replace", "update"])
def test_given_meta_by_mode(
    registry: Registry, memory: MemoryStorage, mode: Any, more: dict[str, Any], user_meta: dict[str, Any]
) -> None:
    uri = base(registry, memory)
    published = push(registry, draft(uri if mode == "replace" else {"b": b"b"}, mode=mode, **more))

    assert header_of(registry, published)["user_meta"] == user_meta


@pytest.mark.parametrize("mode", ["replace", "update"])
def test_lost_keys_are_named(registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture, mode: Any) -> None:
    uri = base(registry, memory)
    push(registry, draft(uri if mode == "replace" else None, mode=mode, meta={"week": 2}))

    assert warnings(caplog) == [
        "meta replaces the metadata that was there, whose keys are gone: 'by'; meta_mode='merge' keeps them"
    ]
    caplog.clear()
    push(registry, draft({"b": b"b"}, mode="update"))
    push(registry, draft({"c": b"c"}, mode="update", meta={"x": 1}, meta_mode="merge"))
    push(registry, draft({"c": b"c"}, meta={"x": 1}))  # It does not start from a revision.
    assert warnings(caplog) == []


def test_entries_lose_meta_by_name(registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture) -> None:
    base(registry, memory)
    entries = {"d/a.txt": {"content": "new", "meta": {"n": 2}}, "d/": {"meta": {"of": "e"}}}
    replaced = push(registry, draft(entries, mode="update"))

    assert read(registry, replaced)["d/a.txt"].user_meta == {"n": 2}
    assert warnings(caplog) == [
        (
            "2 entries replaced without keys of the metadata that was there: 'd/': 'n'; 'd/a.txt': 'unit'; "
            "meta_mode='merge' keeps them"
        )
    ]


def test_entries_and_directories_merge(registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture) -> None:
    base(registry, memory)
    entries = {"d/a.txt": {"content": "new", "meta": {"n": 2}}, "d/": {"meta": {"of": "e"}}}
    merged = push(registry, draft(entries, mode="update", meta_mode="merge"))
    manifest = registry.read(NAME, merged.top_hash)

    assert [entry.user_meta for entry in manifest.entries] == [{"unit": "mm", "n": 2}]
    assert manifest.directories == {"d/": {"of": "e", "n": 1}}
    assert manifest.user_meta == {"week": 1, "by": "them"}
    kept = push(registry, draft({"d/a.txt": b"newer"}, mode="update", meta_mode="merge"))
    assert read(registry, kept)["d/a.txt"].user_meta == {"unit": "mm", "n": 2}
    assert warnings(caplog) == []


@pytest.mark.parametrize("meta_mode", ["replace", "merge"])
def test_meta_of_package_parts(
    registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture, meta_mode: Any
) -> None:
    """Metadata that is given with a file or directory of another package replaces the one that it has there, or joins it."""
    uri = base(registry, memory)
    entries = {
        "b.txt": {"path": f"{uri}&path=d/a.txt", "meta": {"n": 2}},
        "e/": {"path": f"{uri}&path=d", "meta": {"of": "e"}},
    }
    manifest = registry.read(NAME, push(registry, draft(entries, meta_mode=meta_mode)).top_hash)
    metas = {entry.logical_key: entry.user_meta for entry in manifest.entries}

    assert metas["e/a.txt"] == {"unit": "mm", "n": 1}
    if meta_mode == "merge":
        assert (metas["b.txt"], manifest.directories) == ({"unit": "mm", "n": 2}, {"e/": {"of": "e", "n": 1}})
        assert warnings(caplog) == []
    else:
        assert (metas["b.txt"], manifest.directories) == ({"n": 2}, {"e/": {"of": "e"}})
        assert sorted(line.partition(": ")[0] + line.partition("gone")[2] for line in warnings(caplog)) == [
            "entry 'b.txt': 'unit'; meta_mode='merge' keeps them",
            "entry 'e/': 'n'; meta_mode='merge' keeps them",
        ]


@pytest.mark.parametrize("more", [{"meta": {"x": 1}, "meta_mode": "merge"}, {"own_meta": {"airflow": 1}}], ids=["merge", "own"])
@pytest.mark.parametrize("user_meta", ["text", ["a"]], ids=["text", "list"])
def test_meta_without_keys_refused(registry: Registry, memory: MemoryStorage, more: dict[str, Any], user_meta: object) -> None:
    base(registry, memory, user_meta)
    kind = type(user_meta).__name__

    with pytest.raises(MetadataError, match=f"meta: its metadata is a {kind}, with which a dict cannot be merged"):
        push(registry, draft({"b": b"b"}, mode="update", **more))
    assert len(list(registry.revisions(NAME))) == 1
    published = push(registry, draft({"b": b"b"}, mode="update"))
    assert header_of(registry, published)["user_meta"] == user_meta


def test_merge_needs_something(registry: Registry) -> None:
    with pytest.raises(InputError, match="meta_mode='merge': leave it out, or give mode='update' or one package as entries"):
        push(registry, draft({"a": b"a"}, meta={"x": 1}, meta_mode="merge"))
    assert push(registry, draft({"a": b"a"}, mode="update", meta={"x": 1}, meta_mode="merge")).created
    with pytest.raises(InputError, match="meta_mode 'add': expected 'replace' or 'merge'"):
        push(registry, draft({"a": b"a"}, meta_mode="add"))


def test_part_is_no_promotion(registry: Registry, memory: MemoryStorage) -> None:
    """A part of a package, or a package among others, brings no metadata of a package."""
    uri = base(registry, memory)
    for entries in (f"{uri}&path=d", {"in/": uri}, {"/": uri, "b": b"b"}):
        assert "user_meta" not in header_of(registry, push(registry, draft(entries, package="team/other")))
