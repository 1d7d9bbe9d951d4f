"""The event of a package's asset, emitted by the tasks that publish."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_quilt.assets import quilt_asset
from airflow_quilt.assets.uri import is_known
from airflow_quilt.core.errors import InputError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

_EXTRA: Final = ("top_hash", "previous", "quilt_uri", "catalog_url", "message", "entries", "bytes")


def add_outlet(operator: "BaseOperator", package: object, registry: object) -> None:
    """Add the package's asset to the outlets, if package and registry are known at parse time and it is not among them."""
    if not (isinstance(package, str) and is_known(package) and isinstance(registry, str) and is_known(registry)):
        return
    try:
        asset = quilt_asset(package, registry)
    except InputError:  # The task itself reports a malformed name; a local registry has no asset.
        return
    if all(outlet.uri != asset.uri for outlet in operator.outlets if isinstance(outlet, Asset)):
        operator.add_outlets([asset])


def check_partition(key: str | None) -> None:
    """Refuse a partition key where Airflow has no partitions of assets; called before anything is published.

    Raises:
        InputError: this Airflow is older than 3.3.
    """
    from airflow.sdk.execution_time.context import OutletEventAccessor

    if key is not None and not hasattr(OutletEventAccessor, "add_partitions"):
        raise InputError(f"partition_key {key!r}: leave it out, or use Airflow 3.3 or newer; this one has no asset partitions")


def emit_event(operator: "BaseOperator", context: "Context", result: Mapping[str, Any], partition_key: str | None) -> None:
    """Emit the event of the package's asset, with the revision; a task that made no revision emits none.

    The asset is an outlet of the task already, or is added to each asset alias among the outlets.
    """
    try:
        asset = quilt_asset(result["package"], result["registry"])
    except InputError:  # A local registry.
        return
    if not result["created"]:
        operator.outlets = [each for each in operator.outlets if not (isinstance(each, Asset) and each.uri == asset.uri)]
        return
    events = context.get("outlet_events")
    if events is None:
        return
    extra = {name: result[name] for name in _EXTRA}
    for outlet in operator.outlets:
        if isinstance(outlet, Asset) and outlet.uri == asset.uri:
            events[outlet].extra.update(extra)
            if partition_key is not None:
                events[outlet].add_partitions(partition_key)
        elif isinstance(outlet, AssetAlias):
            events[outlet].add(asset, extra=extra)
