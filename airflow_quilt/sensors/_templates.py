"""The templates that Airflow's triggerer can render."""

from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import jinja2

_KNOWN: Final = frozenset(
    {
        "dag",
        "dag_run",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "logical_date",
        "macros",
        "params",
        "partition_date",
        "partition_key",
        "run_id",
        "task",
        "task_instance_key_str",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
    }
)
"""The names whose values the triggerer has (Airflow 3.3). It would have to request those of the others, XComs among them, on its
event loop, and cannot; and it has no macros of the DAG."""


def is_known_in_the_triggerer(value: object, environment: "jinja2.Environment") -> bool:
    """Return whether the triggerer can resolve the value of an argument: it cannot resolve the output of another task.

    Args:
        value: the argument, which may be a template.
        environment: the environment in which the triggerer renders.
    """
    if not isinstance(value, str):
        return value is None or isinstance(value, int | float | datetime)
    if "{" not in value:
        return True
    from jinja2 import TemplateError, meta

    try:
        names = meta.find_undeclared_variables(environment.parse(value))
        environment.compile(value)  # It refuses filters of the DAG.
    except TemplateError:
        return False
    return names <= _KNOWN
