"""Deletions and rollbacks, which take turns by a lock (ADR 0007); publishing does not wait for it.

Both make ``latest`` name a revision that must not be deleted meanwhile. The states of a pointer are a table in
:mod:`airflow_quilt.core.registry.pointers`, those of the lock in :mod:`airflow_quilt.core.registry.lock`.

Histories are long, and reading one takes a request for each revision. So it is read before the lock is taken, and under it only
the pointers that have changed since.

===========================  ======================================================  ==========================================
deletion of the package,     seen by a reader                                        the next attempt
killed after
===========================  ======================================================  ==========================================
``latest`` is deleted        no package; its history                                 deletes the rest
some pointers are deleted    the same, with a shorter history                        deletes the rest
all that was listed is gone  no package, unless another client wrote a pointer        deletes what is there, or finds no package
===========================  ======================================================  ==========================================

===========================  ======================================================  ==========================================
deletion of a revision,      seen by a reader                                        the next attempt
killed after
===========================  ======================================================  ==========================================
``latest`` names another     the newest of the others; the revision in the history   deletes its pointers
its pointers are deleted     the others                                              finds no such revision
===========================  ======================================================  ==========================================
"""

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final

from airflow_quilt.core.errors import ManifestError, PackageNotFoundError, RevisionConflictError, short
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import TopHash
from airflow_quilt.core.format.ordering import batched
from airflow_quilt.core.registry.attempt import Attempt, RollbackTag, WriterTag
from airflow_quilt.core.registry.lock import StoredLock
from airflow_quilt.core.registry.pointers import MOST_ROUNDS, Pointers, too_many_writers
from airflow_quilt.core.registry.revisions import DeleteResult, Latest, PackageState, Pointer, Revision
from airflow_quilt.core.runtime.together import at_once

_log = logging.getLogger(__name__)

_BATCH: Final = 1000
"""Pointers that are deleted before the lock is checked again."""

FindRevision = Callable[[PackageState], TopHash]
"""Chooses a revision, given the state of the package."""


