"""Mapped tasks: their parsed form, and the origin of the arguments of their instances."""

from collections import ChainMap
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions._internal.expandinput import ListOfDictsExpandInput

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import MappedOperator


class ReturnedArguments(ListOfDictsExpandInput):
    """The arguments of ``expand_kwargs()``: those that a task returned are data, as those of ``expand()`` are to Airflow."""

    def resolve(self, context: Mapping[str, Any]) -> tuple[Mapping[str, Any], set[int]]:
        """Return the arguments of an instance, and the identities of those that are not rendered.

        Airflow leaves out of rendering only what is still to be resolved, and would render all that a task returned.
        """
        resolved, _ = super().resolve(context)
        arguments = dict(resolved)  # Not a mapping that makes new values each time it is read.
        is_of_dag = isinstance(self.value, Sized) and isinstance(self.value[context["ti"].map_index], Mapping)
        return arguments, set() if is_of_dag else {id(value) for value in arguments.values()}


def mark_data(operator: "MappedOperator") -> None:
    """Let the arguments stay as they are that a task returns for ``expand_kwargs()``."""
    name = operator._expand_input_attr  # noqa: SLF001  (another one for decorated functions)
    given = getattr(operator, name)
    if isinstance(given, ListOfDictsExpandInput):
        setattr(operator, name, ReturnedArguments(given.value))


def parsed_task(operator: Any) -> Any:
    """Return the task as the DAG has it: of an instance of a mapped task, the mapped task; None without a DAG."""
    dag = operator.get_dag()
    return dag.task_dict.get(operator.task_id) if dag else None


def given_to_all(operator: "MappedOperator") -> Mapping[str, Any]:
    """Return the arguments that all instances of a mapped task have, also those of ``default_args``."""
    levels = (operator.dag, operator.task_group)
    return ChainMap(operator.partial_kwargs, *(level.default_args for level in reversed(levels) if level))
