"""The local disk: sources of entries, and local registries."""

import contextlib
import os
import shutil
import stat as modes
import time
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from airflow_quilt.core.errors import ObjectNotFoundError, PreconditionError, QuiltError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.stop import check_stop
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
from airflow_quilt.core.storage.disk import (
    holds_object,
    is_object,
    list_directory,
    locked,
    made_and_locked,
    make,
    remove_empty,
    temporary_name,
    translated,
    walk,
)

_TAG: Final = "user.airflow_quilt"
"""The extended attribute that holds the writer tag of a file."""
_SECOND: Final = 1.0
"""A file that was written so long before a listing has another time when it is written again."""


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
            translated(key),
            made_and_locked(key, path.parent) as directory,
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
        with translated(key):
            status = _status(key)
        return ObjectInfo(key, status.st_size, _etag(status))

    def list_objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        """List the files below a directory, in order; links to directories are not followed."""
        with translated(prefix):
            for item in walk(prefix.key):
                if (not after or item.path > prefix.key + after) and is_object(item):
                    with contextlib.suppress(FileNotFoundError):  # Deleted since it was listed.
                        status = item.stat()
                        etag = _etag(status)
                        written = etag if status.st_mtime < time.time() - _SECOND else ""
                        yield ObjectInfo(PhysicalKey(None, item.path), status.st_size, etag, written=written)

    def list_names(self, prefix: PhysicalKey) -> Iterator[str]:
        """List the names in a directory, in order; links to directories are not followed."""
        with translated(prefix):
            for item in reversed(list_directory(prefix.key)):
                if item.is_dir(follow_symlinks=False) and holds_object(item.path):
                    yield f"{item.name}/"
                elif is_object(item):
                    yield item.name

    def remove_directory(self, prefix: PhysicalKey) -> bool:
        """Remove a directory without files, with the empty directories and the temporary files of dead writers in it."""
        with translated(prefix):
            directory = Path(prefix.key)
            is_gone = directory.is_dir() and remove_empty(directory)
            with contextlib.suppress(OSError):  # Not empty.
                directory.parent.rmdir()
            return is_gone

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
        with translated(key):
            return LocalFile(key, size)


class LocalFile:
    """A file that is written in parts, from several threads, under a temporary name."""

    def __init__(self, key: PhysicalKey, size: int) -> None:
        self._key = key
        path = Path(key.key)
        make(key, path.parent)
        self._temporary = temporary_name(path.parent)
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
        with translated(self._key), self._opened() as descriptor:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    written = os.pwrite(descriptor, rest, start)
                    start, rest = start + written, rest[written:]

    def complete(self) -> None:
        """Give the file its name."""
        self._close()
        with translated(self._key):
            self._temporary.replace(self._key.key)

    def _close(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def abort(self) -> None:
        """Remove the temporary file."""
        self._close()
        with translated(self._key):
            self._temporary.unlink(missing_ok=True)


def _status(key: PhysicalKey) -> os.stat_result:
    status = os.stat(key.key)  # noqa: PTH116  (which takes half as long)
    if not modes.S_ISREG(status.st_mode):
        raise ObjectNotFoundError("it is not a file", str(key))
    return status


@contextlib.contextmanager
def _opened(key: PhysicalKey) -> Iterator[int]:
    """Open a regular file for reading; to open a pipe or a device might block, or have an effect."""
    with translated(key):
        _status(key)
        descriptor = os.open(key.key, os.O_RDONLY | os.O_NONBLOCK)  # A pipe may have replaced the file since.
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _delete(key: PhysicalKey) -> None:
    path = Path(key.key)
    with translated(key), contextlib.suppress(FileNotFoundError), locked(path.parent) as directory:
        path.unlink()
        os.fsync(directory)
        with contextlib.suppress(OSError):  # Not empty.
            path.parent.rmdir()
            path.parent.parent.rmdir()


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
def _temporary(directory: Path, body: bytes | IO[bytes], writer_tag: str | None) -> Iterator[Path]:
    """Write a temporary file, and remove it unless it was renamed."""
    path = temporary_name(directory)
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
