"""Decisions on which bytes must move, and how; nothing moves here."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import msgspec

from airflow_quilt.core.errors import LocationError, SourceError, plain, quoted
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.arguments import content_in_build
from airflow_quilt.core.format.hashes import CHUNKED, Hash, check_hash_type
from airflow_quilt.core.format.manifest import MAX_RECORD_SIZE, Entry, EntryBlock, check_record
from airflow_quilt.core.format.metadata import user_meta_of
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import Block
from airflow_quilt.core.format.uris import PhysicalKey, are_in_one_bucket

# Placeholders of the final length, to check the size of a record before its bytes move; S3's version ids have 32 characters.
_PLACEHOLDER_HASH = Hash("sha2-256-chunked", "0" * 44)
_PLACEHOLDER_VERSION = "0" * 32


class Content(NamedTuple):
    """Content in a temporary file of this process.

    Attributes:
        file: its number.
        start: the offset of the first byte.
    """

    file: int
    start: int


class Source(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One file that is to become an entry: an object, a local file, or content that has no location yet.

    Attributes:
        origin: the location of the bytes; for content, the bytes themselves or their place in a temporary file.
        etag: the ETag of the origin when it was listed, if the store gives one.
        hash: the hash, if it is known without reading the bytes: the store proves it, or a package gives it. That of a package
            may be of any type, and is a claim, which is checked before its bytes move or get another hash.
        meta: all metadata of the entry, as in a manifest.
        hash_type: the hash type for bytes that are hashed.
        physical_keys: for an entry of a package, the physical keys of its manifest as written; kept if the bytes stay there.
        is_claim: whether the hash is compared with the bytes also where they stay: a package of another registry gives it for an
            object in the bucket of this one, where a later push would take the object for its own.
        movable: whether the bytes may be read; False for a local file that a manifest on S3 names, as its writer chose the path.
    """

    logical_key: LogicalKey
    origin: PhysicalKey | bytes | Content
    size: int
    etag: str | None = None
    hash: Hash | None = None
    meta: Any = msgspec.field(default_factory=dict)
    hash_type: str = CHUNKED
    physical_keys: tuple[str, ...] = ()
    movable: bool = True
    is_claim: bool = False

    @property
    def is_local(self) -> bool:
        """Return whether the bytes are in a file on this machine; False for content."""
        return isinstance(self.origin, PhysicalKey) and self.origin.is_local

    @property
    def is_content(self) -> bool:
        """Return whether the bytes have no location yet."""
        return not isinstance(self.origin, PhysicalKey)

    @property
    def user_meta(self) -> Any:
        """User metadata of the entry; ``{}`` if there is none."""
        return user_meta_of(self.meta)

    @property
    def known(self) -> Hash | None:
        """The hash, if it is known and of the type ``hash_type``."""
        return self.hash if self.hash and self.hash.type == self.hash_type else None

    @classmethod
    def of_entry(cls, entry: Entry, logical_key: LogicalKey | None = None, meta: Any = None, hash_type: str = CHUNKED) -> Self:
        """Return an entry of a package as a source, optionally under another key and with other metadata.

        Raises:
            SourceError: the first physical key of the entry is not a location.
        """
        key = entry.logical_key if logical_key is None else logical_key
        try:
            origin = PhysicalKey.parse(entry.physical_keys[0])
        except LocationError as error:
            raise SourceError(f"entry {quoted(key)}: the package that it comes from is damaged: {error}") from error
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
        """Return the entry of this source at a location, with its hash."""
        is_same = physical_key is self.origin or physical_key == self.origin
        keys = self.physical_keys if self.physical_keys and is_same else (str(physical_key),)
        return Entry(self.logical_key, keys, self.size, digest, self.meta)


@dataclass(frozen=True, slots=True)
class KnownBlock(Block[Source]):
    """Plain entries of a package, whose objects are all in one bucket: one decision is that for each.

    Attributes:
        entries: the entries, with their text.
        hash_type: as for :class:`Source`.
    """

    entries: EntryBlock
    hash_type: str

    @classmethod
    def of(cls, entries: EntryBlock, hash_type: str) -> Self | None:
        """Return entries of a package as a block of sources; None where each may need a decision of its own."""
        lines = entries.lines
        if lines is None or len(lines) > MAX_RECORD_SIZE:  # No line is too long to be written.
            return None
        if not are_in_one_bucket([entry.physical_keys[0] for entry in entries.entries]):
            return None
        return cls(entries, hash_type)

    @property
    def first(self) -> Source:
        """The first source."""
        return Source.of_entry(self.entries.entries[0], hash_type=self.hash_type)

    @property
    def last(self) -> Source:
        """The last source."""
        return Source.of_entry(self.entries.entries[-1], hash_type=self.hash_type)

    def records(self) -> Iterator[Source]:
        """Yield the sources."""
        return (Source.of_entry(entry, hash_type=self.hash_type) for entry in self.entries.entries)


class _SourceAction(msgspec.Struct, frozen=True, gc=False):
    source: Source

    @property
    def logical_key(self) -> LogicalKey:
        """Logical key of the future entry."""
        return self.source.logical_key


