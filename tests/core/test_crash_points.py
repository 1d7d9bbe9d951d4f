"""Work is made to fail at every call of its storages in turn; what readers rely on must hold after each."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core import layout
from airflow_quilt.core.build import build
from airflow_quilt.core.checksums import CRC64NVME, Hash, algorithm, digest_of
from airflow_quilt.core.delete import delete
from airflow_quilt.core.draft import Draft
from airflow_quilt.core.errors import ObjectNotFoundError, QuiltError
from airflow_quilt.core.locations import PhysicalKey, RegistryLocation
from airflow_quilt.core.manifest import write_manifest
from airflow_quilt.core.names import PackageName
from airflow_quilt.core.pointers import Revision
from airflow_quilt.core.publish import Published
from airflow_quilt.core.push import push
from airflow_quilt.core.registry import Registry
from airflow_quilt.core.storage.base import Stores
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.core.faulty import Call, Fault, FaultMode, tapped

NAME = PackageName("team", "package")
MOST_CALLS = 200
LARGE = os.urandom(8 * 1024 * 1024 + 1)
SMALL = b"a small file"
NOW = 1_700_000_000.0


@dataclass
class World:
    """Stores with sources in them, and a registry on one of them."""

    memory: MemoryStorage
    location: RegistryLocation
    files: Path
    hashes: dict[tuple[PhysicalKey, str], Hash] = field(default_factory=dict)

    @property
    def stores(self) -> Stores:
        return Stores(LocalStorage(), self.memory)

    def registry(self, stores: Stores | None = None) -> Registry:
        """Return the registry, with a clock that stands still: every revision wants the same second."""
        return Registry(self.location, stores or self.stores, clock=lambda: NOW)

    def hash_of(self, key: PhysicalKey, size: int, hash_type: str) -> Hash:
        """Return the hash of the bytes at a place; a version never changes, nor do the files."""
        if (key, hash_type) not in self.hashes:
            kind, store = algorithm(hash_type), self.stores.of(key)
            digests = [digest_of(store.stream(key, start, stop), kind.new()) for start, stop in kind.parts(size)]
            self.hashes[key, hash_type] = kind.combine(digests, size)
        return self.hashes[key, hash_type]

    def data(self) -> set[PhysicalKey]:
        """Return all objects and files that are not the registry's own pointers, at their versions."""
        keys = {stat.key for bucket in ("registry", "source") for stat in self.memory.scan_current(PhysicalKey(bucket, ""))}
        keys |= {stat.key for stat in LocalStorage().scan(PhysicalKey.of_path(self.files))}
        return {key for key in keys if layout.NAMES not in key.key}

    def history(self) -> list[Revision]:
        return list(self.registry().revisions(NAME))


