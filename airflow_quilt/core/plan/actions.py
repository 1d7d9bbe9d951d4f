"""Decides which bytes must move, and how; moves none."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import msgspec

from airflow_quilt.core.errors import LocationError, SourceError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.hashes import CHUNKED, Hash
from airflow_quilt.core.format.manifest import Entry, check_record
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.uris import PhysicalKey

# What a hash and a version id will take in a record; S3's version ids have 32 characters.
_FUTURE_HASH = Hash("sha2-256-chunked", "0" * 44)
_FUTURE_VERSION = "0" * 32


class Source(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One file that is to become an entry: an object or local file, or content that has no place yet.

    Attributes:
        origin: where the bytes are, or the bytes themselves.
        etag: the state of the origin that was seen when it was listed, where the store tells one.
        hash: the hash, where it is known without reading the bytes.
        meta: the whole metadata of the entry, as in a manifest.
        hash_type: the type of hash that the bytes get where they are hashed.
        physical_keys: those of the entry of a package that this is, as its manifest writes them; they stay if it stays.
        movable: whether the bytes may be read: a manifest on S3 may name files of some other machine.
    """

    logical_key: LogicalKey
    origin: PhysicalKey | bytes
    size: int
    etag: str | None = None
    hash: Hash | None = None
    meta: Mapping[str, Any] = msgspec.field(default_factory=dict)
    hash_type: str = CHUNKED
    physical_keys: tuple[str, ...] = ()
    movable: bool = True

    @property
    def is_local(self) -> bool:
        """Whether the bytes are in a file of this machine; content is in none."""
        return isinstance(self.origin, PhysicalKey) and self.origin.is_local

    @property
    def user_meta(self) -> Any:
        """What the user said of the entry; ``{}`` where nobody said anything."""
        return self.meta.get("user_meta", {})

    @property
    def known(self) -> Hash | None:
        """The hash, where it is known and of the type that the bytes get."""
        return self.hash if self.hash and self.hash.type == self.hash_type else None

    @classmethod
    def of_entry(
        cls, entry: Entry, logical_key: LogicalKey | None = None, meta: Mapping[str, Any] | None = None, hash_type: str = CHUNKED
    ) -> Self:
        """Return an entry of a package as the source of another one, maybe under another key and with other metadata.

        Raises:
            SourceError: its physical key is not one.
        """
        key = entry.logical_key if logical_key is None else logical_key
        try:
            origin = PhysicalKey.parse(entry.physical_keys[0])
        except LocationError as error:
            raise SourceError(f"entry {key!r}: the package that it comes from is damaged: {error}") from error
        return cls(
            logical_key=key,
            origin=origin,
            size=entry.size,
            hash=entry.hash,
            meta=entry.meta if meta is None else meta,
            hash_type=hash_type,
            physical_keys=entry.physical_keys,
        )

    def entry(self, physical_key: PhysicalKey, digest: Hash) -> Entry:
        """Return the entry that this source becomes."""
        is_same = physical_key is self.origin or physical_key == self.origin
        keys = self.physical_keys if self.physical_keys and is_same else (str(physical_key),)
        return Entry(self.logical_key, keys, self.size, digest, self.meta)


class _OfSource(msgspec.Struct, frozen=True, gc=False):
    source: Source

    @property
    def logical_key(self) -> LogicalKey:
        """The key of the entry to be."""
        return self.source.logical_key


class HashInPlace(_OfSource, frozen=True, gc=False, tag=True):
    """The object stays where it is and must be hashed there."""

    origin: PhysicalKey


class Upload(_OfSource, frozen=True, gc=False, tag=True):
    """A local file, or content, is sent to the store and hashed on the way.

    With ``exact`` an object that lies at the destination already and has the hash of the source is left as it is.
    ``earlier`` is an entry whose object is there for certain, to be named again if the source has its hash.
    """

    destination: PhysicalKey
    exact: bool = False
    earlier: Entry | None = None


class Copy(_OfSource, frozen=True, gc=False, tag=True):
    """An object is copied by the store itself.

    ``exact`` is as for :class:`Upload`, and demands proof that the copy has the hash of the source.
    """

    origin: PhysicalKey
    destination: PhysicalKey
    exact: bool = False


Transfer = HashInPlace | Upload | Copy
"""What is to be done with bytes."""

Action = Entry | Transfer
"""What becomes of a source. An entry stays where it is and its hash is known: no byte is touched."""


def plan_push(
    sources: Iterable[Source], copies: Callable[[Source], bool], land: Callable[[Source], PhysicalKey]
) -> Iterator[Action]:
    """Decide for each source whether its bytes move.

    Args:
        sources: what is to be published.
        copies: whether a source is to be copied (:func:`airflow_quilt.core.plan.placement.copy_policy`).
        land: where it lands if it is (:func:`airflow_quilt.core.plan.placement.landing`).

    Raises:
        SourceError: a file of one machine, or content, would stay where it is, or cannot be had.
        LocationError: an entry would land in the registry's own area.
    """
    for source in sources:
        origin = source.origin
        is_copied = copies(source)
        if not is_copied and (not isinstance(origin, PhysicalKey) or origin.is_local):
            raise SourceError(
                f"entry {source.logical_key!r}: its source is no object on S3, and by the copy policy it would stay where it is; "
                "let it be copied, or build the package"
            )
        destination = land(source) if is_copied else None
        if isinstance(origin, PhysicalKey) and (destination is None or _is_same(origin, destination)):
            yield _in_place(source, origin)
        elif destination is not None:
            yield _move(source, destination)


def _is_same(one: PhysicalKey, other: PhysicalKey) -> bool:
    return (one.bucket, one.key) == (other.bucket, other.key)


def _move(source: Source, destination: PhysicalKey) -> Upload | Copy:
    if destination.key.startswith(layout.OWN):
        raise LocationError(f"entry {source.logical_key!r} would land in the registry's own area, {layout.OWN}")
    if not source.movable:
        raise out_of_reach(source)
    _check_record(source, destination.at_version(_FUTURE_VERSION))
    if isinstance(source.origin, PhysicalKey) and not source.origin.is_local:
        return Copy(source, source.origin, destination)
    return Upload(source, destination)


def out_of_reach(source: Source) -> SourceError:
    """Return the error for an entry of a package on S3 that names a file."""
    where = source.physical_keys[0]
    return SourceError(
        f"entry {source.logical_key!r}: the package that it comes from names {where}, a file of some other machine"
    )


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


def _in_place(source: Source, origin: PhysicalKey) -> Entry | HashInPlace:
    entry = _check_record(source, origin)
    return HashInPlace(source, origin) if source.hash is None else entry


def _check_record(source: Source, physical_key: PhysicalKey) -> Entry:
    """Check the size of the record that is to come, before any byte moves; return its entry as far as it is known."""
    entry = source.entry(physical_key, source.hash or _FUTURE_HASH)
    check_record(entry)
    return entry