class LockedChanges:
    """Deletes revisions of one package, and rolls back to them.

    Args:
        pointers: the pointers of the package.
        lock: of the package.
        clock: unix seconds.
    """

    def __init__(self, pointers: Pointers, lock: StoredLock, clock: Callable[[], float] = time.time) -> None:
        self._pointers = pointers
        self._lock = lock
        self._clock = clock

    def delete_all(self) -> DeleteResult | None:
        """Delete all pointers of a package, none of which is read for that; return None where there is nothing.

        Raises:
            RevisionConflictError: ``latest`` moved meanwhile; nothing was deleted.
            StorageError: some could not be deleted; a retry goes on.
        """
        with self._lock.hold():
            (latest, damaged), listing = at_once(self._latest_or_damaged, self._pointers.listing, threads=self._pointers.threads)
            if not damaged:
                listing = self._pointers.listed_after(latest, listing)
            names: list[int | str] = [*damaged, *listing.stats, *listing.others]
            if latest is None and not names:
                return DeleteResult() if self._pointers.remove_directory() else None
            # ``latest`` goes first: a crash here leaves a package without it, which readers take for none, never a ``latest``
            # that names a revision without a pointer.
            if latest:
                self._pointers.delete_latest(latest)
            self._remove(names)
            self._repair_after_delete([], tags=())
            return DeleteResult.at(listing.stamps)

    def delete(self, find: FindRevision) -> DeleteResult:
        """Delete the pointers of a revision, tags too, as quilt3 does.

        When it is the latest one, the newest that is left becomes the latest first.

        Raises:
            StorageError: some could not be deleted; a retry goes on.
        """
        # So that few are read under the lock. It is taken in any case: one that was killed when all was deleted may have left it.
        self._pointers.state()
        with self._lock.hold():
            for _ in range(MOST_ROUNDS):
                state = self._pointers.state()
                top_hash = find(state)
                kept = [pointer for pointer in state.pointers if pointer.revision.top_hash != top_hash]
                doomed = [pointer for pointer in state.pointers if pointer.revision.top_hash == top_hash]
                tags = [name for name, tagged in state.tags.items() if tagged == top_hash]
                other_tags = state.tags.keys() - tags
                # ``latest`` moves before pointers go, so a reader never finds it at a revision without a pointer.
                try:
                    self._move_latest_off(state.latest, top_hash, kept)
                except RevisionConflictError:
                    # A publication, which takes no lock, was faster: it may be the revision to delete, or a better successor.
                    continue
                # All else goes with the last pointer, and before it: a crash leaves the revision for the next attempt to find.
                rest = () if kept or other_tags else state.others
                self._remove([*rest, *tags, *(pointer.stamp for pointer in doomed if not pointer.is_pending)])
                # The writer of a pending one may have withdrawn it since, and another writer taken its second.
                for pointer in doomed:
                    if pointer.is_pending:
                        self._pointers.remove_own(pointer)
                self._repair_after_delete(kept, other_tags)
                return DeleteResult.at((pointer.stamp for pointer in doomed), top_hash)
        raise too_many_writers(self._pointers)

    def roll_back(self, find: FindRevision, attempt: Attempt) -> tuple[Revision, TopHash]:
        """Make a revision of the history the latest one again; return it, and the top hash that ``latest`` named before.

        An attempt that finds it moved by another attempt of the same work returns what that one did.

        Raises:
            PackageNotFoundError: the revision is not published yet.
            RevisionConflictError: ``latest`` moved meanwhile; it was left alone.
        """
        for _ in range(MOST_ROUNDS):
            state = self._pointers.state()
            top_hash = find(state)
            stamps = [pointer.stamp for pointer in state.pointers if pointer.revision.top_hash == top_hash]
            with self._lock.hold():
                latest, first = at_once(
                    self._pointers.latest, partial(self._pointers.read, stamps[0]), threads=self._pointers.threads
                )
                there = itertools.chain([first], map(self._pointers.read, stamps[1:]))
                if latest and (done := self._make_latest(top_hash, there, latest, attempt)):
                    tag = latest.rollback_tag
                    is_again = latest.top_hash == top_hash and tag is not None and tag.is_of(attempt)
                    return done, TopHash(tag.previous) if tag and is_again else latest.top_hash
            # A deletion was faster. The revision may have been published anew since.
        raise too_many_writers(self._pointers)

    def _latest_or_damaged(self) -> tuple[Latest | None, Sequence[str]]:
        """Read ``latest``; return it, or its name where it holds no top hash, which is no reason to keep it."""
        try:
            return self._pointers.latest(), ()
        except ManifestError as error:
            _log.warning("It is deleted: %s", error)
            return None, (layout.LATEST,)

    def _make_latest(
        self, top_hash: TopHash, there: Iterable[Pointer | None], latest: Latest, attempt: Attempt
    ) -> Revision | None:
        """Make a revision the latest one, whose pointers are read again under the lock; return None if none is left."""
        newest = None
        # Of the history only they matter, and while the lock is held they are deleted by nobody else who heeds it.
        for pointer in filter(None, there):
            if pointer.revision.top_hash == top_hash:
                newest = newest or pointer.revision
                if latest.top_hash == top_hash:
                    return newest
                # The writer of a pending pointer may be refused in the next moment, and withdraw it.
                if pointer.may_become_latest(self._clock()):
                    self._lock.check()
                    tag = RollbackTag.of(attempt, int(self._clock()), latest.top_hash) if attempt.task else None
                    self._pointers.write_latest(top_hash, latest, rollback_tag=tag)
                    return newest
        if newest:
            raise PackageNotFoundError(
                f"{self._pointers}: roll back to another revision; {short(top_hash)} is still being published, or never was"
            )
        return None

    def _remove(self, names: Iterable[int | str]) -> None:
        for batch in batched(names, _BATCH):
            # A store that was slow may have cost the lock, and its next owner may be making one of these the latest.
            self._lock.check()
            self._pointers.remove(batch)

    def _move_latest_off(self, latest: Latest | None, top_hash: TopHash, kept: Sequence[Pointer]) -> None:
        """Make ``latest`` name another revision than the one that is to be deleted, or none where no other is left."""
        if latest is None or latest.top_hash != top_hash:
            return
        if not kept:
            self._pointers.delete_latest(latest)
            return
        # A pending pointer only where no other is left: its writer may withdraw it, and then puts it back (Pointers.withdraw).
        safe = (pointer for pointer in kept if pointer.may_become_latest(self._clock()))
        self._pointers.write_latest(next(safe, kept[0]).revision.top_hash, latest)

    def _repair_after_delete(self, kept: Sequence[Pointer], tags: Collection[str]) -> None:
        """Restore ``latest``, or the pointer of its revision, for a publication that ran at the same time and lost it.

        Args:
            kept: the history that is left.
            tags: the other pointers that are left.
        """
        if not kept:
            self._restore_or_clear(tags)
        # A publication of the very revision that was deleted was listed with it: ``latest`` names it, and its pointer is gone.
        latest = self._pointers.latest()
        if latest and latest.top_hash not in {pointer.revision.top_hash for pointer in kept} and not self._pointers.find(latest):
            writer_tag = (latest.writer_tag or WriterTag.of(Attempt())).published()
            self._pointers.add(latest.top_hash, int(self._clock()), writer_tag)

    def _restore_or_clear(self, tags: Collection[str]) -> None:
        """Restore the ``latest`` of a publication that lost it; or delete the rest of a package that has no pointer any more."""
        for _ in range(MOST_ROUNDS):
            listing = self._pointers.listing()
            # A publication between the check and the delete of ``latest`` (Pointers.delete_latest) lost its ``latest``.
            if listing.stats:
                self._pointers.restore_latest()
            if listing.stats or listing.latest or tags:
                return
            # quilt3 lists a package as long as there is anything. Other clients may have written tags since the last listing.
            if not listing.others:
                break
            self._remove(listing.others)
        self._pointers.remove_directory()
