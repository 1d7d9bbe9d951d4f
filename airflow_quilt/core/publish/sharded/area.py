"""Staging areas: where the workers of one push leave objects for each other, and how these are deleted (ADR 0023).

Others may write to the bucket or directory too. Whatever they put there, links included, nothing outside of an area is written
or deleted.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from airflow_quilt.core.errors import LocationError, StorageError, quoted
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.ordering import batched
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.attempt import Attempt, WriterTag
from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.storage.descriptors import Descriptor, Directories
from airflow_quilt.core.storage.disk import make, translated
from airflow_quilt.core.storage.local import temporary_file
from airflow_quilt.core.storage.stores import Stores

_NAME: Final = re.compile(r"([0-9]{1,10})-[0-9a-f]{32}")
_MOST_SWEPT: Final = 100_000
"""The most objects that one plan deletes in old areas, so that another one's litter cannot keep it from its work."""
_MOST_AREAS: Final = 10_000
"""The most areas among which a plan searches for old ones; a bucket lists the oldest first."""


def staging_of(root: PhysicalKey, attempt: Attempt, began: float) -> PhysicalKey:
    """Return the staging area of a push: always the same one for all attempts of one piece of work.

    Args:
        root: a directory, or a prefix in a bucket.
        attempt: identifies the work by its key.
        began: the unix seconds at which the work, not this attempt, began.
    """
    return root.join(f"{int(began)}-{WriterTag.of(attempt).work}/")


def check_staging(staging: PhysicalKey) -> None:
    """Check that a location is one that :func:`staging_of` returns, so that nothing else is ever deleted.

    Raises:
        LocationError: it is not, or it is in a registry's own area.
    """
    if not staging.is_prefix or not _NAME.fullmatch(staging.name) or staging.version_id is not None:
        raise LocationError(f"{staging}: expected <root>/<unix seconds>-<hash>/, as staging_of returns")
    if f"/{layout.OWN}" in f"/{staging.key}":
        raise LocationError(f"{staging}: nothing may be staged in the registry's own area, {layout.OWN}; choose another prefix")


class Area:
    """One staging area.

    Args:
        stores: the storages.
        root: its location, as :func:`staging_of` returns it.

    Raises:
        LocationError: it is none.
    """

    def __init__(self, stores: Stores, root: PhysicalKey) -> None:
        check_staging(root)
        self._storage = stores.of(root)
        self.root = root

    def write(self, kind: str, name: str, body: IO[bytes]) -> PhysicalKey:
        """Write an object, all at once; return its location. ``kind`` is the directory in the area that it lies in."""
        key = self.root.join(f"{kind}/{name}")
        if key.is_local:
            _write_file(self.root, kind, name, body)
        else:
            self._storage.put(key, body)
        return key

    def stream(self, kind: str, name: str, size: int) -> Iterator[bytes]:
        """Read the first bytes of an object, ``size`` of them at most, in chunks."""
        left = size
        for chunk in self._storage.stream(self.root.join(f"{kind}/{name}"), 0, size):
            check_stop()
            yield chunk[:left]
            if (left := left - len(chunk)) <= 0:
                return

    def discard(self, first: str = "", most: int | None = None) -> int:
        """Delete all of it; return the number of objects.

        Args:
            first: the kind of objects to begin with.
            most: the most objects to delete; None for all.
        """
        if self.root.is_local:
            return _remove_tree(self.root)
        deleted = 0
        for prefix in (self.root.join(first), self.root) if first else (self.root,):
            keys = (info.key for info in self._storage.list_objects(prefix))
            for batch in batched(itertools.islice(keys, None if most is None else most - deleted)):
                check_stop()
                self._storage.delete(batch)
                deleted += len(batch)
        return deleted


def sweep(stores: Stores, root: PhysicalKey, before: float) -> int:
    """Delete the areas below a root whose work began before a time, by their names; return the number of objects."""
    below = root.join("")
    # The names alone: the areas of live work may hold many shards.
    names = itertools.islice(stores.of(below).list_names(below), _MOST_AREAS)
    found = [(_NAME.fullmatch(name.removesuffix("/")), name) for name in names if name.endswith("/")]
    deleted = 0
    for match, name in found:
        if match and int(match[1]) < before and deleted < _MOST_SWEPT:
            deleted += Area(stores, below.join(name)).discard(most=_MOST_SWEPT - deleted)
    return deleted


def _write_file(root: PhysicalKey, kind: str, name: str, body: IO[bytes]) -> None:
    with translated(root):
        directory = _entered(root, kind)
        with temporary_file(directory.number, body) as (temporary, _):
            os.replace(temporary, name, src_dir_fd=directory.number, dst_dir_fd=directory.number)


def _entered(root: PhysicalKey, kind: str) -> Descriptor:
    """Open a directory of an area, and make those that are absent.

    Raises:
        StorageError: a link is in its place, wherever that leads.
    """
    area = Path(root.key)
    make(root, area.parent)
    try:
        return Directories().open(str(area.parent.resolve() / area.name / kind), make=True)
    except NotADirectoryError as error:
        raise StorageError(
            f"a file or link {quoted(error.filename)} is in the way of what is staged; remove it", str(root)
        ) from error


def _remove_tree(root: PhysicalKey) -> int:
    """Remove an area; return the number of files. Links are removed, and never followed."""
    area, removed = Path(root.key), 0
    with translated(root), contextlib.ExitStack() as opened, contextlib.suppress(FileNotFoundError):
        above = os.open(area.parent, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, above)
        try:
            for _, directories, files, directory in os.fwalk(area.name, topdown=False, dir_fd=above):
                check_stop()
                for name in (*files, *directories):
                    _remove(name, directory)
                removed += len(files)
        except RecursionError as error:
            raise StorageError("directories in it are nested too deeply to delete it; remove it by hand", str(root)) from error
        _remove(area.name, above)
    return removed


def _remove(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=directory)
        except (IsADirectoryError, PermissionError):  # As Linux and POSIX answer for directories.
            os.rmdir(name, dir_fd=directory)
