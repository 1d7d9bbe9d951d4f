"""Directories by descriptor, reached without a link: no swap between a check and a use leads elsewhere (ADR 0025).

A path names the file that is there when it is used. A descriptor names the directory that was opened. So a directory that
others may write to is entered one name at a time, each relative to the descriptor of the directory above and never through a
link, and its files are listed, checked, made and renamed relative to that descriptor.
"""

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from airflow_quilt.core.errors import SourceChangedError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.limits import most_descriptors
from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.storage.disk import translated

Kind = Literal["file", "directory", "link", "other"]
"""The kind of an item itself, not of the target of a link; ``"other"`` is a pipe, a socket or a device."""

# O_PATH: to pass through a directory takes no right to list it.
_REACH: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT: Final = 32
"""The most directories that are kept open."""
_SHARE: Final = 16
"""And at most one of so many descriptors of the process, which may have only 256 or fewer."""


class Descriptor:
    """An open file or directory. It is closed when nothing refers to it any more: a thread that still uses it keeps it."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class Item(NamedTuple):
    """An item of a directory."""

    name: str
    kind: Kind


class Directories:
    """Directories that are entered without following a link; those used last stay open. Safe to use from several threads.

    Paths are absolute, their links resolved, without a ``/`` at the end: a link on the way is an error, as it came later.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: str, *, make: bool = False) -> Descriptor:
        """Open a directory, to use names relative to it.

        Args:
            path: the directory.
            make: make it, and those above it, where they are absent.

        Raises:
            FileNotFoundError: it is absent.
            NotADirectoryError: a link, or something else that is no directory, is on the way.
        """
        with self._lock:
            if kept := self._kept.get(path):
                self._kept.move_to_end(path)
                return kept
        at, way, found = self._nearest(path)
        for name in way:
            found, at = _enter(found, name, make=make), f"{at}/{name}"
            self._keep(at, found)
        return found

    def forget(self) -> None:
        """Close the directories that are not in use."""
        with self._lock:
            self._kept.clear()

    def status(self, path: str) -> os.stat_result:
        """Return the status of an item, of a link itself. Raises as :meth:`open`."""
        above, _, name = path.rpartition("/")
        directory = self.open(above)  # A name for it, so that it stays open meanwhile.
        return os.stat(name or ".", dir_fd=directory.number, follow_symlinks=False)

    def items(self, path: str) -> list[Item]:
        """List a directory, last name first; one that is not there is empty.

        Raises:
            SourceChangedError: it is no directory any more, or is reached through a link now.
            StorageError: it cannot be read.
        """
        key = PhysicalKey(None, path)
        with translated(key):
            try:
                directory = self.open(path)
                listed = Descriptor(os.open(".", _LIST, dir_fd=directory.number))
            except FileNotFoundError:
                return []
            except NotADirectoryError as error:
                raise SourceChangedError(
                    f"{key}: a link or a file took the place of this directory, or of one above it, while it was read; "
                    "nothing behind it is read"
                ) from error
            with os.scandir(listed.number) as found:
                return sorted((Item(item.name, _kind(item)) for item in found), reverse=True)

    def walk(self, path: str) -> Iterator[str]:
        """Yield the paths of all items below a directory that are no directories, relative to it, but not of links to nowhere.

        Raises as :meth:`items`, but a link in the place of a directory is an item like others.
        """
        pending = [(item, "") for item in self.items(path)]
        while pending:
            check_stop()
            item, above = pending.pop()
            relative = f"{above}{item.name}"
            if item.kind != "directory":
                if item.kind != "link" or self._leads_somewhere(f"{path}/{relative}"):
                    yield relative
                continue
            try:
                below = self.items(f"{path}/{relative}")
            except SourceChangedError:
                yield relative
            else:
                pending += [(each, f"{relative}/") for each in below]

    def _leads_somewhere(self, link: str) -> bool:
        above, _, name = link.rpartition("/")
        try:
            directory = self.open(above)
            os.stat(name, dir_fd=directory.number)
        except OSError as error:
            return error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
        return True

    def _nearest(self, path: str) -> tuple[str, list[str], Descriptor]:
        """Return the nearest directory that is open, or the root of the disk, and the names from there; and its descriptor."""
        way: list[str] = []
        with self._lock:
            while path and path not in self._kept:
                path, _, name = path.rpartition("/")
                way.append(name)
            if path:
                self._kept.move_to_end(path)
                return path, way[::-1], self._kept[path]
        return "", way[::-1], Descriptor(os.open("/", _REACH))

    def _keep(self, path: str, directory: Descriptor) -> None:
        most = min(_KEPT, most_descriptors() // _SHARE)
        with self._lock:
            self._kept[path] = directory
            self._kept.move_to_end(path)
            while len(self._kept) > most:
                self._kept.popitem(last=False)


def _enter(above: Descriptor, name: str, *, make: bool) -> Descriptor:
    try:
        return Descriptor(os.open(name, _REACH, dir_fd=above.number))
    except FileNotFoundError:
        if not make:
            raise
    except OSError as error:
        if error.errno == errno.ELOOP:  # On Linux a link is no directory.
            raise NotADirectoryError(errno.ENOTDIR, error.strerror, name) from error
        raise
    with contextlib.suppress(FileExistsError):  # Another thread was faster.
        os.mkdir(name, dir_fd=above.number)
    return _enter(above, name, make=False)


def _kind(item: "os.DirEntry[str]") -> Kind:
    if item.is_file(follow_symlinks=False):
        return "file"
    if item.is_dir(follow_symlinks=False):
        return "directory"
    return "link" if item.is_symlink() else "other"
