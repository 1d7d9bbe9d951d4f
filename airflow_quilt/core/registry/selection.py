"""References to a revision, or to files of it, and the entries that they select."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from airflow_quilt.core.errors import (
    EntryDamagedError,
    EntryNotFoundError,
    HashTypeError,
    LocationError,
    SourceError,
    named,
    plain,
    quoted,
    short,
)
from airflow_quilt.core.format.arguments import check_prefix
from airflow_quilt.core.format.hashes import CHUNKED, check_hash_type
from airflow_quilt.core.format.manifest import Entry, count_checksums
from airflow_quilt.core.format.manifest_reader import Manifest
from airflow_quilt.core.format.names import PackageName, TopHash, parse_path
from airflow_quilt.core.format.ordering import Record
from airflow_quilt.core.format.quilt_uri import Pin, QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.progress import count
from airflow_quilt.core.storage.paths import resolve_location

R = TypeVar("R", bound=Record)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reference:
    """A revision of a package, or a part of it.

    Attributes:
        package: ``namespace/name``.
        revision: as for :meth:`Registry.resolve`; by default the latest one.
        path: the logical key of a file; or of a directory, with or without a ``/`` at its end; None for everything.
    """

    package: PackageName | str
    revision: str | datetime | Pin | None = None
    path: str | None = None


def parse_destination(text: str) -> PhysicalKey:
    """Read the directory or ``s3://`` prefix that files of a package are laid out in; it need not exist.

    Raises:
        LocationError: it names a version, or no directory can be there.
    """
    check_prefix(text)
    place = resolve_location(text)
    try:
        is_file = place.is_local and Path(place.key).exists() and not Path(place.key).is_dir()
    except OSError as error:
        raise LocationError(f"{quoted(text)}: give another directory: {plain(error.strerror)}") from error
    if is_file:
        raise LocationError(f"{quoted(text)}: give another directory: there is a file")
    return place


@dataclass(frozen=True, slots=True)
class Selection:
    """Files of a revision, each with its path, relative to the path of the reference, and its entry.

    Attributes:
        package: its name.
        top_hash: of the revision.
        files: the paths and entries, in walk order, without metadata: all of them are in memory.
        uri: the revision.
        where: the registry, the package and the top hash, for errors.
    """

    package: PackageName
    top_hash: TopHash
    files: list[tuple[str, Entry]]
    uri: QuiltUri
    where: str

    @property
    def bytes(self) -> int:
        """The sum of the sizes of the files."""
        return sum(entry.size for _, entry in self.files)

    def warn_of_checksums(self) -> int:
        """Log, and return, the count of files whose hash is a checksum only."""
        return warn_of_checksums(self.package, count_checksums(entry for _, entry in self.files), len(self.files))

    def __str__(self) -> str:
        return f"{self.package}@{short(self.top_hash)}"

    def check_hash_types(self) -> None:
        """Check that the bytes of all files can be compared with their hashes.

        Raises:
            HashTypeError: a hash is of an unknown type.
        """
        for _, entry in self.files:
            check_hash_type(entry.logical_key, entry.hash)

    def named_errors(self) -> AbstractContextManager[None]:
        """Name the registry, the package and the top hash in errors about its entries."""
        return named(self.where, LocationError, HashTypeError, EntryDamagedError, SourceError)


def warn_of_checksums(package: PackageName, checksum_only: int, entries: int) -> int:
    """Log that entries of a package have a CRC64NVME checksum only, if there are any; return their count."""
    if checksum_only:
        _log.warning(
            "%s: the hashes of %s of its %s are CRC64NVME checksums, which find damage but prove no intent: an attacker can make "
            "other bytes fit them. Publish with hash_type=%r where that matters",
            package,
            f"{checksum_only:,}",
            count(entries, "entry", "entries"),
            CHUNKED,
        )
    return checksum_only


def select(registry: Registry, reference: Reference) -> Selection:
    """Read the entries of a reference; the manifest is read to its end, where its top hash is checked.

    Raises:
        PackageNotFoundError: there is no such package or revision.
        EntryNotFoundError: the revision has nothing at the path.
        QuiltError: as for :meth:`Registry.read`.
    """
    name, top_hash = pin(registry, reference)
    manifest, hint = registry.read(name, top_hash), partial(registry.hint_of_key, name, top_hash)
    files = [(relative, _without_meta(entry)) for relative, entry in files_at(manifest, reference.path, hint)]
    uri = QuiltUri(registry=registry.location, package=name, top_hash=top_hash)
    return Selection(name, top_hash, files, uri, manifest.where)


def pin(registry: Registry, reference: Reference) -> tuple[PackageName, TopHash]:
    """Return the name of the package of a reference, and the top hash of the revision; raises as :meth:`Registry.resolve`."""
    name = PackageName.parse_existing(reference.package)
    return name, registry.resolve(name, reference.revision)


def files_at(manifest: Manifest, path: str | None, hint: Callable[[str], str]) -> Iterator[tuple[str, Entry]]:
    """Yield the file at a path of a revision, or the files below it, each with its path from there; None for all files.

    Args:
        manifest: of the revision.
        path: the logical key of a file or a directory.
        hint: returns the end of the message about a path at which there is nothing.

    Raises:
        EntryNotFoundError: there is nothing; at the end, where the top hash has been checked.
        LogicalKeyError: the path is no key.
    """
    if path is None:
        yield from ((entry.logical_key, entry) for entry in manifest.entries)
        return
    found = False
    for file in at(manifest.entries, path):
        found = True
        yield file
    if not found:
        raise EntryNotFoundError(f"{manifest.where} has nothing at {quoted(path)}{hint(path)}")


def _without_meta(entry: Entry) -> Entry:
    return replace(entry, meta={}) if entry.meta else entry


def at(records: Iterable[R], path: str) -> Iterator[tuple[str, R]]:
    """Yield the record of the file at a path, or of the files below it, each with its path from there.

    Raises:
        LogicalKeyError: the path is no key.
    """
    file = parse_path(path)
    below = f"{file}/"
    for record in records:
        if record.logical_key == file and not path.endswith("/"):
            yield file.rpartition("/")[2], record
        elif record.logical_key.startswith(below):
            yield record.logical_key.removeprefix(below), record
