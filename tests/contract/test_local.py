import io
import os
import shutil
import stat as modes
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_quilt.core.errors import AccessDeniedError, ObjectNotFoundError, PreconditionError, StorageError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.objects import IfMatch, WriteMode
from airflow_quilt.core.storage.paths import resolve_path
from tests.contract.storage_contract import FileStoreContract, raised

MIB = 1024 * 1024
NOBODY = 65534


class TestLocalStorage(FileStoreContract):
    @pytest.fixture
    def storage(self) -> LocalStorage:
        return LocalStorage()

    @pytest.fixture
    def tight(self) -> LocalStorage:
        return LocalStorage(most=10)

    @pytest.fixture
    def root(self, tmp_path: Path) -> PhysicalKey:
        return resolve_path(f"{tmp_path}/root/")


@pytest.fixture
def storage() -> LocalStorage:
    return LocalStorage()


@pytest.fixture
def key(tmp_path: Path) -> PhysicalKey:
    return resolve_path(tmp_path / "directory/file")


def beside(key: PhysicalKey) -> list[str]:
    """Return the names of the files in a key's directory."""
    return sorted(path.name for path in Path(key.key).parent.iterdir())


class Body(io.BytesIO):
    """A body that does something when it has been read to its end."""

    def __init__(self, data: bytes, then: Callable[[], object]) -> None:
        super().__init__(data)
        self._then = then

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        if not chunk:
            self._then()
        return chunk


@contextmanager
def busily(work: Callable[[], object]) -> Iterator[None]:
    """Repeat some work in another thread; its error is raised at the end."""
    stop, errors = threading.Event(), []

    def run() -> None:
        try:
            while not stop.is_set():
                work()
        except Exception as error:  # noqa: BLE001  (raised below)
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


# Whole files only.


def test_reader_sees_whole_files(storage: LocalStorage, key: PhysicalKey) -> None:
    bodies = [bytes([letter]) * MIB for letter in b"ab"]
    storage.put(key, bodies[0])
    seen = set()
    with busily(lambda: [storage.put(key, body) for body in bodies]):
        for count in range(20_000):
            data = storage.get(key).data
            assert data in bodies
            seen.add(data[0])
            if count >= 200 and len(seen) == 2:
                break

    assert seen == {*b"ab"}


def test_put_replaces_atomically(storage: LocalStorage, key: PhysicalKey) -> None:
    storage.put(key, b"old")
    seen = []
    storage.put(key, Body(b"new", lambda: seen.append(storage.get(key).data)))

    assert set(seen) == {b"old"}
    assert storage.get(key).data == b"new"


def test_open_stream_keeps_old_file(storage: LocalStorage, key: PhysicalKey) -> None:
    storage.put(key, b"a" * 3 * MIB)
    chunks = storage.stream(key, 0, 3 * MIB)
    first = next(chunks)
    storage.put(key, b"b" * 3 * MIB)

    assert first + b"".join(chunks) == b"a" * 3 * MIB


def test_partial_file_is_not_listed(storage: LocalStorage, key: PhysicalKey) -> None:
    directory = resolve_path(f"{Path(key.key).parent}/")
    listed: list[list[PhysicalKey]] = []
    storage.put(key, Body(b"new", lambda: listed.append([stat.key for stat in storage.list_objects(directory)])))

    assert listed
    assert not any(listed)


def test_listing_survives_writers(storage: LocalStorage, key: PhysicalKey) -> None:
    directory = resolve_path(f"{Path(key.key).parent}/")
    storage.put(key, b"0")
    with busily(lambda: storage.put(key, b"1")):
        for _ in range(2000):
            assert key in {stat.key for stat in storage.list_objects(directory)}


def test_writers_share_a_directory(storage: LocalStorage, key: PhysicalKey) -> None:
    start = threading.Barrier(8)

    def come_and_go(name: str) -> PhysicalKey:
        own = resolve_path(Path(key.key).with_name(name))
        start.wait(30)
        for _ in range(200):
            storage.put(own, b"x")
            storage.delete([own])
        return storage.put(own, b"x", "create").key

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(come_and_go, "abcdefgh"))

    assert {stat.key for stat in storage.list_objects(resolve_path(Path(key.key).parent))} == set(written)


# Failed writes.


@pytest.mark.parametrize("existing", [None, b"old"], ids=["nothing-there", "a-file-there"])
def test_failed_body_leaves_no_file(storage: LocalStorage, key: PhysicalKey, existing: bytes | None) -> None:
    if existing is not None:
        storage.put(key, existing)

    def fail() -> None:
        raise LookupError("the body broke off")

    with pytest.raises(LookupError):
        storage.put(key, Body(b"half", fail))
    assert beside(key) == ([] if existing is None else ["file"])
    assert existing is None or storage.get(key).data == existing


