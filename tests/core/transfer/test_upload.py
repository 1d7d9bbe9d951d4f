"""Plans are carried out: in order, bounded, without touching bytes needlessly, and cleanly when they fail."""

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from airflow_quilt.core.errors import CancelledError, EntryDamagedError, SourceChangedError, StorageUnavailableError
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, hash_of, to_s3
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Copy, HashInPlace, Source, Transfer, Upload
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.runtime.stop import stoppable
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.paths import resolve_path
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.upload import Uploader
from tests.core.faulty import Before, Call, Fault, Recorder, SilentStorage, T, Tap, tapped
from tests.core.packages import HASH_TYPES, PART, checksum

THREADS = 4
FEW = Limits(max_concurrency=THREADS)
ALONE = Limits(max_concurrency=1)
WAIT = 60
"""Seconds after which a test that hangs is failed."""


@pytest.fixture
def large_file(write: Callable[..., Path]) -> Path:
    """A file of two parts and a bit."""
    return write("large.bin", os.urandom(2 * PART + 5))


def destination(name: str) -> PhysicalKey:
    return PhysicalKey("registry", f"team/package/{name}")


def content(name: str, data: bytes) -> Upload:
    return Upload(Source(logical_key=LogicalKey(name), origin=data, size=len(data)), destination(name))


def file_source(path: Path) -> Source:
    stat = LocalStorage().stat(resolve_path(path))
    return Source(logical_key=LogicalKey(path.name), origin=stat.key, size=stat.size, etag=stat.etag)


def file_upload(path: Path) -> Upload:
    return Upload(file_source(path), destination(path.name))


def object_source(memory: MemoryStorage, data: bytes, sha256: str | None = None, bucket: str = "source") -> Source:
    stat = memory.store(PhysicalKey(bucket, "data/object"), data, "overwrite", {"SHA256": sha256} if sha256 else {})
    return Source(logical_key=LogicalKey("object"), origin=stat.key, size=stat.size, etag=stat.etag)


def copy_of(source: Source) -> Copy:
    assert isinstance(source.origin, PhysicalKey)
    return Copy(source, source.origin, destination(source.logical_key))


def in_place(source: Source) -> HashInPlace:
    assert isinstance(source.origin, PhysicalKey)
    return HashInPlace(source, source.origin)


def carry_out(uploader: Uploader, transfers: Sequence[Transfer]) -> list[Entry]:
    """Carry out transfers; return their entries in the same order."""
    done = {id(transfer): entry for transfer, entry in uploader.run(transfers)}
    return [done[id(transfer)] for transfer in transfers]


def run(stores: Stores, transfers: Sequence[Transfer], *taps: Tap, stop: threading.Event | None = None) -> list[Entry]:
    """Carry out actions and check that no thread stays behind, also after an error."""
    threads = set(threading.enumerate())
    try:
        with stoppable(stop):
            return carry_out(Uploader(replace(tapped(stores, *taps), limits=FEW)), transfers)
    finally:
        assert set(threading.enumerate()) <= threads


def test_each_task_has_its_entry(stores: Stores, memory: MemoryStorage) -> None:
    second_is_done = threading.Event()

    class SlowFirst:
        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation == "upload" and call.key.key.endswith("/0"):
                assert second_is_done.wait(WAIT)
            answer = run()
            if call.operation == "upload" and call.key.key.endswith("/1"):
                second_is_done.set()
            return answer

    transfers = [content(str(i), b"%d" % i) for i in range(30)]
    entries = run(stores, transfers, SlowFirst())

    assert [entry.logical_key for entry in entries] == [transfer.logical_key for transfer in transfers]
    for entry in entries:
        data = memory.get(PhysicalKey.parse(entry.physical_keys[0])).data
        assert (data, entry.size, entry.hash) == (entry.logical_key.encode(), len(data), hash_of(data))


def test_concurrency_equals_limit(stores: Stores, recorder: Recorder) -> None:
    meet = threading.Barrier(THREADS)

    class Meeting:
        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation == "upload":
                meet.wait(WAIT)
            return run()

    run(stores, [content(str(i), b"x") for i in range(5 * THREADS)], recorder, Meeting())

    assert recorder.most_at_once == THREADS
    assert len(recorder.of("upload")) == 5 * THREADS


