"""Files appear whole and checked under their names, or not at all, and nothing else stays behind."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from airflow_quilt.core.errors import (
    CancelledError,
    CredentialsExpiredError,
    EntryDamagedError,
    HashTypeError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    ThrottledError,
)
from airflow_quilt.core.format.hashes import CHUNKED, Hash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.runtime.stop import stoppable
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_path
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.download import Download, Downloader
from tests.core.faulty import Before, Call, Fault, Recorder, T, Tap, tapped
from tests.core.packages import HASH_TYPES, PART, entry_of, files_below, put

THREADS = 4
FEW = Limits(max_concurrency=THREADS)
WAIT = 60
"""Seconds after which a test that hangs is failed."""
LARGE = os.urandom(2 * PART + 5)
SIZES = {"empty": b"", "small": b"a small file", "exactly one part": LARGE[:PART], "two parts and a bit": LARGE}
TWO_SIZES = pytest.mark.parametrize("data", [SIZES["small"], LARGE], ids=["small", "in parts"])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The directory that files are fetched to; it is not there yet."""
    return tmp_path / "out"


@pytest.fixture
def make_download(memory: MemoryStorage, out: Path) -> Callable[..., Download]:
    """Return a function that stores bytes as an object and returns its download to a file of the same name."""

    def make_download(name: str, data: bytes, hash_type: str = CHUNKED, *, stored: bytes | None = None) -> Download:
        origin = put(memory, f"s3://source/data/{name}", data if stored is None else stored)
        return Download(entry_of(name, data, origin, hash_type=hash_type), origin, resolve_path(out).join(name))

    return make_download


def fetch(stores: Stores, downloads: list[Download], *taps: Tap, stop: threading.Event | None = None) -> dict[str, bool]:
    """Fetch and check that no thread stays behind; return which files are new."""
    threads = set(threading.enumerate())
    try:
        limited = replace(tapped(stores, *taps) if taps else stores, limits=FEW)
        with stoppable(stop):
            return {each.entry.logical_key: is_new for each, is_new in Downloader(limited).run(downloads)}
    finally:
        assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("data", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("hash_type", HASH_TYPES)
@pytest.mark.parametrize("origin", ["object", "file"])
def test_file_bytes_are_read_once(
    stores: Stores,
    recorder: Recorder,
    make_download: Callable[..., Download],
    write: Callable[..., Path],
    out: Path,
    origin: str,
    hash_type: str,
    data: bytes,
) -> None:
    download = make_download("deep/below/file", data, hash_type)
    if origin == "file":
        download = replace(download, origin=resolve_path(write("source", data)))

    assert fetch(stores, [download], recorder) == {"deep/below/file": True}
    assert files_below(out) == {"deep/below/file": data}
    assert recorder.bytes_read == len(data)


def test_parts_come_concurrently(stores: Stores, make_download: Callable[..., Download], out: Path) -> None:
    meet = threading.Barrier(3)

    class Meeting:
        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation == "write part":
                meet.wait(WAIT)
            return run()

    fetch(stores, [make_download("file", LARGE)], Meeting())

    assert files_below(out) == {"file": LARGE}


@pytest.mark.parametrize("data", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_right_file_is_reused(
    stores: Stores,
    recorder: Recorder,
    make_download: Callable[..., Download],
    write: Callable[..., Path],
    hash_type: str,
    data: bytes,
) -> None:
    path = write("out/file", data)
    before = path.stat()
    download = make_download("file", data, hash_type, stored=b"damaged meanwhile")

    assert fetch(stores, [download], recorder) == {"file": False}
    assert recorder.writes == []
    assert [call for call in recorder.calls if not call.key.is_local] == []
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@TWO_SIZES
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda data: data[:-1], id="shorter"),
        pytest.param(lambda data: data + b"x", id="longer"),
        pytest.param(lambda data: data[:-1] + b"\0", id="same size, another last byte"),
        pytest.param(lambda data: b"\0" + data[1:], id="same size, another first byte"),
    ],
)
@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_wrong_file_is_replaced(
    stores: Stores,
    make_download: Callable[..., Download],
    write: Callable[..., Path],
    out: Path,
    hash_type: str,
    wrong: Callable[[bytes], bytes],
    data: bytes,
) -> None:
    write("out/file", wrong(data))

    assert fetch(stores, [make_download("file", data, hash_type)]) == {"file": True}
    assert files_below(out) == {"file": data}