@pytest.mark.parametrize("mode", ["create", IfMatch("other")], ids=["create", "replace"])
def test_refused_put_leaves_no_file(storage: LocalStorage, key: PhysicalKey, mode: WriteMode) -> None:
    storage.put(key, b"old")
    with pytest.raises(PreconditionError):
        storage.put(key, b"new", mode)

    assert beside(key) == ["file"]


def test_put_keeps_a_directory(storage: LocalStorage, key: PhysicalKey) -> None:
    (Path(key.key) / "below").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"file://.*directory/file"):
        storage.put(key, b"x")

    assert beside(key) == ["file"]


def test_put_below_file_fails(storage: LocalStorage, key: PhysicalKey) -> None:
    storage.put(key, b"x")
    with pytest.raises(StorageError, match="directory/file/below"):
        storage.put(key.join("below"), b"x")

    assert storage.get(key).data == b"x"


# Files that are written in parts.


def make(storage: LocalStorage, key: PhysicalKey, data: bytes) -> None:
    file = storage.create(key, len(data))
    file.write(0, [data])
    file.complete()


def test_reader_never_sees_parts(storage: LocalStorage, key: PhysicalKey) -> None:
    bodies = [bytes([letter]) * MIB for letter in b"ab"]
    make(storage, key, bodies[0])
    seen = set()
    with busily(lambda: [make(storage, key, body) for body in bodies]):
        for count in range(20_000):
            data = storage.get(key).data
            assert data in bodies
            seen.add(data[0])
            if count >= 200 and len(seen) == 2:
                break

    assert seen == {*b"ab"}
    assert beside(key) == ["file"]


def test_stream_outlives_complete(storage: LocalStorage, key: PhysicalKey) -> None:
    storage.put(key, b"a" * 3 * MIB)
    chunks = storage.stream(key, 0, 3 * MIB)
    first = next(chunks)
    make(storage, key, b"b" * 3 * MIB)

    assert first + b"".join(chunks) == b"a" * 3 * MIB


def test_abort_leaves_no_file(storage: LocalStorage, key: PhysicalKey) -> None:
    file = storage.create(key, 10)
    file.write(5, [b"hello"])
    assert len(beside(key)) == 1
    file.abort()

    assert beside(key) == []


@pytest.mark.parametrize("below", [[], ["file"]], ids=["empty", "with-a-file"])
def test_complete_keeps_a_directory(storage: LocalStorage, key: PhysicalKey, below: list[str]) -> None:
    Path(key.key).mkdir(parents=True)
    for name in below:
        (Path(key.key) / name).touch()
    file = storage.create(key, 5)
    file.write(0, [b"hello"])
    with pytest.raises(StorageError, match=r"file://.*directory/file: it is a directory, not a file") as caught:
        file.complete()
    file.abort()

    assert not caught.value.transient
    assert beside(key) == ["file"]
    assert [path.name for path in Path(key.key).iterdir()] == below


@pytest.mark.parametrize("name", ["below", "far/below"])
def test_create_below_file_fails(storage: LocalStorage, key: PhysicalKey, name: str) -> None:
    storage.put(key, b"x")
    with pytest.raises(StorageError, match=f"directory/file/{name}: a file, .* is in the way of a directory") as caught:
        storage.create(key.join(name), 5)

    assert not caught.value.transient
    assert storage.get(key).data == b"x"


@pytest.mark.parametrize("name", ["link/below", "link/far/below"])
def test_write_below_dead_link_fails(storage: LocalStorage, tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    key = PhysicalKey(None, str(tmp_path / name))

    for write in (lambda: storage.create(key, 5), lambda: storage.put(key, b"x")):
        with pytest.raises(StorageError, match=f"{name}: .* a link.*, is in the way of a directory") as caught:
            write()
        assert not caught.value.transient
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("size", [2**60, 2**63 - 1, 2**63])
def test_huge_size_leaves_no_file(storage: LocalStorage, key: PhysicalKey, size: int) -> None:
    try:
        storage.create(key, size).abort()
    except StorageError as error:
        assert error.location == str(key)  # noqa: PT017

    assert beside(key) == []


def test_too_long_name_is_named(storage: LocalStorage, key: PhysicalKey) -> None:
    long = resolve_path(Path(key.key).with_name("é" * 200))
    file = storage.create(long, 1)
    with pytest.raises(StorageError, match="File name too long") as caught:
        file.complete()
    file.abort()

    assert caught.value.location == str(long)
    assert beside(key) == []


def test_directories_come_and_go(storage: LocalStorage, tmp_path: Path) -> None:
    pointers = [resolve_path(tmp_path / f"named/team/{name}/latest") for name in ("one", "two")]
    for pointer in pointers:
        storage.put(pointer, b"x")

    storage.delete(pointers[:1])
    assert sorted(path.name for path in (tmp_path / "named/team").iterdir()) == ["two"]
    storage.delete(pointers[1:])
    assert list((tmp_path / "named").iterdir()) == []


def test_in_place_edit_changes_etag(storage: LocalStorage, key: PhysicalKey) -> None:
    before = storage.put(key, b"one")
    path = Path(key.key)
    path.write_bytes(b"two")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))

    assert storage.stat(key).etag != before.etag
    with pytest.raises(PreconditionError):
        storage.put(key, b"six", IfMatch(before.etag))


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda storage, key: storage.stat(key), id="stat"),
        pytest.param(lambda storage, key: storage.get(key), id="get"),
        pytest.param(lambda storage, key: list(storage.stream(key, 0, 1)), id="stream"),
    ],
)
def test_special_files_are_hidden(
    storage: LocalStorage, tmp_path: Path, read: Callable[[LocalStorage, PhysicalKey], object]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "sub").mkdir()
    os.mknod(tmp_path / "socket", modes.S_IFSOCK | 0o600)
    for name in ("pipe", "link", "device", "sub", "socket"):
        with pytest.raises(ObjectNotFoundError, match="not a file"):
            read(storage, PhysicalKey(None, str(tmp_path / name)))

    assert list(storage.list_objects(resolve_path(f"{tmp_path}/"))) == []


