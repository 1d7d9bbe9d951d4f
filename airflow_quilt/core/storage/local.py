"""The local disk: sources of entries, and local registries."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from airflow_quilt.core.errors import PreconditionError, QuiltError, StorageUnavailableError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.limits import most_descriptors
from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.storage.base import raise_first
from airflow_quilt.core.storage.descriptors import Directories
from airflow_quilt.core.storage.disk import (
    check_regular,
    etag_of,
    holds_object,
    info_of,
    is_object,
    list_directory,
    locked,
    made_and_locked,
    remove_empty,
    temporary_name,
    translated,
    walk,
)
from airflow_quilt.core.storage.objects import CHUNK, MOST_WHOLE, IfMatch, ObjectInfo, StoredObject, WriteMode, check_whole
from airflow_quilt.core.storage.partial import LocalFile

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
        most_open: the most large files that stay open while they are written; None for a quarter of the descriptors that the
            process may have.
    """

    def __init__(self, most: int = MOST_WHOLE, most_open: int | None = None) -> None:
        self._most = most
        self._directories = Directories()
        self._may_stay_open = threading.Semaphore(most_descriptors() // 4 if most_open is None else most_open)

    def get(self, key: PhysicalKey, most: int | None = None) -> StoredObject:
        """Read a file whole."""
        with _opened(key) as (descriptor, status), open(descriptor, "rb", closefd=False) as file:
            most = self._most if most is None else min(most, self._most)
            check_whole(key, status.st_size, most)
            data = file.read(most + 1)
            check_whole(key, len(data), most)  # It may grow meanwhile.
            return StoredObject(data, etag_of(status), key, _read_tag(descriptor))

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read a range of a file in chunks; at a version, its ETag, of exactly that file in one state, by any path.

        Raises, beside the errors of every storage:
            PreconditionError: another file is there, or it has other bytes.
            StorageUnavailableError: it was touched while it was read; another attempt may find it at rest.
        """
        with _opened(key) as (descriptor, before):
            _check_version(key, before)
            while start < stop and (chunk := os.pread(descriptor, min(CHUNK, stop - start), start)):
                start += len(chunk)
                yield chunk
                check_stop()
            if key.version_id is not None:
                after = os.fstat(descriptor)
                if (after.st_ctime_ns, after.st_mtime_ns) != (before.st_ctime_ns, before.st_mtime_ns):
                    _check_version(key, after)
                    # No program can set the time of the last change. A hard link or chmod does it too, so this is no other file.
                    raise StorageUnavailableError("it was touched while it was read", str(key))

    def put(
        self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", writer_tag: str | None = None
    ) -> ObjectInfo:
        """Write a file, if the condition of ``mode`` holds; the writer tag is an extended attribute, where the disk has those."""
        path = Path(key.key)
        with (
            translated(key),
            made_and_locked(key, path.parent) as directory,
            temporary_file(directory, body, writer_tag) as (temporary, status),
        ):
            _check(key, mode, path.name, directory)
            os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        return info_of(key, status)

    def supports_conditional_writes(self, key: PhysicalKey, data: bytes) -> bool:  # noqa: ARG002
        """Return True: conditions hold, since a disk without working locks refuses to write."""
        return True

    def stat(self, key: PhysicalKey, *, follow: bool = True) -> ObjectInfo:
        """Return size and ETag of a file; without ``follow``, of one that no link leads to."""
        with translated(key):
            status = os.stat(key.key) if follow else self._directories.status(key.key)  # noqa: PTH116  (which takes half as long)
        return info_of(key, status)

    def list_objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        """List the files below a directory, in order; links to directories are not followed."""
        with translated(prefix):
            for item in walk(prefix.key):
                if (not after or item.path > prefix.key + after) and is_object(item):
                    with contextlib.suppress(FileNotFoundError):  # Deleted since it was listed.
                        status = item.stat()
                        etag = etag_of(status)
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

    def list_items(self, prefix: PhysicalKey) -> Iterator[str]:
        """List the relative paths of all items below a directory but directories, and links to nowhere."""
        return Directories().walk(prefix.key.rstrip("/"))

    def create(self, key: PhysicalKey, size: int) -> LocalFile:
        """Begin a file of ``size`` bytes, and the directories above it."""
        with translated(key):
            return LocalFile(key, size, self._directories, self._may_stay_open)

    def forget_directories(self) -> None:
        """Close the directories of the last files."""
        self._directories.forget()


@contextlib.contextmanager
def _opened(key: PhysicalKey) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file for reading; to open a pipe or a device might block, or have an effect."""
    with translated(key):
        check_regular(key, os.stat(key.key))  # noqa: PTH116
        descriptor = os.open(key.key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            check_regular(key, status := os.fstat(descriptor))  # A pipe may have replaced the file since.
            yield descriptor, status
        finally:
            os.close(descriptor)


def _check_version(key: PhysicalKey, status: os.stat_result) -> None:
    if key.version_id not in {None, etag_of(status)}:
        raise PreconditionError("another file is there than the one that was listed, or it was written to", str(key))


def _delete(key: PhysicalKey) -> None:
    path = Path(key.key)
    with translated(key), contextlib.suppress(FileNotFoundError), locked(path.parent) as directory:
        os.unlink(path.name, dir_fd=directory)
        os.fsync(directory)
        with contextlib.suppress(OSError):  # Not empty.
            path.parent.rmdir()
            path.parent.parent.rmdir()


def _check(key: PhysicalKey, mode: WriteMode, name: str, directory: int) -> None:
    try:
        etag = etag_of(os.stat(name, dir_fd=directory))
    except FileNotFoundError:
        etag = None
    if mode == "create" and etag is not None:
        raise PreconditionError("there is a file already", str(key))
    if isinstance(mode, IfMatch) and mode.etag != etag:
        raise PreconditionError("another file is there than the one to replace", str(key))


@contextlib.contextmanager
def temporary_file(
    directory: int, body: bytes | IO[bytes], writer_tag: str | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """Write a temporary file in a directory, given by its descriptor, and remove it unless it was renamed."""
    name = temporary_name()
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            source = BytesIO(body) if isinstance(body, bytes) else body
            source.seek(0)
            shutil.copyfileobj(source, file, CHUNK)
            _write_tag(descriptor, writer_tag)
            file.flush()
            os.fsync(descriptor)
        yield name, os.stat(name, dir_fd=directory, follow_symlinks=False)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


def _read_tag(descriptor: int) -> str | None:
    with contextlib.suppress(OSError, AttributeError):  # Not every system and disk has extended attributes.
        return os.getxattr(descriptor, _TAG).decode("ascii", "replace")
    return None


def _write_tag(descriptor: int, writer_tag: str | None) -> None:
    if writer_tag is not None:
        with contextlib.suppress(OSError, AttributeError):
            os.setxattr(descriptor, _TAG, writer_tag.encode())
