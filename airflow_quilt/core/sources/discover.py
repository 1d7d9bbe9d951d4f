"""Finds the files behind parsed sources: lists directories and prefixes, sources the state of files and objects."""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from airflow_quilt.core.errors import (
    EmptyPackageError,
    LogicalKeyError,
    ObjectNotFoundError,
    SourceError,
    StorageError,
    named,
    named_stream,
    quoted,
)
from airflow_quilt.core.format.hashes import CHUNKED
from airflow_quilt.core.format.manifest import Entry, EntryBlock
from airflow_quilt.core.format.manifest_reader import Manifest
from airflow_quilt.core.format.metadata import MERGE, lost_keys, merge_meta, name_lost
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey, parse_logical_key
from airflow_quilt.core.format.ordering import Block, records_of
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.plan.actions import Content, KnownBlock, Source, Sources, out_of_reach
from airflow_quilt.core.plan.tree import SourceTree
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.runtime.threads import map_concurrently
from airflow_quilt.core.sources.absent import absent
from airflow_quilt.core.sources.directory import DirectoryWalk, LeftOut
from airflow_quilt.core.sources.ignore import ignore_rules
from airflow_quilt.core.sources.parse import ContentSource, DirectoryMeta, LocationSource, ParsedSource, where_of
from airflow_quilt.core.sources.serializers import serialize
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.stores import Stores

_log = logging.getLogger(__name__)

ReadPackage = Callable[[QuiltUri], Manifest]
KeepContent = Callable[[bytes], bytes | Content]


def in_memory(content: bytes) -> bytes | Content:
    """Keep content as it is."""
    return content


@dataclass(frozen=True, slots=True, kw_only=True)
class FindOptions:
    """Options for finding sources.

    Attributes:
        allow_empty: accept a directory, prefix or package without files.
        follow_symlinks: pack files behind links that lead out of the packed directory, and behind links to directories.
        unversioned: name objects without their versions.
        hash_type: the type of hash of new entries.
        target: the registry that takes the package.
        merges_meta: merge given metadata with that of the file or directory of a package.
    """

    allow_empty: bool = False
    follow_symlinks: bool = False
    unversioned: bool = False
    hash_type: str = CHUNKED
    target: RegistryLocation | None = None
    merges_meta: bool = False