@TWO_SIZES
def test_link_not_target_replaced(
    stores: Stores, make_download: Callable[..., Download], write: Callable[..., Path], out: Path, data: bytes
) -> None:
    elsewhere = write("elsewhere", data[::-1])
    out.mkdir()
    (out / "file").symlink_to(elsewhere)
    (out / "dangling").symlink_to(elsewhere.with_name("nothing"))
    fetch(stores, [make_download("file", data), make_download("dangling", data)])

    assert not (out / "file").is_symlink()
    assert files_below(out) == {"file": data, "dangling": data}
    assert elsewhere.read_bytes() == data[::-1]
    assert not elsewhere.with_name("nothing").exists()


@TWO_SIZES
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[::-1], id="other bytes of the same size"),
        pytest.param(lambda data: data[:-1] + b"\0", id="another last byte"),
        pytest.param(lambda data: data[:-1], id="shorter"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(None, id="gone"),
    ],
)
@pytest.mark.parametrize("there", [None, b"older"], ids=["no file yet", "an older file"])
@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_damaged_object_no_file(
    stores: Stores,
    memory: MemoryStorage,
    make_download: Callable[..., Download],
    write: Callable[..., Path],
    out: Path,
    hash_type: str,
    there: bytes | None,
    damage: Callable[[bytes], bytes] | None,
    data: bytes,
) -> None:
    """Write no file of a damaged object, and keep an older one."""
    if there is not None:
        write("out/file", there)
    download = make_download("file", data, hash_type, stored=damage(data) if damage else data)
    if damage is None:
        memory.delete([download.origin])
        download = replace(download, origin=download.origin.at_version(None))

    with pytest.raises(EntryDamagedError, match="entry 'file'.*s3://source/data/file"):
        fetch(stores, [download])
    assert files_below(out) == ({} if there is None else {"file": there})


def test_grown_object_is_right(stores: Stores, make_download: Callable[..., Download], out: Path) -> None:
    fetch(stores, [make_download("file", b"bytes", stored=b"bytes and more")])

    assert files_below(out) == {"file": b"bytes"}


def test_unknown_hash_type_refused(stores: Stores, recorder: Recorder, make_download: Callable[..., Download], out: Path) -> None:
    download = make_download("file", b"bytes")
    download = replace(download, entry=msgspec.structs.replace(download.entry, hash=Hash("MD5", "0")))

    with pytest.raises(HashTypeError, match="'MD5'"):
        fetch(stores, [download], recorder)
    assert recorder.calls == []
    assert not out.exists()


@pytest.mark.parametrize(
    ("there", "error"),
    [
        pytest.param("out/deep", StorageError, id="a file in the place of its directory"),
        pytest.param("out/deep/file/x", ObjectNotFoundError, id="a directory in its place"),
    ],
)
@TWO_SIZES
def test_obstacles_are_kept(
    stores: Stores,
    make_download: Callable[..., Download],
    write: Callable[..., Path],
    out: Path,
    there: str,
    error: type[StorageError],
    data: bytes,
) -> None:
    write(there, b"in the way")

    with pytest.raises(error, match="deep/file"):
        fetch(stores, [make_download("deep/file", data)])
    assert files_below(out) == {there.removeprefix("out/"): b"in the way"}


@pytest.mark.parametrize("operation", ["stream", "create", "write part", "complete"])
@TWO_SIZES
def test_failure_leaves_only_whole(
    stores: Stores, make_download: Callable[..., Download], out: Path, operation: str, data: bytes
) -> None:
    complete = threading.Event()
    fault = Fault(1, among=lambda call: call.operation == operation and call.key.key.endswith("bad"))

    class GoodFirst:
        """Lets the call that fails wait for the other file."""

        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.key.key.endswith("bad"):
                assert complete.wait(WAIT)
            answer = run()
            if call.operation == "complete" and call.key.key.endswith("good"):
                complete.set()
            return answer

    with pytest.raises(StorageUnavailableError, match="fault"):
        fetch(stores, [make_download("good", data), make_download("bad", data)], GoodFirst(), fault)
    assert files_below(out) == {"good": data}


@pytest.mark.parametrize("error", [CredentialsExpiredError, ThrottledError, StorageUnavailableError])
@TWO_SIZES
def test_repeated_read_leaves_nothing(
    stores: Stores, make_download: Callable[..., Download], out: Path, error: type[StorageError], data: bytes
) -> None:
    """Every kind of failure that is tried again leaves no temporary file beside the right one."""
    failed = threading.Event()

    class FailsOnce:
        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation == "stream" and not call.key.is_local and not failed.is_set():
                failed.set()
                raise error("not now", str(call.key))
            return run()

    patient = replace(tapped(stores, FailsOnce()), retry=RetryPolicy(60, 0.001, 0.001))
    assert [is_new for _, is_new in Downloader(patient).run([make_download("file", data)])] == [True]
    assert failed.is_set()
    assert files_below(out) == {"file": data}


