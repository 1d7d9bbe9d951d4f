"""Walks a local directory that is packed: its files, its links by one rule, and a count of all that is left out."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from airflow_quilt.core.errors import ObjectNotFoundError, SourceError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.progress import count
from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.storage.base import FileStore, ObjectInfo
from airflow_quilt.core.storage.disk import is_temporary, list_directory
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
        storage: the local files.
        root: the directory, its path resolved.
        ignored: whether a path is left out; that of a directory has a ``/`` at its end.
        follow: follow links to directories, and links that lead out.
    """

    def __init__(self, storage: FileStore, root: PhysicalKey, ignored: Callable[[str], bool], *, follow: bool) -> None:
        self._storage = storage
        self._root = root
        self._ignored = ignored
        self._follow = follow
        self._links = LeftOut("link to a directory", "links to directories")
        self._special = LeftOut("pipe, socket or device", "pipes, sockets and devices")
        self._leftovers = LeftOut("leftover of a killed installation", "leftovers of killed installations")

    def files(self) -> Iterator[tuple[str, ObjectInfo]]:
        """Yield the path of each file below the directory, and the file, which is another one for a link.

        Raises:
            SourceError: a link cannot be packed; the message names it and the cure.
            StorageError: a directory or file cannot be read.
        """
        # Beside each item, the directories of the links on the way to it. Without recursion, whose depth is limited.
        pending: list[tuple[os.DirEntry[str], tuple[str, ...]]] = [(item, ()) for item in list_directory(self._root.key)]
        while pending:
            check_stop()
            item, links = pending.pop()
            if item.is_dir(follow_symlinks=False):
                pending += [(below, links) for below in list_directory(item.path)]
            elif self._ignored(item.path):
                continue
            else:
                key = self._target(item) if item.is_symlink() else PhysicalKey(None, item.path)
                if item.is_dir():
                    pending += [(below, way) for way in self._entered(item, key, links) for below in list_directory(item.path)]
                elif info := self._file(item, resolve_path(key.key) if links else key):
                    yield self._name(item), info
        for left_out in (self._links, self._special, self._leftovers):
            left_out.warn(self._root)

    def _target(self, link: os.DirEntry[str]) -> PhysicalKey:
        target, key = resolve_path(link.path), PhysicalKey(None, link.path)
        if not os.path.exists(link.path):  # noqa: PTH110  (a Path raises where links make a circle)
            raise SourceError(
                f"{key}: this link leads nowhere: {target.key} is not there, or out of reach; put it there, {_CURE}"
            )
        if not self._follow and not f"{target.key}/".startswith(self._root.key):
            raise SourceError(
                f"{key}: this link leads out of {self._root}, to {target.key}; copy the file, give follow_symlinks=True, {_CURE}"
            )
        return target

    def _entered(self, link: os.DirEntry[str], target: PhysicalKey, links: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Return the directories of the links on the way, if a link to a directory is followed; else nothing."""
        if self._ignored(f"{link.path}/"):
            return []
        if not self._follow:
            self._links.add(self._name(link))
            return []
        way = (*links, resolve_path(link.path.rpartition("/")[0]).key)
        if any(f"{directory}/".startswith(f"{target.key.rstrip('/')}/") for directory in way):
            raise SourceError(
                f"{PhysicalKey(None, link.path)}: this link leads back to {target.key}, in a circle; remove it, {_CURE}"
            )
        return [way]

    def _file(self, item: os.DirEntry[str], key: PhysicalKey) -> ObjectInfo | None:
        if is_temporary(item.name):
            self._leftovers.add(self._name(item))
        elif not item.is_file():
            self._special.add(self._name(item))
        else:
            try:
                return self._storage.stat(key)
            except ObjectNotFoundError:  # Deleted since it was listed.
                return None
        return None

    def _name(self, item: os.DirEntry[str]) -> str:
        return item.path.removeprefix(self._root.key)