Scene = Callable[[str], World]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small file and one of two parts, which no test changes."""
    directory = tmp_path_factory.mktemp("files")
    (directory / "small.txt").write_bytes(SMALL)
    (directory / "large.bin").write_bytes(LARGE)
    return directory


@pytest.fixture
def scene(tmp_path: Path, files: Path) -> Scene:
    """Return what makes a world of its own with sources of every kind and a registry ``s3`` or ``local``."""
    serial = itertools.count(1)

    def make(kind: str) -> World:
        memory = MemoryStorage(["registry", "source"])
        for bucket in ("registry", "source"):
            memory.store(PhysicalKey(bucket, "data/small.txt"), SMALL, "create")
            memory.store(PhysicalKey(bucket, "data/large.bin"), LARGE, "create")
        url = "s3://registry" if kind == "s3" else str(tmp_path / f"registry-{next(serial)}")
        return World(memory, RegistryLocation.parse(url), files)

    return make


def broken_invariants(world: World, data_before: set[PhysicalKey], history_before: list[Revision]) -> Iterator[str]:
    """Tell what a reader of the registry could stumble over."""
    registry = world.registry()
    history = world.history()
    latest = registry.latest(NAME)
    if latest and latest.top_hash not in {revision.top_hash for revision in history}:
        yield f"latest names {latest.top_hash}, which is not in the history"
    if history_before and not latest:
        yield "there is a history without latest"
    if missing := [revision for revision in history_before if revision not in history]:
        yield f"acknowledged revisions are gone: {missing}"
    for top_hash in {revision.top_hash for revision in history} | ({latest.top_hash} if latest else set()):
        yield from broken_manifest(world, registry, top_hash)
    for key in data_before:
        try:
            world.stores.of(key).stat(key)
        except ObjectNotFoundError:
            yield f"the data object {key} was deleted"


def broken_manifest(world: World, registry: Registry, top_hash: str) -> Iterator[str]:
    try:
        manifest = registry.read(NAME, top_hash)
        entries = list(manifest.entries)
    except QuiltError as error:
        yield f"the manifest {top_hash} cannot be read: {error!r}"
        return
    if write_manifest(manifest.header, entries, BytesIO()).top_hash != top_hash:
        yield f"the manifest {top_hash} has another top hash than its name"
    for entry in entries:
        key = PhysicalKey.parse(entry.physical_keys[0])
        try:
            size = world.stores.of(key).stat(key).size
        except ObjectNotFoundError:
            yield f"{entry.logical_key} is not at {key}"
            continue
        if size != entry.size or world.hash_of(key, size, entry.hash.type) != entry.hash:
            yield f"{entry.logical_key} at {key} has other bytes than the manifest says"


Publish = Callable[[World, Registry], Published]


def draft(entries: object, **more: Any) -> Draft:
    return Draft(package=str(NAME), entries=entries, message="second", **more)


def push_of(entries: Callable[[World], object], **more: Any) -> Publish:
    return lambda world, registry: push(registry, draft(entries(world), **more))


def build_of(entries: Callable[[World], object], **more: Any) -> Publish:
    return lambda world, registry: build(registry, draft(entries(world), **more))


PUBLISHING = {
    "push content": ("s3", push_of(lambda _: {"a.txt": b"content"})),
    "push a small file": ("s3", push_of(lambda world: {"a.txt": str(world.files / "small.txt")})),
    "push a file in parts": ("s3", push_of(lambda world: {"a.bin": str(world.files / "large.bin")})),
    "push a copy": ("s3", push_of(lambda _: {"a.txt": "s3://source/data/small.txt"})),
    "push a copy in parts": ("s3", push_of(lambda _: {"a.bin": "s3://source/data/large.bin"})),
    "push an object in place": ("s3", push_of(lambda _: {"a.txt": "s3://registry/data/small.txt"})),
    "push of all kinds": (
        "s3",
        push_of(
            lambda world: {
                "content.txt": b"content",
                "files/": str(world.files / "small.txt"),
                "copies/": "s3://source/data/",
                "kept/": "s3://registry/data/small.txt",
            }
        ),
    ),
    "build of files in a local registry": ("local", build_of(lambda world: str(world.files))),
    "build of objects in a local registry": ("local", build_of(lambda _: "s3://source/data/")),
    "build of objects in an S3 registry": ("s3", build_of(lambda _: "s3://source/data/")),
    "push a file in parts with a CRC": ("s3", push_of(lambda world: {"a": f"{world.files}/large.bin"}, hash_type=CRC64NVME)),
    "push copies with a CRC": ("s3", push_of(lambda _: "s3://source/data/", hash_type=CRC64NVME)),
    "push an object in place with a CRC": ("s3", push_of(lambda _: "s3://registry/data/small.txt", hash_type=CRC64NVME)),
    "push an update": ("s3", push_of(lambda _: {"a.txt": b"a", "d/": {"meta": {"n": 1}}}, mode="update", remove=["small.txt"])),
    "push an update that copies its base": (
        "s3",
        lambda _, registry: push(registry, draft({"a.txt": b"a"}, mode="update", meta={"n": 1}), copy="all"),
    ),
    "build of an update in a local registry": (
        "local",
        build_of(lambda _: {"copies/": "s3://source/data/small.txt"}, mode="update", meta={}),
    ),
}
FAULTS: list[FaultMode] = ["before", "after", "killed before", "killed after"]


def is_lost_begin(fault: Fault, mode: str) -> bool:
    """Whether an upload was begun whose identity never arrived: only the store's own expiry can end it."""
    return fault.struck is not None and fault.struck.operation == "begin" and mode.endswith("after")


def publish_first(world: World) -> None:
    build(world.registry(), Draft(package=str(NAME), entries="s3://registry/data/small.txt", message="first"))


def publishing_problems(world: World, publish: Publish, fault: Fault, mode: FaultMode) -> Iterator[str]:
    """Publish with a fault, then without; tell what is wrong after each, or nothing if the fault never struck."""
    data, history = world.data(), world.history()
    try:
        publish(world, world.registry(tapped(world.stores, fault)))
    except QuiltError as error:
        if mode == "repeated":
            yield f"it failed, {error!r}"
    else:
        if fault.struck and mode != "repeated":
            yield "the failure was swallowed"
    if fault.struck is None:
        return
    yield from broken_invariants(world, data, history)
    if world.memory.uploads and not mode.startswith("killed") and not is_lost_begin(fault, mode):
        yield "an upload in parts stays open"
    yield from problems_when_run_again(world, publish, data, history)


def problems_when_run_again(world: World, publish: Publish, data: set[PhysicalKey], history: list[Revision]) -> Iterator[str]:
    published = publish(world, world.registry())
    for problem in broken_invariants(world, data, history):
        yield f"run again: {problem}"
    if [revision for revision in world.history() if revision not in history] != [published.revision]:
        yield f"run again: not exactly one revision more, {world.history()}"
    latest = world.registry().latest(NAME)
    if latest is None or latest.top_hash != published.top_hash:
        yield f"run again: latest is {latest}"


