"""Publishing of revisions, exact among other writers and crashes (ADR 0007, ADR 0009).

**Publishing** is four writes, for S3 has no transaction over a pointer and ``latest``. The code carries the same numbers:

1. The manifest is in place (:meth:`Registry.commit <airflow_quilt.core.registry.registry.Registry.commit>`).
2. The pointer of the revision is created, tagged ``pending``.
3. ``latest`` is written, if it still is the base. It alone decides which of two writers was first.
4. The pointer is marked as ``published``, and leftovers of earlier attempts of the same work are deleted.

===================  ==============================================  =======================================================
crash after step     seen by a reader                                the next attempt of the same work
===================  ==============================================  =======================================================
1                    the base                                        publishes
2                    the base, and one more pointer in the history   publishes with a pointer of its own, then deletes that one
3                    the revision, whose pointer is pending          finds its tag beside ``latest`` or the pointer; does step 4
4                    the revision                                    finds its published pointer, and returns it
===================  ==============================================  =======================================================

Refused at step 3, an attempt withdraws its pointer. It returns the revision of another attempt of the same work, or the same
revision of another writer, where ``latest`` names one; else it raises :class:`RevisionConflictError`.

A process that moves ``latest`` on first marks the pointer that it named as published, if its writer has not (ADR 0009). So an
attempt reads ``latest`` first and the pointers of its other attempts afterwards: one that is still pending never was the latest
revision, and cannot become it any more once this attempt has moved ``latest``.

Publishing does not wait for the lock of deletions and rollbacks (:mod:`airflow_quilt.core.registry.locked`). The states of a
pointer are a table in :mod:`airflow_quilt.core.registry.pointers`.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from airflow_quilt.core.errors import DiskError, RevisionConflictError, StorageError, StorageUnavailableError
from airflow_quilt.core.format.names import TopHash
from airflow_quilt.core.registry.attempt import Attempt, WriterTag
from airflow_quilt.core.registry.pointers import MOST_ROUNDS, Pointers, too_many_writers
from airflow_quilt.core.registry.revisions import Latest, Pointer, PointerListing, Revision
from airflow_quilt.core.runtime.stop import sleep

_log = logging.getLogger(__name__)

_MARK_POLLS: Final = 20
_MARK_POLL_INTERVAL: Final = 0.05
"""Polls, and seconds between them, in which another attempt that is alive marks its pointer as published, where another client
has moved ``latest`` on without doing that for it."""
_CLEANUP_ATTEMPTS: Final = 2
_CLOCK_SKEW: Final = 60.0
"""Seconds by which the clocks of two workers that run at the same time may differ."""


class History:
    """Publishes the revisions of one package.

    Args:
        pointers: the pointers of the package.
        clock: unix seconds.
    """

    def __init__(self, pointers: Pointers, clock: Callable[[], float] = time.time) -> None:
        self._pointers = pointers
        self._clock = clock

    def check(self, top_hash: TopHash, base: Latest | None, attempt: Attempt) -> None:
        """Check early, and without a trace, that a revision can be published on its base, or is published already.

        Raises:
            RevisionConflictError: ``latest`` has moved.
        """
        self._pointers.check_latest(base, top_hash, WriterTag.of(attempt))

    def list_recent(self, attempt: Attempt, latest: Latest | None) -> PointerListing:
        """List the newest pointer, those that attempts of this work may have written, and the one that ``latest`` names."""
        # Histories are long, and a request lists 1000 keys. Without a tag beside ``latest`` it is unknown how old its pointer is.
        since = min(int(_earliest(attempt)), latest.writer_tag.stamp) if latest and latest.writer_tag else 0
        listing = self._pointers.listing_beside(latest, since)
        # Nothing: the pointer of ``latest`` was deleted. The newest of all is needed, for the next one goes after it.
        return listing if listing.stats or not since else self._pointers.listing()

    def publish(
        self,
        top_hash: TopHash,
        base: Latest | None,
        listing: PointerListing,
        attempt: Attempt,
        *,
        overwrite: bool,
        probe: Callable[[], None] | None = None,
    ) -> tuple[Revision, bool]:
        """Make a revision, whose manifest is in place, the latest one.

        Args:
            top_hash: the revision.
            base: ``latest`` as it was when the work began.
            listing: a listing of :meth:`list_recent` for ``base``, which was read before it.
            attempt: of the work. A revision that another attempt published is returned, also where it is not the latest now.
            overwrite: publish also where others have published since.
            probe: waits until it is known whether the store keeps conditions; by default it is tried with the new pointer.

        Returns:
            The revision; and whether an attempt of this work made it. False: another writer published the same meanwhile.

        Raises:
            RevisionConflictError: ``latest`` has moved; nothing is visible.
        """
        # 1. The manifest is in place.
        writer_tag = WriterTag.of(attempt)
        # ``latest`` (the base) was read before the listing. In the other order another attempt could publish, and a third writer
        # move ``latest`` on, between the two: neither would show that revision (ADR 0009).
        earlier = self._pointers_of_attempts(writer_tag, attempt, base, listing)
        if done := self._published_by_attempt(base, writer_tag, earlier):
            return self._finish(done, earlier), True
        # An earlier attempt died after step 2, and another writer published the same content. Its oldest pointer stands for this
        # work: one more would double the revision.
        if earlier and base and base.top_hash == top_hash:
            return self._finish(earlier[-1], earlier), True
        # Refused here, before there is a pointer that a reader could see and that would have to be withdrawn.
        if not overwrite and listing.latest != (base and base.etag):
            self._pointers.check_latest(base, top_hash, writer_tag)
        # 2. The pending pointer. Its second is later than all others, also by a wrong clock: the history is ordered by them.
        pointer = self._pointers.add(top_hash, max(int(self._clock()), listing.newest + 1), writer_tag)
        # A store that ignores conditions would have overwritten another pointer just now. It is found out before ``latest`` is
        # written, once in a process, and the log warns.
        if probe:
            probe()
        else:
            self._pointers.probe(pointer)
        # 3. ``latest``, which alone decides.
        if overwrite:
            pointer, theirs = self._publish_over_any(pointer, base, writer_tag, attempt)
        else:
            theirs = self._publish_on_base(pointer, base)
        # Only the own pointer goes, for no other process relies on it; the other one is the result (ADR 0003).
        if theirs:
            self._pointers.remove_own(pointer)
            pointer = theirs
        # 4. The tag of the pointer, and leftovers.
        return self._finish(pointer, earlier), writer_tag.is_same_work(pointer.writer_tag)

    def made(self, latest: Latest | None, attempt: Attempt) -> Revision | None:
        """Return the revision that an attempt of this work published before ``latest`` was read, or None."""
        writer_tag = WriterTag.of(attempt)
        earlier = self._pointers_of_attempts(writer_tag, attempt, latest, self.list_recent(attempt, latest))
        done = self._published_by_attempt(latest, writer_tag, earlier)
        return self._finish(done, earlier) if done else None

    def unchanged(self, latest: Latest, attempt: Attempt) -> tuple[Revision, bool] | None:
        """Return the revision that ``latest`` names, and whether it is of this work; None where it has no pointer."""
        writer_tag = WriterTag.of(attempt)
        recent = self._read_recent(attempt, latest, self.list_recent(attempt, latest))
        pointer = _pointer_among(recent, latest) or self._pointers.find(latest)
        if pointer is None:
            return None
        self._finish(pointer, self._pointers_of_attempts(writer_tag, attempt, latest, recent))
        return pointer.revision, writer_tag.is_same_work(pointer.writer_tag)

    def _read_recent(self, attempt: Attempt, latest: Latest | None, listing: PointerListing) -> list[Pointer]:
        """Read the pointers that attempts of this work may have written, newest first, and the one that ``latest`` names."""
        # The newest one in any case: the clock of this machine, or of the writer, may be wrong.
        also = {listing.newest, latest.writer_tag.stamp if latest and latest.writer_tag else 0}
        return self._pointers.read_listed(listing, _earliest(attempt), also)

    def _pointers_of_attempts(
        self, writer_tag: WriterTag, attempt: Attempt, latest: Latest | None, recent: PointerListing | Sequence[Pointer]
    ) -> list[Pointer]:
        """Return the pointers of the other attempts of this work, newest first; ``latest`` was read before."""
        found: list[Pointer] = []
        for _ in range(_MARK_POLLS):
            pointers = self._read_recent(attempt, latest, recent) if isinstance(recent, PointerListing) else recent
            found = [
                each
                for each in pointers
                if each.writer_tag and each.writer_tag.work == writer_tag.work and each.writer_tag.writer != writer_tag.writer
            ]
            # A ``latest`` with a tag was moved by this program, which marks the pointer before: then pending means never the
            # latest. Another client marks nothing, so a live attempt gets a second to do it (ADR 0009).
            if not found or _first_published(found) or latest is None or latest.writer_tag:
                break
            sleep(_MARK_POLL_INTERVAL)
            recent = self.list_recent(attempt, latest)
        return found

    def _published_by_attempt(self, latest: Latest | None, writer_tag: WriterTag, earlier: Sequence[Pointer]) -> Pointer | None:
        """Return the pointer that another attempt of this work published before ``latest`` was read, or None."""
        if done := _first_published(earlier):
            return done
        return self._pointers.find(latest) if latest and writer_tag.is_same_work(latest.writer_tag) else None

    def _publish_on_base(self, pointer: Pointer, base: Latest | None) -> Pointer | None:
        """Do step 3 on the base alone; return the pointer of another writer that did it to the same effect, or None."""
        try:
            return self._compare_and_set_latest(pointer, base)
        except RevisionConflictError:
            self._pointers.withdraw(pointer)
            raise

    def _publish_over_any(
        self, pointer: Pointer, base: Latest | None, writer_tag: WriterTag, attempt: Attempt
    ) -> tuple[Pointer, Pointer | None]:
        """Do step 3 on the latest of the moment; return the own pointer, and that of another writer as on a base."""
        for _ in range(MOST_ROUNDS):
            try:
                return pointer, self._compare_and_set_latest(pointer, base)
            except RevisionConflictError:
                before, base = base, self._pointers.latest()
            # ``latest`` was read anew, so the search for other attempts is due anew: one may have published in between.
            earlier = self._pointers_of_attempts(writer_tag, attempt, base, self.list_recent(attempt, base))
            if done := self._published_by_attempt(base, writer_tag, earlier):
                return pointer, done
            # The package was deleted, the pointer maybe with it. A deletion that is still at work removes the seconds that it
            # listed; a later second is safe from it.
            if base is None and before is not None:
                self._pointers.withdraw(pointer)
                pointer = self._pointers.add(pointer.revision.top_hash, pointer.stamp + 1, writer_tag)
        self._pointers.withdraw(pointer)
        raise too_many_writers(self._pointers)

    def _compare_and_set_latest(self, pointer: Pointer, base: Latest | None) -> Pointer | None:
        """Make ``latest`` name a revision if it still is its base; return the pointer of another writer that did, or None."""
        try:
            twin = self._pointers.write_latest(pointer.revision.top_hash, base, pointer.writer_tag)
        except StorageError as error:
            # A store that stays away may have written ``latest``, which must not lose its pointer: that one stays until a retry
            # finds out. Every other error is a refusal.
            if not isinstance(error, StorageUnavailableError) or isinstance(error, DiskError):
                self._withdraw_unless_latest(pointer)
            raise
        return self._pointers.find(twin, pointer) if twin else None

    def _withdraw_unless_latest(self, pointer: Pointer) -> None:
        """Withdraw a pointer after an error of its storage, unless ``latest`` names it all the same."""
        try:
            latest = self._pointers.latest()
            if latest is None or latest.writer_tag != pointer.writer_tag:
                self._pointers.withdraw(pointer)
        except StorageError as error:
            message = "%s: revision %s was not published, but its pointer could not be deleted: %s"
            _log.warning(message, self._pointers, pointer.revision.top_hash, error)

    def _finish(self, pointer: Pointer, earlier: Sequence[Pointer]) -> Revision:
        """Do step 4: mark a pointer as published, and delete leftovers of other attempts of the same work."""
        kept = self._mark_or_restore(pointer)
        # The revision is published: an error from here on must not make the task report that it is not.
        for number in range(1, _CLEANUP_ATTEMPTS + 1):
            try:
                self._remove_leftovers(earlier, kept)
                break
            except StorageError as error:
                if number == _CLEANUP_ATTEMPTS:
                    _log.warning("%s: a leftover pointer of an earlier attempt could not be deleted: %s", self._pointers, error)
        return kept.revision

    def _mark_or_restore(self, pointer: Pointer) -> Pointer:
        """Mark the pointer of a published revision, or create it again where a deletion took it meanwhile."""
        if pointer.writer_tag is None or pointer.writer_tag.is_published:
            return pointer
        try:
            return self._pointers.mark_published(pointer) or self._pointers.restore(pointer, pointer.writer_tag)
        except StorageError as error:
            # ``latest`` has named it, and the next process that moves ``latest`` marks it (ADR 0009).
            message = "%s: revision %s is published, but its pointer still has the tag 'pending': %s"
            _log.warning(message, self._pointers, pointer.revision.top_hash, error)
            return pointer

    def _remove_leftovers(self, earlier: Sequence[Pointer], kept: Pointer) -> None:
        """Delete the pending pointers of other attempts of the same work; one that was published since stays."""
        stale = [each for each in earlier if each.is_pending and each.revision != kept.revision]
        # They are read once more: a helper may have marked one since, and then it is a revision of the history.
        now = [self._pointers.read(each.stamp) for each in stale]
        if left := [each.stamp for each in now if each and each in stale]:
            self._pointers.remove(left)


def _earliest(attempt: Attempt) -> float:
    """Return the unix seconds before which no other attempt of this work wrote a pointer."""
    # Before a first attempt there was none, so another one that it meets runs at the same time.
    return attempt.began - _CLOCK_SKEW if attempt.earliest is None else attempt.earliest


def _first_published(pointers: Sequence[Pointer]) -> Pointer | None:
    return next((pointer for pointer in pointers if pointer.writer_tag and pointer.writer_tag.is_published), None)


def _pointer_among(pointers: Sequence[Pointer], latest: Latest) -> Pointer | None:
    """Return the pointer of the revision that ``latest`` names, as :meth:`PointerReader.find`, if it is one of these."""
    alike = (pointer for pointer in pointers if pointer.revision.top_hash == latest.top_hash)
    return next((pointer for pointer in pointers if pointer.is_named_by(latest)), None) or next(alike, None)
