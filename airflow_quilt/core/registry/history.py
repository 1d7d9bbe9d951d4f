"""How the history of a package changes: publish, delete, roll back; exact, whoever else writes or dies meanwhile.

The timestamp pointer of a revision is written first, pending; then ``latest``, if it still is what was read; then the
pointer is marked as published. ``latest`` alone decides who was first. Who was not takes its own pointer away.

Whoever moves ``latest`` on marks the pointer of what it named, if its writer has not done so yet. So a try that reads
``latest``, and then looks for pointers of its twins, knows whether one of them was published before: a pointer that is still
pending never was the latest revision, and cannot become it any more once this try has moved ``latest``.

Deleting and rolling back make ``latest`` name a revision that is there already, which nobody may delete meanwhile. So
they take turns, by a lock; publishing does not wait for it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from airflow_quilt.core.errors import (
    DiskError,
    PackageNotFoundError,
    RevisionConflictError,
    StorageError,
    StorageUnavailableError,
)
from airflow_quilt.core.format.names import TopHash
from airflow_quilt.core.registry.attempt import Attempt, WriterTag
from airflow_quilt.core.registry.lock import StoredLock
from airflow_quilt.core.registry.pointers import DeleteResult, Latest, Listing, Pointer, Pointers, Revision

_log = logging.getLogger(__name__)

_TRIES: Final = 100
_GLANCES: Final = 20
_GLANCE: Final = 0.05
"""So often, and so many seconds apart, one looks whether a try that lives marks its pointer as published, where another client
has moved ``latest``, which marks nothing."""
_SWEEPS: Final = 2
_CLOCKS: Final = 60.0
"""Seconds by which the clocks of two workers that run at the same time may differ."""

Find = Callable[[Latest | None, Sequence[Pointer]], TopHash]
"""Chooses a revision, of ``latest`` and of the history."""


class History:
    """The history of one package.

    Args:
        pointers: of the package.
        lease: the lock for what may not happen at the same time.
        clock: unix seconds.
    """

    def __init__(self, pointers: Pointers, lease: StoredLock, clock: Callable[[], float] = time.time) -> None:
        self._pointers = pointers
        self._lease = lease
        self._clock = clock

    def check(self, top_hash: TopHash, base: Latest | None, attempt: Attempt) -> None:
        """Check early, and without a trace, that a revision can be published on its base, or is published already.

        Raises:
            RevisionConflictError: ``latest`` has moved.
        """
        self._pointers.check_latest(base, top_hash, WriterTag.of(attempt))

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
        writer_tag = WriterTag.of(attempt)
        listing = self._listing(attempt, base)
        earlier = self._tries(writer_tag, attempt, base, listing)
        if done := self._done(base, writer_tag, earlier):
            return self._keep(done, earlier), True
        if earlier and base and base.top_hash == top_hash:
            return self._keep(earlier[-1], earlier), True
        if not overwrite and listing.latest != (base and base.etag):
            self._pointers.check_latest(base, top_hash, writer_tag)  # Before there is a pointer that would have to go again.
        pointer = self._pointers.add(top_hash, max(int(self._clock()), listing.newest + 1), writer_tag)
        if overwrite:
            pointer, theirs = self._overwrite(pointer, base, writer_tag, attempt)
        else:
            theirs = self._win(pointer, base)
        if theirs:
            self._pointers.remove([pointer.stamp])
            pointer = theirs
        return self._keep(pointer, earlier), _is_of(pointer.writer_tag, writer_tag)

    def made(self, latest: Latest | None, attempt: Attempt) -> Revision | None:
        """Return the revision that a try of this piece of work published, if one did before ``latest`` was read."""
        writer_tag = WriterTag.of(attempt)
        tries = self._tries(writer_tag, attempt, latest, self._listing(attempt, latest))
        done = self._done(latest, writer_tag, tries)
        return self._keep(done, tries) if done else None

    def unchanged(self, latest: Latest, attempt: Attempt) -> tuple[Revision, bool] | None:
        """Return the revision that ``latest`` names, and whether it is of this piece of work; None where it has no pointer."""
        writer_tag = WriterTag.of(attempt)
        near = self._near(attempt, latest, self._listing(attempt, latest))
        pointer = _among(near, latest) or self._pointer_of(latest)
        if pointer is None:
            return None
        self._keep(pointer, self._tries(writer_tag, attempt, latest, near))
        return pointer.revision, _is_of(pointer.writer_tag, writer_tag)

    def delete_all(self) -> DeleteResult | None:
        """Delete the pointers of all revisions, which need not be read for that; return None where there is nothing.

        Raises:
            RevisionConflictError: ``latest`` moved meanwhile; nothing was deleted.
            StorageError: some could not be deleted; a retry goes on.
        """
        with self._lease.hold():
            latest, stamps = self._pointers.latest(), self._pointers.listing().stamps
            if latest is None and not stamps:
                return None
            if latest:
                self._pointers.delete_latest(latest)
            self._lease.check()
            self._pointers.remove(stamps)
            self._mend([])
            return DeleteResult.at(stamps)

    def delete(self, find: Find) -> DeleteResult:
        """Delete the pointers of a revision.

        When it is the latest one, the newest that is left becomes the latest first.

        Raises:
            StorageError: some could not be deleted; a retry goes on.
        """
        with self._lease.hold():
            for _ in range(_TRIES):
                latest, pointers = self._pointers.latest(), self._pointers.read_listed(self._pointers.listing())
                top_hash = find(latest, pointers)
                kept = [pointer for pointer in pointers if pointer.revision.top_hash != top_hash]
                doomed = [pointer.stamp for pointer in pointers if pointer.revision.top_hash == top_hash]
                try:
                    self._leave(latest, top_hash, kept)
                except RevisionConflictError:
                    continue  # It is for what is the latest now to be looked at.
                self._lease.check()
                self._pointers.remove(doomed)
                self._mend(kept)
                return DeleteResult.at(doomed, top_hash)
        raise StorageUnavailableError("others write it all the time", str(self._pointers))

    def roll_back(self, find: Find) -> tuple[Revision, TopHash]:
        """Let ``latest`` name a revision of the history again; return it, and what ``latest`` named before.

        Raises:
            PackageNotFoundError: the revision is not published yet.
            RevisionConflictError: ``latest`` moved meanwhile; it was left alone.
        """
        with self._lease.hold():
            latest, pointers = self._pointers.latest(), self._pointers.read_listed(self._pointers.listing())
            top_hash = find(latest, pointers)
            there = [pointer for pointer in pointers if pointer.revision.top_hash == top_hash]
            if latest is None or not there:
                raise PackageNotFoundError(f"{self._pointers}: there is no such revision")
            if latest.top_hash != top_hash:
                if not any(pointer.is_settled(self._clock()) for pointer in there):
                    raise PackageNotFoundError(f"{self._pointers}: revision {top_hash} is still being published, or never was")
                self._lease.check()
                self._pointers.write_latest(top_hash, latest)
            return there[0].revision, latest.top_hash

    def _listing(self, attempt: Attempt, latest: Latest | None) -> Listing:
        """List the newest revision, what tries of this piece of work may have written, and what ``latest`` names."""
        since = min(int(_since(attempt)), latest.writer_tag.stamp) if latest and latest.writer_tag else 0
        listing = self._pointers.listing(since)
        return listing if listing.stats or not since else self._pointers.listing()

    def _near(self, attempt: Attempt, latest: Latest | None, listing: Listing) -> list[Pointer]:
        """Read the pointers that tries of this piece of work may have written, newest first, and the one of ``latest``."""
        # The newest one in any case: a clock may be wrong.
        also = {listing.newest, latest.writer_tag.stamp if latest and latest.writer_tag else 0}
        return self._pointers.read_listed(listing, _since(attempt), also)

    def _tries(
        self, writer_tag: WriterTag, attempt: Attempt, latest: Latest | None, near: Listing | Sequence[Pointer]
    ) -> list[Pointer]:
        """Return the pointers of other tries since the first one began; ``latest`` was read before."""
        found: list[Pointer] = []
        for _ in range(_GLANCES):
            pointers = self._near(attempt, latest, near) if isinstance(near, Listing) else near
            found = [
                pointer for pointer in pointers if _is_of(pointer.writer_tag, writer_tag) and not _is_by(pointer, writer_tag)
            ]
            if not found or _published(found) or latest is None or latest.writer_tag:
                break
            time.sleep(_GLANCE)
            near = self._listing(attempt, latest)
        return found

    def _done(self, latest: Latest | None, writer_tag: WriterTag, tries: Sequence[Pointer]) -> Pointer | None:
        """Return the pointer of what another try of a piece of work published, if one did before ``latest`` was read."""
        if done := _published(tries):
            return done
        return self._pointer_of(latest) if latest and _is_of(latest.writer_tag, writer_tag) else None

    def _win(self, pointer: Pointer, base: Latest | None) -> Pointer | None:
        """Let ``latest`` name a revision on top of its base; return the pointer of what another wrote to that effect."""
        try:
            return self._claim(pointer, base)
        except RevisionConflictError:
            self._pointers.withdraw(pointer)
            raise

    def _overwrite(
        self, pointer: Pointer, base: Latest | None, writer_tag: WriterTag, attempt: Attempt
    ) -> tuple[Pointer, Pointer | None]:
        """Let ``latest`` name a revision whatever it has become; return its pointer, and as :meth:`_win`."""
        for _ in range(_TRIES):
            try:
                return pointer, self._claim(pointer, base)
            except RevisionConflictError:
                before, base = base, self._pointers.latest()
            if done := self._done(base, writer_tag, self._tries(writer_tag, attempt, base, self._listing(attempt, base))):
                return pointer, done
            if base is None and before is not None:
                # The package was deleted, the pointer maybe with it; who deletes has seen no pointer of a later second.
                self._pointers.withdraw(pointer)
                pointer = self._pointers.add(pointer.revision.top_hash, pointer.stamp + 1, writer_tag)
        self._pointers.withdraw(pointer)
        raise StorageUnavailableError("others write it all the time", str(self._pointers))

    def _claim(self, pointer: Pointer, base: Latest | None) -> Pointer | None:
        """Let ``latest`` name a revision if it still is its base; return the pointer of what another wrote to that effect."""
        try:
            twin = self._pointers.write_latest(pointer.revision.top_hash, base, pointer.writer_tag)
        except StorageError as error:
            if not isinstance(error, StorageUnavailableError) or isinstance(error, DiskError):
                self._give_up(pointer)
            raise  # Otherwise it may have been written: then only a retry can tell.
        return self._pointer_of(twin, pointer) if twin else None

    def _give_up(self, pointer: Pointer) -> None:
        """Take the pointer of a revision away which could not be published, unless ``latest`` names it all the same."""
        try:
            latest = self._pointers.latest()
            if latest is None or latest.writer_tag != pointer.writer_tag:
                self._pointers.withdraw(pointer)
        except StorageError as error:
            _log.warning(
                "%s: revision %s was not published; its pointer stays: %s", self._pointers, pointer.revision.top_hash, error
            )

    def _keep(self, pointer: Pointer, earlier: Sequence[Pointer]) -> Revision:
        """Mark a pointer as published, and take those away that tries of the same work left besides."""
        kept = self._settled(pointer)
        for number in range(1, _SWEEPS + 1):
            try:
                self._sweep(earlier, kept)
                break
            except StorageError as error:
                if number == _SWEEPS:
                    _log.warning("%s: a pointer that a killed try left could not be deleted: %s", self._pointers, error)
        return kept.revision

    def _settled(self, pointer: Pointer) -> Pointer:
        """Return the pointer of a published revision, marked as such; put it back if somebody deleted it meanwhile."""
        if pointer.writer_tag is None or pointer.writer_tag.is_published:
            return pointer
        try:
            return self._pointers.mark_published(pointer) or self._pointers.restore(pointer, pointer.writer_tag)
        except StorageError as error:  # It is published all the same.
            message = "%s: the mark of revision %s says that it is still being published: %s"
            _log.warning(message, self._pointers, pointer.revision.top_hash, error)
            return pointer

    def _sweep(self, earlier: Sequence[Pointer], kept: Pointer) -> None:
        """Take away what tries of the same work left; a pointer that was published since stays."""
        stale = [
            each for each in earlier if each.writer_tag and not each.writer_tag.is_published and each.revision != kept.revision
        ]
        now = [self._pointers.read(each.stamp) for each in stale]
        if left := [each.stamp for each in now if each and each in stale]:
            self._pointers.remove(left)

    def _pointer_of(self, latest: Latest, but: Pointer | None = None) -> Pointer | None:
        """Return the pointer of the revision that ``latest`` names: the one of its writer, or else the newest."""
        if named := self._pointers.named_by(latest):
            return named
        return next((each for each in self._pointers.of(latest) if not but or each.revision != but.revision), None)

    def _leave(self, latest: Latest | None, top_hash: TopHash, kept: Sequence[Pointer]) -> None:
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
            writer_tag = (latest.writer_tag or WriterTag.of(Attempt())).published()
            self._pointers.add(latest.top_hash, int(self._clock()), writer_tag)


def _since(attempt: Attempt) -> float:
    """Return the unix seconds before which no other try of this piece of work wrote a pointer."""
    # Another try that is known to a first one runs at the same time.
    return attempt.began - _CLOCKS if attempt.earliest is None else attempt.earliest


def _published(pointers: Sequence[Pointer]) -> Pointer | None:
    return next((pointer for pointer in pointers if pointer.writer_tag and pointer.writer_tag.is_published), None)


def _among(pointers: Sequence[Pointer], latest: Latest) -> Pointer | None:
    """Return the pointer of the revision that ``latest`` names, as :meth:`History._pointer_of`, if it is one of these."""
    alike = (pointer for pointer in pointers if pointer.revision.top_hash == latest.top_hash)
    return next((pointer for pointer in pointers if pointer.is_named_by(latest)), None) or next(alike, None)


def _is_of(writer_tag: WriterTag | None, work: WriterTag) -> bool:
    return writer_tag is not None and writer_tag.work == work.work


def _is_by(pointer: Pointer, writer: WriterTag) -> bool:
    return pointer.writer_tag is not None and pointer.writer_tag.writer == writer.writer