def publishing(scene: Scene, work: str, mode: FaultMode, history: str) -> Callable[[Fault], Iterator[str]]:
    """Return what publishes in a world of its own, with a fault and then without."""
    kind, publish = PUBLISHING[work]

    def try_with(fault: Fault) -> Iterator[str]:
        world = scene(kind)
        if history == "second revision":
            publish_first(world)
        return publishing_problems(world, publish, fault, mode)

    return try_with


def problems_at_every_call(
    mode: FaultMode, try_with: Callable[[Fault], Iterator[str]], among: Callable[[Call], bool] = lambda _call: True
) -> tuple[int, list[str]]:
    """Try work with a fault at each of its calls in turn; return the first call that it never came to, and what is wrong."""
    problems = []
    for at in range(1, MOST_CALLS):
        fault = Fault(at, mode, among=among)
        found = list(try_with(fault))
        problems += [f"call {at}, {fault.struck}: {problem}" for problem in found]
        if fault.struck is None:
            break
    return at, problems


@pytest.mark.parametrize("history", ["new package", "second revision"])
@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("work", PUBLISHING)
def test_publishing_that_fails_at_any_call_breaks_nothing_and_succeeds_when_run_again(
    scene: Scene, work: str, mode: FaultMode, history: str
) -> None:
    at, problems = problems_at_every_call(mode, publishing(scene, work, mode, history))

    assert 5 < at < MOST_CALLS - 1
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("history", ["new package", "second revision"])
@pytest.mark.parametrize("work", ["push content", "build of objects in an S3 registry"])
def test_a_write_whose_answer_was_lost_and_that_the_client_repeats_counts_once(scene: Scene, work: str, history: str) -> None:
    at, problems = problems_at_every_call(
        "repeated", publishing(scene, work, "repeated", history), among=lambda call: call.operation == "put"
    )

    assert at == 4  # Manifest, timestamp pointer, latest; then a run without a fault.
    assert not problems, "\n".join(problems)


def with_three_revisions(world: World) -> list[Revision]:
    """Publish three revisions of the package; return them newest first."""
    for message in ("first", "second", "third"):
        build(world.registry(), Draft(package=str(NAME), entries="s3://source/data/small.txt", message=message))
    return world.history()


DELETIONS = {
    "the oldest revision": lambda history: history[2],
    "a revision between": lambda history: history[1],
    "the latest revision": lambda history: history[0],
    "the whole package": lambda _history: None,
}


def deletion_problems(world: World, doomed: Revision | None, fault: Fault) -> Iterator[str]:
    """Delete with a fault, then without; tell what is wrong after each, or nothing if the fault never struck."""
    data = world.data()
    kept = [revision for revision in world.history() if doomed is not None and revision != doomed]
    top_hash = doomed.top_hash[:8] if doomed else None
    try:
        delete(world.registry(tapped(world.stores, fault)), str(NAME), top_hash)
    except QuiltError:
        pass
    else:
        if fault.struck:
            yield "the failure was swallowed"
    if fault.struck is None:
        return
    yield from broken_invariants(world, data, kept)
    delete(world.registry(), str(NAME), top_hash, missing_ok=True)
    for problem in broken_invariants(world, data, kept):
        yield f"run again: {problem}"
    if world.history() != kept:
        yield f"run again: the history is {world.history()}"
    latest = world.registry().latest(NAME)
    if (latest and latest.top_hash) != (kept[0].top_hash if kept else None):
        yield f"run again: latest is {latest}"


@pytest.mark.parametrize("kind", ["s3", "local"])
@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("what", DELETIONS)
def test_deleting_that_fails_at_any_call_breaks_nothing_and_completes_when_run_again(
    scene: Scene, what: str, mode: FaultMode, kind: str
) -> None:
    def try_with(fault: Fault) -> Iterator[str]:
        world = scene(kind)
        return deletion_problems(world, DELETIONS[what](with_three_revisions(world)), fault)

    at, problems = problems_at_every_call(mode, try_with)

    assert 5 < at < MOST_CALLS - 1
    assert not problems, "\n".join(problems)


def test_a_first_push_that_stops_before_latest_is_no_package_to_its_readers_until_it_is_run_again(
    scene: Scene,
) -> None:
    world = scene("s3")
    fault = Fault(1, "before", among=lambda call: call.operation == "put" and call.key.key.endswith("/latest"))
    publish = PUBLISHING["push content"][1]

    with pytest.raises(QuiltError):
        publish(world, world.registry(tapped(world.stores, fault)))

    assert world.registry().latest(NAME) is None
    assert publish(world, world.registry()).revision in world.history()
