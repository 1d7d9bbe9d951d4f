"""Task groups: a push or build whose work is shared by many task instances, on many workers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack

from airflow.sdk import TaskGroup, XComArg

from airflow_quilt.core.errors import InputError
from airflow_quilt.operators.shards import (
    PLANS,
    QuiltCommitOperator,
    QuiltDiscardOperator,
    QuiltShardOperator,
)

if TYPE_CHECKING:
    from airflow_quilt.operators._parameters import BuildGroupParameters, PushGroupParameters

__all__ = ["QuiltGroup", "quilt_build_group", "quilt_push_group"]

_OF_ALL = ("package", "registry", "quilt_conn_id", "max_concurrency")
"""Parameters of all tasks of a group."""
_OF_COMMIT_ONLY = ("outlets", "partition_key")
"""Parameters of the commit, which the plan does not get."""
_OF_COMMIT = ("message", *_OF_COMMIT_ONLY)
_RESULT: Final[Mapping[str, Any]] = {"do_xcom_push": True, "multiple_outputs": False}
"""Airflow's parameters of the tasks whose results others need."""
_OWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "plan": {**_RESULT, "outlets": []},
    "transfer": {"trigger_rule": "all_success", "outlets": []},
    "commit": {"trigger_rule": "all_success"},
    "clean_up": {"multiple_outputs": False, "outlets": []},
}
"""Airflow's parameters of each task that no ``default_args`` may change, as they would break the group.

Airflow refuses a DAG in which a task right after a setup, here the plan, has another trigger rule. The transfers are mapped over
the result of the plan, and the commit reads theirs. Only the commit publishes.
"""


class QuiltGroup(TaskGroup):
    """The tasks of a push or build: ``plan``, ``transfer`` for each shard, ``commit``, ``clean_up``."""

    output: XComArg
    """The result of the commit: the same as that of a push by one task."""


def quilt_push_group(
    group_id: str = "push",
    *,
    transfer: Mapping[str, Any] | None = None,
    default_args: dict[str, Any] | None = None,
    **kwargs: "Unpack[PushGroupParameters]",
) -> QuiltGroup:
    """Return a task group that pushes a package with many task instances.

    The plan finds the sources and stages them in shards. Each shard is transferred by a task instance of its own, which is
    retried alone. The commit makes one revision: the same one as a push by one task. Staged files are deleted at the end, also
    after a failure.

    Takes the parameters of :class:`~airflow_quilt.operators.push.QuiltPushOperator` for the package; and ``shards``,
    ``shard_bytes``, ``shard_entries`` and ``staging`` of :class:`~airflow_quilt.operators.shards.QuiltPlanOperator`.

    :param group_id: the ID of the group.
    :param transfer: Airflow's own parameters for the tasks that transfer: ``pool``, ``queue``, ``executor``, ``retries``,
        ``max_active_tis_per_dagrun`` and others.
    :param default_args: Airflow's own parameters for all tasks of the group. They override those of the DAG. A ``trigger_rule``
        of either is that of the plan, by which the group begins; the tasks after it run when those before them succeeded.

    Raises:
        InputError: ``transfer`` has a trigger rule.
    """
    return _filled("push", QuiltGroup(group_id, default_args=default_args or {}), transfer or {}, kwargs)  # type: ignore[arg-type]


def quilt_build_group(
    group_id: str = "build",
    *,
    transfer: Mapping[str, Any] | None = None,
    default_args: dict[str, Any] | None = None,
    **kwargs: "Unpack[BuildGroupParameters]",
) -> QuiltGroup:
    """Return a task group that builds a package with many task instances: see :func:`quilt_push_group`.

    Takes the parameters of :class:`~airflow_quilt.operators.build.QuiltBuildOperator`, and those for the shards.

    :param group_id: the ID of the group.
    :param transfer: as for a push.
    :param default_args: as for a push.

    Raises:
        InputError: as for a push.
    """
    return _filled("build", QuiltGroup(group_id, default_args=default_args or {}), transfer or {}, kwargs)  # type: ignore[arg-type]


def _filled(
    kind: Literal["push", "build"], group: QuiltGroup, transfer: Mapping[str, Any], parameters: Mapping[str, Any]
) -> QuiltGroup:
    with group:
        group.output = _tasks(kind, transfer, parameters)
    return group


def _tasks(kind: Literal["push", "build"], transfer: Mapping[str, Any], parameters: Mapping[str, Any]) -> XComArg:
    of_all = {name: parameters[name] for name in _OF_ALL if name in parameters}
    of_commit = {name: parameters[name] for name in _OF_COMMIT if name in parameters}
    of_plan = {name: value for name, value in parameters.items() if name not in _OF_COMMIT_ONLY}
    if "trigger_rule" in transfer:
        raise InputError("transfer: leave trigger_rule out; Airflow accepts no other than the group's after a setup task")
    of_transfer = {"map_index_template": "{{ task.label }}", **_OWN["transfer"], **transfer, **_RESULT}
    plan = PLANS[kind](task_id="plan", **of_plan, **_OWN["plan"])
    moved = QuiltShardOperator.partial(task_id="transfer", **of_all, **of_transfer).expand(shard=plan.output)
    staged = {"shards": plan.output, "results": moved.output, **of_all}
    commit = QuiltCommitOperator(task_id="commit", **staged, **of_commit, **_OWN["commit"])
    clean_up = QuiltDiscardOperator(task_id="clean_up", shards=plan.output, **of_all, **_OWN["clean_up"])
    commit >> clean_up.as_teardown(setups=plan)
    return commit.output
