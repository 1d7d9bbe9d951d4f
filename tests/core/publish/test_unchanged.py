"""An unchanged revision is reused only when its objects are there; otherwise its manifest names where they are by now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import EntryDamagedError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import ShardingOptions, commit_shards, plan_shards, staging_of, transfer_shard
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Recorder
from tests.core.packages import PART, commit, entry_of, put
from tests.support import read, through

NAME = PackageName("team", "package")
Publish = Callable[..., PublishResult]


def draft(entries: object = None, **more: Any) -> Draft:
    return Draft(**{"package": str(NAME), "entries": entries, **more})


def by_shards(registry: Registry, given: Draft) -> PublishResult:
    staging = staging_of(PhysicalKey("registry", "staging/"), Attempt(), 1_700_000_000)
    plan = plan_shards(registry, given, push_planner(registry, given.package), staging, ShardingOptions(shards=3))
    done = [transfer_shard(registry, given.package, plan.location, number) for number in range(plan.shards)]
    return commit_shards(registry, given.package, plan.location, done)


def destroy(memory: MemoryStorage, *keys: str) -> None:
    """Remove versions for good, as a rule of the bucket's lifecycle does."""
    for key in keys:
        memory.destroy(PhysicalKey.parse(key))


def check_whole(registry: Registry, first: PublishResult, again: PublishResult, content: dict[str, bytes]) -> None:
    """Check that the same revision was found again, and that all its bytes can be read."""
    assert (again.created, again.revision) == (False, first.revision)
    assert {key: registry.read_bytes(entry) for key, entry in read(registry, again).items()} == content
    assert len(list(registry.revisions(NAME))) == 1


def places(registry: Registry, published: PublishResult) -> list[str]:
    return [entry.physical_keys[0] for entry in read(registry, published).values()]


@pytest.mark.parametrize("publish", [push, by_shards])
@pytest.mark.parametrize("kind", ["small", "large", "copied", "updated"])
def test_copied_again_is_named_anew(registry: Registry, memory: MemoryStorage, publish: Publish, kind: str) -> None:
    content = {"a": b"a" * (PART + 1 if kind == "large" else 5), "b": b"b"}
    for key, data in content.items():
        put(memory, f"s3://source/{key}", data)
    given = draft("s3://source/" if kind == "copied" else content, mode="update" if kind == "updated" else "replace")
    first = publish(registry, given)
    kept = places(registry, first)[1]
    destroy(memory, places(registry, first)[0])
    again = publish(registry, given)

    check_whole(registry, first, again, content)
    assert again.bytes_copied >= len(content["a"])
    assert kind == "copied" or places(registry, again)[1] == kept


@pytest.mark.parametrize("place", ["s3", "local"])
def test_build_names_anew(registry: Registry, local_registry: Registry, memory: MemoryStorage, place: str) -> None:
    """A source that was destroyed and put again is named at its new version."""
    target = registry if place == "s3" else local_registry
    old = put(memory, "s3://source/raw/a", b"a")
    first = build(target, draft("s3://source/raw/"))
    destroy(memory, str(old))
    put(memory, "s3://source/raw/a", b"a")

    check_whole(target, first, build(target, draft("s3://source/raw/")), {"a": b"a"})


def test_moved_files_are_named_anew(local_registry: Registry, write: Callable[..., Path]) -> None:
    old, new = write("old/a", b"a"), write("new/a", b"a")
    first = build(local_registry, draft({"a": str(old)}))
    old.unlink()

    check_whole(local_registry, first, build(local_registry, draft({"a": str(new)})), {"a": b"a"})


@pytest.mark.parametrize("spoiled", ["gone", "damaged"])
def test_spoiled_manifest_is_rewritten(registry: Registry, memory: MemoryStorage, spoiled: str) -> None:
    first = push(registry, draft({"a": b"a"}))
    key = PhysicalKey("registry", layout.manifest(first.top_hash))
    if spoiled == "gone":
        memory.delete([key])
    else:
        memory.put(key, b"damaged")

    check_whole(registry, first, push(registry, draft({"a": b"a"})), {"a": b"a"})


