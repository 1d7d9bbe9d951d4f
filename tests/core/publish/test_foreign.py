"""Packages of other writers are used as our own: lines in any order, NaN, metadata that is a text or a list."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from airflow_quilt.core.errors import LogicalKeyError, ManifestError, MetadataError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry, canonical_text, entry_line, header_line
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import LogicalKey, PackageName, TopHash, walk_order
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import ShardingOptions, commit_shards, plan_shards, transfer_shard
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.condition import RevisionCondition
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import MOST_WHOLE, ObjectInfo
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import verify
from tests.core.packages import entry_of, files_below, put
from tests.core.runtime.test_spool import open_files

NAME = PackageName("team", "package")
URI = "quilt+s3://registry#package=team/package"
KEYS = ["a/b", "a/c/d", "a-b/x", "a.txt", "b"]
ORDERS: Mapping[str, Callable[[list[bytes]], list[bytes]]] = {
    "walk order": list,
    "whole keys": lambda lines: sorted(lines, key=lambda line: json.loads(line)["logical_key"]),
    "reversed": lambda lines: lines[::-1],
}


@pytest.fixture(params=[1, 100_000], ids=["on disk", "in memory"])
def target(request: pytest.FixtureRequest, memory: MemoryStorage) -> Registry:
    """A registry whose work spills to the disk after so many entries."""
    limits = Limits(spill_entries=request.param)
    return Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory, limits=limits))


def objects(memory: MemoryStorage) -> list[Entry]:
    return [entry_of(key, key.encode(), put(memory, f"s3://registry/data/{key}", key.encode())) for key in KEYS]


def publish(
    memory: MemoryStorage,
    header: bytes,
    lines: list[bytes],
    top_hash: TopHash,
    name: PackageName = NAME,
    time: int = 1_700_000_000,
) -> None:
    """Publish the lines of a manifest as they are, as another program does."""
    files = {layout.manifest(top_hash): b"\n".join([header, *lines]) + b"\n"}
    files |= {layout.pointer(name, revision): top_hash.encode() for revision in (str(time), layout.LATEST)}
    for path, data in files.items():
        memory.store(PhysicalKey("registry", path), data, "overwrite")


def written(header: Mapping[str, Any], of: list[Entry], directories: Mapping[Any, Any]) -> tuple[list[bytes], TopHash]:
    """Return the lines of a manifest without its header, in walk order, and its top hash."""
    out = io.BytesIO()
    top_hash = write_manifest(header, of, out, directories).top_hash
    return out.getvalue().splitlines()[1:], top_hash


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_is_a_package(order: str, target: Registry, memory: MemoryStorage, tmp_path: Path) -> None:
    header = {"version": "v0", "message": "theirs"}
    lines, top_hash = written(header, objects(memory), {"a/": {"x": 1}, "a/c/": ["y"]})
    publish(memory, header_line(header), ORDERS[order](lines), top_hash)
    publish(memory, header_line(header), lines, top_hash, PackageName("team", "ordered"))
    before = open_files()

    manifest = target.read(NAME).begun()
    assert manifest.directories == {"a/": {"x": 1}, "a/c/": ["y"]}
    assert [entry.logical_key for entry in manifest.entries] == KEYS
    assert target.entry(NAME, "a.txt").size == len("a.txt")
    assert RevisionCondition(package=NAME, path="a-b").find(target)
    installed = install(target, Reference(NAME), str(tmp_path / "all"))
    assert (installed.top_hash, files_below(tmp_path / "all")) == (top_hash, {key: key.encode() for key in KEYS})
    assert files_below(Path(install(target, Reference(NAME, path="a"), str(tmp_path / "a")).paths[0]).parent) == {
        "b": b"a/b",
        "c/d": b"a/c/d",
    }
    verify(target, Reference(NAME), str(tmp_path / "all")).check()
    verify(target, Reference(NAME)).check()

    # The same work on the same package with its lines in walk order has the same result.
    results = []
    for name in ("team/package", "team/ordered"):
        uri = f"quilt+s3://registry#package={name}"
        draft = Draft(
            package=name, entries={"a0": {"content": b"new"}, "a/c/e": uri + "&path=a/b"}, mode="update", remove=["a-b"]
        )
        updated = push(target, draft)
        changes = [(change.kind, change.logical_key) for change in target.diff(name, top_hash)]
        copied = push(target, Draft(package="team/copy", entries=f"{uri}@{top_hash}", message=name[:4]))
        below = push(target, Draft(package="team/below", entries={"d/": f"{uri}@{top_hash[:8]}&path=a/"}))
        staging = PhysicalKey("source", f"staging/1700000000-{'0' * 31}{len(results)}/")
        whole = Draft(package=f"{name}-sharded", entries={"a0": {"content": b"new"}, "s/": f"{uri}@{top_hash}"})
        planner = push_planner(target, whole.package)
        plan = plan_shards(target, whole, planner, staging, ShardingOptions(shards=2)).location
        done = [transfer_shard(target, whole.package, plan, number) for number in (0, 1)]
        assert done[0].entries + done[1].entries == len(KEYS) + 1
        sharded = commit_shards(target, whole.package, plan, done)
        results.append((updated.top_hash, changes, copied.top_hash, below.top_hash, sharded.top_hash))
        assert [entry.logical_key for entry in target.read(name).entries] == ["a/b", "a/c/d", "a/c/e", "a.txt", "a0", "b"]
    assert results[0] == results[1]
    assert open_files() <= before


class _Large(MemoryStorage):
    """A store that reports a larger size than its objects have, so that manifests are streamed."""

    def stat(self, key: PhysicalKey) -> ObjectInfo:
        info = super().stat(key)
        return dataclasses.replace(info, size=info.size + MOST_WHOLE)


@pytest.mark.parametrize("order", ORDERS)
def test_large_manifest_is_streamed(order: str) -> None:
    memory = _Large(["registry", "source"])
    stores = Stores(LocalStorage(), memory, limits=Limits(spill_entries=1))
    registry = Registry(RegistryLocation.parse("s3://registry"), stores)
    header: dict[str, Any] = {"version": "v0", "message": None}
    lines, top_hash = written(header, objects(memory), {})
    publish(memory, header_line(header), ORDERS[order](lines), top_hash)
    before = open_files()

    assert [entry.logical_key for entry in registry.read(NAME).entries] == KEYS
    assert registry.read(NAME).header == header  # No more of it.
    unfinished = registry.read(NAME).entries
    assert next(unfinished).logical_key == KEYS[0]
    del unfinished
    assert open_files() == before


def test_any_order_must_make_a_tree(target: Registry, memory: MemoryStorage) -> None:
    header: dict[str, Any] = {"version": "v0", "message": None}
    good = objects(memory)
    for key, words in {
        "a-b/x": "'a-b/x' is given twice",
        "a": "'a' is a file, and a directory",
        "a.txt/b": "'a.txt' is a file",
    }.items():
        extra = replace(good[0], logical_key=LogicalKey(key))
        sorted_entries = sorted([*good, extra], key=lambda entry: walk_order(entry.logical_key))
        _, top_hash = written(header, sorted_entries, {})
        for order in ORDERS.values():
            publish(memory, header_line(header), order(list(map(entry_line, sorted_entries))), top_hash)
            with pytest.raises((ManifestError, LogicalKeyError), match=words):
                list(target.read(NAME).entries)


@pytest.mark.parametrize("user_meta", ["a text", ["a", {"list": 1}], 5, True, "", []], ids=repr)
def test_any_meta_is_kept(user_meta: Any, registry: Registry, memory: MemoryStorage, tmp_path: Path) -> None:
    header = {"version": "v0", "user_meta": user_meta, "message": None}
    one, other, *_ = objects(memory)
    given = [replace(one, meta=user_meta or {}), replace(other, meta={"user_meta": user_meta})]
    lines, top_hash = written(header, given, {"a/": user_meta})
    publish(memory, header_line(header), lines, top_hash)
    install(registry, Reference(NAME), str(tmp_path))
    updated = push(registry, Draft(package=NAME, entries={"z": {"content": b"z"}}, mode="update"))
    copied = push(registry, Draft(package="team/copy", entries={"/": f"{URI}@{top_hash}", "d/": f"{URI}@{top_hash}&path=a"}))

    manifest = registry.read(NAME, updated.top_hash).begun()
    assert (manifest.user_meta, manifest.directories) == (user_meta, {"a/": user_meta} if user_meta else {})
    assert [entry.meta for entry in manifest.entries] == [*(entry.meta for entry in given), {}]
    assert [entry.meta for entry in registry.read("team/copy", copied.top_hash).entries] == [entry.meta for entry in given] * 2
    assert verify(registry, Reference(NAME), str(tmp_path)).missing == ["z"]

    # A package that is the one source of another keeps its own (a promotion); more keys cannot join it.
    promoted = push(registry, Draft(package="team/promoted", entries=f"{URI}@{top_hash}"))
    assert registry.read("team/promoted").user_meta == user_meta
    assert promoted.top_hash == top_hash
    for entries in ({"z": {"content": b"z"}}, None) if user_meta else ():
        with pytest.raises(MetadataError, match=f"its metadata is a {type(user_meta).__name__}, with which"):
            push(registry, Draft(package=NAME, mode="update", entries=entries, own_meta={"airflow": {}}))
    assert registry.read(NAME).user_meta == user_meta
    push(registry, Draft(package=NAME, mode="update", own_meta={"airflow": {}}, meta={"a": 1}))
    assert registry.read(NAME).user_meta == {"a": 1, "airflow": {}}


def test_nan_is_read_and_not_written(registry: Registry, memory: MemoryStorage, tmp_path: Path) -> None:
    first, *others = objects(memory)
    lines = [entry_line(replace(first, meta={"user_meta": {"x": 7777}})).replace(b"7777", b"NaN"), *map(entry_line, others)]
    hashed = canonical_text([replace(first, meta={"user_meta": {"x": float("nan")}}), *others])
    top_hash = TopHash(hashlib.sha256(b'{"message":null,"version":"v0"}' + hashed).hexdigest())
    publish(memory, b'{"version": "v0", "message": null}', lines, top_hash)

    install(registry, Reference(NAME), str(tmp_path))
    verify(registry, Reference(NAME), str(tmp_path)).check()
    assert list(registry.diff(NAME, top_hash, top_hash)) == []  # NaN differs from itself in Python.
    with pytest.raises(MetadataError, match="entry 'a/b': its metadata cannot be written.*give it other metadata"):
        push(registry, Draft(package=NAME, entries={"z": {"content": b"z"}}, mode="update"))
    with pytest.raises(MetadataError, match="entry 'a/b'"):
        push(registry, Draft(package="team/copy", entries=URI))
    assert registry.latest("team/copy") is None

    given = {"a/b": {"path": f"{URI}&path=a/b", "meta": {"x": None}}}
    updated = push(registry, Draft(package=NAME, entries=given, mode="update"))
    assert [(change.kind, change.logical_key) for change in registry.diff(NAME, top_hash, updated.top_hash)] == [
        ("modified", "a/b")
    ]
