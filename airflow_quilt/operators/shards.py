"""The tasks of a push or build by many workers: plan, transfer, commit, and clean up."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow_quilt._compat import conf
from airflow_quilt.core.errors import InputError, StorageError, quoted
from airflow_quilt.operators._base import QuiltOperator, airflow_errors
from airflow_quilt.operators._checks import (
    OF_ALL,
    OF_BUILDS,
    OF_PLANS,
    OF_PUBLICATIONS,
    OF_PUSHES,
    Check,
    partition,
    published_package,
)
from airflow_quilt.operators._events import check_partition
from airflow_quilt.operators._known import Known
from airflow_quilt.operators._values import attempt_of, began_of
from airflow_quilt.operators.build import QuiltBuildOperator
from airflow_quilt.operators.publish import QuiltPublishOperator, QuiltRevisionOperator
from airflow_quilt.operators.push import QuiltPushOperator

if TYPE_CHECKING:
    from airflow.sdk import Context
    from openlineage.client.event_v2 import Dataset

    from airflow_quilt.core.format.uris import PhysicalKey
    from airflow_quilt.core.publish.sharded.run import ShardingOptions
    from airflow_quilt.core.registry.registry import Registry

_log = logging.getLogger(__name__)

ROOT: Final = ".airflow-quilt/staging/"
"""The default prefix of staged plans in the registry's bucket."""
_SHARDS: Final = 16
_AGE: Final = 14 * 24 * 60 * 60
"""Seconds after which staged files count as leftovers."""


