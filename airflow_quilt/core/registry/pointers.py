"""The pointers of a package: one for each revision, named by its time, and ``latest``.

Every write says what it expects to find (:data:`airflow_quilt.core.storage.base.WriteMode`), and leaves the mark of its
writer beside the pointer. So a write whose answer was lost is told from one that somebody else made, also where both
wrote the same.
"""

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self

import pendulum

from airflow_quilt.core.errors import (
    ManifestError,
    ObjectNotFoundError,
    PreconditionError,
    RevisionConflictError,
    SettingsError,
    StorageUnavailableError,
    TopHashError,
)
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName, TopHash, parse_top_hash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.attempt import WriterTag
from airflow_quilt.core.runtime.executor import map_concurrently
from airflow_quilt.core.storage.base import IfMatch, ObjectInfo, Storage, WriteMode
from airflow_quilt.core.storage.conditional import ConditionalWriter

_TRIES: Final = 1000
_STAMP: Final = re.compile(r"[1-9][0-9]{9}")
_FIRST_STAMP: Final = 10**9
_LAST_STAMP: Final = 10**10 - 1
_SETTLES: Final = 60 * 60
"""Seconds after which the writer of a pointer that is pending cannot be alive."""

Conflict = Literal["fail", "overwrite", "rebase"]


@dataclass(frozen=True, slots=True)
class Revision:
    """A published revision: the time in its pointer, in whole seconds UTC, and its top hash."""

    time: pendulum.DateTime
    top_hash: TopHash


@dataclass(frozen=True, slots=True)
class Latest:
    """What ``latest`` named when it was read, the ETag that proves it unchanged, and the mark of the pointer that it names."""

    top_hash: TopHash
    etag: str
    writer_tag: WriterTag | None = None


@dataclass(frozen=True, slots=True)
class Pointer:
    """The pointer of a revision as it stands: also its ETag, and the mark of its writer where there is one."""

    revision: Revision
    etag: str
    writer_tag: WriterTag | None = None

    @property
    def stamp(self) -> int:
        """The second that is its name."""
        return self.revision.time.int_timestamp

    def is_named_by(self, latest: Latest) -> bool:
        """Whether its writer made its revision the latest one."""
        return bool(
            self.writer_tag
            and latest.writer_tag
            and (self.stamp, self.writer_tag.writer) == (latest.writer_tag.stamp, latest.writer_tag.writer)
        )

    def is_settled(self, now: float) -> bool:
        """Whether its writer has published the revision, or is long dead; until then it may take the pointer away."""
        return self.writer_tag is None or self.writer_tag.is_published or self.stamp < now - _SETTLES


