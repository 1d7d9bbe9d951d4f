"""One push or build by many workers: one plans, each shard of the plan is transferred by one, one commits.

They share a staging area, where others may write too. So each step returns the location or the seal of its records, and the
next step takes it from there, and believes nothing else that is staged (ADR 0023). Any of them may be run again. A build, and a
push of local files, need workers that see the same files under the same paths.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from airflow_quilt.core.errors import InputError, ObjectNotFoundError, StorageError, quoted
from airflow_quilt.core.format.arguments import check_sharded
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Action
from airflow_quilt.core.publish.commit import PublishResult, TransferStats, commit
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.pipeline import Workspace, announce, transfer_all
from airflow_quilt.core.publish.planned import Planner, TransferredEntry, bytes_of
from airflow_quilt.core.publish.sharded import area
from airflow_quilt.core.publish.sharded.area import staging_of
from airflow_quilt.core.publish.sharded.bounds import Bounds
from airflow_quilt.core.publish.sharded.plan import ShardingOptions, stage_plan
from airflow_quilt.core.publish.sharded.results import ShardPlan, ShardResult
from airflow_quilt.core.publish.sharded.staging import StagedPlan, Staging
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.progress import Progress, count, duration, human_size
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


def plan_shards(
    registry: Registry,
    draft: Draft,
    planner: Planner,
    staging: PhysicalKey,
    options: ShardingOptions,
    *,
    stop: threading.Event | None = None,
) -> ShardPlan:
    """Plan a draft and stage the plan in shards.

    Sources, metadata and the workflow are checked now. The content that a draft holds is staged with the plan.

    Args:
        registry: takes the package.
        draft: the revision.
        planner: chooses upload, copy or hash-in-place for each source (``push_planner``, ``build_planner``).
        staging: the staging area (:func:`staging_of`).
        options: the size of shards.
        stop: set it to end the work.

    Raises:
        InputError: the draft cannot be published.
        StorageError: a store refused or failed.
    """
    check_sharded(draft.conflict)
    package, records = draft.check(), Staging(registry.stores, staging)
    with stoppable(stop):
        plan = stage_plan(registry, draft, package, planner, records, options)
        return ShardPlan(
            location=records.write_plan(plan),
            shards=len(plan.shards),
            entries=plan.entries,
            bytes=plan.bytes,
            bytes_to_copy=plan.bytes_to_copy,
        )


def transfer_shard(
    registry: Registry,
    package: PackageName | str,
    plan: PhysicalKey,
    number: int,
    *,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> ShardResult:
    """Carry out the transfers of one shard, and stage its entries.

    Args:
        registry: takes the package.
        package: its name; the plan must be to publish it.
        plan: the location of the plan (:attr:`ShardPlan.location`).
        number: of the shard, counted from 0.
        stop: set it to end the work.
        attempt: on a retry, ``since`` says when earlier attempts began: objects that they sent are not sent again.

    Raises:
        InputError: there is no such shard, or the plan is that of other work.
        SourceChangedError: a source has changed since it was planned.
        EntryDamagedError: an object does not hold the bytes that its package names.
        StorageError: a store refused or failed; or the plan is gone or damaged.
    """
    with stoppable(stop):
        return _transfer_shard(registry, package, plan, number, attempt or Attempt())


def _transfer_shard(
    registry: Registry, package: PackageName | str, location: PhysicalKey, number: int, attempt: Attempt
) -> ShardResult:
    began = time.monotonic()
    staging, plan = _opened(registry, package, location)
    if not 0 <= number < len(plan.shards):
        raise InputError(f"shard {number}: the plan has {len(plan.shards):,}, counted from 0")
    with Workspace(registry, PackageName.parse(plan.spec.package), attempt) as work, work.round():
        planned = work.plan()
        for actions in staging.shard(plan.shards[number]):
            check_stop()
            planned.add([work.contents.take(action) for action in _checked(plan.bounds, actions, location)])
        to_read, to_move = bytes_of(planned.transfers)
        shard = f"{plan.spec.package}, shard {number} of {len(plan.shards):,}"
        announce(registry, f"Transferring {shard}", planned, to_move)
        progress = Progress(f"Transferring {shard}")
        progress.begin(len(planned), planned.size, kept=len(planned.kept), kept_size=planned.size - to_read)
        done = work.spool(TransferredEntry)
        reused = transfer_all(registry.stores, planned.transfers, done, progress, attempt.earliest)
        result = ShardResult(
            plan=location,
            number=number,
            seal=staging.write_entries(planned.entries(done)),
            entries=len(planned),
            bytes=planned.size,
            bytes_copied=to_move - reused,
            bytes_reused=reused,
            kept=len(planned.kept),
        )
    _log.info("Transferred %s: %s in %s", shard, result, duration(time.monotonic() - began))
    return result


def _checked(bounds: Bounds, actions: Iterable[Action], where: PhysicalKey) -> Iterator[Action]:
    """Yield actions that are within the bounds of their plan.

    Raises:
        StorageError: an action is not.
    """
    for action in actions:
        if fault := bounds.fault(action):
            raise StorageError(f"entry {quoted(action.logical_key)}: this is no order of the plan: {fault}", str(where))
        yield action


def commit_shards(
    registry: Registry,
    package: PackageName | str,
    plan: PhysicalKey,
    results: Iterable[ShardResult],
    *,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> PublishResult:
    """Make the entries of all shards a revision; return that of an earlier attempt where there is one.

    Args:
        registry: takes the package.
        package: its name; the plan must be to publish it.
        plan: the location of the plan (:attr:`ShardPlan.location`).
        results: the results of the transfers, in any order.
        stop: set it to end the work; nothing is published then.
        attempt: identifies the attempts of one piece of work, so that it makes one revision however often it is run.

    Raises:
        InputError: results are missing, the message names their shards; or the plan is that of other work.
        RevisionConflictError: ``latest`` moved since the plan; nothing is visible.
        StorageError: a store refused or failed, or what is staged is gone or damaged; nothing is visible.
    """
    with stoppable(stop):
        return _commit_shards(registry, package, plan, results, attempt or Attempt())


def _commit_shards(
    registry: Registry, package: PackageName | str, location: PhysicalKey, results: Iterable[ShardResult], attempt: Attempt
) -> PublishResult:
    staging, plan = _opened(registry, package, location)
    done = _in_order(location, plan, results)
    amount = f"{count(plan.entries, 'entry', 'entries')}, {human_size(plan.bytes)}"
    _log.info(
        "Committing %s to %s: %s, %s", plan.spec.package, registry.location, count(len(plan.shards), "shard", "shards"), amount
    )
    with Workspace(registry, PackageName.parse(plan.spec.package), attempt) as work, work.round():
        return commit(
            registry,
            plan.spec,
            _StagedEntries(staging, done),
            added=staging.added(plan.added),
            unseen=_StagedEntries(staging, [each for each in done if each.kept]),
            stats=TransferStats(sum(each.bytes_copied for each in done), sum(each.bytes_reused for each in done)),
            base=plan.base,
            previous=work.previous(registry.latest(work.package)),
            attempt=attempt,
            since=attempt.since,
        )


def _in_order(location: PhysicalKey, plan: StagedPlan, results: Iterable[ShardResult]) -> list[ShardResult]:
    """Return the result of each shard, in walk order.

    Raises:
        InputError: one is missing, or not of this plan.
    """
    found = {each.number: each for each in results if each.plan == location}
    done = [found.get(number) for number in range(len(plan.shards))]
    if missing := [
        str(number) for number, each in enumerate(done) if each is None or each.entries != plan.shards[number].entries
    ]:
        raise InputError(
            f"{location}: of {len(done):,} shards of this plan these have not been transferred: {', '.join(missing)}; "
            "do that, then commit again"
        )
    return [each for each in done if each]


def discard(registry: Registry, staging: PhysicalKey) -> int:
    """Delete all that is staged in one area; return the number of objects.

    Args:
        registry: any whose storages reach it.
        staging: the area, or the location of a plan in it.
    """
    staged = Staging(registry.stores, staging) if staging.is_prefix else Staging.of_plan(registry.stores, staging)[0]
    deleted = staged.discard()
    _log.info("Deleted %s below %s", count(deleted, "staged object", "staged objects"), staged.root)
    return deleted


def sweep(registry: Registry, root: PhysicalKey, now: float, age: float) -> int:
    """Delete the staging areas below a root whose work never came to its end.

    Args:
        registry: any whose storages reach the root.
        root: as for :func:`staging_of`.
        now: the unix seconds.
        age: the seconds since its work began after which an area goes; more than any work takes.

    Returns:
        The number of objects that were deleted; there may be more, for the next call.
    """
    return area.sweep(registry.stores, root, now - age)


@dataclass(frozen=True, slots=True)
class _StagedEntries:
    """The entries of some shards, in the order of their results, read and checked again each time."""

    staging: Staging
    results: Sequence[ShardResult]

    def __iter__(self) -> Iterator[Entry]:
        for each in self.results:
            for block in self.staging.entries(each.seal, each.entries):
                check_stop()
                yield from block


def _opened(registry: Registry, package: PackageName | str, location: PhysicalKey) -> tuple[Staging, StagedPlan]:
    staging, seal = Staging.of_plan(registry.stores, location)
    try:
        plan = staging.plan(seal)
    except ObjectNotFoundError as error:
        raise ObjectNotFoundError("there is no plan, or it has been discarded; begin with the plan", str(location)) from error
    if plan.registry != str(registry.location):
        raise InputError(f"{location}: the plan is for {plan.registry}, not for {registry.location}")
    if plan.spec.package != str(PackageName.parse(package)):
        raise InputError(f"{location}: the plan is to publish {plan.spec.package}, not {package}")
    return staging, plan
