"""Finds the files behind what a user wrote for ``entries``: lists directories and prefixes, looks at files and objects."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from airflow_quilt.core.errors import EmptyPackageError, LogicalKeyError, ObjectNotFoundError, SourceError
from airflow_quilt.core.format.hashes import CHUNKED
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.manifest_reader import Manifest
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey, parse_logical_key
from airflow_quilt.core.format.uris import PhysicalKey, QuiltUri
from airflow_quilt.core.plan.actions import Source, out_of_reach
from airflow_quilt.core.plan.tree import SourceTree
from airflow_quilt.core.runtime.executor import map_concurrently
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.sources.ignore import ignore_rules
from airflow_quilt.core.sources.parse import Content, DirectoryMeta, Located, Request
from airflow_quilt.core.storage.base import ObjectInfo, Stores
from airflow_quilt.core.storage.paths import resolve_path

ReadPackage = Callable[[QuiltUri], Manifest]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindOptions:
    """How sources are found.

    Attributes:
        allow_empty: let a directory, a prefix or a package hold no file.
        follow_symlinks: pack files behind links that lead out of the directory that is packed.
        unversioned: name objects without their versions.
        hash_type: the type of hash that new entries get.
    """

    allow_empty: bool = False
    follow_symlinks: bool = False
    unversioned: bool = False
    hash_type: str = CHUNKED


class SourceFinder:
    """Turns requests into sources.

    Args:
        stores: where to look.
        read_package: reads a package that a source names.
        options: how to look.
    """

    def __init__(self, stores: Stores, read_package: ReadPackage, options: FindOptions | None = None) -> None:
        self._stores = stores
        self._read_package = read_package
        self._options = options or FindOptions()

    def find(self, requests: Iterable[Request], found: Spool[Source]) -> Mapping[DirectoryKey, Any]:
        """Put the sources of a package into ``found``; return the metadata of its directories.

        Whether they are a tree is for whoever reads them to find out (:func:`airflow_quilt.core.format.ordering.checked`).

        Raises:
            SourceError: a file is not there, or is a directory, or may not be packed; the message names its key.
            EmptyPackageError: a source holds no file.
            LogicalKeyError: something is no key, or metadata of a directory is given twice.
            StorageError: a store refused or failed.
        """
        directories: dict[DirectoryKey, Any] = {}
        for more in map_concurrently(partial(self._find, found), requests, self._stores.limits.max_concurrency):
            if twice := directories.keys() & more.keys():
                raise LogicalKeyError(f"logical key {min(twice)!r}: metadata of this directory is given twice")
            directories |= more
        return directories

    def stream(self, request: Request) -> SourceTree | None:
        """Return the sources of a whole package that is alone what makes up another one, as a stream that can be read once.

        None for whatever else is asked for, which has to be put in order. Raises as :meth:`find`, the stream too.
        """
        match request:
            case Located(key="", location=QuiltUri(path=None) as location):
                tree = self._find_in_package(request, location)
                return SourceTree(self._some(request, tree.sources), tree.directories, is_checked=True)
        return None

    def _find(self, found: Spool[Source], request: Request) -> Mapping[DirectoryKey, Any]:
        match request:
            case Content():
                tree = SourceTree([self._content(request)])
            case DirectoryMeta():
                return {request.key: request.meta}
            case Located(location=QuiltUri() as location):
                tree = self._find_in_package(request, location)
            case Located(location=PhysicalKey() as location):
                tree = self._find_at(request, location)
        found.extend(self._some(request, tree.sources))
        return tree.directories

    def _some(self, request: Located | Content, sources: Iterable[Source]) -> Iterator[Source]:
        """Pass on sources, of which there must be some."""
        none = True
        for source in sources:
            none = False
            yield source
        if none and isinstance(request, Located) and not self._options.allow_empty:
            raise EmptyPackageError(
                f"entry {request.key!r}: there is no file below {request.location}; "
                "give allow_empty=True if that is as it should be"
            )

    def _content(self, request: Content) -> Source:
        return Source(
            logical_key=request.key,
            origin=request.data,
            size=len(request.data),
            meta=request.meta,
            hash_type=self._options.hash_type,
        )

    def _find_at(self, request: Located, location: PhysicalKey) -> SourceTree:
        if not location.is_prefix and (stat := self._stat_file(request, location)):
            return SourceTree([self._file(request, stat)])
        if location.version_id is not None:
            raise SourceError(f"entry {request.key!r}: {location} is a prefix, and only an object has versions")
        if location.is_local and not self._is_directory(location):
            raise SourceError(f"entry {request.key!r}: there is no directory at {location}")
        directories = _directory_meta(request, location)
        return SourceTree(self._below(request.key, location), directories)

    def _stat_file(self, request: Located, location: PhysicalKey) -> ObjectInfo | None:
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
        return location.version_id is None and any(True for _ in self._stores.remote.list_objects(location.join("")))

    def _file(self, request: Located, stat: ObjectInfo) -> Source:
        key = request.key if request.is_for_file else request.key + request.name
        pinned = isinstance(request.location, PhysicalKey) and request.location.version_id is not None
        return replace(self._source(parse_logical_key(key), stat, pinned=pinned), meta=request.meta)

    def _source(self, key: LogicalKey, stat: ObjectInfo, *, pinned: bool = False) -> Source:
        hash_type = self._options.hash_type
        source = Source(
            logical_key=key,
            origin=stat.key,
            size=stat.size,
            etag=stat.etag or None,
            hash=stat.proven(hash_type),
            hash_type=hash_type,
        )
        if self._options.unversioned and not pinned:
            return replace(source, origin=stat.key.at_version(None))
        return source

    def _below(self, key: str, location: PhysicalKey) -> Iterator[Source]:
        directory = location if location.is_prefix else location.join("")
        for stat in self._scan(directory):
            if not stat.key.is_prefix:  # S3 consoles make empty objects that stand for directories.
                relative = stat.key.key.removeprefix(directory.key)
                yield self._source(parse_logical_key(key + relative), self._resolved(stat, directory))

    def _scan(self, directory: PhysicalKey) -> Iterator[ObjectInfo]:
        if directory.is_local:
            return self._local_files(directory)
        if self._options.unversioned:
            return self._stores.remote.list_objects(directory)
        return self._stores.remote.list_versions(directory)

    def _local_files(self, directory: PhysicalKey) -> Iterator[ObjectInfo]:
        ignored = ignore_rules(self._stores.local, directory)
        return (stat for stat in self._stores.local.list_objects(directory) if not ignored(stat.key.key))

    def _resolved(self, stat: ObjectInfo, directory: PhysicalKey) -> ObjectInfo:
        """Follow a link to a file, which must not lead out of the directory."""
        if not (stat.key.is_local and Path(stat.key.key).is_symlink()):
            return stat
        target = resolve_path(stat.key.key)
        if not target.key.startswith(directory.key) and not self._options.follow_symlinks:
            raise SourceError(
                f"{stat.key}: this link leads out of {directory}, to {target.key}; "
                "copy the file, leave it out, or give follow_symlinks=True"
            )
        return ObjectInfo(target, stat.size, stat.etag)

    def _find_in_package(self, request: Located, uri: QuiltUri) -> SourceTree:
        path = (uri.path or "").rstrip("/")
        root = f"{path}/" if path else ""
        package = self._read_package(uri).begun()
        entries = package.entries
        if path:
            entries = (entry for entry in entries if entry.logical_key.startswith(root) or entry.logical_key == path)
        first = next(entries, None)
        if first and first.logical_key == path:
            key = parse_logical_key(request.key if request.is_for_file else request.key + path.rpartition("/")[2])
            deque(entries, 0)  # At its end the manifest is checked.
            return SourceTree([self._packed(key, first, uri, {**first.meta, **request.meta})])
        if request.is_for_file:
            raise _is_no_file(request, uri) if first else SourceError(f"entry {request.key!r}: there is no file at {uri}")
        below = {request.key + key.removeprefix(root): meta for key, meta in package.directories.items() if key.startswith(root)}
        directories = {DirectoryKey(key): meta for key, meta in below.items() if key}
        files = itertools.chain([first] if first else (), entries)
        return SourceTree(self._below_in_package(request, uri, root, files), {**directories, **_directory_meta(request, uri)})

    def _below_in_package(self, request: Located, uri: QuiltUri, root: str, entries: Iterable[Entry]) -> Iterator[Source]:
        is_moved = bool(request.key or root)
        for entry in entries:
            key = parse_logical_key(request.key + entry.logical_key.removeprefix(root)) if is_moved else entry.logical_key
            yield self._packed(key, entry, uri, entry.meta)

    def _packed(self, key: LogicalKey, entry: Entry, uri: QuiltUri, meta: Mapping[str, Any]) -> Source:
        source = Source.of_entry(entry, key, meta, self._options.hash_type)
        if source.is_local and not uri.registry.is_local:
            raise out_of_reach(source)
        return source


def _directory_meta(request: Located, location: PhysicalKey | QuiltUri) -> dict[DirectoryKey, Any]:
    """Return the metadata that was given for what turned out to be a directory."""
    if request.is_for_file:
        raise _is_no_file(request, location)
    if request.meta and not request.key:
        raise SourceError(f"entry {request.key!r}: {location} is the whole package; give its metadata as the package's own")
    return {DirectoryKey(request.key): request.meta["user_meta"]} if request.meta else {}


def _is_no_file(request: Located, location: PhysicalKey | QuiltUri) -> SourceError:
    return SourceError(f"entry {request.key!r}: {location} is a directory; end the logical key in '/' to pack what it holds")
