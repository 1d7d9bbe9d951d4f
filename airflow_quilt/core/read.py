"""Read: the entries of a revision, and one of them as bytes, as a JSON value or as a data frame."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from typing import Any, Final

from airflow_quilt.core.errors import EntryDamagedError, EntryFormatError, HashTypeError, InputError, LocationError, named
from airflow_quilt.core.format.diff import Change
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.quilt_uri import Pin
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Revision
from airflow_quilt.core.registry.selection import Reference, at, files_at, pin
from airflow_quilt.core.sources.deserializers import parse_frame, parse_json

MOST_READ: Final = 256 * 1024 * 1024
"""The most bytes of an entry that is read into memory, unless the call gives another bound."""


def read_entries(registry: Registry, reference: Reference) -> Iterator[Entry]:
    """Read the entries of a reference, as a stream in walk order; the top hash is checked at its end.

    Args:
        registry: a registry on S3 or on the local disk.
        reference: the revision; with a path, the file there or the files below it.

    Raises:
        PackageNotFoundError: there is no such package or revision.
        EntryNotFoundError: the revision has nothing at the path; at the end of the stream.
        ManifestError: the manifest is damaged; at the end of the stream at the latest.
    """
    name, top_hash = pin(registry, reference)
    hint = partial(registry.hint_of_key, name, top_hash)
    return (entry for _, entry in files_at(registry.read(name, top_hash), reference.path, hint))


def read_revisions(registry: Registry, package: PackageName | str) -> Iterator[Revision]:
    """Return the revisions of a package that is there, as :meth:`Registry.revisions`.

    Raises:
        PackageNotFoundError: there is no such package.
    """
    revisions = registry.revisions(package)
    first = list(itertools.islice(revisions, 1))
    if not first:
        registry.resolve(package)
    return itertools.chain(first, revisions)


def read_changes(registry: Registry, reference: Reference, from_revision: str | datetime | Pin | None) -> Iterator[Change]:
    """Yield the changes of a package, from a revision to that of a reference, as :meth:`Registry.diff`; at its path only."""
    changes = registry.diff(reference.package, from_revision, reference.revision)
    return changes if reference.path is None else (change for _, change in at(changes, reference.path))


def read_bytes(registry: Registry, reference: Reference, *, most: int = MOST_READ) -> bytes:
    """Read a file of a package into memory: at the version that the manifest names, and checked against its hash.

    Args:
        registry: a registry on S3 or on the local disk.
        reference: the file; its path is the logical key.
        most: the most bytes to read.

    Raises:
        InputError: the reference has no path.
        PackageNotFoundError: there is no such package or revision.
        EntryNotFoundError: the revision has no such file.
        ObjectTooLargeError: the file has more than ``most`` bytes; nothing is read.
        EntryDamagedError: the object does not hold the bytes that the manifest names.
        HashTypeError: the hash is of an unknown type.
        LocationError: the entry is a file of another machine, or in a bucket that its package may not name.
        StorageError: a store refused or failed.
    """
    return _read(registry, reference, most)[1]


def read_json(registry: Registry, reference: Reference, *, most: int = MOST_READ) -> Any:
    """Read a JSON file of a package; one whose key ends in ``.gz`` is decompressed.

    Raises:
        EntryFormatError: the file is no JSON, or has more than ``most`` bytes when it is decompressed.
        QuiltError: as for :func:`read_bytes`.
    """
    entry, data = _read(registry, reference, most)
    with _named(registry, reference):
        return parse_json(entry, data, most)


def read_frame(registry: Registry, reference: Reference, *, most: int = MOST_READ) -> Any:
    """Read a file of a package as a data frame of pandas.

    The format is the one that quilt3 wrote into the metadata of the entry, or else that of the key's ending: ``.parquet``,
    ``.feather``, ``.arrow``, ``.csv``, ``.tsv``, ``.ssv``, ``.json`` (a list of records), ``.jsonl``, ``.ndjson``; texts also
    compressed, with ``.gz`` after it. None of them can hold code.

    Raises:
        EntryFormatError: the format is none of these, the file is not in it, pandas or the library that reads it is not
            installed, or it has more than ``most`` bytes when it is decompressed.
        QuiltError: as for :func:`read_bytes`.
    """
    entry, data = _read(registry, reference, most)
    with _named(registry, reference):
        return parse_frame(entry, data, most)


def find_file(registry: Registry, reference: Reference) -> Entry:
    """Return the entry of the file that a reference names; raises as :func:`read_bytes`."""
    if reference.path is None:
        raise InputError(f"package {reference.package}: name the file to read, by its logical key")
    return registry.entry(reference.package, reference.path, reference.revision)


def _read(registry: Registry, reference: Reference, most: int) -> tuple[Entry, bytes]:
    entry = find_file(registry, reference)
    with _named(registry, reference):
        return entry, registry.read_bytes(entry, most)


def _named(registry: Registry, reference: Reference) -> AbstractContextManager[None]:
    """Name the registry and the package in errors about one of its entries."""
    where = f"{registry.location}: package {reference.package}"
    return named(where, EntryDamagedError, EntryFormatError, HashTypeError, LocationError)