def test_buffer_equals_limit(stores: Stores, recorder: Recorder) -> None:
    """A file counts twice: sending it makes a copy."""
    meet = threading.Barrier(2)

    class Meeting:
        def __call__(self, _call: Call, run: Callable[[], T]) -> T:
            meet.wait(WAIT)
            return run()

    narrow = replace(tapped(stores, recorder, Meeting()), limits=Limits(max_concurrency=THREADS, max_bytes_in_flight=45))
    carry_out(Uploader(narrow), [content(str(i), bytes(10)) for i in range(20)])

    assert recorder.most_at_once == 2
    assert len(recorder.of("upload")) == 20


def test_oversized_upload_goes_alone(stores: Stores, recorder: Recorder) -> None:
    narrow = replace(tapped(stores, recorder), limits=Limits(max_concurrency=THREADS, max_bytes_in_flight=5))
    carry_out(Uploader(narrow), [content(str(i), bytes(10)) for i in range(20)])

    assert recorder.most_at_once == 1
    assert len(recorder.of("upload")) == 20


def test_empty_plan_makes_no_call(stores: Stores, recorder: Recorder) -> None:
    assert run(stores, [], recorder) == []
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        pytest.param(0, [], id="empty"),
        pytest.param(1, [], id="one byte"),
        pytest.param(PART, [], id="exactly one part"),
        pytest.param(PART + 1, [PART, 1], id="one byte more"),
        pytest.param(2 * PART, [PART, PART], id="exactly two parts"),
        pytest.param(2 * PART + 5, [PART, PART, 5], id="two parts and a bit"),
    ],
)
@pytest.mark.parametrize("kind", ["content", "file", "copy"])
def test_parts_follow_the_grid(
    memory: MemoryStorage, recorder: Recorder, write: Callable[..., Path], kind: str, size: int, parts: list[int]
) -> None:
    data = os.urandom(size)
    actions: dict[str, Callable[[], Transfer]] = {
        "content": lambda: content("object", data),
        "file": lambda: file_upload(write("object", data)),
        "copy": lambda: copy_of(object_source(memory, data)),
    }
    (entry,) = run(Stores(LocalStorage(), memory), [actions[kind]()], recorder)

    sent = sorted(recorder.of("send part", "copy part"), key=lambda call: call.number)
    assert [(call.number, call.size) for call in sent] == list(enumerate(parts, 1))
    assert len(recorder.of("upload", "copy")) == (0 if parts else 1)
    assert len(recorder.of("complete")) == (1 if parts else 0)
    stat = memory.stat(destination("object"))
    assert (entry.physical_keys, entry.size, entry.hash) == ((str(stat.key),), size, hash_of(data))
    assert memory.get(stat.key).data == data
    assert memory.uploads == []


@pytest.mark.parametrize("size", [5, 2 * PART + 5], ids=["small", "in parts"])
def test_file_is_read_once(stores: Stores, recorder: Recorder, write: Callable[..., Path], size: int) -> None:
    run(stores, [file_upload(write("file", os.urandom(size)))], recorder)

    assert recorder.bytes_read == size


@pytest.mark.parametrize("size", [5, 2 * PART + 5], ids=["small", "in parts"])
def test_copy_reads_nothing(stores: Stores, memory: MemoryStorage, recorder: Recorder, size: int) -> None:
    data = os.urandom(size)
    (entry,) = run(stores, [copy_of(object_source(memory, data))], recorder)

    assert recorder.bytes_read == 0
    assert entry.hash == hash_of(data)


@pytest.mark.parametrize("size", [0, 5, 2 * PART + 5], ids=["empty", "small", "in parts"])
def test_silent_copy_is_read_once(recorder: Recorder, size: int) -> None:
    silent = SilentStorage(["registry", "source"])
    data = os.urandom(size)
    (entry,) = run(Stores(LocalStorage(), silent), [copy_of(object_source(silent, data))], recorder)

    assert recorder.bytes_read == size
    assert {call.key.bucket for call in recorder.of("stream")} <= {"registry"}
    assert entry.hash == hash_of(data)
    assert silent.get(PhysicalKey.parse(entry.physical_keys[0])).data == data


