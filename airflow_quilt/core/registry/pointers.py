"""Changes of the pointers of a package: one for each revision, named by its unix second, and ``latest`` (ADR 0007, ADR 0009).

Every write has a condition (:data:`airflow_quilt.core.storage.objects.WriteMode`) and leaves the tag of its writer beside the
object. So a write whose answer was lost is distinguished from the write of another process, also where both wrote the same.

A revision is published when ``latest`` has named it. Its pointer states how far it came:

=========  ===============================================================  ==============================================
state      next state, and the process that may cause it                    seen by a reader
=========  ===============================================================  ==============================================
absent     pending: its writer, by a create (:meth:`Pointers.add`)          no revision
pending    published: its writer, once ``latest`` names it; or any process  a revision in the history; no rollback makes it
           that moves ``latest`` on from it, before it does so              the latest, nor does a deletion unless no
           (:meth:`Pointers.mark_published`).                               published one is left, until it is an hour old
           withdrawn: its writer, when ``latest`` was refused
           (:meth:`Pointers.withdraw`); another attempt of the same work
           that has published; a deletion
published  absent: a deletion, nothing else                                 a revision in the history, which can become the
                                                                            latest again
withdrawn  published: its writer, where ``latest`` names its hash and no    no revision
           pointer is left for that hash (:meth:`Pointers.withdraw`), or
           where a deletion came between ``latest`` and the tag
           (:meth:`Pointers.restore`)
=========  ===============================================================  ==============================================

Pointers of other clients have no tag and are published. ``latest`` is *absent* or names a revision; it moves on the condition
that it still has the ETag that was read, and only :meth:`Pointers.write_latest` moves it from one revision to another.
"""

import contextlib
from collections.abc import Iterable
from typing import Final

import pendulum

from airflow_quilt.core.errors import PreconditionError, RevisionConflictError, SettingsError, StorageUnavailableError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.attempt import RollbackTag, WriterTag
from airflow_quilt.core.registry.pointer_reader import FIRST_STAMP, PointerReader
from airflow_quilt.core.registry.revisions import Latest, Pointer, Revision
from airflow_quilt.core.storage.base import Storage
from airflow_quilt.core.storage.conditional import ConditionalWriter
from airflow_quilt.core.storage.objects import IfMatch, WriteMode

MOST_ROUNDS: Final = 100
"""Writes of ``latest`` that are refused in a row, because other writers were faster, before a change is given up."""
_MOST_SECONDS: Final = 1000
"""Seconds in a row that are tried for the name of a pointer."""
_LAST_STAMP: Final = 10**10 - 1


