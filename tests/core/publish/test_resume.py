"""A retry sends only the bytes that did not arrive, and reports how many did."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.errors import StorageUnavailableError
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Before, Call, Fault, Recorder, SilentStorage, is_put_of, tapped
from tests.core.packages import PART
from tests.support import read, through

LARGE = 3 * PART + 1
SENDING = ("upload", "send part", "copy", "copy part")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two small files, an empty one, and one of four parts."""
    directory = tmp_path_factory.mktemp("files")
    (directory / "a.txt").write_bytes(b"one")
    (directory / "b.txt").write_bytes(b"two")
    (directory / "empty").write_bytes(b"")
    (directory / "large.bin").write_bytes(os.urandom(LARGE))
    return directory


def attempt(*, retry: bool = False) -> Attempt:
    return Attempt("work", time.time() if retry else None)


def publish(registry: Registry, entries: object, *, retry: bool = False, **more: Any) -> PublishResult:
    return push(registry, Draft(package="team/package", entries=entries, **more), attempt=attempt(retry=retry))


def dies_at(registry: Registry, entries: object, at: int, *operations: str, **more: Any) -> None:
    """Push, and be killed at a call."""
    fault = Fault(at, "killed before", among=lambda call: call.operation in operations)
    with pytest.raises(StorageUnavailableError):
        publish(through(registry, fault), entries, **more)


def resumed(registry: Registry, entries: object, **more: Any) -> tuple[PublishResult, Recorder]:
    """Push again; return also the calls of it."""
    recorder = Recorder()
    return publish(through(registry, recorder), entries, retry=True, **more), recorder


@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
def test_arrived_files_not_resent(registry: Registry, files: Path, hash_type: str) -> None:
    fault = Fault(1, "killed before", among=is_put_of("/latest"))
    with pytest.raises(StorageUnavailableError):
        publish(through(registry, fault), str(files), hash_type=hash_type)
    published, recorder = resumed(registry, str(files), hash_type=hash_type)

    assert recorder.of(*SENDING) == []
    assert (published.bytes_copied, published.bytes_reused) == (0, 6 + LARGE)
    for name, entry in read(registry, published).items():
        assert registry.stores.remote.get(PhysicalKey.parse(entry.physical_keys[0])).data == (files / name).read_bytes()


def test_arrived_content_not_resent(registry: Registry) -> None:
    entries = {"a.json": {"content": [1, 2]}, "b.txt": b"bytes"}
    dies_at(registry, entries, 2, "put")
    published, recorder = resumed(registry, entries)

    assert recorder.of(*SENDING) == []
    assert published.bytes_copied == 0


@pytest.mark.parametrize("size", [5, PART, LARGE])
def test_copied_objects_not_recopied(registry: Registry, memory: MemoryStorage, size: int) -> None:
    place = PhysicalKey("source", "a.bin")
    memory.begin(place).abort()
    from airflow_quilt.core.format.hashes import hash_of

    data = os.urandom(size)
    memory.store(place, data, "create", {"SHA256": _sha256(data)})
    dies_at(registry, {"a.bin": str(place)}, 2, "put")
    published, recorder = resumed(registry, {"a.bin": str(place)})

    proves = size <= PART  # The source's own checksum is no Quilt hash of a larger object.
    assert bool(recorder.of("copy", "copy part")) is not proves
    assert published.bytes_reused == (size if proves else 0)
    assert read(registry, published)["a.bin"].hash == hash_of(data)


def _sha256(data: bytes) -> str:
    from airflow_quilt.core.format.hashes import algorithm, digest_of, to_s3

    return to_s3(digest_of([data], algorithm("SHA256").new()))


def test_copied_package_not_recopied(registry: Registry, memory: MemoryStorage) -> None:
    memory.store(PhysicalKey("source", "a.bin"), os.urandom(LARGE), "create")
    other = push(registry, Draft(package="team/other", entries={"a.bin": "s3://source/a.bin"}))
    entries = str(other.uri)
    dies_at_with = Fault(2, "killed before", among=lambda call: call.operation == "put")
    draft = Draft(package="team/package", entries=entries, message="another manifest")
    with pytest.raises(StorageUnavailableError):
        push(through(registry, dies_at_with), draft, copy="all", attempt=attempt())
    recorder = Recorder()
    published = push(through(registry, recorder), draft, copy="all", attempt=attempt(retry=True))

    assert recorder.of(*SENDING) == []
    assert published.bytes_reused == LARGE


