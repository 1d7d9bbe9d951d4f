"""Task groups: a push or build whose work is shared by many task instances, on many workers."""

from collections.abc import Mapping
from typing import Any, Literal

from airflow.sdk import TaskGroup, XComArg

from airflow_quilt.operators.shards import (
    PLANS,
    QuiltCommitOperator,
    QuiltDiscardOperator,
    QuiltShardOperator,
)

__all__ = ["QuiltGroup", "quilt_build_group", "quilt_push_group"]

_SHARED = ("package", "registry", "quilt_conn_id", "max_concurrency")
"""What all tasks of a group are told."""
_COMMITTED = ("outlets", "partition_key")
"""What only the commit is told."""
_TOLD = ("message", *_COMMITTED)


class QuiltGroup(TaskGroup):
    """The tasks of a push or build: ``plan``, ``transfer`` for each shard, ``commit``, ``clean_up``."""

    output: XComArg
    """What the commit returns: the same as a push by one task."""


def quilt_push_group(
    group_id: str = "push",
    *,
    transfer: Mapping[str, Any] | None = None,
    default_args: dict[str, Any] | None = None,
    **arguments: Any,
) -> QuiltGroup:
    """Return a task group that pushes a package with many task instances.

    The plan finds the sources and stages them in shards, each shard is transferred by a task instance of its own, which is
    retried alone, and the commit makes one revision: the same one as a push by one task. What is staged goes at the end, also
    after a failure.

    :param group_id: of the group.
    :param transfer: what the tasks that transfer get of Airflow's own parameters: ``pool``, ``queue``, ``executor``, ``retries``,
        ``max_active_tis_per_dagrun`` and others.
    :param default_args: what all tasks of the group get of them.
    :param arguments: those of :class:`~airflow_quilt.operators.push.QuiltPushOperator`, for the package; and ``shards``,
        ``shard_bytes``, ``shard_entries`` and ``staging`` of :class:`~airflow_quilt.operators.shards.QuiltPlanOperator`.
    """
    return _filled("push", QuiltGroup(group_id, default_args=default_args or {}), transfer or {}, arguments)  # type: ignore[arg-type]


def quilt_build_group(
    group_id: str = "build",
    *,
    transfer: Mapping[str, Any] | None = None,
    default_args: dict[str, Any] | None = None,
    **arguments: Any,
) -> QuiltGroup:
    """Return a task group that builds a package with many task instances: see :func:`quilt_push_group`.

    :param group_id: of the group.
    :param transfer: as for a push.
    :param default_args: as for a push.
    :param arguments: those of :class:`~airflow_quilt.operators.build.QuiltBuildOperator`, and those for the shards.
    """
    return _filled("build", QuiltGroup(group_id, default_args=default_args or {}), transfer or {}, arguments)  # type: ignore[arg-type]


def _filled(
    kind: Literal["push", "build"], group: QuiltGroup, transfer: Mapping[str, Any], arguments: dict[str, Any]
) -> QuiltGroup:
    with group:
        group.output = _tasks(kind, transfer, arguments)
    return group


def _tasks(kind: Literal["push", "build"], transfer: Mapping[str, Any], arguments: dict[str, Any]) -> XComArg:
    shared = {name: arguments[name] for name in _SHARED if name in arguments}
    told = {name: arguments[name] for name in _TOLD if name in arguments}
    plan = PLANS[kind](task_id="plan", **{name: value for name, value in arguments.items() if name not in _COMMITTED})
    own = {"map_index_template": "{{ task.label }}", **transfer}
    moved = QuiltShardOperator.partial(task_id="transfer", **shared, **own).expand(shard=plan.output)
    commit = QuiltCommitOperator(task_id="commit", shards=plan.output, **shared, **told)
    clean_up = QuiltDiscardOperator(task_id="clean_up", shards=plan.output, **shared)
    moved >> commit >> clean_up.as_teardown(setups=plan)
    return commit.output
