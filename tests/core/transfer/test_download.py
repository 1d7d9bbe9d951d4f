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
    EntryDamagedError,
    HashTypeError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from airflow_quilt.core.format.hashes import CHUNKED, Hash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.storage.base import Stores
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_path
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
def want(memory: MemoryStorage, out: Path) -> Callable[..., Download]:
    """Return what stores bytes as an object and returns the wish to have them in a file of the same name."""

    def want(name: str, data: bytes, hash_type: str = CHUNKED, *, stored: bytes | None = None) -> Download:
        origin = put(memory, f"s3://source/data/{name}", data if stored is None else stored)
        return Download(entry_of(name, data, origin, hash_type=hash_type), origin, resolve_path(out).join(name))

    return want


def fetch(stores: Stores, wanted: list[Download], *taps: Tap, stop: threading.Event | None = None) -> dict[str, bool]:
    """Fetch and check that no thread stays behind; return which files are new."""
    threads = set(threading.enumerate())
    try:
        limited = replace(tapped(stores, *taps) if taps else stores, limits=FEW)
        found = Downloader(limited, stop=stop).run(wanted)
        return {each.entry.logical_key: is_new for each, is_new in found}
    finally:
        assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("data", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("hash_type", HASH_TYPES)
@pytest.mark.parametrize("origin", ["object", "file"])
def test_a_file_gets_the_bytes_of_its_entry_which_are_read_once(
    stores: Stores,
    recorder: Recorder,
    want: Callable[..., Download],
    write: Callable[..., Path],
    out: Path,
    origin: str,
    hash_type: str,
    data: bytes,
) -> None:
    wanted = want("deep/below/file", data, hash_type)
    if origin == "file":
        wanted = replace(wanted, origin=resolve_path(write("source", data)))

    assert fetch(stores, [wanted], recorder) == {"deep/below/file": True}
    assert files_below(out) == {"deep/below/file": data}
    assert recorder.bytes_read == len(data)


def test_the_parts_of_a_file_are_fetched_at_the_same_time(stores: Stores, want: Callable[..., Download], out: Path) -> None:
    meet = threading.Barrier(3)

    class Meeting:
        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation == "write part":
                meet.wait(WAIT)
            return run()

    fetch(stores, [want("file", LARGE)], Meeting())

    assert files_below(out) == {"file": LARGE}


@pytest.mark.parametrize("data", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_a_file_that_is_right_is_left_as_it_is_and_its_object_is_not_looked_at(
    stores: Stores, recorder: Recorder, want: Callable[..., Download], write: Callable[..., Path], hash_type: str, data: bytes
) -> None:
    path = write("out/file", data)
    before = path.stat()
    wanted = want("file", data, hash_type, stored=b"damaged meanwhile")

    assert fetch(stores, [wanted], recorder) == {"file": False}
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
def test_a_file_that_is_wrong_is_replaced(
    stores: Stores,
    want: Callable[..., Download],
    write: Callable[..., Path],
    out: Path,
    hash_type: str,
    wrong: Callable[[bytes], bytes],
    data: bytes,
) -> None:
    write("out/file", wrong(data))

    assert fetch(stores, [want("file", data, hash_type)]) == {"file": True}
    assert files_below(out) == {"file": data}


@TWO_SIZES
def test_a_link_in_the_place_of_a_file_is_replaced_and_what_it_names_is_left_alone(
    stores: Stores, want: Callable[..., Download], write: Callable[..., Path], out: Path, data: bytes
) -> None:
    elsewhere = write("elsewhere", data[::-1])
    out.mkdir()
    (out / "file").symlink_to(elsewhere)
    (out / "dangling").symlink_to(elsewhere.with_name("nothing"))
    fetch(stores, [want("file", data), want("dangling", data)])

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
def test_of_a_damaged_object_no_file_comes_and_what_had_the_name_stays(
    stores: Stores,
    memory: MemoryStorage,
    want: Callable[..., Download],
    write: Callable[..., Path],
    out: Path,
    hash_type: str,
    there: bytes | None,
    damage: Callable[[bytes], bytes] | None,
    data: bytes,
) -> None:
    if there is not None:
        write("out/file", there)
    wanted = want("file", data, hash_type, stored=damage(data) if damage else data)
    if damage is None:
        memory.delete([wanted.origin])
        wanted = replace(wanted, origin=wanted.origin.at_version(None))

    with pytest.raises(EntryDamagedError, match="entry 'file'.*s3://source/data/file"):
        fetch(stores, [wanted])
    assert files_below(out) == ({} if there is None else {"file": there})


def test_an_object_that_has_grown_is_right_as_long_as_it_begins_with_the_bytes_of_its_entry(
    stores: Stores, want: Callable[..., Download], out: Path
) -> None:
    fetch(stores, [want("file", b"bytes", stored=b"bytes and more")])

    assert files_below(out) == {"file": b"bytes"}


def test_a_hash_of_an_unknown_type_is_refused(
    stores: Stores, recorder: Recorder, want: Callable[..., Download], out: Path
) -> None:
    wanted = want("file", b"bytes")
    wanted = replace(wanted, entry=msgspec.structs.replace(wanted.entry, hash=Hash("MD5", "0")))

    with pytest.raises(HashTypeError, match="'MD5'"):
        fetch(stores, [wanted], recorder)
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
def test_what_is_in_the_way_of_a_file_stays(
    stores: Stores,
    want: Callable[..., Download],
    write: Callable[..., Path],
    out: Path,
    there: str,
    error: type[StorageError],
    data: bytes,
) -> None:
    write(there, b"in the way")

    with pytest.raises(error, match="deep/file"):
        fetch(stores, [want("deep/file", data)])
    assert files_below(out) == {there.removeprefix("out/"): b"in the way"}


@pytest.mark.parametrize("operation", ["stream", "create", "write part", "complete"])
@TWO_SIZES
def test_a_file_that_fails_leaves_nothing_and_those_that_were_complete_stay(
    stores: Stores, want: Callable[..., Download], out: Path, operation: str, data: bytes
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
        fetch(stores, [want("good", data), want("bad", data)], GoodFirst(), fault)
    assert files_below(out) == {"good": data}


def test_an_abort_that_fails_hides_neither_the_failure_nor_the_other_aborts(
    stores: Stores, want: Callable[..., Download], recorder: Recorder, caplog: pytest.LogCaptureFixture
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
        fetch(stores, [want("one", LARGE), want("two", LARGE)], recorder, no_abort, NoParts())
    assert len(recorder.of("create")) == 2
    assert len(recorder.of("abort")) == 2
    assert "could not be removed" in caplog.text


def test_a_fetch_that_was_stopped_before_it_began_makes_no_file_and_few_calls(
    stores: Stores, recorder: Recorder, want: Callable[..., Download], out: Path
) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(CancelledError):
        fetch(stores, [want(str(i), b"bytes") for i in range(50)], recorder, stop=stop)
    assert len(recorder.of("stream")) <= 2 * THREADS
    assert files_below(out) == {}


@pytest.mark.parametrize("operation", ["stat", "create", "stream", "write part", "complete"])
@TWO_SIZES
def test_a_stop_at_any_moment_leaves_right_files_only(
    stores: Stores, want: Callable[..., Download], out: Path, operation: str, data: bytes
) -> None:
    stop = threading.Event()
    wanted = [want(f"{i:03}", data if i == 0 else b"bytes") for i in range(100)]
    stopping = Before(lambda call: call.operation == operation and call.key.name == "000", stop.set)

    with pytest.raises(CancelledError):
        fetch(stores, wanted, stopping, stop=stop)
    assert stopping.done
    files = files_below(out)
    assert files.items() <= {"000": data, **{f"{i:03}": b"bytes" for i in range(1, 100)}}.items()


@pytest.mark.parametrize("where", ["the object", "the file that is there"])
def test_a_stop_ends_reading_between_two_chunks(want: Callable[..., Download], write: Callable[..., Path], where: str) -> None:
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
    wanted = want("file", data)
    objects = WatchedObjects(["source"])
    put(objects, "s3://source/data/file", data)
    if where == "the file that is there":
        write("out/file", data)

    with pytest.raises(CancelledError):
        fetch(Stores(WatchedFiles(), objects), [replace(wanted, origin=wanted.origin.at_version(None))], stop=stop)
    assert len(read) == 1


@TWO_SIZES
def test_a_consumer_that_has_enough_leaves_no_temporary_file_and_no_thread(
    stores: Stores, want: Callable[..., Download], out: Path, data: bytes
) -> None:
    threads = set(threading.enumerate())
    results = Downloader(replace(stores, limits=FEW)).run([want(str(i), data) for i in range(10)])
    wanted, _ = next(results)
    results.close()

    assert set(threading.enumerate()) <= threads
    files = files_below(out)
    assert wanted.entry.logical_key in files
    assert files.items() <= {str(i): data for i in range(10)}.items()


def test_progress_is_told_of_every_file_and_byte_once(
    stores: Stores, want: Callable[..., Download], write: Callable[..., Path]
) -> None:
    lines: list[str] = []
    seconds = iter(range(1_000_000))
    progress = Progress("Installing", interval=0.0, clock=lambda: next(seconds), say=lines.append)
    there = write("out/right", bytes(1000)).read_bytes()
    write("out/wrong", b"12345")
    wanted = [want("right", there), want("wrong", b"54321"), want("new", b"1234567"), want("large", LARGE)]
    size = sum(each.entry.size for each in wanted)
    progress.begin(len(wanted), size)
    list(Downloader(replace(stores, limits=Limits(max_concurrency=1)), progress=progress).run(wanted))

    assert lines[-1].startswith("Installing: 4 of 4 entries, 16.0 MiB of 16.0 MiB")