class SourceFinder:
    """Finds the files of parsed sources.

    Args:
        stores: hold the files, directories, objects and prefixes.
        read_package: reads a package that a source names.
        options: allow or refuse special cases.
        keep: takes serialized content, a piece at a time, and returns the origin of its source; by default the bytes.
    """

    def __init__(
        self,
        stores: Stores,
        read_package: ReadPackage,
        options: FindOptions | None = None,
        keep: KeepContent = in_memory,
    ) -> None:
        self._stores = stores
        self._read_package = read_package
        self._options = options or FindOptions()
        self._keep = keep
        self._bucket = self._options.target.root.bucket if self._options.target else None

    def find(self, parsed: Iterable[ParsedSource], found: Spool[Source]) -> Mapping[DirectoryKey, Any]:
        """Put the files of a package into ``found``; return the metadata of its directories.

        Whether the files form a tree is not checked here (:func:`airflow_quilt.core.format.ordering.validate_order`).

        Raises:
            SourceError: a file is missing, is a directory or must not be packed, or content cannot be written; the message names
                its key.
            EmptyPackageError: a source holds no file.
            LogicalKeyError: a file name cannot be a logical key, or metadata of a directory is given twice.
            StorageError: a store refused or failed.
        """
        others: list[LocationSource | DirectoryMeta] = []
        for source in parsed:
            if isinstance(source, ContentSource):
                # On this thread, as lazily loaded content may demand, and before the first request to a store. Workflows and
                # plans need the size of each; the bytes of one at a time are in memory.
                found.extend([self._serialized(source)])
            else:
                others.append(source)
        directories: dict[DirectoryKey, Any] = {}
        for more in map_concurrently(partial(self._find, found), others, self._stores.limits.max_concurrency):
            if twice := directories.keys() & more.keys():
                raise LogicalKeyError(f"logical key {quoted(min(twice))}: metadata of this directory is given twice")
            directories |= more
        return directories

    def stream(self, source: ParsedSource) -> SourceTree | None:
        """Return the files of a whole package that alone make up another one, as a stream that can be read once.

        None for any other source, whose files have to be sorted. Raises as :meth:`find`, the stream too.
        """
        match source:
            case LocationSource(key="", location=QuiltUri(path=None) as uri):
                tree = self._find_in_package(source, uri)
                return replace_fields(tree, sources=self._check_some(source, tree.sources), is_checked=True)
        return None

    def _serialized(self, source: ContentSource) -> Source:
        data = serialize(source.key, source.content)
        origin = data if data is source.content else self._keep(data)
        hash_type = self._options.hash_type
        return Source(logical_key=source.key, origin=origin, size=len(data), meta=source.meta, hash_type=hash_type)

    def _find(self, found: Spool[Source], source: LocationSource | DirectoryMeta) -> Mapping[DirectoryKey, Any]:
        if isinstance(source, DirectoryMeta):
            return {source.key: source.meta}
        match source.location:
            case QuiltUri() as uri:
                tree = self._find_in_package(source, uri)
            case location:
                with named(where_of(source.key), StorageError):
                    tree = self._find_at(source, location)
        found.extend(records_of(self._check_some(source, tree.sources)))
        return tree.directories

    def _check_some(self, source: LocationSource, files: Sources) -> Iterator[Source | Block[Source]]:
        """Pass files on; raise at the end if there was none."""
        is_empty = True
        for file in files:
            is_empty = False
            yield file
        if is_empty and not self._options.allow_empty:
            raise EmptyPackageError(
                f"{where_of(source.key)}: give allow_empty=True if it may be empty; there is no file below "
                f"{quoted(source.given or str(source.location))}"
            )

    def _find_at(self, source: LocationSource, location: PhysicalKey) -> SourceTree:
        if not location.is_prefix and (stat := self._stat_file(source, location)):
            return SourceTree([self._single_file(source, stat)])
        if location.version_id is not None:
            raise SourceError(
                f"{where_of(source.key)}: leave the version of {location} out; it is a prefix, and only an object has versions"
            )
        if location.is_local and not self._is_directory(location):
            raise absent(source, "directory")
        directories = _directory_meta(source, location)
        return SourceTree(self._files_below(source.key, location), directories)

    def _stat_file(self, source: LocationSource, location: PhysicalKey) -> ObjectInfo | None:
        """Return the state of a file or object, or None for a directory or prefix."""
        try:
            return self._stores.of(location).stat(location)
        except ObjectNotFoundError as error:
            if self._is_directory(location):
                return None
            raise absent(source, "file") from error

    def _is_directory(self, location: PhysicalKey) -> bool:
        if location.is_local:
            return Path(location.key).is_dir()
        return location.version_id is None and any(True for _ in self._stores.remote.list_objects(location.join("")))

    def _single_file(self, source: LocationSource, stat: ObjectInfo) -> Source:
        key = source.key if source.is_for_file else source.key + source.name
        pinned = isinstance(source.location, PhysicalKey) and source.location.version_id is not None
        return replace(self._source(parse_logical_key(key), stat, pinned=pinned), meta=source.meta)

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

    def _files_below(self, key: str, location: PhysicalKey) -> Iterator[Source]:
        directory = location if location.is_prefix else location.join("")
        return self._files_in(key, directory) if directory.is_local else self._objects_below(key, directory)

    def _files_in(self, key: str, directory: PhysicalKey) -> Iterator[Source]:
        ignored = ignore_rules(self._stores.local, directory)
        walk = DirectoryWalk(directory, ignored, follow=self._options.follow_symlinks)
        return (self._source(parse_logical_key(key + path), info) for path, info in walk.files())

    def _objects_below(self, key: str, prefix: PhysicalKey) -> Iterator[Source]:
        markers = LeftOut(
            "object whose key ends in '/', and which has bytes", "objects whose keys end in '/', and which have bytes"
        )
        store = self._stores.remote
        for info in store.list_objects(prefix) if self._options.unversioned else store.list_versions(prefix):
            relative = info.key.key.removeprefix(prefix.key)
            if not info.key.is_prefix:
                yield self._source(parse_logical_key(key + relative), info)
            elif info.size:  # S3 consoles make empty ones, which stand for directories.
                markers.add(info.key.key)
        markers.warn(prefix)

    def _find_in_package(self, source: LocationSource, uri: QuiltUri) -> SourceTree:
        path = (uri.path or "").rstrip("/")
        root = f"{path}/" if path else ""
        package = self._read_package(uri).begun()
        if not path and not source.key:
            given = self._given(source, uri, {})
            _directory_meta(replace(source, meta=given), uri)
            sources = named_stream(package.where, self._files_of_package(uri, package.blocks), SourceError)
            return SourceTree(sources, dict(package.directories), header=package.header)
        entries = package.entries
        if path:
            entries = (entry for entry in entries if entry.logical_key.startswith(root) or entry.logical_key == path)
        first = next(entries, None)
        if first and first.logical_key == path:
            key = parse_logical_key(source.key if source.is_for_file else source.key + path.rpartition("/")[2])
            deque(entries, 0)  # The manifest's hash is checked at its end.
            is_object = isinstance(first.meta, dict)  # Or a text, which is all there is.
            given = self._given(source, uri, first.user_meta if is_object else first.meta)
            meta = {**first.meta, **given} if is_object else given or first.meta
            with named(package.where, SourceError):
                return SourceTree([self._from_entry(key, first, uri, meta)])
        if source.is_for_file:
            raise _directory_error(source, uri) if first else absent(source, "file")
        below = {source.key + key.removeprefix(root): meta for key, meta in package.directories.items() if key.startswith(root)}
        directories = {DirectoryKey(key): meta for key, meta in below.items() if key}
        files = itertools.chain([first] if first else (), entries)
        given = self._given(source, uri, directories.get(DirectoryKey(source.key), {}))
        directories.update(_directory_meta(replace(source, meta=given), uri))
        sources = named_stream(package.where, self._files_in_package(source, uri, root, files), SourceError)
        return SourceTree(sources, directories, header=package.header)

    def _given(self, source: LocationSource, uri: QuiltUri, there: Any) -> Mapping[str, Any]:
        """Return the metadata that is given with a file or directory of a package, merged with its own if that is wanted."""
        if "user_meta" not in source.meta:
            return source.meta
        given = source.meta["user_meta"]
        if self._options.merges_meta:
            return {"user_meta": merge_meta(there, given, f"entry {quoted(source.key)}")}
        if lost := lost_keys(there, given):
            message = "entry %r: its meta replaces that of %s, whose keys are gone: %s; %s"
            _log.warning(message, source.key, uri, name_lost(lost), MERGE)
        return source.meta

    def _files_in_package(self, source: LocationSource, uri: QuiltUri, root: str, entries: Iterable[Entry]) -> Iterator[Source]:
        for entry in entries:
            key = parse_logical_key(source.key + entry.logical_key.removeprefix(root))
            yield self._from_entry(key, entry, uri, entry.meta)

    def _files_of_package(self, uri: QuiltUri, blocks: Iterable[EntryBlock]) -> Iterator[Source | Block[Source]]:
        """Yield all files of a package under their own keys; blocks of those that need no decision each."""
        for block in blocks:
            known = KnownBlock.of(block, self._options.hash_type)
            first = block.entries[0]
            if known and not self._from_entry(first.logical_key, first, uri, first.meta).is_claim:  # All are in one bucket.
                yield known
            else:
                yield from (self._from_entry(entry.logical_key, entry, uri, entry.meta) for entry in block.entries)

    def _from_entry(self, key: LogicalKey, entry: Entry, uri: QuiltUri, meta: Any) -> Source:
        source = Source.of_entry(entry, key, meta, self._options.hash_type)
        if source.is_local and not uri.registry.is_local:
            raise out_of_reach(source)
        if self._stores.reach and isinstance(source.origin, PhysicalKey):
            self._stores.reach.check(key, source.origin, uri.registry)
        return replace(source, is_claim=True) if self._is_claim(source, uri) else source

    def _is_claim(self, source: Source, uri: QuiltUri) -> bool:
        """Whether a package of another registry names an object in the bucket of the one that takes it."""
        if self._bucket is None or not isinstance(source.origin, PhysicalKey):
            return False
        return source.origin.bucket == self._bucket and uri.registry != self._options.target


def _directory_meta(source: LocationSource, location: PhysicalKey | QuiltUri) -> dict[DirectoryKey, Any]:
    """Return the metadata of a source that turned out to be a directory."""
    if source.is_for_file:
        raise _directory_error(source, location)
    if source.meta and not source.key:
        raise SourceError(
            f"{where_of(source.key)}: give the metadata of {location} as the package's own, meta; it is the whole package"
        )
    return {DirectoryKey(source.key): source.meta["user_meta"]} if source.meta else {}


def _directory_error(source: LocationSource, location: PhysicalKey | QuiltUri) -> SourceError:
    given = quoted(source.given or str(location))
    return SourceError(f"{where_of(source.key)}: end the logical key in '/' to pack the files of {given}, which is a directory")
