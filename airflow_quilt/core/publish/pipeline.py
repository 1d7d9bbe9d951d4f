"""What push and build share: from a draft to a revision, in one process."""

import contextlib
import logging
import threading
from dataclasses import dataclass, field
from typing import Any, Final

from airflow_quilt.core.errors import RevisionConflictError
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.ordering import merge_join
from airflow_quilt.core.plan.actions import Source, Transfer
from airflow_quilt.core.plan.tree import SourceTree
from airflow_quilt.core.publish.commit import (
    Commit,
    CommitSpec,
    Planner,
    PublishResult,
    TransferStats,
    announce,
    bytes_of,
    check_target,
    decide,
    spool,
    transfer,
)
from airflow_quilt.core.publish.draft import Draft, check_draft
from airflow_quilt.core.publish.planned import Entries, PlannedRevision, TransferredEntry
from airflow_quilt.core.publish.resolve import discover, resolve
from airflow_quilt.core.publish.reuse import attach_previous
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.pointers import Latest
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.runtime.spool import Spool

__all__ = ["PublishResult", "publish"]

_log = logging.getLogger(__name__)

_REBASING: Final = RetryPolicy(seconds=600.0, shortest=0.1, longest=2.0)


def publish(
    registry: Registry,
    draft: Draft,
    plan: Planner,
    verb: str,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> PublishResult:
    """Make a draft a revision; ``plan`` decides what becomes of the bytes, ``verb`` tells the log what is being done.

    What can be checked is checked before any byte moves, and a reader sees nothing before everything is there.
    """
    name = check_draft(draft)
    with contextlib.ExitStack() as lasting:
        work = _Work(registry, name, draft, plan, verb, stop or threading.Event(), attempt or Attempt(), lasting)
        latest = registry.latest(name)
        work.added = discover(registry, draft, work.lasting_spool(Source))
        return _published(work, latest)


def _published(work: "_Work", latest: Latest | None) -> PublishResult:
    """Make a draft a revision; where somebody else publishes meanwhile, and the draft says so, on top of that."""
    began, failures = _REBASING.clock(), 0
    while True:
        try:
            return work.run(latest)
        except RevisionConflictError as error:
            failures += 1
            pause = _REBASING.pause(error, failures, began)
            if work.draft.conflict != "rebase" or pause is None or work.stop.wait(pause):
                raise
            _log.info("%s was published to meanwhile: merging with the latest revision, try %s", work.name, failures + 1)
            latest = work.registry.latest(work.name)
            work.since = work.attempt.began if work.since is None else work.since


@dataclass(slots=True)
class _Work:
    """A draft on its way: what its sources are, and what has been done for them.

    Attributes:
        lasting: closes, when the work is over, what must last until then.
        held: closes, at the end of each run, what was for that run.
    """

    registry: Registry
    name: PackageName
    draft: Draft
    plan: Planner
    verb: str
    stop: threading.Event
    attempt: Attempt
    lasting: contextlib.ExitStack
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    added: SourceTree = field(default_factory=SourceTree)
    done: Spool[TransferredEntry] | None = None
    moved: TransferStats = field(default_factory=TransferStats)
    since: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.since = self.attempt.since

    def lasting_spool(self, kind: Any) -> Spool[Any]:
        """Return a place for records of a kind, until the work is over."""
        return spool(self.lasting, self.registry, kind)

    def spool(self, kind: Any) -> Spool[Any]:
        """Return a place for records of a kind, until the end of this run."""
        return spool(self.held, self.registry, kind)

    def run(self, latest: Latest | None) -> PublishResult:
        """Make the draft a revision on top of ``latest``; what an earlier run sent is not sent again."""
        with self.held:
            content = resolve(self.registry, self.name, self.draft, self.added, latest)
            planned = PlannedRevision(self.spool(Entry), self.spool(Transfer))
            decide(self.draft, self.name, content, self.plan(content.tree.sources), planned, self.stop)
            before, self.done = self.done, self._carry_out(planned, latest)
            if before:
                before.close()
            terms = CommitSpec.of(self.draft, content, planned, self.added.directories)
            commit = Commit(self.registry, self.name, terms, latest, latest, self.attempt, self.since)
            return commit.make(Entries(planned.kept, self.done), self.added.sources, self.moved)

    def _carry_out(self, planned: PlannedRevision, latest: Latest | None) -> Spool[TransferredEntry]:
        """Do what is to be done, but for what an earlier run did."""
        done, fresh = self.lasting_spool(TransferredEntry), planned.tasks
        if self.done:
            fresh = self.spool(Transfer)
            done.extend(before for task, before in merge_join(planned.tasks, self.done) if before and before.task == task)
            fresh.extend(task for task, before in merge_join(planned.tasks, done) if task and not before)
        to_do, to_move = bytes_of(fresh)
        check_target(self.registry, to_move)
        announce(self.registry, f"{self.verb} {self.name}", planned, to_move)
        progress = Progress(f"{self.verb} {self.name}")
        progress.begin(len(planned), planned.size)
        progress.add(len(planned) - len(fresh), planned.size - to_do)
        tasks = attach_previous(self.registry, self.name, latest, fresh, self.spool) if latest and to_move else fresh
        reused = transfer(self.registry.stores, tasks, done, progress, self.stop, self.attempt.earliest)
        self.moved.copied += to_move - reused
        self.moved.reused += reused
        return done