# Permissions.


@pytest.mark.parametrize("write", [LocalStorage.put, make], ids=["whole", "in-parts"])
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], ids=oct)
def test_umask_sets_permissions(
    storage: LocalStorage, key: PhysicalKey, mask: int, write: Callable[[LocalStorage, PhysicalKey, bytes], object]
) -> None:
    before = os.umask(mask)
    try:
        write(storage, key, b"x")
    finally:
        os.umask(before)

    assert modes.S_IMODE(Path(key.key).stat().st_mode) == 0o666 & ~mask


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A directory that a user without special rights may only list, with an unreadable file and an unreadable directory."""
    directory = Path(tempfile.mkdtemp())
    (directory / "closed").mkdir(mode=0)
    (directory / "file").write_bytes(b"x")
    (directory / "file").chmod(0)
    directory.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield directory
    finally:
        os.seteuid(user)
        directory.chmod(0o755)
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda storage, directory: storage.get(directory.join("file")), id="get"),
        pytest.param(lambda storage, directory: storage.stream(directory.join("file"), 0, 1), id="stream"),
        pytest.param(lambda storage, directory: storage.put(directory.join("new"), b"x"), id="put"),
        pytest.param(lambda storage, directory: storage.put(directory.join("sub/new"), b"x"), id="put-below"),
        pytest.param(lambda storage, directory: storage.create(directory.join("new"), 1), id="create"),
        pytest.param(lambda storage, directory: storage.create(directory.join("sub/new"), 1), id="create-below"),
        pytest.param(lambda storage, directory: storage.delete([directory.join("file")]), id="delete"),
        pytest.param(lambda storage, directory: storage.list_objects(directory.join("closed/")), id="scan"),
        pytest.param(lambda storage, directory: storage.stat(directory.join("closed/file")), id="stat-below"),
    ],
)
def test_permission_error_is_denied(
    storage: LocalStorage, foreign: Path, call: Callable[[LocalStorage, PhysicalKey], object]
) -> None:
    with pytest.raises(AccessDeniedError, match=foreign.as_uri()):
        raised(lambda: call(storage, resolve_path(f"{foreign}/")))

    assert [path.name for path in sorted(foreign.iterdir())] == ["closed", "file"]


def test_directory_leftovers_go(storage: LocalStorage, tmp_path: Path) -> None:
    """Remove the leftovers of a directory whose files are gone, and nothing of one that has a file."""
    temporary = f".{'0' * 32}.tmp"
    for name in (f"team/dead/{temporary}", f"team/dead/empty/{temporary}", f"team/live/{temporary}", "team/live/d/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "alone/empty").mkdir(parents=True)

    assert list(storage.list_names(resolve_path(f"{tmp_path}/team/"))) == ["live/"]
    removed = {name: storage.remove_directory(resolve_path(f"{tmp_path}/{name}/")) for name in ("team/dead", "alone/empty", "no")}
    assert removed == {"team/dead": True, "alone/empty": True, "no": False}
    assert not storage.remove_directory(resolve_path(f"{tmp_path}/team/live/"))
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        f"team/live/{temporary}",
        "team/live/d/file",
    ]
    assert not (tmp_path / "alone").exists()


def test_closed_directory_is_named(storage: LocalStorage, foreign: Path) -> None:
    with pytest.raises(AccessDeniedError) as caught:
        list(storage.list_objects(resolve_path(f"{foreign}/")))

    assert caught.value.location == (foreign / "closed").as_uri()


def test_unreadable_file_has_a_stat(storage: LocalStorage, foreign: Path) -> None:
    assert storage.stat(resolve_path(foreign / "file")).size == 1