def copy_that_dies(registry: Registry, memory: MemoryStorage, data: bytes, at: int) -> Draft:
    """Let a push die at a part of an object of a package that it copies; return its draft."""
    memory.store(PhysicalKey("source", "a.bin"), data)
    push(registry, Draft(package="team/other", entries={"a.bin": "s3://source/a.bin"}))
    draft = Draft(package="team/package", entries=f"quilt+{registry.location}#package=team/other", message="another manifest")
    fault = Fault(at, "killed before", among=lambda call: call.operation == "copy part")
    with pytest.raises(StorageUnavailableError):
        push(through(registry, fault), draft, copy="all", attempt=attempt())
    assert len(memory.uploads) == 1
    return draft


def test_copied_parts_not_recopied(registry: Registry, memory: MemoryStorage) -> None:
    data = os.urandom(LARGE)
    draft = copy_that_dies(registry, memory, data, at=3)
    recorder = Recorder()
    published = push(through(registry, recorder), draft, copy="all", attempt=attempt(retry=True))

    copied = sum(call.size for call in recorder.of("copy part"))
    assert 0 < copied < LARGE
    assert (published.bytes_copied, published.bytes_reused) == (copied, LARGE - copied)
    assert registry.read_bytes(read(registry, published)["a.bin"]) == data
    assert (memory.uploads, recorder.of("begin")) == ([], [])


def test_stale_parts_are_recopied(registry: Registry, memory: MemoryStorage) -> None:
    draft = copy_that_dies(registry, memory, os.urandom(LARGE), at=3)
    data = os.urandom(LARGE)
    memory.store(PhysicalKey("source", "a.bin"), data)
    push(registry, Draft(package="team/other", entries={"a.bin": "s3://source/a.bin"}))
    published = push(registry, draft, copy="all", attempt=attempt(retry=True))

    assert (published.bytes_copied, published.bytes_reused) == (LARGE, 0)
    assert registry.read_bytes(read(registry, published)["a.bin"]) == data
    assert memory.uploads == []


@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
def test_arrived_parts_not_resent(
    registry: Registry, memory: MemoryStorage, files: Path, hash_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    entries = {"large.bin": str(files / "large.bin")}
    dies_at(registry, entries, 1, "complete", hash_type=hash_type)
    assert len(memory.uploads) == 1
    caplog.set_level(logging.INFO)
    published, recorder = resumed(registry, entries, hash_type=hash_type)

    assert recorder.of("begin", "send part") == []
    assert memory.uploads == []
    assert (published.bytes_copied, published.bytes_reused) == (0, LARGE)
    assert "1 file, 24.0 MiB; 0 B copied, 24.0 MiB reused; " in caplog.text


def test_cut_upload_sends_the_rest(registry: Registry, memory: MemoryStorage, files: Path) -> None:
    entries = {"large.bin": str(files / "large.bin")}
    dies_at(registry, entries, 3, "send part")
    published, recorder = resumed(registry, entries)

    sent = len(recorder.of("send part"))
    assert 1 <= sent <= 2
    assert published.bytes_copied + published.bytes_reused == LARGE
    assert memory.uploads == []


def test_changed_parts_are_sent(registry: Registry, memory: MemoryStorage, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(b"a" * LARGE)
    dies_at(registry, {"large.bin": str(path)}, 1, "complete")
    path.write_bytes(b"a" * (LARGE - 1) + b"b")
    published, recorder = resumed(registry, {"large.bin": str(path)})

    assert [call.number for call in recorder.of("send part")] == [4]
    assert registry.read_bytes(read(registry, published)["large.bin"]) == path.read_bytes()
    assert memory.uploads == []


def test_leftover_uploads_aborted(registry: Registry, memory: MemoryStorage, files: Path) -> None:
    place = PhysicalKey("registry", "team/package/large.bin")
    for _ in range(3):
        memory.begin(place)
    elsewhere = memory.begin(PhysicalKey("registry", "team/package/large.bin.old"))
    resumed(registry, {"large.bin": str(files / "large.bin")})

    assert memory.uploads == [elsewhere]


def test_first_attempt_aborts_none(registry: Registry, memory: MemoryStorage, files: Path) -> None:
    other = memory.begin(PhysicalKey("registry", "team/package/large.bin"))
    publish(registry, {"large.bin": str(files / "large.bin")})

    assert memory.uploads == [other]


def test_replaced_object_is_resent(registry: Registry, memory: MemoryStorage) -> None:
    dies_at(registry, {"a.txt": b"mine"}, 2, "put")
    memory.store(PhysicalKey("registry", "team/package/a.txt"), b"else")
    published, recorder = resumed(registry, {"a.txt": b"mine"})

    assert len(recorder.of("upload")) == 1
    assert registry.read_bytes(read(registry, published)["a.txt"]) == b"mine"


def test_no_checksums_resends_all(files: Path) -> None:
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), SilentStorage(["registry"])))
    dies_at(registry, str(files), 2, "put")
    published, recorder = resumed(registry, str(files))

    assert published.bytes_reused == 0
    assert len(recorder.of("upload")) == 3


