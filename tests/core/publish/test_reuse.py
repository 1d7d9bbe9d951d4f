"""A push sends the changes, and reuses the other objects of the latest revision, if they are still there."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.format import layout
from airflow_quilt.core.format.hashes import CRC64NVME
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Recorder
from tests.support import read, through

BUCKET = "registry"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return files(tmp_path / "files", 30)


def files(directory: Path, count: int) -> Path:
    for number in range(count):
        path = directory / f"{number % 7}" / f"{number:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    return directory


def publish(
    registry: Registry, entries: object, dest: str | None = None, package: str = "team/package", **more: Any
) -> tuple[PublishResult, Recorder]:
    """Push; return also the calls of it."""
    recorder = Recorder()
    return push(through(registry, recorder), Draft(package=package, entries=entries, **more), dest), recorder


def change(directory: Path) -> None:
    (directory / "3/00003.txt").write_bytes(b"new")
    (directory / "0/00007.txt").write_bytes(b"8")  # As long as before.


def places(registry: Registry, published: PublishResult) -> Mapping[str, str]:
    return {key: entry.physical_keys[0] for key, entry in read(registry, published).items()}


def sent(recorder: Recorder) -> list[str]:
    return sorted(call.key.key.removeprefix("team/package/") for call in recorder.of("upload"))


def test_only_changes_are_sent(registry: Registry, directory: Path) -> None:
    first, _ = publish(registry, str(directory), meta={"n": 1})
    change(directory)
    (directory / "added.txt").write_bytes(b"added")
    (directory / "5/00005.txt").unlink()
    second, recorder = publish(registry, str(directory), meta={"n": 2})

    assert sent(recorder) == ["0/00007.txt", "3/00003.txt", "added.txt"]
    assert (second.bytes_copied, second.bytes_reused) == (3 + 1 + 5, second.bytes - 9)
    before, now = places(registry, first), places(registry, second)
    assert now.keys() == before.keys() - {"5/00005.txt"} | {"added.txt"}
    assert {key for key in before.keys() & now.keys() if before[key] != now[key]} == {"0/00007.txt", "3/00003.txt"}
    for key, entry in read(registry, second).items():
        assert registry.read_bytes(entry) == (directory / key).read_bytes()


def test_top_hash_equals_full_push(registry: Registry, directory: Path) -> None:
    publish(registry, str(directory))
    change(directory)
    second, _ = publish(registry, str(directory))
    whole, _ = publish(registry, str(directory), package="team/other")

    assert second.top_hash == whole.top_hash


def test_calls_scale_with_changes(registry: Registry, tmp_path: Path) -> None:
    counts = []
    for count in (20, 900):
        directory = files(tmp_path / str(count), count)
        publish(registry, str(directory), package=f"team/of-{count}")
        change(directory)
        _, recorder = publish(registry, str(directory), package=f"team/of-{count}")
        counts.append(len([call for call in recorder.calls if call.key.bucket]))

    assert counts[0] == counts[1] < 20


def overwrite(memory: MemoryStorage, key: PhysicalKey) -> None:
    memory.put(key, b"7")


def remove(memory: MemoryStorage, key: PhysicalKey) -> None:
    memory.delete([key])


@pytest.mark.parametrize("spoil", [overwrite, remove])
def test_missing_is_sent_again(
    registry: Registry, memory: MemoryStorage, directory: Path, spoil: Callable[[MemoryStorage, PhysicalKey], None]
) -> None:
    publish(registry, str(directory))
    spoil(memory, PhysicalKey(BUCKET, "team/package/1/00001.txt"))
    change(directory)
    _, recorder = publish(registry, str(directory))

    assert sent(recorder) == ["0/00007.txt", "1/00001.txt", "3/00003.txt"]


def test_new_dest_or_hash_is_made(registry: Registry, directory: Path) -> None:
    publish(registry, str(directory))
    elsewhere, recorder = publish(registry, str(directory), f"s3://{BUCKET}/elsewhere", dedupe=False)
    assert len(recorder.of("upload")) == 30
    assert all(place.startswith(f"s3://{BUCKET}/elsewhere/") for place in places(registry, elsewhere).values())

    hashed, recorder = publish(registry, str(directory), f"s3://{BUCKET}/elsewhere", hash_type=CRC64NVME)
    assert len(recorder.of("upload")) == 30
    assert {entry.hash.type for entry in read(registry, hashed).values()} == {CRC64NVME}


def test_same_content_new_meta(registry: Registry, directory: Path) -> None:
    publish(registry, {"a": str(directory / "1/00001.txt")})
    published, recorder = publish(registry, {"a": {"path": str(directory / "1/00001.txt"), "meta": {"x": 1}}})

    assert recorder.of("upload") == []
    assert read(registry, published)["a"].user_meta == {"x": 1}


def test_content_and_update_reuse(registry: Registry) -> None:
    publish(registry, {"a": b"one", "b": b"two"})
    _, recorder = publish(registry, {"a": b"one", "b": b"three"}, mode="update")

    assert sent(recorder) == ["b"]


def test_unversioned_proves_nothing(directory: Path) -> None:
    stores = Stores(LocalStorage(), MemoryStorage(buckets=[BUCKET], versioned=False))
    registry = Registry(RegistryLocation.parse(f"s3://{BUCKET}"), stores)
    publish(registry, str(directory))
    change(directory)
    _, recorder = publish(registry, str(directory))

    assert len(recorder.of("upload")) == 30


def test_unreadable_latest_ignored(registry: Registry, memory: MemoryStorage, directory: Path) -> None:
    first, _ = publish(registry, str(directory))
    memory.put(PhysicalKey(BUCKET, layout.manifest(first.top_hash)), b"damaged")
    change(directory)
    second, recorder = publish(registry, str(directory))

    assert len(recorder.of("upload")) == 30
    assert second.created


def test_large_manifest_not_read(registry: Registry, tmp_path: Path) -> None:
    large = {f"{number:06}": {"content": b"", "meta": {"x": "y" * 1000}} for number in range(2000)}
    publish(registry, large)
    (tmp_path / "few").write_bytes(os.urandom(9))
    _, recorder = publish(registry, {"few": str(tmp_path / "few")})

    # The first page of the listing comes beside the manifest.
    assert [call.key.key for call in recorder.of("scan") if not call.key.key.startswith(layout.OWN)] == ["team/package/"]
    asked = [
        call for call in recorder.calls if layout.manifest("") in call.key.key and call.operation in {"get", "stat", "stream"}
    ]
    assert [call.operation for call in asked] == ["get"]  # Once, and refused by its size.