@pytest.mark.parametrize("size", [5, 2 * PART + 5], ids=["small", "in parts"])
@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
@pytest.mark.parametrize("versioned", [True, False], ids=["versioned", "not versioned"])
def test_given_hash_is_no_proof(recorder: Recorder, size: int, hash_type: str, *, versioned: bool) -> None:
    """A store without checksums: the object is read before it is copied; the copy too, if another may have taken its place."""
    silent = SilentStorage(["registry", "source"], versioned=versioned)
    data = os.urandom(size)
    source = changed(object_source(silent, data), hash=hash_of(data, hash_type), hash_type=hash_type)
    (entry,) = run(Stores(LocalStorage(), silent), [copy_of(source)], recorder)

    assert entry.hash == hash_of(data, hash_type)
    assert recorder.bytes_read == (size if versioned else 2 * size)
    calls = [call.operation for call in recorder.calls if call.operation in {"stream", "copy", "complete"}]
    assert calls[0] == "stream"


@pytest.mark.parametrize("size", [0, 5, 2 * PART + 5], ids=["empty", "small", "in parts"])
@pytest.mark.parametrize("known", HASH_TYPES)
@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
@pytest.mark.parametrize("kind", [MemoryStorage, SilentStorage], ids=["store reports checksums", "store reports none"])
def test_copy_gets_hash_type(kind: type[MemoryStorage], hash_type: str, known: str, size: int) -> None:
    store = kind(["registry", "source"])
    data = os.urandom(size)
    source = changed(object_source(store, data), hash=hash_of(data, known), hash_type=hash_type, meta={"theirs": 1})
    (entry,) = run(Stores(LocalStorage(), store), [copy_of(source)])

    assert (entry.hash, entry.size, entry.meta) == (hash_of(data, hash_type), size, {"theirs": 1})
    assert store.get(PhysicalKey.parse(entry.physical_keys[0])).data == data


@pytest.mark.parametrize("size", [0, 5, PART, 2 * PART + 5], ids=["empty", "small", "one part", "in parts"])
@pytest.mark.parametrize("kind", ["content", "file", "copy", "object in place", "file in place"])
def test_every_source_may_get_crc(
    stores: Stores, memory: MemoryStorage, write: Callable[..., Path], kind: str, size: int
) -> None:
    data = os.urandom(size)
    actions: dict[str, Callable[[], Transfer]] = {
        "content": lambda: content("object", data),
        "file": lambda: file_upload(write("object", data)),
        "copy": lambda: copy_of(object_source(memory, data)),
        "object in place": lambda: in_place(object_source(memory, data)),
        "file in place": lambda: in_place(file_source(write("object", data))),
    }
    action = actions[kind]()
    (entry,) = run(stores, [changed(action, source=changed(action.source, hash_type=CRC64NVME))])

    assert entry.hash == hash_of(data, CRC64NVME)
    if not kind.endswith("in place"):
        stat = memory.stat(destination("object"))
        assert stat.proven(CRC64NVME) == entry.hash
        assert memory.get(stat.key).data == data


@pytest.mark.parametrize("size", [5, 2 * PART + 5], ids=["small", "in parts"])
def test_known_crc_is_not_read(stores: Stores, memory: MemoryStorage, size: int) -> None:
    data = os.urandom(size)
    for is_known in (True, False):
        recorder = Recorder()
        stat = memory.store(destination("a"), data, "overwrite", {"CRC64NVME": checksum(data, "CRC64NVME")} if is_known else {})
        source = Source(logical_key=LogicalKey("a"), origin=stat.key, size=size, hash_type=CRC64NVME)
        (entry,) = run(stores, [in_place(source)], recorder)

        assert recorder.bytes_read == (0 if is_known else size)
        assert entry.hash == hash_of(data, CRC64NVME)


# Exact actions: right objects are left as they are, and no other evidence is believed.


def exact(action: Upload | Copy, data: bytes, hash_type: str = CHUNKED) -> Upload | Copy:
    """Return the same action with the hash of its source known."""
    return changed(action, source=changed(action.source, hash=hash_of(data, hash_type), hash_type=hash_type), exact=True)


