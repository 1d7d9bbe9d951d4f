"""The outlets of the tasks that publish: Airflow accepts events only of assets that it knew when it parsed the DAG."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

from airflow_quilt.assets import quilt_alias, quilt_asset
from airflow_quilt.assets.uri import SCHEME, is_known
from airflow_quilt.core.errors import InputError
from airflow_quilt.operators._mapped import given_to_all, parsed_task

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.definitions.mappedoperator import MappedOperator


def add_outlets(operator: "BaseOperator | MappedOperator", packages: Iterable[Sequence[object]]) -> None:
    """Add the assets of packages to the outlets, those that are not among them.

    Where a package or its registry is unknown while the DAG is parsed, add the alias of the task, unless the outlets hold an
    alias or the asset of a package (ADR 0030).

    Args:
        operator: a task, or a mapped task.
        packages: the package and the registry of each instance, as the DAG gives them.
    """
    parsed = parsed_task(operator)
    if parsed is not None and parsed is not operator:
        return  # An instance of a mapped task: only the outlets of the DAG have events.
    given = _items(operator.outlets or ())  # One outlet, or None, if partial() was given that.
    added: dict[str, Asset | AssetAlias] = {}
    for package, registry in packages:
        if not (is_known(package) and is_known(registry)):
            if parsed is not None and not any(isinstance(outlet, AssetAlias) or is_package(outlet) for outlet in given):
                added[""] = quilt_alias(operator.dag_id, operator.task_id)
        elif asset := _asset(package, registry):
            added[asset.uri] = asset
    new = [outlet for uri, outlet in added.items() if all(uri != other.uri for other in given if isinstance(other, Asset))]
    if new:
        operator.outlets = [*given, *new]


def add_outlets_of_mapped(operator: "MappedOperator") -> None:
    """Add the outlets of a mapped task: those of its instances, made while it runs, are not in the DAG that Airflow stored."""
    if getattr(operator.operator_class, "is_outlet", False):
        add_outlets(operator, _packages(operator))


def is_package(outlet: object) -> bool:
    """Return whether an outlet is the asset of a package."""
    return isinstance(outlet, Asset) and outlet.uri.startswith(f"{SCHEME}://")


def _asset(package: Any, registry: Any) -> Asset | None:
    try:
        return quilt_asset(package, registry)
    except InputError:  # The task itself reports a malformed name; a local registry has no asset.
        return None


def _packages(operator: "MappedOperator") -> Iterator[Sequence[object]]:
    """Yield the packages of the instances, each with its registry."""
    given = given_to_all(operator)
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