@dataclass(frozen=True, slots=True)
class Listing:
    """What a listing tells of the pointers of a package, none of which was read.

    Attributes:
        latest: the ETag of ``latest``, or None where there is none.
        stats: the pointers of revisions by their seconds, newest first.
    """

    latest: str | None
    stats: Mapping[int, ObjectInfo]

    @property
    def stamps(self) -> list[int]:
        """The seconds of the revisions, newest first."""
        return list(self.stats)

    @property
    def newest(self) -> int:
        """The second of the newest revision, or 0."""
        return next(iter(self.stats), 0)


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What was deleted: the times of the revisions, newest first; and their top hash where it was not the whole package."""

    times: tuple[pendulum.DateTime, ...] = ()
    top_hash: TopHash | None = None

    @classmethod
    def at(cls, stamps: Iterable[int], top_hash: TopHash | None = None) -> Self:
        """Return what says that the pointers of some seconds were deleted."""
        return cls(tuple(map(pendulum.from_timestamp, stamps)), top_hash)


def is_stamp(text: str) -> bool:
    """Whether a text may name the pointer of a revision: unix seconds of 10 digits."""
    return bool(_STAMP.fullmatch(text))


class Pointers:
    """The pointers of one package; remembers those that it read last from a listing.

    Args:
        storage: where the registry is kept.
        writer: writes there on conditions.
        root: the registry.
        name: the package.
        threads: how many are read at a time.
    """

    def __init__(self, storage: Storage, writer: ConditionalWriter, root: PhysicalKey, name: PackageName, threads: int) -> None:
        self._storage = storage
        self._writer = writer
        self._root = root
        self.name = name
        self._threads = threads
        self._seen: Mapping[int, tuple[str, Pointer]] = {}

    def latest(self) -> Latest | None:
        """Return what ``latest`` names, or None where there is none.

        Raises:
            ManifestError: it holds something else than a top hash.
        """
        try:
            blob = self._storage.get(self._key(layout.LATEST))
        except ObjectNotFoundError:
            return None
        return Latest(self._parse(blob.data, layout.LATEST), blob.etag, WriterTag.parse(blob.writer_tag))

    def write_latest(self, top_hash: TopHash, base: Latest | None, writer_tag: WriterTag | None = None) -> Latest | None:
        """Let ``latest`` name a revision, on the condition that it is still ``base``.

        The pointer of what it named before is marked as published first. So who finds a pointer that is pending, and another
        revision as the latest one, knows that the first one never was.

        Args:
            top_hash: the revision.
            base: what ``latest`` named when it was read.
            writer_tag: that of the pointer of the revision, where it is being published.

        Returns:
            None; or what somebody else wrote to the same effect.

        Raises:
            RevisionConflictError: it is neither ``base`` nor what was to be written.
        """
        if base:
            self._settle_named(base)
        mode: WriteMode = IfMatch(base.etag) if base else "create"
        try:
            self._writer.put(self._key(layout.LATEST), top_hash.encode(), mode, str(writer_tag) if writer_tag else None)
        except PreconditionError as error:
            found = self.latest()
            if found is None or not _is_same(found, top_hash, writer_tag):
                raise self._conflict(base, found) from error
            return (
                None if writer_tag and found.writer_tag == writer_tag else found
            )  # None: only the answer to the first try was lost.
        return None

    def check_latest(self, base: Latest | None, top_hash: TopHash | None = None, writer_tag: WriterTag | None = None) -> None:
        """Check that ``latest`` still names what ``base`` does, or already what somebody wants to write.

        Raises:
            RevisionConflictError: it does not.
        """
        found = self.latest()
        is_wanted = found is not None and top_hash is not None and _is_same(found, top_hash, writer_tag)
        if not is_wanted and (found and found.etag) != (base and base.etag):
            raise self._conflict(base, found)

    def delete_latest(self, base: Latest) -> None:
        """Delete ``latest`` if it is still ``base``; :meth:`restore_latest` mends what comes between the two.

        Raises:
            RevisionConflictError: it is not; nothing was deleted.
        """
        self.check_latest(base)  # Not every store can delete on a condition.
        self._storage.delete([self._key(layout.LATEST)])

    def restore_latest(self) -> None:
        """Give a revision that was published while its package was being deleted its ``latest`` back."""
        if newest := self.at(_LAST_STAMP):
            with contextlib.suppress(PreconditionError):  # Its publisher, or another one, was faster.
                self._writer.put(self._key(layout.LATEST), newest.revision.top_hash.encode(), "create")

    def all(self) -> Iterator[Pointer]:
        """Yield the pointers, newest first; a hash that was published twice comes twice."""
        return self._read_each(self.listing().stamps)

    def at(self, second: float) -> Pointer | None:
        """Return the newest pointer of that second or an earlier one; ``latest`` may have named another revision then."""
        there = map(self.read, (stamp for stamp in self.listing().stamps if stamp <= second))
        return next(filter(None, there), None)

    def listing(self, since: int = 0) -> Listing:
        """List the pointers of revisions from some second on, and ``latest``."""
        directory = self._root.join(layout.pointers(self.name))
        after = str(since - 1) if since > _FIRST_STAMP else ""  # All of them have as many digits, and sort as numbers do.
        found = {stat.key.key.removeprefix(directory.key): stat for stat in self._storage.list_objects(directory, after)}
        stats = {int(name): stat for name, stat in found.items() if is_stamp(name) and int(name) >= since}
        latest = found.get(layout.LATEST)
        return Listing(latest.etag if latest else None, dict(sorted(stats.items(), reverse=True)))

    def read_listed(self, listing: Listing, since: float = 0, also: Iterable[int] = ()) -> list[Pointer]:
        """Read pointers of a listing, newest first; one that was read after it had been listed the same is not read again.

        Args:
            listing: the newest one there is.
            since: leaves those of earlier seconds out.
            also: seconds that are not left out, if they are listed.
        """
        wanted = {stamp: stat.written for stamp, stat in listing.stats.items() if stamp >= since or stamp in also}
        known = {stamp: seen for stamp, seen in self._seen.items() if seen[0] and seen[0] == wanted.get(stamp)}
        unknown = [stamp for stamp in wanted if stamp not in known]
        read = dict(zip(unknown, map_concurrently(self.read, unknown, self._threads), strict=True))
        known |= {stamp: (wanted[stamp], pointer) for stamp, pointer in read.items() if pointer}
        self._seen = known
        return [known[stamp][1] for stamp in wanted if stamp in known]

    def add(self, top_hash: TopHash, stamp: int, writer_tag: WriterTag) -> Pointer:
        """Write the pointer of a revision under the first second from ``stamp`` on that nobody has.

        Raises:
            SettingsError: there is no such second of ten digits.
        """
        first = max(stamp, _FIRST_STAMP)
        for second in range(first, first + _TRIES):
            own = writer_tag.at(self._checked(second))
            try:
                etag = self._writer.put(self._key(str(second)), top_hash.encode(), "create", str(own)).etag
            except PreconditionError:
                there = self.read(second)
                if there and there.writer_tag == own:  # The answer to the first try was lost.
                    return there
                continue  # This second is somebody else's, also if it has the same hash: they may take it away.
            pointer = Pointer(Revision(pendulum.from_timestamp(second), top_hash), etag, own)
            self._writer.probe(self._key(str(second)), top_hash.encode())
            return pointer
        raise StorageUnavailableError(f"every second from {first} on has a revision", str(self._key("")))

    def _checked(self, second: int) -> int:
        if second <= _LAST_STAMP:
            return second
        raise SettingsError(
            f"{self._key('')}: the next revision would be of the second {second}, and pointers have 10 digits: the clock of this "
            "machine is wrong, or the newest pointer there is; set the clock, delete that pointer, and run again"
        )

    def mark_published(self, pointer: Pointer) -> Pointer | None:
        """Mark the pointer of a revision that ``latest`` named as published; None where it was deleted meanwhile."""
        if pointer.writer_tag is None:
            return pointer
        writer_tag = pointer.writer_tag.published()
        revision, key = pointer.revision, self._key(str(pointer.stamp))
        try:
            etag = self._writer.put(key, revision.top_hash.encode(), IfMatch(pointer.etag), str(writer_tag)).etag
        except PreconditionError:
            there = self.read(pointer.stamp)
            return there if there and there.writer_tag == writer_tag else None
        return Pointer(revision, etag, writer_tag)

    def _settle_named(self, latest: Latest) -> None:
        """Mark the pointer of what ``latest`` names as published: its writer may be held up, or dead."""
        _, known = self._seen.get(latest.writer_tag.stamp, ("", None)) if latest.writer_tag else ("", None)
        if known and known.is_named_by(latest) and known.writer_tag and known.writer_tag.is_published:
            return  # Nobody takes that back.
        pointer = self.named_by(latest)
        if pointer and pointer.writer_tag and not pointer.writer_tag.is_published:
            self.mark_published(pointer)

    def named_by(self, latest: Latest) -> Pointer | None:
        """Return the pointer whose writer made its revision the latest one; None where nobody says, or it was deleted."""
        if latest.writer_tag is None:
            return None
        pointer = self.read(latest.writer_tag.stamp)
        return pointer if pointer and pointer.is_named_by(latest) else None

    def of(self, latest: Latest) -> Iterator[Pointer]:
        """Yield the pointers of the revision that ``latest`` names; those first that the store tells to be the same bytes."""
        stats = self.listing().stats
        alike = [stamp for stamp, stat in stats.items() if stat.etag == latest.etag]
        others = [stamp for stamp, stat in stats.items() if stat.etag != latest.etag]
        there = itertools.chain(filter(None, map(self.read, alike)), self._read_each(others))
        return (pointer for pointer in there if pointer.revision.top_hash == latest.top_hash)

    def restore(self, pointer: Pointer, writer_tag: WriterTag) -> Pointer:
        """Write the pointer of a published revision again, and ``latest`` where there is none."""
        again = self.add(pointer.revision.top_hash, pointer.stamp, writer_tag.published())
        self.restore_latest()
        return again

    def withdraw(self, pointer: Pointer) -> None:
        """Delete the pointer of a revision that was not published; put it back if somebody made it the latest meanwhile."""
        self.remove([pointer.stamp])
        latest = self.latest()
        if latest is None or latest.top_hash != pointer.revision.top_hash or pointer.writer_tag is None:
            return
        if next(self.of(latest), None) is None:
            self.add(latest.top_hash, pointer.stamp, pointer.writer_tag.published())

    def remove(self, stamps: Iterable[int]) -> None:
        """Delete the pointers of some seconds."""
        self._storage.delete([self._key(str(stamp)) for stamp in stamps])

    def read(self, stamp: int) -> Pointer | None:
        """Read the pointer of a revision; None where it has been deleted since it was listed."""
        try:
            blob = self._storage.get(self._key(str(stamp)))
        except ObjectNotFoundError:
            return None
        revision = Revision(pendulum.from_timestamp(stamp), self._parse(blob.data, str(stamp)))
        return Pointer(revision, blob.etag, WriterTag.parse(blob.writer_tag))

    def __str__(self) -> str:
        return str(self._key(""))

    def _read_each(self, stamps: Iterable[int]) -> Iterator[Pointer]:
        return (pointer for pointer in map_concurrently(self.read, stamps, self._threads) if pointer)

    def _key(self, pointer: str) -> PhysicalKey:
        return self._root.join(layout.pointer(self.name, pointer))

    def _parse(self, data: bytes, pointer: str) -> TopHash:
        try:
            return parse_top_hash(data.decode("ascii").strip())
        except (UnicodeDecodeError, TopHashError) as error:
            raise ManifestError(f"the pointer {self.name}:{pointer} holds no top hash: {data[:80]!r}") from error

    def _conflict(self, base: Latest | None, found: Latest | None) -> RevisionConflictError:
        return RevisionConflictError(str(self.name), base.top_hash if base else None, found.top_hash if found else None)


def _is_same(found: Latest, top_hash: TopHash, writer_tag: WriterTag | None) -> bool:
    """Whether ``latest`` is as one wants it: it names the same revision, or what another try of the same work made."""
    return found.top_hash == top_hash or (
        writer_tag is not None and found.writer_tag is not None and found.writer_tag.work == writer_tag.work
    )