EXACT: dict[str, Callable[[MemoryStorage, Callable[..., Path], bytes], Upload | Copy]] = {
    "upload": lambda _memory, write, data: file_upload(write("object", data)),
    "copy": lambda memory, _write, data: copy_of(object_source(memory, data)),
}


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("size", [0, 5, 2 * PART + 5], ids=["empty", "small", "in parts"])
@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_right_destination_is_kept(
    stores: Stores, memory: MemoryStorage, write: Callable[..., Path], recorder: Recorder, kind: str, size: int, hash_type: str
) -> None:
    data = os.urandom(size)
    there = memory.store(destination("object"), data).key
    uploader = Uploader(tapped(stores, recorder))
    (entry,) = carry_out(uploader, [exact(EXACT[kind](memory, write, data), data, hash_type)])

    assert (uploader.reused, recorder.writes) == (1, [])
    assert (entry.physical_keys, entry.hash) == ((str(there),), hash_of(data, hash_type))


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("there", [None, b"x", b"same size, other bytes"], ids=["nothing", "another size", "other bytes"])
@pytest.mark.parametrize("has_checksum", [True, False], ids=["checksum", "no checksum"])
def test_wrong_destination_replaced(
    stores: Stores, memory: MemoryStorage, write: Callable[..., Path], kind: str, there: bytes | None, *, has_checksum: bool
) -> None:
    data = b"same size, these bytes"
    if there is not None:
        memory.store(destination("object"), there, "create", {"SHA256": checksum(there, "SHA256")} if has_checksum else {})
    uploader = Uploader(stores)
    (entry,) = carry_out(uploader, [exact(EXACT[kind](memory, write, data), data)])

    assert uploader.reused == 0
    assert memory.get(destination("object")).data == data
    assert entry.physical_keys == (str(memory.stat(destination("object")).key),)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("size", [5, 2 * PART + 5], ids=["small", "in parts"])
@pytest.mark.parametrize("store", [MemoryStorage, SilentStorage], ids=["store reports checksums", "store reports none"])
@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_wrong_known_hash_is_damage(
    write: Callable[..., Path], kind: str, size: int, store: type[MemoryStorage], hash_type: str
) -> None:
    memory = store(["registry", "source"])
    data = os.urandom(size)
    action = exact(EXACT[kind](memory, write, data), data[::-1], hash_type)

    with pytest.raises(EntryDamagedError, match="entry 'object': .* does not hold the bytes that it names"):
        run(Stores(LocalStorage(), memory), [action])
    assert memory.uploads == []


@pytest.mark.parametrize("size", [5, 2 * PART + 5], ids=["small", "in parts"])
def test_exact_copy_proves_its_hash(recorder: Recorder, size: int) -> None:
    silent = SilentStorage(["registry", "source"])
    data = os.urandom(size)
    (entry,) = run(Stores(LocalStorage(), silent), [exact(copy_of(object_source(silent, data)), data)], recorder)

    assert recorder.bytes_read == size
    assert entry.hash == hash_of(data)


@pytest.mark.parametrize(
    ("data", "known", "is_read"),
    [
        pytest.param(b"hello", "own", False, id="the checksum of an object in one piece"),
        pytest.param(b"", "own", False, id="the checksum of an empty object"),
        pytest.param(b"hello", None, True, id="no checksum"),
        pytest.param(b"hello", "composite", True, id="the composite of parts of unknown size"),
        pytest.param(bytes(PART), "own", False, id="the checksum of exactly one part"),
        pytest.param(bytes(PART + 1), "own", True, id="the checksum of a whole that is larger than a part"),
    ],
)
def test_proven_object_is_not_read(
    stores: Stores, memory: MemoryStorage, recorder: Recorder, data: bytes, known: str | None, *, is_read: bool
) -> None:
    own = to_s3(hashlib.sha256(data).digest())
    sha256 = {"own": own, "composite": f"{to_s3(hashlib.sha256(b'parts').digest())}-1", None: None}[known]
    source = object_source(memory, data, sha256, bucket="registry")
    (entry,) = run(stores, [in_place(source)], recorder)

    assert recorder.bytes_read == (len(data) if is_read else 0)
    assert recorder.writes == []
    assert entry == source.entry(source.origin, hash_of(data))


