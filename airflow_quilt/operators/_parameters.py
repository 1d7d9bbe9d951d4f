"""Types of the keyword arguments that decorators and task groups pass on to operators.

The operators' docstrings describe the parameters. At run time any keyword is passed on; editors complete these, and type checkers
check them.
"""

from typing import TYPE_CHECKING, Any, Required, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import EllipsisType

    from airflow.sdk import XComArg

    from airflow_quilt.core.format.arguments import Conflict, CopyRule, MetaMode, Mode
    from airflow_quilt.core.plan.placement import CopyFunction, DestFunction

Text: TypeAlias = "str | XComArg"
Flag: TypeAlias = "bool | str | XComArg"
Count: TypeAlias = "int | str | XComArg"


class PublishParameters(TypedDict, total=False):
    """Parameters of :class:`~airflow_quilt.operators.publish.QuiltPublishOperator`, without package and entries."""

    meta: Any
    meta_mode: "MetaMode"
    message: "Text | None"
    mode: "Mode"
    revision: "Text | None"
    remove: "Sequence[str] | XComArg"
    workflow: "Text | EllipsisType | None"
    hash_type: "Text"
    unversioned: "Flag"
    follow_symlinks: "Flag"
    conflict: "Conflict | None"
    dedupe: "Flag"
    allow_empty: "Flag"
    provenance: "Flag | None"
    null_meta: "Flag"
    partition_key: "Text | None"
    registry: "Text | None"
    quilt_conn_id: "Text | None"
    max_concurrency: "Count | None"


class PushParameters(PublishParameters, total=False):
    """Parameters of :class:`~airflow_quilt.operators.push.QuiltPushOperator`, without package and entries."""

    dest: "Text | DestFunction | None"
    copy: "CopyRule | CopyFunction"


class ShardParameters(TypedDict, total=False):
    """Parameters that :class:`~airflow_quilt.operators.shards.QuiltPlanOperator` adds."""

    shards: "Count | None"
    shard_bytes: "Count | None"
    shard_entries: "Count | None"
    staging: Any


class GroupParameters(ShardParameters, total=False):
    """Parameters that a task group adds to those of a publication."""

    package: Required["Text"]
    entries: Any
    outlets: Any


class PushGroupParameters(PushParameters, GroupParameters):
    """Parameters of :func:`~airflow_quilt.task_groups.quilt_push_group`."""


class BuildGroupParameters(PublishParameters, GroupParameters):
    """Parameters of :func:`~airflow_quilt.task_groups.quilt_build_group`."""


class TaskParameters(TypedDict, total=False):
    """Airflow's parameters of every task, without ``multiple_outputs``, for which the decorators have a default of their own."""

    task_id: Any
    owner: Any
    email: Any
    email_on_retry: Any
    email_on_failure: Any
    retries: Any
    retry_delay: Any
    retry_exponential_backoff: Any
    max_retry_delay: Any
    retry_policy: Any
    start_date: Any
    end_date: Any
    depends_on_past: Any
    ignore_first_depends_on_past: Any
    wait_for_past_depends_before_skipping: Any
    wait_for_downstream: Any
    dag: Any
    params: Any
    default_args: Any
    priority_weight: Any
    weight_rule: Any
    queue: Any
    pool: Any
    pool_slots: Any
    sla: Any
    execution_timeout: Any
    on_execute_callback: Any
    on_failure_callback: Any
    on_success_callback: Any
    on_retry_callback: Any
    on_skipped_callback: Any
    pre_execute: Any
    post_execute: Any
    trigger_rule: Any
    resources: Any
    run_as_user: Any
    map_index_template: Any
    max_active_tis_per_dag: Any
    max_active_tis_per_dagrun: Any
    executor: Any
    executor_config: Any
    do_xcom_push: Any
    inlets: Any
    outlets: Any
    task_group: Any
    doc: Any
    doc_md: Any
    doc_json: Any
    doc_yaml: Any
    doc_rst: Any
    task_display_name: Any
    logger_name: Any
    allow_nested_operators: Any
    render_template_as_native_obj: Any


class DecoratorParameters(TaskParameters, total=False):
    """Parameters that a decorator adds to those of a publication."""

    logical_key: "Text | None"


class PushTaskParameters(PushParameters, DecoratorParameters):
    """Parameters of :func:`~airflow_quilt.decorators.quilt_push`."""


class BuildTaskParameters(PublishParameters, DecoratorParameters):
    """Parameters of :func:`~airflow_quilt.decorators.quilt_build`."""
