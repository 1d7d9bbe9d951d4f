"""Finds the files behind what a user wrote for ``entries``: lists directories and prefixes, looks at files and objects."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Final

from airflow_quilt.core.checksums import from_s3_sha256
from airflow_quilt.core.entries import Content, Located, Request
from airflow_quilt.core.errors import EmptyPackageError, LocationError, ObjectNotFoundError, SourceError
from airflow_quilt.core.locations import PhysicalKey, QuiltUri
from airflow_quilt.core.manifest import Entry
from airflow_quilt.core.names import LogicalKey, check_tree, parse_logical_key, walk_order
from airflow_quilt.core.plan import Source
from airflow_quilt.core.storage.base import Stat, Stores
from airflow_quilt.core.threads import map_threads

_IGNORE_FILE: Final = ".quiltignore"

ReadPackage = Callable[[QuiltUri], Iterator[Entry]]


class SourceFinder:
    """Turns requests into sources.

    Args:
        stores: where to look.
        read_package: reads the entries of a package that a source names.
        allow_empty: whether a directory, a prefix or a package may hold no file.
    """

    def __init__(self, stores: Stores, read_package: ReadPackage, *, allow_empty: bool = False) -> None:
        self._stores = stores
        self._read_package = read_package
        self._allow_empty = allow_empty

    def find(self, requests: Iterable[Request]) -> list[Source]:
        """Return the sources of a package in walk order.

        Raises:
            SourceError: a file is not there, or is a directory, or may not be packed; the message names its key.
            EmptyPackageError: a source, or the package, holds no file.
            LogicalKeyError: a key is given twice, or is a file and a directory.
            StorageError: a store refused or failed.
        """
        found = [source for sources in map_threads(self._find, requests) for source in sources]
        if not found and not self._allow_empty:
            raise EmptyPackageError("the package has no entries; give allow_empty=True to publish it all the same")
        found.sort(key=lambda source: walk_order(source.logical_key))
        check_tree(source.logical_key for source in found)
        return found

    def _find(self, request: Request) -> list[Source]:
        if isinstance(request, Content):
            return [Source(logical_key=request.key, origin=request.data, size=len(request.data), meta=request.meta)]
        if isinstance(request.location, QuiltUri):
            sources = list(self._find_in_package(request, request.location))
        else:
            sources = self._find_at(request, request.location)
        if not sources and not self._allow_empty:
            raise EmptyPackageError(
                f"entry {request.key!r}: there is no file below {request.location}; "
                "give allow_empty=True if that is as it should be"
            )
        return sources

    def _find_at(self, request: Located, location: PhysicalKey) -> list[Source]:
        if not location.is_prefix and (stat := self._stat_file(request, location)):
            return [self._file(request, stat)]
        if location.version_id is not None:
            raise SourceError(f"entry {request.key!r}: {location} is a prefix, and only an object has versions")
        if location.is_local and not self._is_directory(location):
            raise SourceError(f"entry {request.key!r}: there is no directory at {location}")
        if request.is_for_file or request.meta:
            raise _is_no_file(request, location)
        return list(self._below(request.key, location))

    def _stat_file(self, request: Located, location: PhysicalKey) -> Stat | None:
        """Look at a file or object; None where it is a directory or prefix."""
        try:
            return self._stores.of(location).stat(location)
        except ObjectNotFoundError as error:
            if self._is_directory(location):
                return None
            raise SourceError(f"entry {request.key!r}: there is no file at {location}") from error

    def _is_directory(self, location: PhysicalKey) -> bool:
        if location.is_local:
            return Path(location.key).is_dir()
        return location.version_id is None and any(True for _ in self._stores.remote.scan(location.join("")))

    def _file(self, request: Located, stat: Stat) -> Source:
        key = request.key if request.is_for_file else request.key + request.name
        return replace(_source(parse_logical_key(key), stat), meta=request.meta)

    def _below(self, key: str, location: PhysicalKey) -> Iterator[Source]:
        directory = location if location.is_prefix else location.join("")
        stats = self._local_files(directory) if location.is_local else self._stores.remote.scan_current(directory)
        for stat in stats:
            if not stat.key.is_prefix:  # S3 consoles make empty objects that stand for directories.
                relative = stat.key.key.removeprefix(directory.key)
                yield _source(parse_logical_key(key + relative), self._resolved(stat, directory))

    def _local_files(self, directory: PhysicalKey) -> Iterator[Stat]:
        ignored = self._ignore_rules(directory)
        return (stat for stat in self._stores.local.scan(directory) if not ignored(stat.key.key))

    def _ignore_rules(self, directory: PhysicalKey) -> Callable[[str], bool]:
        """Return what tells whether a path is left out by the rules at the root of a directory, as in quilt3."""
        try:
            text = self._stores.local.get(directory.join(_IGNORE_FILE)).data.decode()
        except ObjectNotFoundError:
            return lambda _path: False
        except UnicodeDecodeError as error:
            raise SourceError(f"{directory.join(_IGNORE_FILE)}: not UTF-8 text") from error
        lines = re.split("\r\n|\r|\n", text)  # Not splitlines(): a form feed ends no rule.
        rules = [f"*/{line}" for line in lines if line]
        root = directory.key.rstrip("/")

        @cache
        def is_left_out(folder: str) -> bool:
            return folder != root and (
                any(fnmatch(folder, rule) or fnmatch(f"{folder}/", rule) for rule in rules)
                or is_left_out(folder.rpartition("/")[0])
            )

        return lambda path: any(fnmatch(path, rule) for rule in rules) or is_left_out(path.rpartition("/")[0])

    def _resolved(self, stat: Stat, directory: PhysicalKey) -> Stat:
        """Follow a link to a file, which must not lead out of the directory."""
        if not (stat.key.is_local and Path(stat.key.key).is_symlink()):
            return stat
        target = PhysicalKey.of_path(stat.key.key)
        if not target.key.startswith(directory.key):
            raise SourceError(f"{stat.key}: this link leads out of {directory}, to {target.key}; copy the file or leave it out")
        return Stat(target, stat.size, stat.etag)

    def _find_in_package(self, request: Located, uri: QuiltUri) -> Iterator[Source]:
        path = (uri.path or "").rstrip("/")
        found = False
        for entry in self._read_package(uri):
            if path == entry.logical_key:
                key = request.key if request.is_for_file else request.key + path.rpartition("/")[2]
                meta = request.meta
            elif path and not entry.logical_key.startswith(f"{path}/"):
                continue
            elif request.is_for_file or request.meta:
                raise _is_no_file(request, uri)
            else:
                key, meta = request.key + entry.logical_key.removeprefix(f"{path}/" if path else ""), {}
            found = True
            yield _from_package(parse_logical_key(key), entry, meta)
        if request.is_for_file and not found:
            raise SourceError(f"entry {request.key!r}: there is no file at {uri}")


def _is_no_file(request: Located, location: PhysicalKey | QuiltUri) -> SourceError:
    cure = "end the logical key in '/' to pack what it holds" if request.is_for_file else "metadata is given for files"
    return SourceError(f"entry {request.key!r}: {location} is a directory; {cure}")


def _source(key: LogicalKey, stat: Stat) -> Source:
    digest = from_s3_sha256(stat.sha256, stat.size)
    return Source(logical_key=key, origin=stat.key, size=stat.size, etag=stat.etag or None, hash=digest)


def _from_package(key: LogicalKey, entry: Entry, meta: Mapping[str, Any]) -> Source:
    try:
        origin = PhysicalKey.parse(entry.physical_keys[0])
    except LocationError as error:
        raise SourceError(f"entry {key!r}: the package that it comes from is damaged: {error}") from error
    if origin.is_local:
        raise SourceError(f"entry {key!r}: the package that it comes from names {origin}, a file of some other machine")
    return Source(logical_key=key, origin=origin, size=entry.size, hash=entry.hash, meta={**entry.meta, **meta})