@pytest.mark.parametrize(
    ("cuts", "is_read"),
    [
        pytest.param([PART, PART, 5], False, id="the parts of the format"),
        pytest.param([PART, PART - 1, 6], True, id="as many parts and the same first one"),
        pytest.param([PART + 1, PART, 4], True, id="as many parts"),
        pytest.param([2 * PART, 5], True, id="fewer parts"),
    ],
)
def test_odd_parts_are_read(stores: Stores, memory: MemoryStorage, recorder: Recorder, cuts: list[int], *, is_read: bool) -> None:
    data = os.urandom(2 * PART + 5)
    upload = memory.begin(PhysicalKey("registry", "data/object"))
    for number, stop in enumerate(itertools.accumulate(cuts), 1):
        part = data[stop - cuts[number - 1] : stop]
        upload.send(number, part, hashlib.sha256(part).digest())
    stat = upload.complete()
    source = Source(logical_key=LogicalKey("object"), origin=stat.key, size=stat.size, etag=stat.etag)
    (entry,) = run(stores, [in_place(source)], recorder)

    assert recorder.bytes_read == (len(data) if is_read else 0)
    assert entry == source.entry(source.origin, hash_of(data))


def test_unknown_parts_are_read(recorder: Recorder) -> None:
    class Silent(MemoryStorage):
        def part_sizes(self, stat: ObjectInfo) -> list[int]:  # noqa: ARG002
            return []

    silent, data = Silent(["registry"]), os.urandom(PART + 1)
    composite = hashlib.sha256(hashlib.sha256(data[:PART]).digest() + hashlib.sha256(data[PART:]).digest()).digest()
    source = object_source(silent, data, f"{to_s3(composite)}-2", bucket="registry")
    (entry,) = run(Stores(LocalStorage(), silent), [in_place(source)], recorder)

    assert recorder.bytes_read == len(data)
    assert entry.hash == hash_of(data)


@pytest.mark.parametrize("size", [0, 5, 2 * PART + 5], ids=["empty", "small", "in parts"])
def test_kept_file_is_read_once(stores: Stores, recorder: Recorder, write: Callable[..., Path], size: int) -> None:
    data = os.urandom(size)
    source = file_source(write("file", data))
    (entry,) = run(stores, [in_place(source)], recorder)

    assert recorder.bytes_read == size
    assert recorder.writes == []
    assert entry == source.entry(source.origin, hash_of(data))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rewrite(path: Path) -> None:
    data = path.read_bytes()
    replacement = path.with_suffix(".new")
    replacement.write_bytes(data[::-1])
    replacement.replace(path)


CHANGES = {"grows": append, "shrinks": truncate, "changes": rewrite, "vanishes": Path.unlink}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [50, 2 * PART + 5], ids=["small", "in parts"])
@pytest.mark.parametrize("kind", ["upload", "hash in place"])
@pytest.mark.parametrize("moment", ["before the first byte", "after the first read"])
def test_changed_file_is_an_error(write: Callable[..., Path], change: str, size: int, kind: str, moment: str) -> None:
    memory = MemoryStorage(["registry"])
    path = write("file", os.urandom(size))
    action = file_upload(path) if kind == "upload" else in_place(file_source(path))
    is_due = {
        "before the first byte": lambda call: call.operation == "stream",
        "after the first read": lambda call: call.operation == "stat",
    }[moment]
    changing = Before(is_due, lambda: CHANGES[change](path))

    with pytest.raises(SourceChangedError, match="file"):
        run(Stores(LocalStorage(), memory), [action], changing)
    assert changing.done
    assert memory.uploads == []
    assert list(memory.list_objects(PhysicalKey("registry", ""))) == []


