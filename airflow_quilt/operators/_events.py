"""The event of a package's asset, emitted by the tasks that publish."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import Asset, AssetAlias

from airflow_quilt.assets import quilt_asset
from airflow_quilt.assets.uri import SCHEME
from airflow_quilt.core.errors import InputError, quoted
from airflow_quilt.operators._mapped import parsed_task

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import OutletEventAccessorsProtocol

_log = logging.getLogger(__name__)

_EXTRA: Final = ("top_hash", "previous", "quilt_uri", "catalog_url", "message", "entries", "bytes")
_LONGEST_PARTITION: Final = 250
"""The most characters of a partition key, in Airflow's database."""


def check_partition(key: str | None) -> None:
    """Refuse a partition key that Airflow does not take; called before anything is published.

    Raises:
        InputError: the key is blank or too long; or this Airflow is older than 3.3, and has no partitions of assets.
    """
    from airflow.sdk.execution_time.context import OutletEventAccessor

    if key is None:
        return
    given = f"partition_key {quoted(key)}"
    if not hasattr(OutletEventAccessor, "add_partitions"):
        raise InputError(f"{given}: leave it out, or use Airflow 3.3 or newer; this one has no asset partitions")
    if not key.strip() or len(key) > _LONGEST_PARTITION:
        raise InputError(f"{given}: Airflow takes 1 to {_LONGEST_PARTITION} characters that are not all blank")


def emit_event(operator: "BaseOperator", context: "Context", result: Mapping[str, Any], partition_key: str | None) -> None:
    """Emit the event of the package's asset, with the revision; a task that made no revision emits none.

    The asset is an outlet of the task already, or is added to each asset alias among the outlets. An instance of a mapped task
    has the outlets of all instances, and leaves the packages of the others out.
    """
    try:
        asset = quilt_asset(result["package"], result["registry"])
    except InputError:  # A local registry.
        return
    is_mapped = getattr(context.get("ti"), "map_index", -1) >= 0

    def stays(outlet: Any) -> bool:
        if isinstance(outlet, Asset) and outlet.uri == asset.uri:
            return bool(result["created"])
        return not (is_mapped and isinstance(outlet, Asset) and outlet.uri.startswith(f"{SCHEME}://"))

    operator.outlets = [outlet for outlet in operator.outlets if stays(outlet)]
    if result["created"] and (events := context.get("outlet_events")) is not None:
        _add_event(operator, events, asset, {name: result[name] for name in _EXTRA}, partition_key)


def _add_event(
    operator: "BaseOperator", events: "OutletEventAccessorsProtocol", asset: Asset, extra: Any, partition_key: str | None
) -> None:
    own = [outlet for outlet in operator.outlets if isinstance(outlet, Asset) and outlet.uri == asset.uri]
    aliases = [outlet for outlet in operator.outlets if isinstance(outlet, AssetAlias)]
    for outlet in own:
        events[outlet].extra.update(extra)
        if partition_key is not None:
            events[outlet].add_partitions(partition_key)
    for alias in aliases:
        events[alias].add(asset, extra=extra)
    known = getattr(parsed_task(operator), "outlets", own)
    if not aliases and asset not in known:
        _log.info("No outlet of the task was known to be %s, so it may have no event: give outlets=[AssetAlias(…)]", asset.uri)
    if partition_key is not None and not own:
        _log.warning("The partition %s is lost: it needs outlets=[quilt_asset(…)] with %s", quoted(partition_key), asset.uri)
