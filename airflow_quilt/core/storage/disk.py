"""Directories of a disk: walks, making, locks, and errors of the operating system."""

import contextlib
import errno
import fcntl
import itertools
import os
import random
import re
import stat as modes
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from airflow_quilt.core.errors import AccessDeniedError, DiskError, ObjectNotFoundError, StorageError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.stop import check_stop, sleep
from airflow_quilt.core.storage.objects import ObjectInfo

_MOST_ATTEMPTS: Final = 100
_LOCK_POLL_INTERVAL: Final = (0.001, 0.01)
"""Seconds between two attempts to take a lock, at least and at most; random, so that waiters do not keep step. To wait for it
in the system would be to be deaf to a stop."""
_PERMANENT: Final = frozenset({errno.ENAMETOOLONG, errno.EFBIG, errno.EINVAL, errno.ELOOP, errno.EROFS})
_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_TEMPORARY: Final = re.compile(r"\.[0-9a-f]{32}\.tmp")
"""The names of files that are being written."""


@contextlib.contextmanager
def translated(key: PhysicalKey) -> Iterator[None]:
    """Raise the core's errors for those of the operating system."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectNotFoundError("there is no such file", str(key)) from error
    except IsADirectoryError as error:
        raise ObjectNotFoundError("it is a directory, not a file", str(key)) from error
    except PermissionError as error:
        raise AccessDeniedError(f"let the user with the id {os.getuid()} do that; it may not", str(key)) from error
    except OverflowError as error:
        raise StorageError("no file can be that large", str(key)) from error
    except OSError as error:
        kind = StorageError if error.errno in _PERMANENT else DiskError
        raise kind(error.strerror or str(error), str(key)) from error


def walk(directory: str) -> Iterator[os.DirEntry[str]]:
    """Yield the items below a directory that are no directories, in order; without recursion, as its depth is limited."""
    pending = list_directory(directory)
    while pending:
        check_stop()
        item = pending.pop()
        if item.is_dir(follow_symlinks=False):
            pending += list_directory(item.path)
        else:
            yield item


def is_object(item: os.DirEntry[str]) -> bool:
    """Return whether an item that is no directory is a file that was written whole, or a link to one."""
    return item.is_file() and not is_temporary(item.name)


def is_temporary(name: str) -> bool:
    """Return whether a file has a name that a write or an install gives a file until it is whole."""
    return bool(_TEMPORARY.fullmatch(name))


def holds_object(directory: str) -> bool:
    """Return whether there is such a file in a directory, or below it; ends at the first one."""
    pending = [directory]
    while pending:
        with translated(PhysicalKey(None, directory)), contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as items:
            for item in items:
                if item.is_dir(follow_symlinks=False):
                    pending.append(item.path)
                elif is_object(item):
                    return True
    return False


def list_directory(directory: str) -> list[os.DirEntry[str]]:
    """List a directory, last name first; one that is not there is empty."""
    with translated(PhysicalKey(None, directory)), contextlib.suppress(FileNotFoundError):
        return sorted(os.scandir(directory), key=lambda item: item.name, reverse=True)
    return []


def remove_empty(directory: Path) -> bool:
    """Remove a directory, and those in it, with the temporary files of dead writers; return False where there is a file."""
    found = [directory]
    for each in found:  # It grows meanwhile.
        found += (Path(item.path) for item in list_directory(str(each)) if item.is_dir(follow_symlinks=False))
    return all(_remove_empty(each) for each in reversed(found))


def _remove_empty(directory: Path) -> bool:
    try:
        # Writers hold this lock from before their temporary file is there until it has its name.
        with locked(directory):
            for item in list_directory(str(directory)):
                if is_temporary(item.name):
                    Path(item.path).unlink()
            directory.rmdir()
    except FileNotFoundError:  # Another process was faster.
        return True
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise
        return False
    return True


def make(key: PhysicalKey, directory: Path) -> list[Path]:
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


def temporary_name() -> str:
    """Return a new name for a file that is being written."""
    return f".{uuid.uuid4().hex}.tmp"  # As in _TEMPORARY.


def info_of(key: PhysicalKey, status: os.stat_result) -> ObjectInfo:
    """Return the metadata of a file; its ETag is that of the file itself, by any path.

    Raises:
        ObjectNotFoundError: it is a directory, a link, a pipe, a socket or a device.
    """
    check_regular(key, status)
    return ObjectInfo(key, status.st_size, etag_of(status), written=str(status.st_ctime_ns))


def check_regular(key: PhysicalKey, status: os.stat_result) -> None:
    """Check that an item is a file.

    Raises:
        ObjectNotFoundError: it is a directory, a link, a pipe, a socket or a device.
    """
    if not modes.S_ISREG(status.st_mode):
        raise ObjectNotFoundError("it is not a file", str(key))


def etag_of(status: os.stat_result) -> str:
    """Return the ETag of a file: without the device, whose number differs between the machines of a network disk."""
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[int]:
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
def made_and_locked(key: PhysicalKey, directory: Path) -> Iterator[int]:
    """Make a directory, and hold its lock; again, when it is deleted in between."""
    with contextlib.ExitStack() as held:
        for _ in range(_MOST_ATTEMPTS):
            try:
                for made in make(key, directory):  # Their names shall survive a crash too.
                    _sync(made.parent)
                descriptor = held.enter_context(locked(directory))
            except (FileNotFoundError, FileExistsError):  # mkdir raises the second one when it checks again too late.
                continue
            break
        else:
            raise OSError(errno.EBUSY, f"{directory} cannot be made, or is deleted by others as often as it is")
        yield descriptor
