"""Reading of the pointers of a package: ``latest``, listings, and each pointer once."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import pendulum

from airflow_quilt.core.errors import ManifestError, ObjectNotFoundError, ObjectTooLargeError, TopHashError, quoted
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.arguments import is_stamp
from airflow_quilt.core.format.names import PackageName, TopHash, parse_top_hash
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.registry.attempt import RollbackTag, WriterTag
from airflow_quilt.core.registry.revisions import Latest, PackageState, Pointer, PointerListing, Revision
from airflow_quilt.core.runtime.threads import map_concurrently
from airflow_quilt.core.runtime.together import at_once
from airflow_quilt.core.storage.base import Storage
from airflow_quilt.core.storage.objects import StoredObject

FIRST_STAMP: Final = 10**9
"""The first second whose number has ten digits."""
_TAG_SIZES: Final = range(64, 129)
"""Bytes of a pointer: a top hash, with white space around it in those of some clients. All else is not read."""
_MOST: Final = 1024
"""The most bytes of a pointer that are read at all."""


class PointerReader:
    """Reads the pointers of one package; remembers those that it read last from a listing.

    Args:
        storage: the storage of the registry.
        root: the registry.
        name: the package.
        threads: the most pointers that are read at once.
    """

    def __init__(self, storage: Storage, root: PhysicalKey, name: PackageName, threads: int) -> None:
        self._storage = storage
        self._root = root
        self.name = name
        self.threads = threads
        self._cache: Mapping[int, tuple[str, Pointer]] = {}
        self._tags: Mapping[str, tuple[str, TopHash | None]] = {}

    def latest(self) -> Latest | None:
        """Read ``latest``; None where there is none.

        Raises:
            ManifestError: it holds something else than a top hash.
        """
        try:
            blob = self._get(layout.LATEST)
        except ObjectNotFoundError:
            return None
        tag = blob.writer_tag
        return Latest(self._parse(blob.data, layout.LATEST), blob.etag, WriterTag.parse(tag), RollbackTag.parse(tag))

    def all(self) -> Iterator[Pointer]:
        """Yield the pointers, newest first; a hash that was published twice comes twice."""
        return self._read_each(self.listing().stamps)

    def revisions_at(self, stamps: Sequence[int]) -> Iterator[Revision]:
        """Yield the revisions of some seconds in their order; the first, which often is enough, is read alone."""
        pointers = itertools.chain(filter(None, map(self.read, stamps[:1])), self._read_each(stamps[1:]))
        return (pointer.revision for pointer in pointers)

    def at(self, second: float) -> Pointer | None:
        """Return the newest pointer of that second or an earlier one; ``latest`` may have named another revision then."""
        there = map(self.read, (stamp for stamp in self.listing().stamps if stamp <= second))
        return next(filter(None, there), None)

    def listing(self, since: int = 0) -> PointerListing:
        """List the pointers of revisions from some second on, and ``latest``."""
        directory = self._root.join(layout.pointers(self.name))
        # Names have 10 digits each, so they sort as numbers do; ``latest`` sorts after them and is always listed.
        after = str(since - 1) if since > FIRST_STAMP else ""
        found = {stat.key.key.removeprefix(directory.key): stat for stat in self._storage.list_objects(directory, after)}
        stats = {int(name): stat for name, stat in found.items() if is_stamp(name) and int(name) >= since}
        latest = found.pop(layout.LATEST, None)
        others = {name: stat for name, stat in found.items() if not is_stamp(name)}
        return PointerListing(latest.etag if latest else None, dict(sorted(stats.items(), reverse=True)), others)

    def listing_beside(self, latest: Latest | None, since: int = 0) -> PointerListing:
        """List as :meth:`listing`, and read the pointer that the tag of ``latest`` names at the same time.

        That counts as read after the listing if it is published, and listed with its ETag: no process takes that back.
        """
        stamp = latest.writer_tag.stamp if latest and latest.writer_tag else 0
        written, _ = self._cache.get(stamp, ("", None))
        if not stamp or written:  # It is read again only if the listing shows another writing.
            return self.listing(since)
        listing, pointer = at_once(lambda: self.listing(since), lambda: self.read(stamp), threads=self.threads)
        listed = listing.stats.get(stamp)
        if pointer is None or listed is None or listed.etag != pointer.etag or pointer.is_pending:
            return listing
        return replace(listing, read={stamp: pointer})

    def listed_after(self, latest: Latest | None, listing: PointerListing) -> PointerListing:
        """Return a listing that shows the pointer of ``latest``, and was made at the same time; or another one if it moved."""
        return listing if listing.latest == (latest and latest.etag) else self.listing()

    def read_listed(self, listing: PointerListing, since: float = 0, also: Iterable[int] = ()) -> list[Pointer]:
        """Read pointers of a listing, newest first; one that was read after it had been listed the same is not read again.

        Args:
            listing: the newest one there is.
            since: leaves those of earlier seconds out.
            also: seconds that are not left out, if they are listed.
        """
        wanted = {stamp: stat.written for stamp, stat in listing.stats.items() if stamp >= since or stamp in also}
        # By ``written``, not by ETag: a pointer that is marked as published keeps its bytes, and so its ETag.
        known = {stamp: cached for stamp, cached in self._cache.items() if cached[0] and cached[0] == wanted.get(stamp)}
        known |= {stamp: (wanted[stamp], pointer) for stamp, pointer in listing.read.items() if stamp in wanted}
        unknown = [stamp for stamp in wanted if stamp not in known]
        read = dict(zip(unknown, map_concurrently(self.read, unknown, self.threads), strict=True))
        known |= {stamp: (wanted[stamp], pointer) for stamp, pointer in read.items() if pointer}
        self._cache = known
        return [known[stamp][1] for stamp in wanted if stamp in known]

    def state(self) -> PackageState:
        """Read ``latest``, and every pointer that was not read already as it is listed now.

        Raises:
            ManifestError: a pointer of a revision, or ``latest``, holds something else than a top hash.
        """
        latest, listing = at_once(self.latest, self.listing, threads=self.threads)
        listing = self.listed_after(latest, listing)
        tags = self._read_tags(listing)
        return PackageState(latest, self.read_listed(listing), tags, [name for name in listing.others if name not in tags])

    def _read_tags(self, listing: PointerListing) -> Mapping[str, TopHash]:
        """Read the pointers that have other names; each is read once for each state that is listed."""
        wanted = {name: stat.written for name, stat in listing.others.items() if stat.size in _TAG_SIZES}
        known = {name: tag for name, tag in self._tags.items() if tag[0] and tag[0] == wanted.get(name)}
        unknown = [name for name in wanted if name not in known]
        read = zip(unknown, map_concurrently(self._read_tag, unknown, self.threads), strict=True)
        self._tags = known | {name: (wanted[name], top_hash) for name, top_hash in read}
        return {name: top_hash for name, (_, top_hash) in self._tags.items() if top_hash}

    def _read_tag(self, name: str) -> TopHash | None:
        try:
            return self._parse(self._get(name).data, name)
        except (ObjectNotFoundError, ManifestError):  # It is gone meanwhile, or no pointer.
            return None

    def named_by(self, latest: Latest) -> Pointer | None:
        """Return the pointer whose writer made its revision the latest; None where no tag names it, or it was deleted."""
        if latest.writer_tag is None:
            return None
        pointer = self.read(latest.writer_tag.stamp)
        return pointer if pointer and pointer.is_named_by(latest) else None

    def of(self, latest: Latest) -> Iterator[Pointer]:
        """Yield the pointers of the revision that ``latest`` names, those with the same ETag as ``latest`` first."""
        stats = self.listing().stats
        # On most stores an ETag is a hash of the bytes, and ``latest`` has the bytes of its pointer. On a disk it is not.
        alike = [stamp for stamp, stat in stats.items() if stat.etag == latest.etag]
        others = [stamp for stamp, stat in stats.items() if stat.etag != latest.etag]
        there = itertools.chain(filter(None, map(self.read, alike)), self._read_each(others))
        return (pointer for pointer in there if pointer.revision.top_hash == latest.top_hash)

    def find(self, latest: Latest, other_than: Pointer | None = None) -> Pointer | None:
        """Return the pointer of the revision that ``latest`` names: the one that its tag names, or else the newest."""
        if named := self.named_by(latest):
            return named
        candidates = self.of(latest)
        return next((each for each in candidates if not other_than or each.revision != other_than.revision), None)

    def read(self, stamp: int) -> Pointer | None:
        """Read the pointer of a revision; None where it has been deleted since it was listed."""
        try:
            blob = self._get(str(stamp))
        except ObjectNotFoundError:
            return None
        revision = Revision(pendulum.from_timestamp(stamp), self._parse(blob.data, str(stamp)))
        return Pointer(revision, blob.etag, WriterTag.parse(blob.writer_tag))

    def tagged(self, name: str) -> TopHash | None:
        """Return the top hash that a pointer of any name holds; None where there is none. Only other programs write tags."""
        try:
            return self._parse(self._get(name).data, name)
        except ObjectNotFoundError:
            return None

    def __str__(self) -> str:
        return str(self._key(""))

    def _read_each(self, stamps: Iterable[int]) -> Iterator[Pointer]:
        return (pointer for pointer in map_concurrently(self.read, stamps, self.threads) if pointer)

    def _key(self, pointer: str) -> PhysicalKey:
        return self._root.join(layout.pointer(self.name, pointer))

    def _get(self, pointer: str) -> StoredObject:
        try:
            return self._storage.get(self._key(pointer), _MOST)
        except ObjectTooLargeError as error:
            raise ManifestError(
                f"{RegistryLocation(self._root)}: the pointer {self.name}:{pointer} holds no top hash: {error}"
            ) from error

    def _parse(self, data: bytes, pointer: str) -> TopHash:
        try:
            return parse_top_hash(data.decode("ascii").strip())
        except (UnicodeDecodeError, TopHashError) as error:
            registry = RegistryLocation(self._root)
            raise ManifestError(
                f"{registry}: the pointer {self.name}:{pointer} holds no top hash: {quoted(data[:80])}"
            ) from error
