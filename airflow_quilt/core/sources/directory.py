"""Walks a local directory that is packed: its files, its links by one rule, and a count of all that is left out."""

import logging
import os
import stat as modes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from airflow_quilt.core.errors import SourceChangedError, SourceError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.progress import count
from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.storage.descriptors import Directories, Kind
from airflow_quilt.core.storage.disk import info_of, is_temporary, translated
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.paths import resolve_path

_log = logging.getLogger(__name__)

_SHOWN: Final = 10
"""The most names that a warning lists."""
_CURE: Final = "or leave the link out by a rule in .quiltignore"


@dataclass(slots=True)
class LeftOut:
    """A count of items of one kind that are left out, with the names of the first few."""

    one: str
    many: str
    _names: list[str] = field(default_factory=list)
    _number: int = 0

    def add(self, name: str) -> None:
        """Count an item."""
        self._number += 1
        if len(self._names) < _SHOWN:
            self._names.append(repr(name))

    def warn(self, where: PhysicalKey) -> None:
        """Log the count and the names, if there are any."""
        if self._number:
            more = ", …" if self._number > len(self._names) else ""
            _log.warning("%s: left out %s: %s%s", where, count(self._number, self.one, self.many), ", ".join(self._names), more)


class DirectoryWalk:
    """A walk of one directory that is packed.

    A rule of ``.quiltignore`` leaves out any item; otherwise:

    ============================  ======================================================  ===============================
    item                          by default                                              with ``follow``
    ============================  ======================================================  ===============================
    file, link to a file inside   packed                                                  packed
    link to a directory inside    left out and counted: its files have names of their own  packed, below the link's name
    link that leads out           an error                                                as one that leads inside
    link in a circle              left out and counted                                    an error
    link that leads nowhere       an error                                                an error
    pipe, socket, device          left out and counted                                    left out and counted
    ============================  ======================================================  ===============================

    Args:
        root: the directory, its path resolved.
        ignored: whether a path is left out; that of a directory has a ``/`` at its end.
        follow: follow links to directories, and links that lead out.
    """

    def __init__(self, root: PhysicalKey, ignored: Callable[[str], bool], *, follow: bool) -> None:
        self._root = root
        self._ignored = ignored
        self._follow = follow
        self._directories = Directories()
        self._links = LeftOut("link to a directory", "links to directories")
        self._special = LeftOut("pipe, socket or device", "pipes, sockets and devices")
        self._leftovers = LeftOut("leftover of a killed installation", "leftovers of killed installations")

    def files(self) -> Iterator[tuple[str, ObjectInfo]]:
        """Yield the path of each file below the directory, and the file, which is another one for a link.

        Raises:
            SourceError: a link cannot be packed; the message names it and the cure.
            SourceChangedError: a directory or file became something else since it was listed, such as a link.
            StorageError: a directory or file cannot be read.
        """
        # Without recursion, whose depth is limited.
        pending = list(self._below(self._root.key, self._root.key.rstrip("/"), ()))
        while pending:
            check_stop()
            item = pending.pop()
            if item.kind == "directory":
                pending += self._below(f"{item.path}/", item.real, item.links)
            elif not self._ignored(item.path):
                key = self._target(item) if item.kind == "link" else PhysicalKey(None, item.real)
                status = self._status(item, key)
                if status and modes.S_ISDIR(status.st_mode):
                    pending += (below for way in self._entered(item, key) for below in self._below(f"{item.path}/", key.key, way))
                elif status and (info := self._file(item, key, status)):
                    yield self._name(item), info
        for left_out in (self._links, self._special, self._leftovers):
            left_out.warn(self._root)

    def _below(self, path: str, real: str, links: tuple[str, ...]) -> Iterator["_Item"]:
        for name, kind in self._directories.items(real):
            yield _Item(f"{path}{name}", f"{real}/{name}", kind, links)

    def _target(self, link: "_Item") -> PhysicalKey:
        target = resolve_path(link.real)
        if not self._follow and not f"{target.key}/".startswith(self._root.key):
            self._status(link, target)  # A link that leads nowhere is named as one.
            raise SourceError(
                f"{PhysicalKey(None, link.path)}: this link leads out of {self._root}, to {target.key}; copy the file, give "
                f"follow_symlinks=True, {_CURE}"
            )
        return target

    def _status(self, item: "_Item", key: PhysicalKey) -> os.stat_result | None:
        """Return the status of a file, or of the target of a link; None for a file that was deleted since it was listed.

        No link leads to either any more: a path with resolved links was checked, and another way to it is an error.
        """
        with translated(key):
            try:
                status = self._directories.status(key.key)
            except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
                if item.kind == "link":
                    raise _leads_nowhere(item, key) from error
                if isinstance(error, FileNotFoundError):
                    return None
                if isinstance(error, NotADirectoryError):
                    raise _changed(key) from error
                raise
        if modes.S_ISLNK(status.st_mode):
            raise _leads_nowhere(item, key) if item.kind == "link" else _changed(key)
        if item.kind == "file" and not modes.S_ISREG(status.st_mode):
            raise _changed(key)
        return status

    def _entered(self, link: "_Item", target: PhysicalKey) -> list[tuple[str, ...]]:
        """Return the directories of the links on the way, if a link to a directory is followed; else nothing."""
        if self._ignored(f"{link.path}/"):
            return []
        if not self._follow:
            self._links.add(self._name(link))
            return []
        way = (*link.links, link.real.rpartition("/")[0])
        if any(f"{directory}/".startswith(f"{target.key.rstrip('/')}/") for directory in way):
            raise SourceError(
                f"{PhysicalKey(None, link.path)}: this link leads back to {target.key}, in a circle; remove it, {_CURE}"
            )
        return [way]

    def _file(self, item: "_Item", key: PhysicalKey, status: os.stat_result) -> ObjectInfo | None:
        if is_temporary(item.path.rpartition("/")[2]):
            self._leftovers.add(self._name(item))
        elif not modes.S_ISREG(status.st_mode):
            self._special.add(self._name(item))
        else:
            return info_of(key, status)
        return None

    def _name(self, item: "_Item") -> str:
        return item.path.removeprefix(self._root.key)


class _Item(NamedTuple):
    """An item that was listed.

    Attributes:
        path: its path by way of the root, which may lead through links that are followed.
        real: the same item, all links in its directory resolved.
        kind: of the item itself.
        links: the real directories of the links on the way.
    """

    path: str
    real: str
    kind: Kind
    links: tuple[str, ...]


def _leads_nowhere(link: _Item, target: PhysicalKey) -> SourceError:
    key = PhysicalKey(None, link.path)
    return SourceError(f"{key}: this link leads nowhere: {target.key} is not there, or out of reach; put it there, {_CURE}")


def _changed(key: PhysicalKey) -> SourceChangedError:
    return SourceChangedError(f"{key}: this file, or a directory above it, became something else since it was listed")
