"""What a task that publishes tells Airflow of its package: the asset's event."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_quilt.assets import quilt_asset
from airflow_quilt.assets.uri import is_known
from airflow_quilt.core.errors import InputError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

_TOLD: Final = ("top_hash", "previous", "quilt_uri", "catalog_url", "message", "entries", "bytes")


def declare(operator: "BaseOperator", package: object, registry: object) -> None:
    """Make the package's asset an outlet, where package and registry are known and no outlet says so already."""
    if not (isinstance(package, str) and is_known(package) and isinstance(registry, str) and is_known(registry)):
        return
    try:
        asset = quilt_asset(package, registry)
    except InputError:  # The task itself will say what is wrong; a local registry has no asset.
        return
    if all(outlet.uri != asset.uri for outlet in operator.outlets if isinstance(outlet, Asset)):
        operator.add_outlets([asset])


def tell(operator: "BaseOperator", context: "Context", result: Mapping[str, Any], partition_key: str | None) -> None:
    """Say in the event of the package's asset what was published; where nothing was, there is no event.

    The asset is an outlet of the task already, or is added to each alias among them.
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
    extra = {name: result[name] for name in _TOLD}
    for outlet in operator.outlets:
        if isinstance(outlet, Asset) and outlet.uri == asset.uri:
            events[outlet].extra.update(extra)
            if partition_key is not None:
                _partition(events[outlet], partition_key)
        elif isinstance(outlet, AssetAlias):
            events[outlet].add(asset, extra=extra)


def _partition(event: Any, key: str) -> None:
    if not hasattr(event, "add_partitions"):
        raise InputError("partition_key: this Airflow has no partitions of assets; 3.3 and newer have")
    event.add_partitions(key)
