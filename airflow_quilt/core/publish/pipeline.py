"""From a draft to a revision, in one process."""

import contextlib
import logging
import threading
from collections.abc import Iterable
from typing import Any, Final, Self

from airflow_quilt.core.errors import RevisionConflictError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.ordering import merge_join, records_of
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Copy, Source, Transfer, Upload
from airflow_quilt.core.publish.changes import PreviousEntries
from airflow_quilt.core.publish.commit import PublishResult, TransferStats, commit
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.kept import KeptEntries
from airflow_quilt.core.publish.planned import Entries, PlannedRevision, Planner, TransferredEntry, bytes_of, decide
from airflow_quilt.core.publish.resolve import resolve, survey
from airflow_quilt.core.publish.reuse import attach_previous
from airflow_quilt.core.publish.spec import CommitSpec
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Latest
from airflow_quilt.core.runtime.progress import Progress, count, human_size
from airflow_quilt.core.runtime.retry import Failures, RetryPolicy
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.runtime.stop import stoppable
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.content import ContentFile
from airflow_quilt.core.transfer.upload import Uploader

_log = logging.getLogger(__name__)

_REBASE: Final = RetryPolicy(seconds=600.0, shortest=0.1, longest=2.0)
_WORTH_A_CHECK: Final = 64 * 1024 * 1024
"""Bytes to move from which on two requests are worth it, to learn now that the manifest could not be written in the end."""