class QuiltPlanOperator(QuiltPublishOperator):
    """Find the sources of a package, and stage the work for them in shards; publish nothing.

    Takes the parameters of :class:`~airflow_quilt.operators.publish.QuiltPublishOperator`.

    :param shards: the number of shards; by default 16, or as few as ``shard_bytes`` and ``shard_entries`` allow.
    :param shard_bytes: the most bytes to move or hash in a shard.
    :param shard_entries: the most files in a shard.
    :param staging: an ``s3://`` prefix or a directory that all workers can reach; by default a prefix in the registry's bucket.
    """

    is_outlet = False
    checks: ClassVar[Mapping[str, Check]] = {**OF_PUBLICATIONS, **OF_PLANS}
    template_fields: Sequence[str] = (*QuiltPublishOperator.template_fields, "shards", "shard_bytes", "shard_entries", "staging")

    def __init__(
        self,
        *,
        shards: int | str | None = None,
        shard_bytes: int | str | None = None,
        shard_entries: int | str | None = None,
        staging: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shards = shards
        self.shard_bytes = shard_bytes
        self.shard_entries = shard_entries
        self.staging = staging

    def execute(self, context: "Context") -> list[dict[str, Any]]:  # type: ignore[override]
        """Plan; return the shards, each as its number and the location of the staged plan, which holds the hash of the plan."""
        from airflow_quilt.core.publish.sharded.run import plan_shards, staging_of
        from airflow_quilt.core.storage.paths import resolve_location

        with airflow_errors(self):
            target, attempt, given = self.hook.open(self.registry), attempt_of(context), self.inputs()
            registry = target.registry
            self._given_entries = given["entries"]
            root = registry.location.root.join(ROOT) if self.staging is None else resolve_location(self.staging)
            _sweep(registry, root)
            staging = staging_of(root, attempt, began_of(context) or time.time())
            draft = self._draft(given, context, target)
            plan = plan_shards(registry, draft, self.planner(target, draft), staging, self._options())
            self._check(plan.shards)
            self.outcome = {"registry": str(registry.location), "package": draft.package}
        return [{"plan": str(plan.location), "number": number} for number in range(plan.shards)]

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":  # noqa: ARG002
        """Return no dataset: nothing is published yet."""
        return []

    @classmethod
    def check_together(cls, given: Mapping[str, Any], known: Known) -> None:
        """Check that many workers can do the work too.

        Raises:
            InputError: as for every publication; or the work is to be merged with what is published meanwhile.
        """
        from airflow_quilt.core.format.arguments import check_sharded

        super().check_together(given, known)
        check_sharded(given.get("conflict"))

    def _options(self) -> "ShardingOptions":
        from airflow_quilt.core.publish.sharded.run import ShardingOptions

        shards, size = _number("shards", self.shards), _number("shard_bytes", self.shard_bytes)
        entries = _number("shard_entries", self.shard_entries)
        return ShardingOptions(shards=shards or (1 if size or entries else _SHARDS), bytes=size, entries=entries)

    @staticmethod
    def _check(shards: int) -> None:
        most = conf.getint("core", "max_map_length", fallback=1024)
        if shards > most:
            raise InputError(
                f"the plan has {shards:,} shards: ask for fewer, or raise Airflow's [core] max_map_length, which is {most:,}"
            )


def _sweep(registry: "Registry", root: "PhysicalKey") -> None:
    """Delete the leftovers of earlier runs. That they cannot be deleted is no reason not to plan: others may write there too."""
    from airflow_quilt.core.publish.sharded.run import sweep

    try:
        if expired := sweep(registry, root, time.time(), _AGE):
            _log.info("Deleted %s objects below %s, leftovers of earlier runs", expired, root)
    except StorageError as error:
        _log.warning("Leftovers of earlier runs below %s could not be deleted: %s", root, error)


def _number(name: str, value: Any) -> int | None:
    from airflow_quilt.core.format.arguments import parse_count

    return None if value is None else parse_count(name, value)


class QuiltPlanPushOperator(QuiltPlanOperator, QuiltPushOperator):
    """The plan of a push."""

    checks: ClassVar[Mapping[str, Check]] = {**OF_PUSHES, **OF_PLANS}
    template_fields: Sequence[str] = (*QuiltPlanOperator.template_fields, "dest", "copy")


class QuiltPlanBuildOperator(QuiltPlanOperator, QuiltBuildOperator):
    """The plan of a build."""

    checks: ClassVar[Mapping[str, Check]] = {**OF_BUILDS, **OF_PLANS}


class QuiltShardOperator(QuiltOperator):
    """Transfer one shard.

    :param shard: the shard, as the plan returned it.
    """

    required: ClassVar[frozenset[str]] = QuiltOperator.required | {"shard"}
    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "shard")

    def __init__(self, *, shard: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    label: str | None = None
    """The label of the task instance in Airflow's pages, in place of its map index."""

    def execute(self, context: "Context") -> dict[str, Any]:
        """Transfer the shard; return the counts, the bytes, and the hash of its entries for the commit."""
        from airflow_quilt.core.publish.sharded.run import transfer_shard
        from airflow_quilt.core.runtime.progress import human_size

        with airflow_errors(self):
            registry, (plan, number) = self.hook.registry(self.registry), shard_of(self.shard)
            self.label = f"shard {number}"
            began = time.monotonic()
            done = transfer_shard(registry, self.package, plan, number, attempt=attempt_of(context))
            rate = done.bytes_copied / max(time.monotonic() - began, 0.001)
            self.label = f"shard {number}: {human_size(done.bytes)}, {human_size(int(rate))}/s"
        return done.to_xcom()


class QuiltCommitOperator(QuiltRevisionOperator):
    """Make the transferred shards a revision.

    :param shards: the shards, as the plan returned them.
    :param results: the results of the transfers, in any order.
    :param message: the message of the revision, for the event of its asset.
    :param partition_key: the partition of the asset that the revision belongs to (Airflow 3.3 and newer).
    """

    required: ClassVar[frozenset[str]] = QuiltOperator.required | {"shards", "results"}
    checks: ClassVar[Mapping[str, Check]] = {**OF_ALL, "package": published_package, "partition_key": partition}
    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "shards", "results", "message", "partition_key")

    def __init__(
        self, *, shards: Any, results: Any, message: str | None = None, partition_key: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.shards = shards
        self.results = results
        self.message = message
        self.partition_key = partition_key
        self.declare()

    def execute(self, context: "Context") -> dict[str, Any]:
        """Commit; return the same result as a push by one task."""
        from airflow_quilt.core.publish.sharded.run import ShardResult, commit_shards

        with airflow_errors(self):
            check_partition(self.partition_key)
            target = self.hook.open(self.registry)
            plan, _ = shard_of(self.shards[0])
            results = map(ShardResult.from_xcom, all_of(self.results))
            published = commit_shards(target.registry, self.package, plan, results, attempt=attempt_of(context))
        return self.emit(context, published.to_xcom(target.catalog))


class QuiltDiscardOperator(QuiltOperator):
    """Delete the files that the tasks of a group staged for each other.

    :param shards: the shards, as the plan returned them; empty if it failed.
    """

    nullable: ClassVar[frozenset[str]] = QuiltOperator.nullable | {"shards"}
    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "shards")

    def __init__(self, *, shards: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shards = shards

    def execute(self, context: "Context") -> int:  # noqa: ARG002
        """Delete; return the number of objects."""
        from airflow_quilt.core.publish.sharded.run import discard

        if not self.shards:
            return 0
        with airflow_errors(self):
            plan, _ = shard_of(self.shards[0])
            return discard(self.hook.registry(self.registry), plan)


def shard_of(shard: Any) -> "tuple[PhysicalKey, int]":
    """Return the location of the plan of a shard, and its number, as the plan returned them.

    Raises:
        InputError: it did not return this.
    """
    from airflow_quilt.core.format.uris import PhysicalKey

    match shard:
        case {"plan": str(plan), "number": int(number)}:
            return PhysicalKey.parse(plan), number
    raise InputError(f"shard {quoted(shard)}: expected one of those that the plan returned")


def all_of(results: Any) -> Any:
    """Return the outputs of all instances of a mapped task: with one request to Airflow, where it takes one for all of them."""
    try:
        return results[:]
    except (TypeError, ValueError):  # It takes one for each, as for mapped and zipped outputs.
        return results


PLANS: Final[Mapping[str, Callable[..., QuiltPlanOperator]]] = {"push": QuiltPlanPushOperator, "build": QuiltPlanBuildOperator}
