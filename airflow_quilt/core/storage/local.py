"""The local disk: sources of entries, and local registries."""

import contextlib
import errno
import fcntl
import itertools
import os
import random
import re
import shutil
import stat as modes
import uuid
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from airflow_quilt.core.errors import (
    AccessDeniedError,
    DiskError,
    ObjectNotFoundError,
    PreconditionError,
    QuiltError,
    StorageError,
)
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.stop import check_stop, sleep
from airflow_quilt.core.storage.base import (
    CHUNK,
    MOST_WHOLE,
    IfMatch,
    ObjectInfo,
    StoredObject,
    WriteMode,
    check_whole,
    raise_first,
)

_MOST_ATTEMPTS: Final = 100
_LOCK_POLL_INTERVAL: Final = (0.001, 0.01)
"""Seconds between two attempts to take a lock, at least and at most; random, so that waiters do not keep step. To wait for it
in the system would be to be deaf to a stop."""
_PERMANENT: Final = frozenset({errno.ENAMETOOLONG, errno.EFBIG, errno.EINVAL, errno.ELOOP, errno.EROFS})
_TAG: Final = "user.airflow_quilt"
"""The extended attribute that holds the writer tag of a file."""
_TEMPORARY: Final = re.compile(r"\.[0-9a-f]{32}\.tmp")


