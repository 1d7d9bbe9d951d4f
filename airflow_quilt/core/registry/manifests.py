"""Manifests of a registry, by the top hashes of their revisions."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from airflow_quilt.core.errors import (
    ManifestError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PackageNotFoundError,
    StorageError,
    named,
    short,
)
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry, EntryBlock
from airflow_quilt.core.format.manifest_lines import decode_header
from airflow_quilt.core.format.manifest_reader import Manifest, read_manifest
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.spool import Replay, Spool
from airflow_quilt.core.storage.base import Storage
from airflow_quilt.core.storage.objects import MOST_WHOLE

_USUAL_HEADER: Final = 64 * 1024
"""Bytes in which nearly every header ends."""


@dataclass(frozen=True, slots=True)
class _Streamed:
    """The bytes of a file, read each time; the top hash shows whether they changed meanwhile."""

    storage: Storage
    key: PhysicalKey
    size: int

    def __iter__(self) -> Iterator[bytes]:
        return self.storage.stream(self.key, 0, self.size)


class Manifests:
    """The manifests of one registry.

    Args:
        storage: the storage of the registry.
        location: the registry.
        limits: the bounds of the work; a manifest whose lines have to be sorted spills to the disk.
    """

    def __init__(self, storage: Storage, location: RegistryLocation, limits: Limits) -> None:
        self._storage = storage
        self._location = location
        self._limits = limits

    def read(self, package: PackageName | str, top_hash: TopHash) -> Manifest:
        """Read a revision of a package; raises as :meth:`Registry.read`."""
        return self._read(package, top_hash, self._size(package, top_hash))

    def read_small(self, package: PackageName | str, top_hash: TopHash, most: int) -> Manifest | None:
        """Read a revision whose manifest has ``most`` bytes or fewer; None where it has more. One request is mostly enough."""
        if most > MOST_WHOLE:
            size = self._size(package, top_hash)
            return self._read(package, top_hash, size) if size <= most else None
        try:
            with self._named(package, top_hash):
                chunks = [self._storage.get(self._key(top_hash), most).data]
        except ObjectTooLargeError:
            return None
        return self._parsed(package, top_hash, chunks)

    def header(self, package: PackageName | str, top_hash: TopHash) -> Mapping[str, Any]:
        """Read the header of a revision alone, a request of a few bytes; it is not checked against the top hash."""
        key = self._key(top_hash)
        with self._named(package, top_hash):
            line, end, _ = b"".join(self._storage.stream(key, 0, _USUAL_HEADER)).partition(b"\n")
            if not end and len(line) == _USUAL_HEADER:
                line = b"".join(self._storage.stream(key, 0, MOST_WHOLE)).partition(b"\n")[0]
            return decode_header(line)[0]

    def check(self, package: PackageName | str, top_hash: TopHash) -> None:
        """Check that the manifest of a revision is there.

        Raises:
            PackageNotFoundError: it is not.
        """
        try:
            self._storage.stat(self._key(top_hash))
        except ObjectNotFoundError as error:
            raise PackageNotFoundError(f"{self._location}: the manifest of {package}@{short(top_hash)} is gone") from error

    def _size(self, package: PackageName | str, top_hash: TopHash) -> int:
        with self._named(package, top_hash):
            return self._storage.stat(self._key(top_hash)).size

    def _read(self, package: PackageName | str, top_hash: TopHash, size: int) -> Manifest:
        key = self._key(top_hash)
        with self._named(package, top_hash):
            # Whole, the store's checksum is compared: the top hash does not cover everything.
            chunks = self._streamed(key, size) if size > MOST_WHOLE else [self._storage.get(key).data]
        return self._parsed(package, top_hash, chunks)

    def _streamed(self, key: PhysicalKey, size: int) -> Iterable[bytes]:
        """Return a large manifest as chunks that are read twice: from the disk, or over the network once."""
        if self._location.is_local:
            return _Streamed(self._storage, key, size)
        return Replay(self._storage.stream(key, 0, size))

    def _parsed(self, package: PackageName | str, top_hash: TopHash, chunks: Iterable[bytes]) -> Manifest:
        with self._named(package, top_hash) as where:
            manifest = read_manifest(chunks, top_hash, self._sorted)
        return replace(manifest, blocks=self._blocks(package, top_hash, manifest), where=where)

    def _blocks(self, package: PackageName | str, top_hash: TopHash, manifest: Manifest) -> Iterator[EntryBlock]:
        with self._named(package, top_hash):
            yield from manifest.blocks

    @contextlib.contextmanager
    def _sorted(self, entries: Iterable[Entry]) -> Iterator[Iterable[Entry]]:
        with Spool[Entry](Entry, self._limits.spill_entries) as spool:
            spool.extend(entries)
            yield spool

    @contextlib.contextmanager
    def _named(self, package: PackageName | str, top_hash: TopHash) -> Iterator[str]:
        """Name the registry, the package and the top hash in errors about a manifest."""
        where = f"{self._location}: package {package}@{short(top_hash)}"
        try:
            with named(where, ManifestError, StorageError):
                yield where
        except ObjectNotFoundError as error:
            raise PackageNotFoundError(f"{self._location}: there is no revision {short(top_hash)} of {package}") from error

    def _key(self, top_hash: TopHash) -> PhysicalKey:
        return self._location.root.join(layout.manifest(top_hash))
