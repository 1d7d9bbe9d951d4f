"""Single values of a task's result, as other tasks take them: ``published["top_hash"]``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow import __version__
from airflow.sdk import XComArg

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

_TAKES_NONE: Final = tuple(map(int, __version__.split(".")[:2])) >= (3, 1)
"""Whether Airflow takes None for a row of XCom."""


def push_outputs(operator: "BaseOperator", context: "Context", result: Mapping[str, Any]) -> None:
    """Write the values of the result that other tasks of the DAG take, a row of XCom each; all with ``multiple_outputs``.

    Airflow itself would write all or none of them, and fail on a None in Airflow 3.0, when the revision is published.
    """
    instance = context.get("ti")
    if instance is None or not operator.do_xcom_push:
        return
    keys = {*result} if operator.multiple_outputs else _taken(operator) & {*result}
    for key in sorted(keys):
        if result[key] is not None or _TAKES_NONE:
            instance.xcom_push(key, result[key])
    operator.multiple_outputs = False


def _taken(operator: "BaseOperator") -> set[str]:
    """Return the keys under which tasks of the DAG take a value of this one."""
    dag = operator.get_dag()
    arguments = [_arguments(task) for task in dag.tasks] if dag else []
    references = XComArg.iter_xcom_references(arguments)
    return {key for task, key in references if task.task_id == operator.task_id}


def _arguments(task: Any) -> list[Any]:
    """Return the arguments of a task, or those that all instances of a mapped task have: Airflow maps over whole results."""
    if (of_all := getattr(task, "partial_kwargs", None)) is not None:
        return [*of_all.values()]
    return [getattr(task, name, None) for name in task.template_fields]