@pytest.mark.parametrize("publish", [push, build, by_shards])
@pytest.mark.parametrize("number", [3, 40], ids=["few", "many"])
@pytest.mark.parametrize("work", ["update", "package"])
def test_kept_object_gone_is_error(registry: Registry, memory: MemoryStorage, publish: Publish, number: int, work: str) -> None:
    """An entry that the work keeps, and whose object is gone, cannot be named by any manifest."""
    first = push(registry, draft({f"d/{i:02}": b"%d" % i for i in range(number)}))
    given = draft(mode="update") if work == "update" else draft(str(first.uri))
    assert publish(registry, given).created is False
    destroy(memory, *places(registry, first)[1:3])

    with pytest.raises(
        EntryDamagedError, match="2 entries name objects that are gone.*\n'd/01': s3://.*\n'd/02': s3://"
    ) as caught:
        publish(registry, given)
    assert not caught.value.transient


def test_older_versions_count(registry: Registry, memory: MemoryStorage) -> None:
    """Versions that are not the current ones are there too; and one request, not one for each, finds the current ones."""
    first = push(registry, draft({f"{i:03}": b"%d" % i for i in range(100)}))
    for place in places(registry, first)[:7]:
        memory.put(PhysicalKey.parse(place), b"newer")
    memory.delete([PhysicalKey.parse(place) for place in places(registry, first)[7:9]])
    recorder = Recorder()

    assert push(through(registry, recorder), draft(mode="update")).created is False
    data = [call for call in recorder.calls if not call.key.key.startswith(layout.OWN)]
    assert sorted(call.operation for call in data) == ["scan", *["stat"] * 9]


def test_unchanged_push_one_more_call(registry: Registry) -> None:
    """The manifest is read once more; objects that were sent, or found there, are not requested again."""
    counts = []
    for number in (5, 500):
        content = {f"{i:03}": b"x" for i in range(number)}
        push(registry, draft(content, package=f"team/of-{number}"))
        recorder = Recorder()
        again = push(through(registry, recorder), draft(content, package=f"team/of-{number}"))
        assert (again.created, again.bytes_reused) == (False, number)
        counts.append(sorted(call.operation for call in recorder.calls))

    # `latest`, the workflows, its pointer; the manifest twice; the objects, and the pointers.
    assert counts[0] == counts[1] == ["get", "get", "get", "get", "scan", "scan", "stream"]


def test_rewrite_keeps_directories(registry: Registry, memory: MemoryStorage) -> None:
    """Other metadata of directories, or another spelling, is no reason to write a manifest again."""
    first = push(registry, draft({"d/a": b"a", "d/": {"meta": {"n": 1}}}))
    key = PhysicalKey("registry", layout.manifest(first.top_hash))
    before = memory.stat(key)
    assert push(registry, draft({"d/a": b"a", "d/": {"meta": {"n": 2}}})).created is False

    assert memory.stat(key) == before


def test_unversioned_bucket_is_refilled(write: Callable[..., Path]) -> None:
    memory = MemoryStorage(["registry"], versioned=False)
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    first = push(registry, draft({"a": b"a"}))
    memory.delete([PhysicalKey.parse(places(registry, first)[0])])

    check_whole(registry, first, push(registry, draft({"a": b"a"})), {"a": b"a"})
    memory.put(PhysicalKey.parse(places(registry, first)[0]), b"other")
    with pytest.raises(EntryDamagedError, match="gone or overwritten"):
        push(registry, draft(mode="update"))


@pytest.mark.parametrize("dedupe", [True, False])
def test_files_never_replace_objects(
    registry: Registry, memory: MemoryStorage, write: Callable[..., Path], *, dedupe: bool
) -> None:
    """A manifest of objects stays where a build names files with the same content, as long as the objects are there."""
    first = push(registry, draft({"a": b"a"}))
    [place] = places(registry, first)
    path = write("a", b"a")
    assert places(registry, build(registry, draft({"a": str(path)}, dedupe=dedupe))) == [place]
    destroy(memory, place)

    assert places(registry, build(registry, draft({"a": str(path)}, dedupe=dedupe))) == [path.as_uri()]


def test_foreign_files_are_unknown(registry: Registry, memory: MemoryStorage) -> None:
    """Files that a registry on S3 names are those of some machine, and are not looked for here."""
    commit(registry, NAME, [entry_of("a", b"a", "file:///on/another/machine")])

    assert build(registry, draft(mode="update")).created is False
