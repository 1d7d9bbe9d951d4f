"""How the history of a package changes: publish, delete, roll back; exact, whoever else writes or dies meanwhile.

The timestamp pointer of a revision is written first, pending; then ``latest``, if it still is what was read; then the
pointer is marked as published. ``latest`` alone decides who was first. Who was not takes its own pointer away.

Deleting and rolling back make ``latest`` name a revision that is there already, which nobody may delete meanwhile. So
they take turns, by a lock; publishing does not wait for it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from airflow_quilt.core.attempt import Attempt, Mark
from airflow_quilt.core.errors import PackageNotFoundError, RevisionConflictError, StorageError, StorageUnavailableError
from airflow_quilt.core.lease import Lease
from airflow_quilt.core.names import TopHash
from airflow_quilt.core.pointers import Latest, Pointer, Pointers, Revision

_log = logging.getLogger(__name__)

_TRIES: Final = 100

Find = Callable[[Latest | None, Sequence[Pointer]], TopHash | None]
"""Chooses a revision, of ``latest`` and of the history."""


class History:
    """The history of one package.

    Args:
        pointers: of the package.
        lease: the lock for what may not happen at the same time.
        clock: unix seconds.
    """

    def __init__(self, pointers: Pointers, lease: Lease, clock: Callable[[], float] = time.time) -> None:
        self._pointers = pointers
        self._lease = lease
        self._clock = clock

    def check(self, top_hash: TopHash, base: Latest | None, attempt: Attempt) -> None:
        """Check early, and without a trace, that a revision can be published on its base, or is published already.

        Raises:
            RevisionConflictError: ``latest`` has moved.
        """
        self._pointers.check_latest(base, top_hash, Mark.of(attempt))

    def publish(self, top_hash: TopHash, base: Latest | None, attempt: Attempt, *, overwrite: bool) -> tuple[Revision, bool]:
        """Make a revision, whose manifest is in place, the latest one.

        Args:
            top_hash: the revision.
            base: what ``latest`` named when it was begun.
            attempt: whose work it is; what another try of it published is returned, whatever became the latest since.
            overwrite: whether to win over others who published since.

        Returns:
            The revision, and whether it is of this piece of work; somebody else may have published the same meanwhile.

        Raises:
            RevisionConflictError: ``latest`` has moved; nothing is visible.
        """
        mark = Mark.of(attempt)
        newest = self._pointers.newest()
        earlier = self._earlier(mark, attempt, newest)
        if done := _published(earlier):
            return self._keep(done, earlier)
        if earlier and base and base.top_hash == top_hash:
            return self._keep(earlier[-1], earlier)
        now = int(self._clock())
        stamp = max(now, newest.revision.time.int_timestamp + 1) if newest else now
        pointer, twin = self._write(top_hash, base, stamp, mark, overwrite=overwrite)
        if twin and (theirs := self._pointer_of(twin, pointer)):
            self._pointers.remove([pointer])
            pointer = theirs
        self._keep(pointer, earlier)
        return pointer.revision, pointer.mark is not None and pointer.mark.work == mark.work

    def unchanged(self, latest: Latest, attempt: Attempt) -> tuple[Revision, bool] | None:
        """Return the revision that ``latest`` names, and whether it is of this piece of work; None where it has no pointer."""
        mark = Mark.of(attempt)
        pointer = self._pointer_of(latest)
        if pointer is None:
            return None
        self._keep(pointer, self._earlier(mark, attempt, self._pointers.newest()))
        return pointer.revision, pointer.mark is not None and pointer.mark.work == mark.work

    def delete(self, find: Find) -> list[Revision]:
        """Delete the pointers of a revision, or of all where ``find`` returns None; return them, newest first.

        When it is the latest one, the newest that is left becomes the latest first.

        Raises:
            RevisionConflictError: the package was to go, and ``latest`` moved meanwhile; nothing was deleted.
            StorageError: some could not be deleted; a retry goes on.
        """
        with self._lease.hold():
            for _ in range(_TRIES):
                latest, pointers = self._pointers.latest(), list(self._pointers.all())
                top_hash = find(latest, pointers)
                kept = [pointer for pointer in pointers if top_hash and pointer.revision.top_hash != top_hash]
                doomed = [pointer for pointer in pointers if pointer not in kept]
                try:
                    self._leave(latest, top_hash, kept)
                except RevisionConflictError:
                    if top_hash is None:
                        raise
                    continue  # It is for what is the latest now to be looked at.
                self._lease.check()
                self._pointers.remove(doomed)
                self._mend(kept)
                return [pointer.revision for pointer in doomed]
        raise StorageUnavailableError("others write it all the time", str(self._pointers))

    def roll_back(self, find: Find) -> tuple[Revision, TopHash]:
        """Let ``latest`` name a revision of the history again; return it, and what ``latest`` named before.

        Raises:
            PackageNotFoundError: the revision is not published yet.
            RevisionConflictError: ``latest`` moved meanwhile; it was left alone.
        """
        with self._lease.hold():
            latest, pointers = self._pointers.latest(), list(self._pointers.all())
            top_hash = find(latest, pointers)
            there = [pointer for pointer in pointers if pointer.revision.top_hash == top_hash]
            if top_hash is None or latest is None or not there:
                raise PackageNotFoundError(f"{self._pointers}: there is no such revision")
            if latest.top_hash != top_hash:
                if not any(pointer.is_settled(self._clock()) for pointer in there):
                    raise PackageNotFoundError(f"{self._pointers}: revision {top_hash} is still being published, or never was")
                self._lease.check()
                self._pointers.write_latest(top_hash, latest)
            return there[0].revision, latest.top_hash

    def _earlier(self, mark: Mark, attempt: Attempt, newest: Pointer | None) -> list[Pointer]:
        """Return the pointers that other tries of this piece of work wrote, newest first."""
        is_first = attempt.earliest is None
        found = iter([newest] if newest else []) if is_first else self._pointers.all(attempt.earliest or 0)
        return [pointer for pointer in found if pointer.mark and pointer.mark.work == mark.work]

    def _write(
        self, top_hash: TopHash, base: Latest | None, stamp: int, mark: Mark, *, overwrite: bool
    ) -> tuple[Pointer, Latest | None]:
        """Write the pointer and ``latest``; return also what somebody else wrote to the same effect."""
        for _ in range(_TRIES):
            pointer = self._pointers.add(top_hash, stamp, mark)
            try:
                if overwrite:
                    return pointer, self._pointers.overwrite_latest(top_hash, base, mark)
                return pointer, self._pointers.write_latest(top_hash, base, mark)
            except RevisionConflictError:
                self._pointers.withdraw(pointer)
                if not overwrite:
                    raise
            # The package was deleted, and the pointer may have been with it; who deletes has seen no pointer of this second.
            base, stamp = None, pointer.revision.time.int_timestamp + 1
        raise StorageUnavailableError("the package is deleted by others all the time", str(self._pointers))

    def _keep(self, pointer: Pointer, earlier: Sequence[Pointer]) -> tuple[Revision, bool]:
        """Mark a pointer as published, and take those away that tries of the same work left besides."""
        kept = pointer
        try:
            if pointer.mark and not pointer.mark.is_published:
                kept = self._pointers.settle(pointer)
            left = [each for each in earlier if each.mark and not each.mark.is_published and each.revision != kept.revision]
            if left:
                self._pointers.remove(left)
        except StorageError as error:  # It is published all the same.
            _log.warning(
                "%s: the mark of revision %s says that it is still being published: %s",
                self._pointers,
                kept.revision.top_hash,
                error,
            )
        return kept.revision, True

    def _pointer_of(self, latest: Latest, but: Pointer | None = None) -> Pointer | None:
        """Return the pointer of the revision that ``latest`` names: the one of its writer, or else the newest."""
        newest = None
        for pointer in self._pointers.all():
            if pointer.revision.top_hash != latest.top_hash or (but and pointer.revision == but.revision):
                continue
            if latest.mark is None or (pointer.mark and pointer.mark.writer == latest.mark.writer):
                return pointer
            newest = newest or pointer
        return newest

    def _leave(self, latest: Latest | None, top_hash: TopHash | None, kept: Sequence[Pointer]) -> None:
        """Let ``latest`` name none of the revisions that are to be deleted."""
        if latest is None or (kept and latest.top_hash != top_hash):
            return
        if not kept:
            self._pointers.delete_latest(latest)
            return
        settled = (pointer for pointer in kept if pointer.is_settled(self._clock()))
        self._pointers.write_latest(next(settled, kept[0]).revision.top_hash, latest)

    def _mend(self, kept: Sequence[Pointer]) -> None:
        """Give what was published while others were deleted what it lost with them."""
        if not kept:
            self._pointers.restore_latest()
        latest = self._pointers.latest()
        if latest and latest.top_hash not in {pointer.revision.top_hash for pointer in kept} and not self._pointer_of(latest):
            mark = (latest.mark or Mark.of(Attempt())).published()
            self._pointers.add(latest.top_hash, int(self._clock()), mark)


def _published(pointers: Sequence[Pointer]) -> Pointer | None:
    return next((pointer for pointer in pointers if pointer.mark and pointer.mark.is_published), None)