def publish(
    registry: Registry,
    draft: Draft,
    planner: Planner,
    *,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> PublishResult:
    """Make a draft a revision. Readers see nothing before everything is there.

    Args:
        registry: takes the revision.
        draft: the revision.
        planner: chooses upload, copy or hash-in-place for each source.
        stop: set it, from any thread, to end the work with ``CancelledError``; nothing is published then.
        attempt: identifies the attempts of one piece of work, so that it makes one revision however often it is run.

    Raises:
        InputError: the draft cannot be published; nothing was written.
        RevisionConflictError: ``latest`` moved meanwhile; nothing is visible.
        StorageError: a store refused or failed; nothing is visible.
    """
    package = draft.check()
    with stoppable(stop), Workspace(registry, package, attempt or Attempt()) as work:
        latest, config, added = survey(  # 1. which files there are, beside `latest` and the workflows
            registry, package, draft, work.spool(Source), work.contents.put
        )
        while True:
            with work.round():
                previous = work.previous(latest)
                revision = resolve(registry, package, draft, config, added, previous)  # 2. header, tree, workflow
                planned = decide(planner, draft, package, revision, work.plan())  # 3. nothing has moved yet
                spec = CommitSpec.of(draft, package, revision, planned, added.directories)
                entries = carry_out(work, planned, previous, f"{planner.verb} {package}")  # 4. bytes
                try:
                    return commit(  # 5. manifest, pointer, latest
                        registry,
                        spec,
                        entries,
                        added=records_of(added.sources),
                        unseen=planned.kept,
                        stats=work.stats,
                        base=latest,
                        previous=previous,
                        attempt=work.attempt,
                        since=work.since,
                    )
                except RevisionConflictError as conflict:
                    latest = work.rebase(draft, conflict)  # 6. again, on top of the newer revision


class Workspace:
    """The temporary space of one publication, and its progress over several rounds.

    A round is one pass from the files to the commit; a conflict makes a second one on top of the newer revision. The entries
    of a round serve the next one.

    Attributes:
        attempt: identifies the work.
        since: unix seconds since when earlier attempts, or earlier rounds, may have left something; None for the first.
        stats: bytes moved, of all rounds.
        done: the transfers of the last round.
        contents: the content among the sources.

    Args:
        rebasing: how often, and for how long after its first conflict, the work is rebased.
    """

    def __init__(
        self,
        registry: Registry,
        package: PackageName,
        attempt: Attempt,
        rebasing: RetryPolicy = _REBASE,
    ) -> None:
        self.registry = registry
        self.package = package
        self.attempt = attempt
        self.since = attempt.since
        self.stats = TransferStats()
        self.done: Spool[TransferredEntry] | None = None
        self._spools = contextlib.ExitStack()
        self._round_spools = contextlib.ExitStack()
        self.contents = self._spools.enter_context(ContentFile())
        self._rebasing = rebasing
        self._conflicts = Failures()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spools.close()

    def spool(self, kind: Any) -> Spool[Any]:
        """Return a spool for records of a type, which lasts until the work is over."""
        return self._spools.enter_context(Spool(kind, self.registry.stores.limits.spill_entries))

    def round_spool(self, kind: Any) -> Spool[Any]:
        """Return a spool for records of a type, which lasts until the end of the round."""
        return self._round_spools.enter_context(Spool(kind, self.registry.stores.limits.spill_entries))

    def round(self) -> contextlib.ExitStack:
        """Begin a round; the context ends it."""
        self._round_spools = contextlib.ExitStack()
        return self._round_spools

    def previous(self, latest: Latest | None) -> PreviousEntries:
        """Return the entries of the latest revision, for this round."""
        return PreviousEntries(self.registry, self.package, latest, self.round_spool)

    def plan(self) -> PlannedRevision:
        """Return an empty plan, for this round."""
        kept = self._round_spools.enter_context(KeptEntries(self.registry.stores.limits.spill_entries))
        return PlannedRevision(kept, self.round_spool(Transfer))

    def rebase(self, draft: Draft, conflict: RevisionConflictError) -> Latest | None:
        """Return the newer revision that the next round is based on.

        Raises:
            RevisionConflictError: the draft is not to be rebased, or that has gone on for too long.
        """
        if draft.on_conflict != "rebase" or not self._rebasing.wait(conflict, self._conflicts):
            raise conflict
        _log.info(
            "%s was published to meanwhile: merging with the latest revision, round %s", self.package, self._conflicts.count + 1
        )
        self.since = self.attempt.began if self.since is None else self.since
        return self.registry.latest(self.package)


def carry_out(work: Workspace, planned: PlannedRevision, previous: PreviousEntries, label: str) -> Entries:
    """Transfer the files of a plan, apart from those that an earlier round transferred; return the entries of the revision.

    Raises:
        QuiltError: as for :meth:`airflow_quilt.core.transfer.upload.Uploader.run`.
    """
    registry = work.registry
    done, fresh = work.spool(TransferredEntry), planned.transfers
    if work.done:
        fresh = work.round_spool(Transfer)
        done.extend(old for new, old in merge_join(planned.transfers, work.done) if old and old.transfer == new)
        fresh.extend(new for new, old in merge_join(planned.transfers, done) if new and not old)
        work.done.close()
    work.done = done
    to_read, to_move = bytes_of(fresh)
    check_writable(registry, to_move)
    announce(registry, label, planned, to_move)
    progress = Progress(label)
    progress.begin(len(planned), planned.size, kept=len(planned) - len(fresh), kept_size=planned.size - to_read)
    transfers = attach_previous(registry.stores, previous, fresh, work.round_spool) if previous.latest and to_move else fresh
    reused = transfer_all(registry.stores, transfers, done, progress, work.attempt.earliest)
    work.stats.copied += to_move - reused
    work.stats.reused += reused
    return planned.entries(done)


def check_writable(registry: Registry, to_move: int) -> None:
    """Check, where many bytes are about to move, that the manifest could be written in the end.

    Raises:
        StorageError: it could not.
    """
    if to_move >= _WORTH_A_CHECK:
        registry.check_writable()


def announce(registry: Registry, label: str, planned: PlannedRevision, to_move: int) -> None:
    """Log the size of the work that begins."""
    amount = f"{count(len(planned), 'entry', 'entries')}, {human_size(planned.size)}"
    _log.info("%s to %s: %s, %s to copy", label, registry.location, amount, human_size(to_move))


def transfer_all(
    stores: Stores,
    transfers: Iterable[Transfer],
    done: Spool[TransferredEntry],
    progress: Progress,
    since: float | None,
) -> int:
    """Carry out transfers, and put them with their entries into ``done``; return the bytes that were there already.

    Raises:
        QuiltError: as for :meth:`airflow_quilt.core.transfer.upload.Uploader.run`.
    """
    uploader = Uploader(stores, progress=progress, since=since)
    with contextlib.closing(uploader.run(transfers)) as results:
        done.extend(TransferredEntry.of(transfer, entry) for transfer, entry in results)
    # A bucket that keeps no versions shares the objects of one key among all revisions: worth one line.
    first = next((each.entry for each in done if isinstance(each.transfer, Upload | Copy)), None)
    if first and not PhysicalKey.parse(first.physical_keys[0]).is_immutable:
        _log.warning("%s has no version: the next revision overwrites it; let the bucket keep versions", first.physical_keys[0])
    return uploader.bytes_reused
