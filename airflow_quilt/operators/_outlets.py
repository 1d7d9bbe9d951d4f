"""The outlets of the tasks that publish: Airflow accepts events only of assets that it knew when it parsed the DAG."""

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias
from airflow.sdk.bases.decorator import _TaskDecorator
from airflow.sdk.definitions.mappedoperator import OperatorPartial

from airflow_quilt.assets import quilt_asset
from airflow_quilt.assets.uri import is_known
from airflow_quilt.core.errors import InputError
from airflow_quilt.operators._mapped import mark_data, parsed_task

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, XComArg
    from airflow.sdk.definitions.mappedoperator import MappedOperator


def add_outlet(operator: "BaseOperator | MappedOperator", package: object, registry: object) -> None:
    """Add the package's asset to the outlets, if package and registry are known at parse time and it is not among them."""
    if not (isinstance(package, str) and is_known(package) and isinstance(registry, str) and is_known(registry)):
        return
    given = _items(operator.outlets or ())  # One outlet, or None, if partial() was given that.
    parsed = parsed_task(operator)
    if parsed is not None and parsed is not operator and any(isinstance(outlet, AssetAlias) for outlet in given):
        return  # An instance of a mapped task whose packages were not known before: its alias reports them.
    try:
        asset = quilt_asset(package, registry)
    except InputError:  # The task itself reports a malformed name; a local registry has no asset.
        return
    if all(outlet.uri != asset.uri for outlet in given if isinstance(outlet, Asset)):
        operator.outlets = [*given, asset]


def add_outlets_of_mapped(operator: "MappedOperator") -> None:
    """Add the assets of the packages of a mapped task, as far as they are known at parse time.

    Its instances are made while it runs, and their outlets are not in the DAG as Airflow has stored it.
    """
    if getattr(operator.operator_class, "is_outlet", False):
        for package, registry in _packages(operator):
            add_outlet(operator, package, registry)


def _packages(operator: "MappedOperator") -> Iterator[Sequence[object]]:
    """Yield the packages of the instances, each with its registry."""
    levels = (operator.dag, operator.task_group)
    given = ChainMap(operator.partial_kwargs, *(level.default_args for level in reversed(levels) if level))
    same = {name: given.get(name) for name in ("package", "registry")}
    mapped: Any = operator.expand_input.value
    if isinstance(mapped, Mapping):  # expand(): each list is a dimension.
        yield from product(*(_items(mapped.get(name, value)) for name, value in same.items()))
    else:  # expand_kwargs(): the output of a task, or a list of mappings and such outputs.
        for each in _items(mapped):
            own = each if isinstance(each, Mapping) else {}
            yield [own.get(name, value) for name, value in same.items()]


def _items(values: object) -> Sequence[object]:
    """Return a list as it is, and any other value, such as the output of a task, as its only item."""
    return values if isinstance(values, list | tuple) else [values]


class QuiltPartial(OperatorPartial):
    """An operator of ours with a part of its arguments, which becomes a mapped task."""

    def expand(self, **mapped: Any) -> "MappedOperator":
        """Make the mapped task, with its outlets."""
        operator = super().expand(**mapped)
        add_outlets_of_mapped(operator)
        return operator

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> "MappedOperator":
        """Make the mapped task, with its outlets."""
        operator = super().expand_kwargs(kwargs, strict=strict)
        mark_data(operator)
        add_outlets_of_mapped(operator)
        return operator


class QuiltTask(_TaskDecorator[..., Any, Any]):
    """A decorated function, which becomes a task or a mapped task."""

    def expand(self, **mapped: Any) -> "XComArg":
        """Make the mapped task, with its outlets."""
        made = super().expand(**mapped)
        add_outlets_of_mapped(made.operator)  # type: ignore[attr-defined]
        return made

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> "XComArg":
        """Make the mapped task, with its outlets."""
        made = super().expand_kwargs(kwargs, strict=strict)
        operator: MappedOperator = made.operator  # type: ignore[attr-defined]
        mark_data(operator)
        add_outlets_of_mapped(operator)
        return made
