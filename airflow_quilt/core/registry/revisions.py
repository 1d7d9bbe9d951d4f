"""Values of a package's history: revisions, the state of ``latest`` and of pointers when they were read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import pendulum

from airflow_quilt.core.format.names import TopHash
from airflow_quilt.core.registry.attempt import RollbackTag, WriterTag
from airflow_quilt.core.storage.objects import ObjectInfo

_WRITER_DEAD_AFTER: Final = 60 * 60
"""Seconds after which the writer of a pending pointer cannot be alive."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A published revision: the time in its pointer, in whole seconds UTC, and its top hash."""

    published_at: pendulum.DateTime
    top_hash: TopHash


@dataclass(frozen=True, slots=True)
class Latest:
    """The state of ``latest`` when it was read.

    Attributes:
        top_hash: of the latest revision.
        etag: proves it unchanged.
        writer_tag: the tag of the pointer that it names; None where a rollback, a deletion or another client wrote it.
        rollback_tag: the tag of the task that rolled back, if one wrote it.
    """

    top_hash: TopHash
    etag: str
    writer_tag: WriterTag | None = None
    rollback_tag: RollbackTag | None = None


@dataclass(frozen=True, slots=True)
class Pointer:
    """The state of the pointer of a revision when it was read; its tag is None where another client wrote it."""

    revision: Revision
    etag: str
    writer_tag: WriterTag | None = None

    @property
    def stamp(self) -> int:
        """The unix second that is its name."""
        return self.revision.published_at.int_timestamp

    @property
    def is_pending(self) -> bool:
        """Whether its tag states that ``latest`` has not named it; the tag may be behind by the last step of its writer."""
        return self.writer_tag is not None and not self.writer_tag.is_published

    def is_of_writer(self, other: "Pointer") -> bool:
        """Whether the same attempt wrote both states of a pointer; where the store keeps no tags, whether they are one state."""
        if self.writer_tag is None:
            return self.etag == other.etag
        return other.writer_tag is not None and self.writer_tag.writer == other.writer_tag.writer

    def is_named_by(self, latest: Latest) -> bool:
        """Whether its writer made its revision the latest one."""
        return bool(
            self.writer_tag
            and latest.writer_tag
            and (self.stamp, self.writer_tag.writer) == (latest.writer_tag.stamp, latest.writer_tag.writer)
        )

    def may_become_latest(self, now: float) -> bool:
        """Whether a deletion or rollback may rely on it: it is published, or old enough for its writer to be dead.

        The writer of a younger pending pointer may be alive, lose, and withdraw it.
        """
        return not self.is_pending or self.stamp < now - _WRITER_DEAD_AFTER


@dataclass(frozen=True, slots=True)
class PointerListing:
    """A listing of the pointers of a package.

    Attributes:
        latest: the ETag of ``latest``, or None where there is none.
        stats: the pointers of revisions by their seconds, newest first.
        others: all else in the directory of pointers by its name, such as tags, and objects that stand for the directory.
        read: pointers that were read beside the listing, and count as read after it.
    """

    latest: str | None
    stats: Mapping[int, ObjectInfo]
    others: Mapping[str, ObjectInfo] = field(default_factory=dict)
    read: Mapping[int, Pointer] = field(default_factory=dict)

    @property
    def stamps(self) -> list[int]:
        """The seconds of the revisions, newest first."""
        return list(self.stats)

    @property
    def newest(self) -> int:
        """The second of the newest revision, or 0."""
        return next(iter(self.stats), 0)


@dataclass(frozen=True, slots=True)
class PackageState:
    """The state of a package, every pointer of which was read.

    Attributes:
        latest: the state of ``latest``, or None where there is none.
        pointers: the history, newest first.
        tags: the top hashes of pointers of other names.
        others: the names of all that is no pointer.
    """

    latest: Latest | None
    pointers: Sequence[Pointer]
    tags: Mapping[str, TopHash]
    others: Sequence[str]

    @property
    def is_empty(self) -> bool:
        """Whether there is no such package."""
        return not (self.latest or self.pointers or self.tags)

    @property
    def history(self) -> set[TopHash]:
        """The top hashes of the revisions in the history."""
        return {pointer.revision.top_hash for pointer in self.pointers}

    @property
    def hashes(self) -> set[TopHash]:
        """The top hashes that pointers of any name hold."""
        return {*self.history, *self.tags.values(), *([self.latest.top_hash] if self.latest else ())}


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Times of the deleted revisions, newest first; and their top hash, unless the whole package was deleted."""

    times: tuple[pendulum.DateTime, ...] = ()
    top_hash: TopHash | None = None

    @classmethod
    def at(cls, stamps: Iterable[int], top_hash: TopHash | None = None) -> Self:
        """Return the result of deleting the pointers of some seconds."""
        return cls(tuple(map(pendulum.from_timestamp, stamps)), top_hash)
