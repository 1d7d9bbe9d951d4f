"""Errors about a manifest name the registry, the package and the top hash, in every reader."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.build import build, build_planner
from airflow_quilt.core.errors import ManifestError, PackageNotFoundError, QuiltError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import ShardingOptions, plan_shards, staging_of
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.condition import RevisionCondition
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import MOST_WHOLE, ObjectInfo
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import verify
from tests.core.packages import commit, entry_of, put

NAME = PackageName("team", "package")
OTHER = PackageName("team", "other")
STAGING = PhysicalKey("registry", "staging/")
URI = f"quilt+s3://registry#package={NAME}"
Act = Callable[[Registry], object]


def plan(registry: Registry) -> object:
    draft = Draft(package=str(NAME), entries={"z": b"z"}, mode="update")
    area = staging_of(STAGING, Attempt("work"), 0.0)
    return plan_shards(registry, draft, build_planner(registry, NAME), area, ShardingOptions())


READERS: Mapping[str, Act] = {
    "read": lambda registry: list(registry.read(NAME).entries),
    "entry": lambda registry: registry.entry(NAME, "a"),
    "diff": lambda registry: list(registry.diff(NAME, None)),
    "verify": lambda registry: verify(registry, Reference(NAME)),
    "install": lambda registry: install(registry, Reference(NAME), "s3://source/out/"),
    "package": lambda registry: push(registry, Draft(package=str(OTHER), entries=URI)),
    "directory": lambda registry: build(registry, Draft(package=str(OTHER), entries={"d/": URI, "x": "s3://source/a"})),
    "file": lambda registry: push(registry, Draft(package=str(OTHER), entries={"b": f"{URI}&path=a"})),
    "update": lambda registry: push(registry, Draft(package=str(NAME), entries={"z": b"z"}, mode="update")),
    "shards": plan,
    "sensor": lambda registry: RevisionCondition(package=NAME, path="z").find(registry),
}
DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "another entry": lambda data: data.replace(b'"a"', b'"b"'),
    "a bad line": lambda data: data + b"{]",
    "a bad header": lambda data: data[1:],
    "nothing": lambda _data: b"",
}


@pytest.fixture
def package(registry: Registry, memory: MemoryStorage) -> TopHash:
    return commit(registry, NAME, [entry_of("a", b"a", put(memory, "s3://source/a", b"a", "SHA256"))])


def message_of(act: Act, registry: Registry) -> tuple[type[QuiltError], str]:
    with pytest.raises(QuiltError) as caught:
        act(registry)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_reader_names_the_manifest(registry: Registry, memory: MemoryStorage, package: TopHash, reader: str) -> None:
    key = PhysicalKey("registry", layout.manifest(package))
    whole = memory.get(key).data
    for damage in DAMAGES.values():
        memory.put(key, damage(whole))
        kind, message = message_of(READERS[reader], registry)

        assert kind is ManifestError
        assert message.startswith(f"s3://registry: package {NAME}@{package[:12]}: ")


OF_FILES = ["verify", "install", "package", "directory", "file"]
"""Readers that need the bytes of an entry: an update refuses only what it would have to copy."""
PLACES = [
    *((reader, "s3:/no/bucket") for reader in [*OF_FILES, "update", "shards"]),
    *((reader, "file:///of/another/machine") for reader in OF_FILES),
]


@pytest.mark.parametrize(("reader", "place"), PLACES)
def test_bad_place_names_manifest(registry: Registry, reader: str, place: str) -> None:
    """Name the package also where one of its entries cannot be used, not only where its lines cannot be read."""
    top_hash = commit(registry, NAME, [entry_of("a", b"a", place)])

    assert message_of(READERS[reader], registry)[1].startswith(f"s3://registry: package {NAME}@{top_hash[:12]}: entry ")


def test_unreadable_one_is_named(registry: Registry, memory: MemoryStorage, package: TopHash) -> None:
    """Name the package also where the store fails, or the pointer of a revision is damaged."""
    memory.put(PhysicalKey("registry", layout.manifest(package)), bytes(MOST_WHOLE + 1))
    assert message_of(READERS["read"], registry)[1].startswith(f"s3://registry: package {NAME}@{package[:12]}: line 1: ")

    memory.delete([PhysicalKey("registry", layout.manifest(package))])
    assert message_of(READERS["read"], registry) == (
        PackageNotFoundError,
        f"s3://registry: there is no revision {package[:12]} of {NAME}",
    )
    memory.put(PhysicalKey("registry", layout.pointer(NAME, layout.LATEST)), b"no hash")
    assert message_of(READERS["sensor"], registry)[1].startswith(f"s3://registry: the pointer {NAME}:latest holds no top hash")


class ChangingDisk(LocalStorage):
    """A disk with a file that is large, and that is changed when it is read once more."""

    after: bytes | None = None

    def stat(self, key: PhysicalKey) -> ObjectInfo:
        info = super().stat(key)
        return replace(info, size=info.size + MOST_WHOLE)

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        yield from super().stream(key, start, stop)
        if self.after is not None:
            Path(key.key).write_bytes(self.after)


@pytest.mark.parametrize("after", [None, b"", b"{}\n", b'{"version": "v0"}\n{'])
def test_changed_between_readings(tmp_path: Path, after: bytes | None) -> None:
    disk = ChangingDisk()
    registry = Registry(resolve_registry(str(tmp_path)), Stores(disk, MemoryStorage([])))
    commit(registry, NAME, [entry_of("a", b"a", "s3://b/a"), entry_of("b", b"b", "s3://b/b")])
    disk.after = after

    if after is None:
        assert [entry.logical_key for entry in registry.read(NAME).entries] == ["a", "b"]
    else:
        assert message_of(READERS["read"], registry)[0] is ManifestError


def test_bad_name_names_package(registry: Registry, package: TopHash) -> None:
    def short(text: Any) -> Act:
        return lambda it: it.resolve(NAME, text)

    for text in ("abcdef", "abc"):
        assert message_of(short(text), registry)[1].startswith(f"s3://registry: package {NAME}: top hash '{text}'")
    for act in (lambda it: it.entry(NAME, "no"), lambda it: verify(it, Reference(NAME, path="no"))):
        assert message_of(act, registry)[1].startswith(f"s3://registry: package {NAME}@{package[:12]} has no")
    assert str(NAME) in message_of(short(datetime(1970, 1, 1, tzinfo=UTC)), registry)[1]