def test_failed_abort_hides_nothing(
    stores: Stores, make_download: Callable[..., Download], recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    created = threading.Barrier(2)

    class NoParts:
        """Lets both files fail when both have been begun."""

        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation == "create":
                created.wait(WAIT)
            if call.operation == "write part":
                raise StorageUnavailableError("no part today", str(call.key))
            return run()

    no_abort = Fault(1, among=lambda call: call.operation == "abort")

    with pytest.raises(StorageUnavailableError, match="no part today"):
        fetch(stores, [make_download("one", LARGE), make_download("two", LARGE)], recorder, no_abort, NoParts())
    assert len(recorder.of("create")) == 2
    assert len(recorder.of("abort")) == 2
    assert "could not be removed" in caplog.text


def test_early_stop_makes_no_file(stores: Stores, recorder: Recorder, make_download: Callable[..., Download], out: Path) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(CancelledError):
        fetch(stores, [make_download(str(i), b"bytes") for i in range(50)], recorder, stop=stop)
    assert len(recorder.of("stream")) <= 2 * THREADS
    assert files_below(out) == {}


@pytest.mark.parametrize("operation", ["stat", "create", "stream", "write part", "complete"])
@TWO_SIZES
def test_stop_leaves_right_files(
    stores: Stores, make_download: Callable[..., Download], out: Path, operation: str, data: bytes
) -> None:
    stop = threading.Event()
    downloads = [make_download(f"{i:03}", data if i == 0 else b"bytes") for i in range(100)]
    stopping = Before(lambda call: call.operation == operation and call.key.name == "000", stop.set)

    with pytest.raises(CancelledError):
        fetch(stores, downloads, stopping, stop=stop)
    assert stopping.done
    files = files_below(out)
    assert files.items() <= {"000": data, **{f"{i:03}": b"bytes" for i in range(1, 100)}}.items()


@pytest.mark.parametrize("where", ["the object", "the file that is there"])
def test_stop_between_chunks(make_download: Callable[..., Download], write: Callable[..., Path], where: str) -> None:
    stop = threading.Event()
    read: list[int] = []

    def watched(chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            read.append(len(chunk))
            stop.set()
            yield chunk

    class WatchedFiles(LocalStorage):
        def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
            return watched(super().stream(key, start, stop))

    class WatchedObjects(MemoryStorage):
        def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
            return watched(super().stream(key, start, stop))

    data = bytes(PART)
    download = make_download("file", data)
    objects = WatchedObjects(["source"])
    put(objects, "s3://source/data/file", data)
    if where == "the file that is there":
        write("out/file", data)

    with pytest.raises(CancelledError):
        fetch(Stores(WatchedFiles(), objects), [replace(download, origin=download.origin.at_version(None))], stop=stop)
    assert len(read) == 1


@TWO_SIZES
def test_early_close_leaves_nothing(stores: Stores, make_download: Callable[..., Download], out: Path, data: bytes) -> None:
    threads = set(threading.enumerate())
    results = Downloader(replace(stores, limits=FEW)).run([make_download(str(i), data) for i in range(10)])
    download, _ = next(results)
    results.close()

    assert set(threading.enumerate()) <= threads
    files = files_below(out)
    assert download.entry.logical_key in files
    assert files.items() <= {str(i): data for i in range(10)}.items()


def test_progress_counts_once(stores: Stores, make_download: Callable[..., Download], write: Callable[..., Path]) -> None:
    lines: list[str] = []
    seconds = iter(range(1_000_000))
    progress = Progress("Installing", interval=0.0, clock=lambda: next(seconds), say=lines.append)
    there = write("out/right", bytes(1000)).read_bytes()
    write("out/wrong", b"12345")
    downloads = [
        make_download("right", there),
        make_download("wrong", b"54321"),
        make_download("new", b"1234567"),
        make_download("large", LARGE),
    ]
    size = sum(each.entry.size for each in downloads)
    progress.begin(len(downloads), size)
    list(Downloader(replace(stores, limits=Limits(max_concurrency=1)), progress=progress).run(downloads))

    assert lines[-1].startswith("Installing: 4 of 4 entries, 16.0 MiB of 16.0 MiB")
