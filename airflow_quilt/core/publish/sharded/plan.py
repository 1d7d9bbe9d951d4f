"""From a draft to a plan in shards, staged for the workers that carry it out."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Final

from msgspec.structs import replace

from airflow_quilt.core.errors import InputError, quoted
from airflow_quilt.core.format.arguments import POSITIVE_INT
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.ordering import batched, merge_join, records_of
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Action, Source, Transfer
from airflow_quilt.core.plan.tree import SourceTree
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.pipeline import Workspace, announce, check_writable
from airflow_quilt.core.publish.planned import PlannedRevision, Planner, bytes_of, decide
from airflow_quilt.core.publish.resolve import resolve, survey
from airflow_quilt.core.publish.reuse import attach_previous
from airflow_quilt.core.publish.sharded.bounds import Bounds
from airflow_quilt.core.publish.sharded.staging import StagedPlan, StagedShard, Staging
from airflow_quilt.core.publish.spec import CommitSpec
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.progress import count
from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.runtime.threads import map_concurrently
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.hashing import source_changed

# The weight of a file beside its bytes. A request for one takes about as long as a MiB on its way, so a shard of a million
# small files is as much work as one of a large file; an entry that is known already is a line to be written, no more.
_TRANSFER: Final = 1024 * 1024
_KEPT: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingOptions:
    """The size of shards. A shard is a range of the package in walk order, and shards weigh about the same.

    Attributes:
        shards: the most shards, unless ``bytes`` or ``entries`` makes more necessary.
        bytes: the most bytes to move, or to hash in place, in a shard; one larger file is a shard of its own.
        entries: the most files in a shard.
    """

    shards: int = 16
    bytes: int | None = None
    entries: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("shards", self.shards), ("bytes", self.bytes), ("entries", self.entries)):
            if value is not None and value < 1:
                raise InputError(f"{name} {quoted(value)}: expected {POSITIVE_INT}")

    def lengths(self, planned: PlannedRevision) -> list[int]:
        """Return the number of files in each shard of a plan; there is always one shard, maybe without files."""
        total = sum(map(_weight, planned.actions()))
        lengths, size, weight, share = [0], 0, 0, 0
        for action in planned.actions():
            moves = 0 if isinstance(action, Entry) else action.source.size
            here = weight * self.shards // total  # The share of the work that this file begins in.
            if lengths[-1] and (here > share or self._is_full(lengths[-1], size + moves)):
                lengths.append(0)
                size = 0
            lengths[-1] += 1
            size, weight, share = size + moves, weight + _weight(action), here
        return lengths

    def _is_full(self, entries: int, size: int) -> bool:
        """Whether a shard that has some files may not take another, with which it has ``size`` bytes."""
        return (self.entries is not None and entries >= self.entries) or (self.bytes is not None and size > self.bytes)


def _weight(action: Action) -> int:
    return _KEPT if isinstance(action, Entry) else _TRANSFER + action.source.size


def stage_plan(
    registry: Registry,
    draft: Draft,
    package: PackageName,
    planner: Planner,
    staging: Staging,
    options: ShardingOptions,
) -> StagedPlan:
    """Plan a draft, and stage its shards; return the plan, which is not staged yet.

    Raises:
        InputError: the draft cannot be published.
        StorageError: a store refused or failed.
    """
    with Workspace(registry, package, Attempt()) as work, work.round():
        bounds = Bounds.of(registry, draft, planner)
        latest, config, added = survey(  # 1. which files there are, beside `latest` and the workflows
            registry, package, draft, work.spool(Source), work.contents.put
        )
        previous = work.previous(latest)
        revision = resolve(registry, package, draft, config, added, previous)  # 2. header, tree, workflow
        tree = SourceTree(_pinned(registry.stores, records_of(revision.tree.sources)), revision.tree.directories)
        revision = replace_fields(revision, tree=tree)
        planned = decide(planner, draft, package, revision, work.plan())  # 3. nothing has moved yet
        spec = CommitSpec.of(draft, package, revision, planned, added.directories)
        _, to_move = bytes_of(planned.transfers)
        lengths = options.lengths(planned)
        check_writable(registry, to_move)
        transfers: Iterable[Transfer] = planned.transfers
        if latest and to_move:
            transfers = attach_previous(registry.stores, previous, planned.transfers, work.round_spool)
        # 4. The shards: the plan holds their seals.
        actions = (transfer or entry for entry, transfer in merge_join(planned.kept, transfers))
        plan = StagedPlan(
            registry=str(registry.location),
            spec=spec,
            bounds=bounds,
            base=latest,
            shards=_stage_shards(staging, lengths, (action for action in actions if action)),
            added=None if spec.update is None else staging.write_added(records_of(added.sources)),
            bytes=planned.size,
            bytes_to_copy=to_move,
        )
        announce(registry, f"Planned {package} in {count(len(lengths), 'shard', 'shards')}", planned, to_move)
        return plan


def _stage_shards(staging: Staging, lengths: Iterable[int], actions: Iterator[Action]) -> list[StagedShard]:
    shards = []
    for length in lengths:
        check_stop()
        shards.append(StagedShard(length, staging.write_shard(itertools.islice(actions, length))))
    return shards


def _pinned(stores: Stores, sources: Iterable[Source]) -> Iterator[Source]:
    """Yield the sources; those of objects that may be replaced with their ETag, so that a later change is an error.

    Where a listing did not give the ETag of an object, it is requested. A hash that is known of it is left out: so its object
    is requested once more in the transfer, also where it stays in place.
    """
    for batch in batched(sources):
        if any(map(_may_change, batch)):
            yield from map_concurrently(lambda source: _pin(stores, source), batch, stores.limits.max_concurrency)
        else:
            yield from batch


def _may_change(source: Source) -> bool:
    """Whether the bytes of a source may be replaced; an entry of a package is compared with its hash instead."""
    origin = source.origin
    return isinstance(origin, PhysicalKey) and not origin.is_local and not origin.is_immutable and not source.physical_keys


def _pin(stores: Stores, source: Source) -> Source:
    if not _may_change(source) or not isinstance(source.origin, PhysicalKey):
        return source
    etag = source.etag
    if etag is None:
        with source_changed(source.origin):
            etag = stores.of(source.origin).stat(source.origin).etag
    return replace(source, etag=etag, hash=None)
