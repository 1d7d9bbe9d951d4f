"""How a draft becomes a plan in shards, which is staged for the workers that carry it out."""

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.ordering import batched, merge_join
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Action, Source, Transfer
from airflow_quilt.core.publish.commit import CommitSpec, Planner, announce, bytes_of, check_target, decide, spool
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.planned import PlannedRevision
from airflow_quilt.core.publish.resolve import discover, resolve
from airflow_quilt.core.publish.reuse import attach_previous
from airflow_quilt.core.publish.sharded.staging import Plan, Staging
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.executor import check_stop, map_concurrently
from airflow_quilt.core.runtime.progress import count
from airflow_quilt.core.storage.base import Stores
from airflow_quilt.core.transfer.hashing import source_changed

# What a file weighs beside its bytes. A request for one takes about as long as a MiB on its way, so a shard of a million
# small files is as much work as one of a large file; an entry that is known already is a line to be written, no more.
_TASK: Final = 1024 * 1024
_KEPT: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingOptions:
    """How a plan is cut. A shard is a range of the package in walk order, and shards weigh about the same.

    Attributes:
        shards: at most so many, where neither ``bytes`` nor ``entries`` is given. Those make more where they must.
        bytes: at most so many bytes to move, or to hash in place, in a shard; one larger file is a shard of its own.
        entries: at most so many files in a shard.
    """

    shards: int = 16
    bytes: int | None = None
    entries: int | None = None

    def __post_init__(self) -> None:
        for what, value in (("shards", self.shards), ("bytes", self.bytes), ("entries", self.entries)):
            if value is not None and value < 1:
                raise InputError(f"{what} {value!r}: a plan is cut by numbers from 1 on")

    def lengths(self, planned: PlannedRevision) -> list[int]:
        """Return how many files are in each shard of a plan; there is always one shard, maybe without files."""
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
        """Whether a shard that has some files may not have another, with which it has so many bytes."""
        return (self.entries is not None and entries >= self.entries) or (self.bytes is not None and size > self.bytes)


def _weight(action: Action) -> int:
    return _KEPT if isinstance(action, Entry) else _TASK + action.source.size


@dataclass(slots=True)
class Planning:
    """A draft that is being planned in shards."""

    registry: Registry
    draft: Draft
    name: PackageName
    place: Staging
    identity: str
    stop: threading.Event

    def plan(self, planner: Planner, verb: str, cut: ShardingOptions) -> Plan:
        """Plan it; return the plan that counts, which may be that of another try."""
        with contextlib.ExitStack() as held:
            latest = self.registry.latest(self.name)
            added = discover(self.registry, self.draft, spool(held, self.registry, Source))
            content = resolve(self.registry, self.name, self.draft, added, latest)
            planned = PlannedRevision(spool(held, self.registry, Entry), spool(held, self.registry, Transfer))
            sources = _pinned(self.registry.stores, content.tree.sources)
            decide(self.draft, self.name, content, planner(sources), planned, self.stop)
            _, to_move = bytes_of(planned.tasks)
            lengths = cut.lengths(planned)
            check_target(self.registry, to_move)
            announce(self.registry, f"{verb} {self.name} in {count(len(lengths), 'shard', 'shards')}", planned, to_move)
            tasks: Iterable[Transfer] = planned.tasks
            if latest and to_move:
                tasks = attach_previous(
                    self.registry, self.name, latest, planned.tasks, lambda kind: spool(held, self.registry, kind)
                )
            self._write(lengths, (task or entry for entry, task in merge_join(planned.kept, tasks)))
            terms = CommitSpec.of(self.draft, content, planned, added.directories)
            if terms.update is not None:
                self.place.write_added(self.identity, added.sources)
            return self.place.write_plan(
                Plan(
                    identity=self.identity,
                    verb=verb,
                    registry=str(self.registry.location),
                    package=str(self.name),
                    terms=terms,
                    base=latest,
                    shards=lengths,
                    bytes=planned.size,
                    bytes_to_copy=to_move,
                )
            )

    def _write(self, lengths: Iterable[int], actions: Iterator[Action | None]) -> None:
        there = (action for action in actions if action)
        for number, length in enumerate(lengths):
            check_stop(self.stop)
            self.place.write_shard(self.identity, number, itertools.islice(there, length))


def _pinned(stores: Stores, sources: Iterable[Source]) -> Iterator[Source]:
    """Pass on sources; of objects without versions so that whoever transfers them notices if they have changed since.

    Where a listing did not tell the state of one, it is asked for. A hash that is known of one is left out: so its object is
    looked at once more, also where it stays in place.
    """
    for batch in batched(sources):
        if any(map(_may_change, batch)):
            yield from map_concurrently(lambda source: _pin(stores, source), batch, stores.limits.max_concurrency)
        else:
            yield from batch


def _may_change(source: Source) -> bool:
    """Whether a source is an object without a version; one of a package is compared with its hash, or taken at its word."""
    origin = source.origin
    return isinstance(origin, PhysicalKey) and not origin.is_local and origin.version_id is None and not source.physical_keys


def _pin(stores: Stores, source: Source) -> Source:
    if not _may_change(source) or not isinstance(source.origin, PhysicalKey):
        return source
    etag = source.etag
    if etag is None:
        with source_changed(source.origin):
            etag = stores.of(source.origin).stat(source.origin).etag
    return replace(source, etag=etag, hash=None)