def test_first_attempt_no_stat(registry: Registry, files: Path) -> None:
    recorder = Recorder()
    publish(through(registry, recorder), {"a.txt": str(files / "a.txt"), "c.txt": b"content"})

    assert [call for call in recorder.of("stat", "unfinished") if call.key.bucket] == []


def test_unchanged_large_not_resent(registry: Registry, files: Path) -> None:
    publish(registry, {"large.bin": str(files / "large.bin")}, message="one")
    recorder = Recorder()
    published = publish(through(registry, recorder), {"large.bin": str(files / "large.bin")}, message="two")

    assert recorder.of(*SENDING) == []
    assert published.created
    assert published.bytes_reused == LARGE


def once(matches: Callable[[Call], bool], memory: MemoryStorage) -> Before:
    """Let another process abort the upload before a call."""
    return Before(matches, lambda: memory.uploads[0].abort())  # noqa: PLW0108  (it begins later)


@pytest.mark.parametrize("operation", ["send part", "complete"])
def test_aborted_upload_restarts(registry: Registry, memory: MemoryStorage, files: Path, operation: str) -> None:
    ended = once(lambda call: call.operation == operation, memory)
    published = publish(through(registry, ended), {"large.bin": str(files / "large.bin"), "a.txt": b"a"})

    assert registry.read_bytes(read(registry, published)["large.bin"]) == (files / "large.bin").read_bytes()
    assert memory.uploads == []


def test_aborted_copy_restarts(registry: Registry, memory: MemoryStorage) -> None:
    data = os.urandom(LARGE)
    memory.store(PhysicalKey("source", "a.bin"), data)
    published = publish(
        through(registry, once(lambda call: call.operation == "copy part", memory)), {"a.bin": "s3://source/a.bin"}
    )

    assert registry.read_bytes(read(registry, published)["a.bin"]) == data
    assert memory.uploads == []


def test_endless_aborts_fail(registry: Registry, memory: MemoryStorage, files: Path) -> None:
    class Always:
        """Aborts every upload before its first part."""

        def __call__(self, call: Call, run: Callable[[], Any]) -> Any:
            if call.operation == "send part" and memory.uploads:
                memory.uploads[0].abort()
            return run()

    with pytest.raises(StorageUnavailableError, match="completed or aborted"):
        publish(through(registry, Always()), {"large.bin": str(files / "large.bin")})


def test_lost_completion_is_fine(registry: Registry, files: Path) -> None:
    lost = Fault(1, "repeated", among=lambda call: call.operation == "complete")
    published = publish(through(registry, lost), {"large.bin": str(files / "large.bin")})

    assert published.bytes_reused == 0
    assert registry.read_bytes(read(registry, published)["large.bin"]) == (files / "large.bin").read_bytes()


@pytest.mark.parametrize("operation", ["upload", "begin", "send part", "complete", "copy", "stream"])
def test_transient_call_is_retried(registry: Registry, memory: MemoryStorage, files: Path, operation: str) -> None:
    memory.store(PhysicalKey("source", "a.bin"), b"an object")
    fault = Fault(1, "before", among=lambda call: call.operation == operation and ".quilt" not in call.key.key)
    stores = tapped(registry.stores, fault)
    patient = Stores(stores.local, stores.remote, RetryPolicy(seconds=10, longest=0.01))
    entries = {"files/": str(files), "a.bin": "s3://source/a.bin"}
    published = publish(Registry(registry.location, patient), entries)

    assert fault.struck is not None
    assert published.created
    assert len(read(registry, published)) == 5
    assert memory.uploads == []