class Pointers(PointerReader):
    """The pointers of one package.

    Args:
        storage: the storage of the registry.
        writer: conditional writes to it.
        root: the registry.
        name: the package.
        threads: the most pointers that are read at once.
    """

    def __init__(self, storage: Storage, writer: ConditionalWriter, root: PhysicalKey, name: PackageName, threads: int) -> None:
        super().__init__(storage, root, name, threads)
        self._writer = writer

    def write_latest(
        self,
        top_hash: TopHash,
        base: Latest | None,
        writer_tag: WriterTag | None = None,
        rollback_tag: RollbackTag | None = None,
    ) -> Latest | None:
        """Make ``latest`` name a revision, on the condition that it is still ``base``.

        The pointer of the revision that it named before is marked as published first (ADR 0009). So a process that finds a
        pending pointer, and ``latest`` at another revision, knows that the pending one never was the latest.

        Args:
            top_hash: the revision.
            base: ``latest`` as it was read.
            writer_tag: that of the pointer of the revision, where it is being published.
            rollback_tag: that of a task that rolls back.

        Returns:
            None; or ``latest`` as another writer wrote it, to the same effect.

        Raises:
            RevisionConflictError: it is neither ``base`` nor to that effect.
        """
        # Before the write, never after it: a crash in between leaves a published pointer that ``latest`` still names, which is
        # true. The other order would leave a revision that was the latest, and whose pointer denies it.
        if base:
            self._mark_base_published(base)
        mode: WriteMode = IfMatch(base.etag) if base else "create"
        try:
            tag = writer_tag or rollback_tag
            self._writer.put(self._key(layout.LATEST), top_hash.encode(), mode, str(tag) if tag else None)
        except PreconditionError as error:
            found = self.latest()
            if found is None or not _has_effect(found, top_hash, writer_tag):
                raise self._conflict(base, found) from error
            # The very tag that was to be written: only the answer to this write was lost, and the client repeated it.
            return None if writer_tag and found.writer_tag == writer_tag else found
        return None

    def check_latest(self, base: Latest | None, top_hash: TopHash | None = None, writer_tag: WriterTag | None = None) -> None:
        """Check that ``latest`` still is ``base``, or is already as :meth:`write_latest` would write it.

        Raises:
            RevisionConflictError: it is neither.
        """
        found = self.latest()
        has_effect = found is not None and top_hash is not None and _has_effect(found, top_hash, writer_tag)
        if not has_effect and (found and found.etag) != (base and base.etag):
            raise self._conflict(base, found)

    def delete_latest(self, base: Latest) -> None:
        """Delete ``latest`` if it still is ``base``; :meth:`restore_latest` repairs a publication in between.

        Raises:
            RevisionConflictError: it is not; nothing was deleted.
        """
        # Two requests instead of one with a condition: few stores delete on a condition.
        self.check_latest(base)
        self._storage.delete([self._key(layout.LATEST)])

    def restore_latest(self) -> None:
        """Give a revision that was published while its package was being deleted its ``latest`` back."""
        if newest := self.at(_LAST_STAMP):
            # Refused: the writer of that revision, or another one, was faster, and has the right to be the latest.
            with contextlib.suppress(PreconditionError):
                self._writer.put(self._key(layout.LATEST), newest.revision.top_hash.encode(), "create")

    def add(self, top_hash: TopHash, stamp: int, writer_tag: WriterTag) -> Pointer:
        """Create the pointer of a revision under the first free second from ``stamp`` on.

        Raises:
            SettingsError: there is no such second of ten digits.
        """
        first = max(stamp, FIRST_STAMP)
        for second in range(first, first + _MOST_SECONDS):
            own = writer_tag.at(self._valid_stamp(second))
            try:
                etag = self._writer.put(self._key(str(second)), top_hash.encode(), "create", str(own)).etag
            except PreconditionError:
                # The very tag that was to be written: only the answer to this write was lost.
                there = self.read(second)
                if there and there.writer_tag == own:
                    return there
                # A pointer of another writer is never shared, even with the same hash: its writer may withdraw it.
                continue
            return Pointer(Revision(pendulum.from_timestamp(second), top_hash), etag, own)
        raise StorageUnavailableError(f"every second from {first} on has a revision", str(self._key("")))

    def probe(self, pointer: Pointer) -> None:
        """Find out, by a pointer that is pending and by two writes that must be refused, whether the store keeps conditions."""
        self._writer.probe(self._key(str(pointer.stamp)), pointer.revision.top_hash.encode())

    def _valid_stamp(self, second: int) -> int:
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
            # The condition fails after a deletion, which an unconditional write would undo. It may fail after another process
            # helped, too: ETags of S3 depend on the bytes alone, those of a disk do not. Then the tag below is this very one.
            etag = self._writer.put(key, revision.top_hash.encode(), IfMatch(pointer.etag), str(writer_tag)).etag
        except PreconditionError:
            there = self.read(pointer.stamp)
            return there if there and there.writer_tag == writer_tag else None
        return Pointer(revision, etag, writer_tag)

    def _mark_base_published(self, base: Latest) -> None:
        """Mark the pointer that ``latest`` still names as published: its writer may be held up, or dead (ADR 0009)."""
        # The stamp in the tag makes this one read. It is saved where the pointer was published when it was read last, for no
        # process takes that back.
        _, known = self._cache.get(base.writer_tag.stamp, ("", None)) if base.writer_tag else ("", None)
        if known and known.is_named_by(base) and not known.is_pending:
            return
        pointer = self.named_by(base)
        if pointer and pointer.is_pending:
            self.mark_published(pointer)

    def restore(self, pointer: Pointer, writer_tag: WriterTag) -> Pointer:
        """Create the deleted pointer of a published revision again, and ``latest`` where there is none."""
        again = self.add(pointer.revision.top_hash, pointer.stamp, writer_tag.published())
        self.restore_latest()
        return again

    def withdraw(self, pointer: Pointer) -> None:
        """Delete the pointer of a revision that was not published; create it again if it was the only one of ``latest``."""
        # The delete has no condition. Between the refusal and it, a deletion may have found this pointer an hour old, or the
        # only one left, and made it the latest.
        self.remove_own(pointer)
        latest = self.latest()
        if latest is None or latest.top_hash != pointer.revision.top_hash or pointer.writer_tag is None:
            return
        if next(self.of(latest), None) is None:
            self.add(latest.top_hash, pointer.stamp, pointer.writer_tag.published())

    def remove_own(self, pointer: Pointer) -> None:
        """Delete a pointer if it still is that of its writer: it may be gone, and another writer may have taken its second."""
        there = self.read(pointer.stamp)
        if there and there.is_of_writer(pointer):
            self.remove([pointer.stamp])

    def remove(self, names: Iterable[int | str]) -> None:
        """Delete the pointers of some seconds, or of other names."""
        self._storage.delete([self._key(str(name)) for name in names])

    def remove_directory(self) -> bool:
        """Remove the directory of the pointers, where the store has directories and no pointer is left; return whether it was."""
        return self._storage.remove_directory(self._key(""))

    def _conflict(self, base: Latest | None, found: Latest | None) -> RevisionConflictError:
        return RevisionConflictError(str(self.name), base.top_hash if base else None, found.top_hash if found else None)


def _has_effect(found: Latest, top_hash: TopHash, writer_tag: WriterTag | None) -> bool:
    """Whether ``latest`` names the revision that was to be written, or one that another attempt of the same work made."""
    return found.top_hash == top_hash or (writer_tag is not None and writer_tag.is_same_work(found.writer_tag))


def too_many_writers(pointers: Pointers) -> StorageUnavailableError:
    """Return the error for a change that other writers outran :data:`MOST_ROUNDS` times."""
    return StorageUnavailableError("other writers keep moving 'latest'", str(pointers))