@pytest.mark.parametrize("versioned", [True, False], ids=["versioned", "not versioned"])
@pytest.mark.parametrize("size", [50, 2 * PART + 5], ids=["small", "in parts"])
@pytest.mark.parametrize("kind", ["copy", "hash in place"])
def test_replaced_object_is_seen(size: int, kind: str, *, versioned: bool) -> None:
    memory = MemoryStorage(["registry", "source"], versioned=versioned)
    stores = Stores(LocalStorage(), memory)
    data = os.urandom(size)
    source = object_source(memory, data)
    memory.store(PhysicalKey("source", "data/object"), data[::-1])
    action = copy_of(source) if kind == "copy" else in_place(source)

    if versioned:
        (entry,) = run(stores, [action])
        assert entry.hash == hash_of(data)
        assert memory.get(PhysicalKey.parse(entry.physical_keys[0])).data == data
    else:
        with pytest.raises(SourceChangedError, match="s3://source/data/object"):
            run(stores, [action])
        assert list(memory.list_objects(PhysicalKey("registry", ""))) == []
        assert memory.uploads == []


@pytest.mark.parametrize(
    ("size", "kind", "operation"),
    [
        pytest.param(50, "copy", "copy", id="copy"),
        pytest.param(2 * PART + 5, "copy", "copy part", id="copy in parts"),
        pytest.param(50, "hash in place", "stream", id="hash in place"),
    ],
)
def test_replaced_during_transfer(size: int, kind: str, operation: str) -> None:
    memory = MemoryStorage(["registry", "source"], versioned=False)
    data = os.urandom(size)
    source = object_source(memory, data)
    replacing = Before(
        lambda call: call.operation == operation,
        lambda: memory.store(PhysicalKey("source", "data/object"), data[::-1]),
    )

    with pytest.raises(SourceChangedError, match="s3://source/data/object"):
        run(Stores(LocalStorage(), memory), [copy_of(source) if kind == "copy" else in_place(source)], replacing)
    assert replacing.done
    assert memory.uploads == []


PARTED = {
    "send part": lambda _memory, path: file_upload(path),
    "copy part": lambda memory, path: copy_of(object_source(memory, path.read_bytes())),
}


@pytest.mark.parametrize("operation", PARTED)
@pytest.mark.parametrize("mode", ["before", "after"])
def test_failed_part_aborts_upload(
    stores: Stores, memory: MemoryStorage, recorder: Recorder, large_file: Path, operation: str, mode: str
) -> None:
    fault = Fault(2, "after" if mode == "after" else "before", among=lambda call: call.operation == operation)

    with pytest.raises(StorageUnavailableError, match="fault at call 2"):
        run(stores, [PARTED[operation](memory, large_file)], recorder, fault)
    assert [call.operation for call in recorder.calls][-1] == "abort"
    assert len(recorder.of("abort")) == 1
    assert memory.uploads == []
    assert list(memory.list_objects(PhysicalKey("registry", ""))) == []


def test_failure_aborts_all_uploads(stores: Stores, memory: MemoryStorage, recorder: Recorder, large_file: Path) -> None:
    begun = threading.Barrier(3)

    class FailWhenBegun:
        """Lets the small upload fail when both large ones have begun."""

        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation == "begin":
                upload = run()
                begun.wait(WAIT)
                return upload
            if call.operation == "upload":
                begun.wait(WAIT)
                raise StorageUnavailableError("down", str(call.key))
            return run()

    source = file_source(large_file)
    actions = [Upload(source, destination("one")), Upload(source, destination("two")), content("small", b"x")]

    with pytest.raises(StorageUnavailableError, match="down"):
        run(stores, actions, recorder, FailWhenBegun())
    assert len(recorder.of("begin")) == 2
    assert len(recorder.of("abort", "complete")) == 2
    assert memory.uploads == []


