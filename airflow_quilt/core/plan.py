"""Decides which bytes must move, and how; moves none."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_quilt.core import layout
from airflow_quilt.core.checksums import Hash
from airflow_quilt.core.errors import LocationError, SourceError
from airflow_quilt.core.locations import PhysicalKey, RegistryLocation
from airflow_quilt.core.manifest import Entry, entry_line
from airflow_quilt.core.names import LogicalKey, PackageName

# What a hash and a version id will take in a record; S3's version ids have 32 characters.
_FUTURE_HASH = Hash("sha2-256-chunked", "0" * 44)
_FUTURE_VERSION = "0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file that is to become an entry: an object or local file, or content that has no place yet.

    Attributes:
        origin: where the bytes are, or the bytes themselves.
        etag: the state of the origin that was seen when it was listed, where the store tells one.
        hash: the hash, where it is known without reading the bytes.
        meta: the whole metadata of the entry, as in a manifest.
    """

    logical_key: LogicalKey
    origin: PhysicalKey | bytes
    size: int
    etag: str | None = None
    hash: Hash | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def entry(self, physical_key: PhysicalKey, digest: Hash) -> Entry:
        """Return the entry that this source becomes."""
        return Entry(self.logical_key, (str(physical_key),), self.size, digest, self.meta)


@dataclass(frozen=True, slots=True)
class Keep:
    """The object stays where it is and its hash is known: no byte is touched."""

    source: Source
    entry: Entry


@dataclass(frozen=True, slots=True)
class HashInPlace:
    """The object stays where it is and must be hashed there."""

    source: Source
    origin: PhysicalKey


@dataclass(frozen=True, slots=True)
class Upload:
    """A local file, or content, is sent to the store and hashed on the way."""

    source: Source
    destination: PhysicalKey


@dataclass(frozen=True, slots=True)
class Copy:
    """An object is copied by the store itself, from another bucket."""

    source: Source
    origin: PhysicalKey
    destination: PhysicalKey


Action = Keep | HashInPlace | Upload | Copy


def parse_dest(dest: str, registry: RegistryLocation) -> PhysicalKey:
    """Read the prefix under which pushed objects land.

    Raises:
        LocationError: it is not in the registry's bucket, is pinned to a version, or lies in the registry's own area.
    """
    key = PhysicalKey.parse(dest)
    if key.bucket != registry.root.bucket:
        raise LocationError(f"dest {dest!r}: expected a prefix in the registry's bucket, {registry}/…")
    if key.version_id is not None:
        raise LocationError(f"dest {dest!r}: a prefix has no version")
    if f"{key.key}/".startswith(layout.OWN):
        raise LocationError(f"dest {dest!r}: {layout.OWN} is where the registry keeps its own files")
    return key


def default_dest(registry: RegistryLocation, name: PackageName) -> PhysicalKey:
    """Return where a package's objects land when nobody says otherwise: ``s3://<registry>/<namespace>/<name>``."""
    return registry.root.join(str(name))


def plan_push(sources: Iterable[Source], dest: PhysicalKey) -> Iterator[Action]:
    """Decide for each source whether it is copied to ``dest`` or stays: quilt3's rule since 7.0.

    An object that lies in the registry's bucket stays where it is; anything else goes to ``dest``/<logical key>.
    """
    for source in sources:
        if isinstance(source.origin, PhysicalKey) and source.origin.bucket == dest.bucket:
            yield _in_place(source, source.origin)
            continue
        destination = dest.join(source.logical_key)
        if destination.key.startswith(layout.OWN):
            raise LocationError(f"entry {source.logical_key!r} would land in the registry's own area, {layout.OWN}")
        _check_record(source, destination.at_version(_FUTURE_VERSION))
        if isinstance(source.origin, PhysicalKey) and not source.origin.is_local:
            yield Copy(source, source.origin, destination)
        else:
            yield Upload(source, destination)


def plan_build(sources: Iterable[Source]) -> Iterator[Action]:
    """Decide for each source what it takes to name it where it is.

    Raises:
        SourceError: a source is content, which has no place.
    """
    for source in sources:
        if not isinstance(source.origin, PhysicalKey):
            raise SourceError(
                f"entry {source.logical_key!r}: its source is content, and build copies no data; "
                "write it to a file or object first, or push the package"
            )
        yield _in_place(source, source.origin)


def _in_place(source: Source, origin: PhysicalKey) -> Keep | HashInPlace:
    entry = _check_record(source, origin)
    return HashInPlace(source, origin) if source.hash is None else Keep(source, entry)


def _check_record(source: Source, physical_key: PhysicalKey) -> Entry:
    """Check the size of the record that is to come, before any byte moves; return its entry as far as it is known."""
    entry = source.entry(physical_key, source.hash or _FUTURE_HASH)
    entry_line(entry)
    return entry
