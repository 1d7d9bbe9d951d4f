"""The tasks of a push or build by many workers: plan, transfer, commit, and clean up."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import conf

from airflow_quilt.core.errors import InputError
from airflow_quilt.hooks._settings import WHOLE, whole
from airflow_quilt.operators._base import QuiltOperator, airflow_errors
from airflow_quilt.operators._events import add_outlet, check_partition
from airflow_quilt.operators._values import attempt_of, began_of, plain
from airflow_quilt.operators.build import QuiltBuildOperator
from airflow_quilt.operators.publish import QuiltPublishOperator, QuiltRevisionOperator
from airflow_quilt.operators.push import QuiltPushOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from openlineage.client.event_v2 import Dataset

    from airflow_quilt.core.format.uris import PhysicalKey
    from airflow_quilt.core.publish.sharded.run import ShardingOptions

_log = logging.getLogger(__name__)

ROOT: Final = ".airflow-quilt/staging/"
"""Where plans are staged in the registry's bucket, where nobody says otherwise."""
_SHARDS: Final = 16
_AGE: Final = 14 * 24 * 60 * 60
"""Seconds after which what is staged belongs to nobody any more."""


class QuiltPlanOperator(QuiltPublishOperator):
    """Finds the sources of a package, and stages what is to be done for them in shards; publishes nothing.

    Takes the parameters of :class:`~airflow_quilt.operators.publish.QuiltPublishOperator`.

    :param shards: how many; 16, where nothing else is said.
    :param shard_bytes: the most bytes to move or hash in a shard.
    :param shard_entries: the most files in a shard.
    :param staging: a prefix or directory that all workers reach; by default one in the registry's bucket.
    """

    is_outlet = False
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
        """Plan; return the shards, each as the number that it has and the place where all is staged."""
        from airflow_quilt.core.publish.sharded.run import plan_shards, staging_of, sweep
        from airflow_quilt.core.storage.paths import resolve_location

        stop = self.begin()
        with airflow_errors(self):
            target, attempt, given = self.hook.open(self.registry), attempt_of(context), self.inputs()
            registry = target.registry
            self._given_entries = given["entries"]
            root = registry.location.root.join(ROOT) if self.staging is None else resolve_location(str(plain(self.staging)))
            if expired := sweep(registry, root, time.time(), _AGE):
                _log.info("Deleted %s objects below %s that other runs left there", expired, root)
            staging = staging_of(root, attempt, began_of(context) or time.time())
            draft = self._draft(given, context, target)
            plan = plan_shards(registry, draft, self.planner(target, draft), staging, self._options(), stop=stop, attempt=attempt)
            self._check(plan.shards)
            self.outcome = {"registry": str(registry.location), "package": draft.package}
        return [{"staging": str(staging), "number": number} for number in range(plan.shards)]

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":  # noqa: ARG002
        """Nothing is published yet."""
        return []

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
                f"the plan has {shards:,} shards, and Airflow maps {most:,} at most ([core] max_map_length): cut fewer"
            )


def _number(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if (number := whole(value)) is None:
        raise InputError(f"{name} {value!r}: expected {WHOLE}")
    return number


class QuiltPlanPushOperator(QuiltPlanOperator, QuiltPushOperator):
    """The plan of a push."""

    template_fields: Sequence[str] = (*QuiltPlanOperator.template_fields, "dest", "copy")


class QuiltPlanBuildOperator(QuiltPlanOperator, QuiltBuildOperator):
    """The plan of a build."""


class QuiltShardOperator(QuiltOperator):
    """Does what is to be done for one shard; does nothing where that has been done.

    :param shard: what the plan returned of it.
    """

    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "shard")

    def __init__(self, *, shard: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    label: str | None = None
    """What Airflow shows of the task instance in place of a number."""

    def execute(self, context: "Context") -> dict[str, Any]:
        """Transfer the shard; return how much that was."""
        from airflow_quilt.core.publish.sharded.run import transfer_shard
        from airflow_quilt.core.runtime.progress import human_size

        stop = self.begin()
        with airflow_errors(self):
            registry, number = self.hook.registry(self.registry), int(self.shard["number"])
            self.label = f"shard {number}"
            began = time.monotonic()
            done = transfer_shard(registry, place_of(self.shard), number, stop=stop, attempt=attempt_of(context))
            rate = done.bytes_copied / max(time.monotonic() - began, 0.001)
            self.label = f"shard {number}: {human_size(done.bytes)}, {human_size(int(rate))}/s"
        return {
            "number": number,
            "entries": done.entries,
            "bytes": done.bytes,
            "bytes_copied": done.bytes_copied,
            "bytes_reused": done.bytes_reused,
        }


class QuiltCommitOperator(QuiltRevisionOperator):
    """Makes what came of all shards a revision.

    :param shards: what the plan returned.
    :param message: of the revision, for the event of its asset.
    :param partition_key: as for a push by one task.
    """

    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "shards", "message", "partition_key")

    def __init__(self, *, shards: Any, message: str | None = None, partition_key: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shards = shards
        self.message = message
        self.partition_key = partition_key
        add_outlet(self, self.package, self.registry)

    def execute(self, context: "Context") -> dict[str, Any]:
        """Commit, and return what a push by one task returns."""
        from airflow_quilt.core.publish.sharded.run import commit_shards

        stop = self.begin()
        with airflow_errors(self):
            check_partition(self.partition_key)
            target = self.hook.open(self.registry)
            published = commit_shards(target.registry, place_of(self.shards[0]), stop=stop, attempt=attempt_of(context))
        return self.emit(context, published.to_xcom(target.catalog))


class QuiltDiscardOperator(QuiltOperator):
    """Deletes what the tasks of a group staged for each other.

    :param shards: what the plan returned; nothing where it failed.
    """

    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "shards")

    def __init__(self, *, shards: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shards = shards

    def execute(self, context: "Context") -> int:  # noqa: ARG002
        """Delete; return how many objects that were."""
        from airflow_quilt.core.publish.sharded.run import discard

        if not self.shards:
            return 0
        with airflow_errors(self):
            return discard(self.hook.registry(self.registry), place_of(self.shards[0]))


def place_of(shard: Mapping[str, Any]) -> "PhysicalKey":
    """Return where a shard is staged."""
    from airflow_quilt.core.format.uris import PhysicalKey

    return PhysicalKey.parse(shard["staging"])


PLANS: Final[Mapping[str, Callable[..., QuiltPlanOperator]]] = {"push": QuiltPlanPushOperator, "build": QuiltPlanBuildOperator}
