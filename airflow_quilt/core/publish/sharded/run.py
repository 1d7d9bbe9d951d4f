"""One push or build by many workers: one plans, each shard of the plan is transferred by one, one commits.

They share nothing but a place where they leave things for each other, and any of them may be run again: what it finds done
it does not do twice. A build, and a push of local files, need workers that see the same files under the same paths.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from airflow_quilt.core.errors import InputError, ObjectNotFoundError
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Transfer
from airflow_quilt.core.publish.commit import Commit, Planner, PublishResult, TransferStats, announce, bytes_of, spool, transfer
from airflow_quilt.core.publish.draft import Draft, check_draft
from airflow_quilt.core.publish.planned import Entries, PlannedRevision, TransferredEntry
from airflow_quilt.core.publish.sharded.plan import Planning, ShardingOptions
from airflow_quilt.core.publish.sharded.staging import Plan, ShardResult, Staging, check_staging, find_expired, staging_of
from airflow_quilt.core.registry.attempt import Attempt, WriterTag
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.executor import check_stop
from airflow_quilt.core.runtime.progress import Progress, count, human_size

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
    """What was planned.

    Attributes:
        shards: how many there are, one at least; their numbers count from 0.
        entries: the number of files.
        bytes: what they add up to.
        bytes_to_copy: how many of those bytes are to be moved to the registry's bucket.
    """

    shards: int
    entries: int
    bytes: int
    bytes_to_copy: int


def plan_shards(  # noqa: PLR0913, PLR0917  (what a push is made of, and where its workers meet)
    registry: Registry,
    draft: Draft,
    planner: Planner,
    verb: str,
    staging: PhysicalKey,
    cut: ShardingOptions,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> ShardPlan:
    """Plan a draft and stage the plan in shards; where that has been done already, do nothing.

    What can be checked is checked now: sources, metadata, the workflow. The content that a draft holds is staged with the plan.

    Args:
        registry: where the package goes.
        draft: what to publish.
        planner: decides what becomes of the bytes (:func:`airflow_quilt.core.push.push_planner`, and that of build).
        verb: tells the log what is being done.
        staging: where the workers meet (:func:`staging_of`).
        cut: how many shards.
        stop: set it to end the work.
        attempt: tells the tries of one piece of work from other work.

    Raises:
        InputError: what the draft says cannot be published; or another piece of work has its plan here.
        StorageError: a store refused or failed.
    """
    name, place = _checked(draft), _place(registry, staging)
    identity = WriterTag.of(attempt or Attempt()).writer
    plan = place.plan() or Planning(registry, draft, name, place, identity, stop or threading.Event()).plan(planner, verb, cut)
    if (plan.registry, plan.package) != (str(registry.location), str(name)):
        raise InputError(
            f"{staging}: there is a plan of other work, to publish {plan.package}; choose another place, or discard it"
        )
    return ShardPlan(shards=len(plan.shards), entries=sum(plan.shards), bytes=plan.bytes, bytes_to_copy=plan.bytes_to_copy)


def transfer_shard(
    registry: Registry, staging: PhysicalKey, number: int, stop: threading.Event | None = None, attempt: Attempt | None = None
) -> ShardResult:
    """Do what is to be done for one shard of a plan, and stage its entries; where that has been done already, do nothing.

    Args:
        registry: where the package goes.
        staging: where the plan is.
        number: which shard, counted from 0.
        stop: set it to end the work.
        attempt: on a retry, says since when others tried: what they sent is looked for, and not sent again.

    Raises:
        InputError: there is no such shard.
        SourceChangedError: a source is not what it was when it was planned.
        EntryDamagedError: an object does not hold the bytes that its package names.
        StorageError: a store refused or failed; or there is no plan.
    """
    place, plan = _opened(registry, staging)
    if not 0 <= number < len(plan.shards):
        raise InputError(f"shard {number}: the plan has {len(plan.shards):,}, counted from 0")
    if there := place.done(plan, number):
        _log.info("Shard %s of %s has been transferred already", number, plan.package)
        return there
    return _transferred(registry, place, plan, number, stop or threading.Event(), (attempt or Attempt()).earliest)


def _transferred(
    registry: Registry, place: Staging, plan: Plan, number: int, stop: threading.Event, since: float | None
) -> ShardResult:
    with contextlib.ExitStack() as held:
        planned = PlannedRevision(spool(held, registry, Entry), spool(held, registry, Transfer))
        for actions in place.shard(plan, number):
            check_stop(stop)
            planned.add(actions)
        to_do, to_move = bytes_of(planned.tasks)
        what = f"{plan.verb} {plan.package}, shard {number} of {len(plan.shards):,}"
        announce(registry, what, planned, to_move)
        progress = Progress(what)
        progress.begin(len(planned), planned.size)
        progress.add(len(planned.kept), planned.size - to_do)
        done = spool(held, registry, TransferredEntry)
        reused = transfer(registry.stores, planned.tasks, done, progress, stop, since)
        result = ShardResult(
            number=number, entries=len(planned), bytes=planned.size, bytes_copied=to_move - reused, bytes_reused=reused
        )
        return place.write_done(plan, result, Entries(planned.kept, done))


def commit_shards(
    registry: Registry,
    staging: PhysicalKey,
    verb: str,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> PublishResult:
    """Make what came of all shards a revision; where a try before this one did so, return that revision.

    Args:
        registry: where the package goes.
        staging: where the plan is.
        verb: tells the log what is being done.
        stop: set it to end the work; nothing is published then.
        attempt: tells the tries of one piece of work from other work, so that it makes one revision however often it is run.

    Raises:
        ObjectNotFoundError: there is no plan, or some shards have not been transferred; the message names them.
        RevisionConflictError: ``latest`` moved since the plan; nothing is visible.
        StorageError: a store refused or failed; nothing is visible.
    """
    (place, plan), attempt = _opened(registry, staging), attempt or Attempt()
    entries = _Staged(place, plan, place.all_done(plan), stop or threading.Event())
    amount = f"{count(sum(plan.shards), 'entry', 'entries')}, {human_size(plan.bytes)}"
    _log.info("%s %s to %s: %s shards are there, %s", verb, plan.package, registry.location, len(plan.shards), amount)
    name = PackageName.parse(plan.package)
    commit = Commit(registry, name, plan.terms, plan.base, registry.latest(name), attempt, attempt.since)
    return commit.make(entries, place.added(plan) if plan.terms.update is not None else (), entries.moved)


def discard(registry: Registry, staging: PhysicalKey) -> int:
    """Delete all that is staged in a place; return how many objects that were."""
    return _place(registry, staging).discard()


def sweep(registry: Registry, root: PhysicalKey, now: float, age: float) -> int:
    """Delete what workers that never came to an end left staged below a root.

    Args:
        registry: any whose storages reach the root.
        root: as for :func:`staging_of`.
        now: the unix seconds.
        age: the seconds since its work began after which what is staged goes; more than any work takes.

    Returns:
        How many objects that were.
    """
    keys = find_expired(registry.stores, root, now - age)
    registry.stores.of(root).delete(keys)
    return len(keys)


class _Staged:
    """The entries of all shards in walk order, read again each time; and what was done for them, when they have been read."""

    def __init__(self, place: Staging, plan: Plan, sizes: list[int], stop: threading.Event) -> None:
        self._place = place
        self._plan = plan
        self._sizes = sizes
        self._stop = stop
        self.moved = TransferStats()

    def __iter__(self) -> Iterator[Entry]:
        self.moved.copied = self.moved.reused = 0
        for number, size in enumerate(self._sizes):
            for block in self._place.entries(self._plan, number, size):
                check_stop(self._stop)
                if isinstance(block, ShardResult):
                    self.moved.copied += block.bytes_copied
                    self.moved.reused += block.bytes_reused
                else:
                    yield from block


def _checked(draft: Draft) -> PackageName:
    if draft.conflict == "rebase":
        raise InputError(
            "conflict='rebase': only a push or build by one task can merge with a revision that somebody else makes meanwhile; "
            "give 'fail' or 'overwrite', or do not shard it"
        )
    return check_draft(draft)


def _place(registry: Registry, staging: PhysicalKey) -> Staging:
    check_staging(staging)
    return Staging(registry.stores, staging)


def _opened(registry: Registry, staging: PhysicalKey) -> tuple[Staging, Plan]:
    place = _place(registry, staging)
    plan = place.plan()
    if plan is None:
        raise ObjectNotFoundError("there is no plan, or it has been discarded; begin with the plan", str(staging))
    if plan.registry != str(registry.location):
        raise InputError(f"{staging}: the plan is for {plan.registry}, not for {registry.location}")
    return place, plan
