"""Operators with a part of their arguments, which become mapped tasks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.definitions.mappedoperator import OperatorPartial

from airflow_quilt.assets.uri import is_known
from airflow_quilt.operators._construction import check_mapped, failure, misnamed
from airflow_quilt.operators._mapped import given_to_all, mark_data
from airflow_quilt.operators._outlets import add_outlets_of_mapped

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import MappedOperator

_LABEL: Final = "{{ task.package }}"
_NUMBERED: Final = f"{_LABEL} [{{{{ ti.map_index }}}}]"


class QuiltPartial(OperatorPartial):
    """An operator of ours with a part of its arguments, which becomes a mapped task."""

    def expand(self, **mapped: Any) -> "MappedOperator":
        """Make the mapped task."""
        try:
            made = super().expand(**mapped)
        except TypeError as error:
            if not (faults := misnamed(self.operator_class, mapped, error)):
                raise
            self._expand_called = True  # Or it would report that it was never mapped.
            raise failure(self.kwargs["task_id"], faults) from None
        return finished(made)

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> "MappedOperator":
        """Make the mapped task."""
        return finished(super().expand_kwargs(kwargs, strict=strict))


def finished(operator: "MappedOperator") -> "MappedOperator":
    """Return a mapped task, checked, with its outlets, and with its instances labelled by their packages in Airflow's pages."""
    check_mapped(operator)
    mark_data(operator)
    add_outlets_of_mapped(operator)
    if operator.map_index_template is None:
        mapped = operator.expand_input.value
        is_mapped = isinstance(mapped, Mapping) and "package" in mapped
        is_one = not is_mapped and is_known(given_to_all(operator).get("package"))
        operator.map_index_template = _NUMBERED if is_one else _LABEL
    return operator
