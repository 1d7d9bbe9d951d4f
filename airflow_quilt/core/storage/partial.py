"""A file that is written in parts under a temporary name, and takes its own when it is whole."""

import contextlib
import os
import threading
from collections.abc import Iterable
from typing import Final

from airflow_quilt.core.errors import PreconditionError, StorageError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.descriptors import Descriptor, Directories
from airflow_quilt.core.storage.disk import temporary_name, translated
from airflow_quilt.core.storage.objects import CHUNK

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AGAIN: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalFile:
    """A file that is written in parts, from several threads (ADR 0025).

    Its directory and the file itself are used by descriptor, and no link is followed, so a swap of either writes nothing
    elsewhere. Where very many large files are begun at once, the last ones are opened by name for each part: then the file must
    have the number of the one that was made, the same owner and no second name.

    Args:
        key: the path, its links resolved.
        size: bytes.
        directories: open the one of the file.
        may_stay_open: counts the large files that stay open.

    Raises:
        OSError: it cannot be made.
        StorageError: a directory cannot be made or reached.
    """

    def __init__(self, key: PhysicalKey, size: int, directories: Directories, may_stay_open: threading.Semaphore) -> None:
        self._key = key
        self._path, _, self._name = key.key.rpartition("/")
        self._directories = directories
        self._may_stay_open = may_stay_open
        self._temporary = temporary_name()
        try:
            file = self._create()
        except FileNotFoundError:  # A directory that was kept open has been deleted.
            directories.forget()
            file = self._create()
        self._file: Descriptor | None = file
        status = os.fstat(file.number)
        self._identity = status.st_dev, status.st_ino, status.st_uid
        self._stays_open, self._counts = True, False
        if size > CHUNK:
            self._stays_open = self._counts = may_stay_open.acquire(blocking=False)
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(self.abort)
                os.truncate(file.number, size)  # A file that the disk cannot hold is refused before its bytes come.
                on_failure.pop_all()

    def _create(self) -> Descriptor:
        try:
            directory = self._directories.open(self._path, make=True)
        except NotADirectoryError as error:
            raise StorageError("a file, or a link, is in the way of a directory", str(self._key)) from error
        return Descriptor(os.open(self._temporary, _NEW, 0o666, dir_fd=directory.number))

    def write(self, start: int, chunks: Iterable[bytes]) -> None:
        """Write bytes from an offset on."""
        with translated(self._key):
            file = self._opened()
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    written = os.pwrite(file.number, rest, start)
                    start, rest = start + written, rest[written:]
            if not self._stays_open:
                self._file = None
                _flush(file)

    def _opened(self) -> Descriptor:
        if file := self._file:
            return file
        directory = self._directories.open(self._path)
        file = Descriptor(os.open(self._temporary, _AGAIN, dir_fd=directory.number))
        self._check(os.fstat(file.number))
        return file

    def _check(self, status: os.stat_result) -> None:
        """Check that the temporary name still is that of the file that was made."""
        if (status.st_dev, status.st_ino, status.st_uid) != self._identity or status.st_nlink > 1:
            raise StorageError("another program replaced the file while it was written", str(self._key))

    def complete(self) -> None:
        """Give the file its name.

        Raises:
            PreconditionError: at once there is another file under its name.
        """
        with translated(self._key):
            if file := self._file:
                _flush(file)
            directory = self._directories.open(self._path)
            with contextlib.suppress(FileNotFoundError):  # An earlier attempt gave it its name.
                self._check(os.stat(self._temporary, dir_fd=directory.number, follow_symlinks=False))
                os.rename(self._temporary, self._name, src_dir_fd=directory.number, dst_dir_fd=directory.number)
            there = os.stat(self._key.key, follow_symlinks=False)  # noqa: PTH116  (by its path, as its users will)
        if (there.st_dev, there.st_ino, there.st_uid) != self._identity:
            raise PreconditionError("another program replaced the file, or its directory, at once", str(self._key))
        self._close()

    def abort(self) -> None:
        """Remove the temporary file."""
        self._close()
        with translated(self._key), contextlib.suppress(FileNotFoundError):
            directory = self._directories.open(self._path)
            os.unlink(self._temporary, dir_fd=directory.number)

    def _close(self) -> None:
        self._file = None  # It is closed when no thread writes to it any more.
        if self._counts:
            self._counts = False
            self._may_stay_open.release()


def _flush(file: Descriptor) -> None:
    """Let a file system that sends bytes when a file is closed, such as NFS, do so now, and raise its errors."""
    os.close(os.dup(file.number))