def test_failed_abort_hides_nothing(
    stores: Stores, memory: MemoryStorage, recorder: Recorder, large_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = threading.Barrier(2)

    class Meeting:
        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation == "begin":
                begun.wait(WAIT)
            return run()

    source = file_source(large_file)
    no_abort = Fault(1, among=lambda call: call.operation == "abort")

    class NoParts:
        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation == "send part":
                raise StorageUnavailableError("no part today", str(call.key))
            return run()

    with pytest.raises(StorageUnavailableError, match="no part today"):
        run(
            stores,
            [Upload(source, destination("one")), Upload(source, destination("two"))],
            recorder,
            Meeting(),
            no_abort,
            NoParts(),
        )
    assert len(recorder.of("abort")) == 2
    assert len(memory.uploads) == 1
    assert "could not be aborted" in caplog.text


def test_changed_file_aborts_upload(stores: Stores, memory: MemoryStorage, recorder: Recorder, large_file: Path) -> None:
    changing = Before(lambda call: call.operation == "send part" and call.number == 2, lambda: append(large_file))

    with pytest.raises(SourceChangedError):
        run(stores, [file_upload(large_file)], recorder, changing)
    assert recorder.of("complete") == []
    assert memory.uploads == []


def test_early_stop_ends_soon(stores: Stores, memory: MemoryStorage, recorder: Recorder) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(CancelledError):
        run(stores, [content(str(i), b"x") for i in range(100)], recorder, stop=stop)
    assert len(recorder.calls) <= 2 * THREADS
    assert memory.uploads == []


def test_empty_plan_is_cancelled(stores: Stores) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(CancelledError):
        run(stores, [], stop=stop)


def test_stop_ends_within_few_calls(stores: Stores, memory: MemoryStorage, recorder: Recorder) -> None:
    stop = threading.Event()
    seen = []

    def stop_and_count() -> None:
        stop.set()
        seen.append(len(recorder.calls))

    stopping = Before(lambda call: call.operation == "upload" and call.key.key.endswith("/20"), stop_and_count)

    with pytest.raises(CancelledError):
        run(stores, [content(str(i), b"x") for i in range(200)], recorder, stopping, stop=stop)
    assert len(recorder.calls) - seen[0] <= 4 * THREADS
    assert memory.uploads == []


@pytest.mark.parametrize("operation", PARTED)
def test_stop_aborts_upload(stores: Stores, memory: MemoryStorage, recorder: Recorder, large_file: Path, operation: str) -> None:
    stop = threading.Event()
    stopping = Before(lambda call: call.operation == operation and call.number == 2, stop.set)

    with pytest.raises(CancelledError):
        run(stores, [PARTED[operation](memory, large_file)], recorder, stopping, stop=stop)
    assert recorder.of("complete") == []
    assert len(recorder.of("abort")) == 1
    assert memory.uploads == []


def test_stop_between_chunks(memory: MemoryStorage, write: Callable[..., Path]) -> None:
    path = write("one-part.bin", bytes(PART))
    stop = threading.Event()
    read: list[int] = []

    class Watching(LocalStorage):
        """Stop after the first chunk, and count the chunks that are taken all the same."""

        def stream(self, key: PhysicalKey, start: int, stop_at: int) -> Iterator[bytes]:
            for chunk in super().stream(key, start, stop_at):
                read.append(len(chunk))
                stop.set()
                yield chunk

    with pytest.raises(CancelledError), stoppable(stop):
        carry_out(Uploader(Stores(Watching(), memory, limits=ALONE)), [in_place(file_source(path))])
    assert len(read) == 1


def test_progress_counts_once(stores: Stores, memory: MemoryStorage, large_file: Path, write: Callable[..., Path]) -> None:
    lines: list[str] = []
    copied = os.urandom(1000)
    actions = [
        content("content", b"12345"),
        file_upload(large_file),
        in_place(file_source(write("here", b"1234567"))),
        copy_of(object_source(memory, copied)),
    ]
    seconds = iter(range(1_000_000))
    progress = Progress("Moving", interval=0.0, clock=lambda: next(seconds), say=lines.append)
    progress.begin(len(actions), sum(action.source.size for action in actions))
    carry_out(Uploader(replace(stores, limits=ALONE), progress=progress), actions)

    assert lines[-1].startswith("Moving: 4 of 4 entries, 16.0 MiB of 16.0 MiB")
    done = [int(line.split()[1]) for line in lines]
    assert done == sorted(done)


def test_one_failure_ends_all(stores: Stores, recorder: Recorder, write: Callable[..., Path]) -> None:
    path = write("short", b"four")
    short = file_upload(path)
    truncate(path)

    with pytest.raises(SourceChangedError, match="short"):
        run(stores, [short, *(content(str(i), b"x") for i in range(200))], recorder)
    assert len(recorder.of("upload")) < 200