class HashInPlace(_SourceAction, frozen=True, gc=False, tag=True):
    """Hash an object or file where it is, or compare it with the hash that a package gives, and leave it there."""

    origin: PhysicalKey


class Upload(_SourceAction, frozen=True, gc=False, tag=True):
    """Upload a local file or content, and hash it on the way.

    With ``exact``, an object at the destination that already has the hash of the source is left as it is.
    ``previous`` is an entry whose object certainly exists; it is reused if the source has its hash.
    """

    destination: PhysicalKey
    exact: bool = False
    previous: Entry | None = None


class Copy(_SourceAction, frozen=True, gc=False, tag=True):
    """Copy an object on the server side; ``exact`` is as for :class:`Upload`."""

    origin: PhysicalKey
    destination: PhysicalKey
    exact: bool = False


Transfer = HashInPlace | Upload | Copy
"""An action that reads or moves bytes."""

Action = Entry | Transfer
"""The decision for a source. An :class:`Entry` stays where it is and its hash is known: no byte is read or moved."""

Sources = Iterable[Source | Block[Source]]
"""Sources in walk order; a :class:`KnownBlock` stands for some that follow each other."""

Actions = Iterator[Action | Block[Source]]
"""Actions in walk order; a :class:`KnownBlock` stands for entries that stay where they are."""


def plan_push(sources: Sources, copies: Callable[[Source], bool], land: Callable[[Source], PhysicalKey]) -> Actions:
    """Decide for each source whether its bytes move.

    Args:
        sources: the sources of the revision; all of a block are copied if the first one is.
        copies: decides whether a source is copied (:func:`airflow_quilt.core.plan.placement.copy_policy`).
        land: returns the destination of a copied source (:func:`airflow_quilt.core.plan.placement.landing`).

    Raises:
        SourceError: a local file or content would stay where it is, or a file is on another machine.
        HashTypeError: an entry of a package would move, and its hash is of an unknown type.
        LocationError: an entry would land in the registry's own area.
    """
    for item in sources:
        if not isinstance(item, Block):
            yield _plan_push(item, copies, land)
        elif copies(item.first):
            yield from (_plan_push(source, copies, land) for source in item.records())
        else:
            yield item


def _plan_push(source: Source, copies: Callable[[Source], bool], land: Callable[[Source], PhysicalKey]) -> Action:
    origin = source.origin
    if copies(source):
        destination = land(source)
        if not isinstance(origin, PhysicalKey) or not _is_same_object(origin, destination):
            return _plan_move(source, destination)
    if not isinstance(origin, PhysicalKey) or origin.is_local:
        raise SourceError(
            f"entry {quoted(source.logical_key)}: let it be copied, or build the package; its source is no object on S3, and "
            "by the copy policy it would stay where it is"
        )
    return _plan_in_place(source, origin)


def _is_same_object(first: PhysicalKey, second: PhysicalKey) -> bool:
    return (first.bucket, first.key) == (second.bucket, second.key)


def _plan_move(source: Source, destination: PhysicalKey) -> Upload | Copy:
    if destination.key.startswith(layout.OWN):
        raise LocationError(
            f"entry {quoted(source.logical_key)}: give another dest or key; it would land in the registry's own {layout.OWN}"
        )
    if not source.movable:
        raise out_of_reach(source)
    if source.hash:
        check_hash_type(source.logical_key, source.hash)
    _check_record_size(source, destination.at_version(_PLACEHOLDER_VERSION))
    if isinstance(source.origin, PhysicalKey) and not source.origin.is_local:
        return Copy(source, source.origin, destination)
    return Upload(source, destination)


def origin_of(source: Source) -> str:
    """Return the location of the bytes of a source, for messages."""
    return str(source.origin) if isinstance(source.origin, PhysicalKey) else f"content of {source.size:,} bytes"


def out_of_reach(source: Source) -> SourceError:
    """Return the error for an entry of a package on S3 that names a local file."""
    where = plain(source.physical_keys[0])
    return SourceError(
        f"entry {quoted(source.logical_key)}: push it from the machine that has it; its package names {where}, a "
        "file of some other machine"
    )


def plan_build(sources: Sources) -> Actions:
    """Decide for each source whether it must be hashed; all stay where they are.

    Raises:
        SourceError: a source is content, which has no location.
    """
    for item in sources:
        if isinstance(item, Block):
            yield item
        elif isinstance(item.origin, PhysicalKey):
            yield _plan_in_place(item, item.origin)
        else:
            raise content_in_build(item.logical_key)


def _plan_in_place(source: Source, origin: PhysicalKey) -> Entry | HashInPlace:
    entry = _check_record_size(source, origin)
    if source.hash and source.is_claim:
        check_hash_type(source.logical_key, source.hash)
    return HashInPlace(source, origin) if source.hash is None or source.is_claim else entry


def _check_record_size(source: Source, physical_key: PhysicalKey) -> Entry:
    """Check the size of the future record before any byte moves; return its entry, with a placeholder for an unknown hash."""
    entry = source.entry(physical_key, source.hash or _PLACEHOLDER_HASH)
    check_record(entry)
    return entry
