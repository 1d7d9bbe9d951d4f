"""One push or build by many workers: one plans, each shard of the plan is transferred by one, one commits.

They share nothing but a staging area, and any of them may be run again: finished work is found and not repeated. A build, and
a push of local files, need workers that see the same files under the same paths.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from airflow_quilt.core.errors import InputError, ObjectNotFoundError
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.commit import PublishResult, TransferStats, commit
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.pipeline import Workspace, announce, transfer_all
from airflow_quilt.core.publish.planned import Planner, TransferredEntry, bytes_of
from airflow_quilt.core.publish.sharded.plan import ShardingOptions, stage_plan
from airflow_quilt.core.publish.sharded.staging import (
    ShardResult,
    StagedPlan,
    Staging,
    check_staging,
    find_expired,
    staging_of,
)
from airflow_quilt.core.registry.attempt import Attempt, WriterTag
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.progress import Progress, count, human_size
from airflow_quilt.core.runtime.stop import check_stop, stoppable

__all__ = [
    "ShardPlan",
    "ShardResult",
    "ShardingOptions",
    "commit_shards",
    "discard",
    "plan_shards",
    "staging_of",
    "sweep",
    "transfer_shard",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """The plan that was staged.

    Attributes:
        shards: the number of shards, one at least; they are counted from 0.
        entries: the number of files.
        bytes: the sum of their sizes.
        bytes_to_copy: bytes that are to be moved to the registry's bucket.
    """

    shards: int
    entries: int
    bytes: int
    bytes_to_copy: int


def plan_shards(  # noqa: PLR0913  (the parts of a push, and where its workers meet)
    registry: Registry,
    draft: Draft,
    planner: Planner,
    staging: PhysicalKey,
    options: ShardingOptions,
    *,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> ShardPlan:
    """Plan a draft and stage the plan in shards; do nothing where that has been done already.

    Sources, metadata and the workflow are checked now. The content that a draft holds is staged with the plan.

    Args:
        registry: takes the package.
        draft: the revision.
        planner: chooses upload, copy or hash-in-place for each source (``push_planner``, ``build_planner``).
        staging: the staging area (:func:`staging_of`).
        options: the size of shards.
        stop: set it to end the work.
        attempt: identifies the attempts of one piece of work.

    Raises:
        InputError: the draft cannot be published; or the plan of other work is staged here.
        StorageError: a store refused or failed.
    """
    if draft.conflict == "rebase":
        raise InputError(
            "conflict='rebase': only a push or build by one task can merge with a revision that is published meanwhile; "
            "give 'fail' or 'overwrite', or do not shard it"
        )
    package, area = draft.check(), _area(registry, staging)
    identity = WriterTag.of(attempt or Attempt()).writer
    with stoppable(stop):
        plan = area.plan() or stage_plan(registry, draft, package, planner, area, identity, options)
    if (plan.registry, plan.spec.package) != (str(registry.location), str(package)):
        raise InputError(
            f"{staging}: there is a plan of other work, to publish {plan.spec.package}; choose another prefix, or discard it"
        )
    return ShardPlan(shards=len(plan.shards), entries=sum(plan.shards), bytes=plan.bytes, bytes_to_copy=plan.bytes_to_copy)


def transfer_shard(
    registry: Registry,
    staging: PhysicalKey,
    number: int,
    *,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> ShardResult:
    """Carry out the transfers of one shard, and stage its entries; do nothing where that has been done already.

    Args:
        registry: takes the package.
        staging: the staging area.
        number: of the shard, counted from 0.
        stop: set it to end the work.
        attempt: on a retry, ``since`` says when earlier attempts began: objects that they sent are not sent again.

    Raises:
        InputError: there is no such shard.
        SourceChangedError: a source has changed since it was planned.
        EntryDamagedError: an object does not hold the bytes that its package names.
        StorageError: a store refused or failed; or there is no plan.
    """
    with stoppable(stop):
        return _transfer_shard(registry, staging, number, attempt or Attempt())


def _transfer_shard(registry: Registry, staging: PhysicalKey, number: int, attempt: Attempt) -> ShardResult:
    area, plan = _opened(registry, staging)
    if not 0 <= number < len(plan.shards):
        raise InputError(f"shard {number}: the plan has {len(plan.shards):,}, counted from 0")
    if finished := area.done(plan, number):
        _log.info("Shard %s of %s has been transferred already", number, plan.spec.package)
        return finished
    with Workspace(registry, PackageName.parse(plan.spec.package), attempt) as work, work.round():
        planned = work.plan()
        for actions in area.shard(plan, number):
            check_stop()
            planned.add([work.contents.take(action) for action in actions])
        to_read, to_move = bytes_of(planned.transfers)
        label = f"Transferring {plan.spec.package}, shard {number} of {len(plan.shards):,}"
        announce(registry, label, planned, to_move)
        progress = Progress(label)
        progress.begin(len(planned), planned.size)
        progress.add(len(planned.kept), planned.size - to_read)
        done = work.spool(TransferredEntry)
        reused = transfer_all(registry.stores, planned.transfers, done, progress, attempt.earliest)
        result = ShardResult(
            number=number,
            entries=len(planned),
            bytes=planned.size,
            bytes_copied=to_move - reused,
            bytes_reused=reused,
            kept=len(planned.kept),
        )
        return area.write_done(plan, result, planned.entries(done))


def commit_shards(
    registry: Registry,
    staging: PhysicalKey,
    *,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> PublishResult:
    """Make the entries of all shards a revision; return that of an earlier attempt where there is one.

    Args:
        registry: takes the package.
        staging: the staging area.
        stop: set it to end the work; nothing is published then.
        attempt: identifies the attempts of one piece of work, so that it makes one revision however often it is run.

    Raises:
        ObjectNotFoundError: there is no plan, or some shards have not been transferred; the message names them.
        RevisionConflictError: ``latest`` moved since the plan; nothing is visible.
        StorageError: a store refused or failed; nothing is visible.
    """
    with stoppable(stop):
        return _commit_shards(registry, staging, attempt or Attempt())


def _commit_shards(registry: Registry, staging: PhysicalKey, attempt: Attempt) -> PublishResult:
    area, plan = _opened(registry, staging)
    entries = _StagedEntries(area, plan, area.all_done(plan))
    amount = f"{count(sum(plan.shards), 'entry', 'entries')}, {human_size(plan.bytes)}"
    _log.info(
        "Committing %s to %s: %s, %s", plan.spec.package, registry.location, count(len(plan.shards), "shard", "shards"), amount
    )
    return commit(
        registry,
        plan.spec,
        entries,
        added=area.added(plan) if plan.spec.update is not None else (),
        unseen=entries.unseen(),
        stats=entries.stats,
        base=plan.base,
        latest=registry.latest(plan.spec.package),
        attempt=attempt,
        since=attempt.since,
    )


def discard(registry: Registry, staging: PhysicalKey) -> int:
    """Delete all that is staged in one area; return the number of objects."""
    return _area(registry, staging).discard()


def sweep(registry: Registry, root: PhysicalKey, now: float, age: float) -> int:
    """Delete the staging areas below a root whose work never came to its end.

    Args:
        registry: any whose storages reach the root.
        root: as for :func:`staging_of`.
        now: the unix seconds.
        age: the seconds since its work began after which an area goes; more than any work takes.

    Returns:
        The number of objects that were deleted.
    """
    keys = find_expired(registry.stores, root, now - age)
    registry.stores.of(root).delete(keys)
    return len(keys)


class _StagedEntries:
    """The entries of all shards in walk order, read again each time; ``stats`` is complete when they have been read."""

    def __init__(self, area: Staging, plan: StagedPlan, sizes: list[int]) -> None:
        self._area = area
        self._plan = plan
        self._sizes = sizes
        self._kept: set[int] = set()
        self.stats = TransferStats()

    def __iter__(self) -> Iterator[Entry]:
        self.stats.copied = self.stats.reused = 0
        for number in range(len(self._sizes)):
            for block in self._blocks(number):
                if isinstance(block, ShardResult):
                    self.stats.copied += block.bytes_copied
                    self.stats.reused += block.bytes_reused
                    self._kept.update([number] if block.kept else [])
                else:
                    yield from block

    def unseen(self) -> Iterator[Entry]:
        """Yield the entries of the shards that kept some of a package as they were; known when all have been read."""
        for number in sorted(self._kept):
            for block in self._blocks(number):
                yield from () if isinstance(block, ShardResult) else block

    def _blocks(self, number: int) -> Iterator[ShardResult | list[Entry]]:
        for block in self._area.entries(self._plan, number, self._sizes[number]):
            check_stop()
            yield block


def _area(registry: Registry, staging: PhysicalKey) -> Staging:
    check_staging(staging)
    return Staging(registry.stores, staging)


def _opened(registry: Registry, staging: PhysicalKey) -> tuple[Staging, StagedPlan]:
    area = _area(registry, staging)
    plan = area.plan()
    if plan is None:
        raise ObjectNotFoundError("there is no plan, or it has been discarded; begin with the plan", str(staging))
    if plan.registry != str(registry.location):
        raise InputError(f"{staging}: the plan is for {plan.registry}, not for {registry.location}")
    return area, plan