class LocalStorage:
    """Files and directories of this machine.

    :meth:`put` writes a temporary file, syncs it to the disk, and renames it: a reader sees the old file or the new one, after a
    crash too. A lock on the directory keeps its writers apart, so that conditions hold between processes.

    Args:
        most: the most bytes of a file that is read whole.
    """

    def __init__(self, most: int = MOST_WHOLE) -> None:
        self._most = most

    def get(self, key: PhysicalKey) -> StoredObject:
        """Read a file whole."""
        with _opened(key) as descriptor, open(descriptor, "rb", closefd=False) as file:
            status = os.fstat(descriptor)
            check_whole(key, status.st_size, self._most)
            return StoredObject(file.read(), _etag(status), key, _read_tag(descriptor))

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read a range of a file in chunks."""
        with _opened(key) as descriptor:
            while start < stop and (chunk := os.pread(descriptor, min(CHUNK, stop - start), start)):
                start += len(chunk)
                yield chunk
                check_stop()

    def put(
        self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", writer_tag: str | None = None
    ) -> ObjectInfo:
        """Write a file, if the condition of ``mode`` holds; the writer tag is an extended attribute, where the disk has those."""
        path = Path(key.key)
        with (
            _translated(key),
            _made_and_locked(key, path.parent) as directory,
            _temporary(path.parent, body, writer_tag) as temporary,
        ):
            _check(key, mode)
            status = temporary.stat()
            temporary.replace(path)
            os.fsync(directory)
        return ObjectInfo(key, status.st_size, _etag(status))

    def supports_conditional_writes(self, key: PhysicalKey, data: bytes) -> bool:  # noqa: ARG002
        """Return True: conditions hold, since a disk without working locks refuses to write."""
        return True

    def stat(self, key: PhysicalKey) -> ObjectInfo:
        """Return size and ETag of a file."""
        with _translated(key):
            status = _status(key)
        return ObjectInfo(key, status.st_size, _etag(status))

    def list_objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        """List the files below a directory, in order; links to directories are not followed."""
        with _translated(prefix):
            for item in _walk(prefix.key):
                if (not after or item.path > prefix.key + after) and item.is_file() and not is_temporary(item.name):
                    with contextlib.suppress(FileNotFoundError):  # Deleted since it was listed.
                        status = item.stat()
                        yield ObjectInfo(PhysicalKey(None, item.path), status.st_size, _etag(status))

    def delete(self, keys: Sequence[PhysicalKey]) -> None:
        """Delete files, and the directories that become empty by it: up to two levels, as package names have."""
        failed: list[QuiltError] = []
        for key in keys:
            try:
                _delete(key)
            except QuiltError as error:
                failed.append(error)
        raise_first(failed, len(keys))

    def create(self, key: PhysicalKey, size: int) -> "LocalFile":
        """Begin a file of ``size`` bytes, and the directories above it."""
        with _translated(key):
            return LocalFile(key, size)


class LocalFile:
    """A file that is written in parts, from several threads, under a temporary name."""

    def __init__(self, key: PhysicalKey, size: int) -> None:
        self._key = key
        path = Path(key.key)
        _make(key, path.parent)
        self._temporary = _temporary_name(path.parent)
        self._held = [os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)]
        if size > CHUNK:  # A file that the disk cannot hold is refused before its bytes come.
            with self._opened() as descriptor, contextlib.ExitStack() as on_failure:
                on_failure.callback(self._temporary.unlink)
                os.truncate(descriptor, size)
                on_failure.pop_all()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the file for writing; the first time it is open already."""
        try:
            descriptor = self._held.pop()
        except IndexError:
            descriptor = os.open(self._temporary, os.O_WRONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def write(self, start: int, chunks: Iterable[bytes]) -> None:
        """Write bytes from an offset on."""
        with _translated(self._key), self._opened() as descriptor:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    written = os.pwrite(descriptor, rest, start)
                    start, rest = start + written, rest[written:]

    def complete(self) -> None:
        """Give the file its name."""
        self._close()
        with _translated(self._key):
            self._temporary.replace(self._key.key)

    def _close(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def abort(self) -> None:
        """Remove the temporary file."""
        self._close()
        with _translated(self._key):
            self._temporary.unlink(missing_ok=True)


def _status(key: PhysicalKey) -> os.stat_result:
    status = os.stat(key.key)  # noqa: PTH116  (which takes half as long)
    if not modes.S_ISREG(status.st_mode):
        raise ObjectNotFoundError("it is not a file", str(key))
    return status


@contextlib.contextmanager
def _opened(key: PhysicalKey) -> Iterator[int]:
    """Open a regular file for reading; to open a pipe or a device might block, or have an effect."""
    with _translated(key):
        _status(key)
        descriptor = os.open(key.key, os.O_RDONLY | os.O_NONBLOCK)  # A pipe may have replaced the file since.
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _walk(directory: str) -> Iterator[os.DirEntry[str]]:
    """Yield the items below a directory that are no directories, in order; without recursion, as its depth is limited."""
    pending = list_directory(directory)
    while pending:
        check_stop()
        item = pending.pop()
        if item.is_dir(follow_symlinks=False):
            pending += list_directory(item.path)
        else:
            yield item


def is_temporary(name: str) -> bool:
    """Return whether a file has a name that a write or an install gives a file until it is whole."""
    return bool(_TEMPORARY.fullmatch(name))


def list_directory(directory: str) -> list[os.DirEntry[str]]:
    """List a directory, last name first; one that is not there is empty."""
    with _translated(PhysicalKey(None, directory)), contextlib.suppress(FileNotFoundError):
        return sorted(os.scandir(directory), key=lambda item: item.name, reverse=True)
    return []


def _delete(key: PhysicalKey) -> None:
    path = Path(key.key)
    with _translated(key), contextlib.suppress(FileNotFoundError), _locked(path.parent) as directory:
        path.unlink()
        os.fsync(directory)
        with contextlib.suppress(OSError):  # Not empty.
            path.parent.rmdir()
            path.parent.parent.rmdir()


def _make(key: PhysicalKey, directory: Path) -> list[Path]:
    """Make a directory and those above it; return those that were absent."""
    try:
        absent = list(itertools.takewhile(_is_no_directory, (directory, *directory.parents)))
        for each in reversed(absent):  # mkdir(parents=True) recurses, to a limited depth.
            each.mkdir(exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        if any(os.path.lexists(parent) and not parent.is_dir() for parent in (directory, *directory.parents)):
            raise StorageError("a file, or a link to nowhere, is in the way of a directory", str(key)) from error
        raise
    return absent


def _is_no_directory(path: Path) -> bool:
    try:
        return not modes.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return True


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_name(directory: Path) -> Path:
    return directory / f".{uuid.uuid4().hex}.tmp"  # As in _TEMPORARY.


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def _check(key: PhysicalKey, mode: WriteMode) -> None:
    try:
        etag = _etag(Path(key.key).stat())
    except FileNotFoundError:
        etag = None
    if mode == "create" and etag is not None:
        raise PreconditionError("there is a file already", str(key))
    if isinstance(mode, IfMatch) and mode.etag != etag:
        raise PreconditionError("another file is there than the one to replace", str(key))


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Hold the lock of a directory; closing the descriptor, or the end of the process, releases it.

    Raises:
        FileNotFoundError: the directory is absent, or was deleted before the lock was acquired.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not _try_to_lock(descriptor):
            sleep(random.uniform(*_LOCK_POLL_INTERVAL))  # noqa: S311  (no secret)
        if not os.path.samestat(os.fstat(descriptor), directory.stat()):
            raise FileNotFoundError(directory)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_to_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _made_and_locked(key: PhysicalKey, directory: Path) -> Iterator[int]:
    """Make a directory, and hold its lock; again, when it is deleted in between."""
    with contextlib.ExitStack() as held:
        for _ in range(_MOST_ATTEMPTS):
            try:
                for made in _make(key, directory):  # Their names shall survive a crash too.
                    _sync(made.parent)
                descriptor = held.enter_context(_locked(directory))
            except (FileNotFoundError, FileExistsError):  # mkdir raises the second one when it checks again too late.
                continue
            break
        else:
            raise OSError(errno.EBUSY, f"{directory} cannot be made, or is deleted by others as often as it is")
        yield descriptor


@contextlib.contextmanager
def _temporary(directory: Path, body: bytes | IO[bytes], writer_tag: str | None) -> Iterator[Path]:
    """Write a temporary file, and remove it unless it was renamed."""
    path = _temporary_name(directory)
    try:
        with path.open("xb") as file:
            source = BytesIO(body) if isinstance(body, bytes) else body
            source.seek(0)
            shutil.copyfileobj(source, file, CHUNK)
            _write_tag(file.fileno(), writer_tag)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


def _read_tag(descriptor: int) -> str | None:
    with contextlib.suppress(OSError, AttributeError):  # Not every system and disk has extended attributes.
        return os.getxattr(descriptor, _TAG).decode("ascii", "replace")
    return None


def _write_tag(descriptor: int, writer_tag: str | None) -> None:
    if writer_tag is not None:
        with contextlib.suppress(OSError, AttributeError):
            os.setxattr(descriptor, _TAG, writer_tag.encode())


@contextlib.contextmanager
def _translated(key: PhysicalKey) -> Iterator[None]:
    """Raise the core's errors for those of the operating system."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectNotFoundError("there is no such file", str(key)) from error
    except IsADirectoryError as error:
        raise ObjectNotFoundError("it is a directory, not a file", str(key)) from error
    except PermissionError as error:
        raise AccessDeniedError("this user may not do that", str(key)) from error
    except OverflowError as error:
        raise StorageError("no file can be that large", str(key)) from error
    except OSError as error:
        kind = StorageError if error.errno in _PERMANENT else DiskError
        raise kind(error.strerror or str(error), str(key)) from error
