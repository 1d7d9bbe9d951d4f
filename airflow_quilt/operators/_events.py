"""The event of a package's asset, emitted by the tasks that publish."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import Asset, AssetAlias

from airflow_quilt.assets import quilt_asset
from airflow_quilt.assets.uri import package_of
from airflow_quilt.core.errors import InputError, plain, quoted
from airflow_quilt.operators._outlets import is_package

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

_log = logging.getLogger(__name__)

_EXTRA: Final = (
    *("top_hash", "previous", "quilt_uri", "catalog_url", "message"),
    *("entries", "bytes", "added", "modified", "removed"),
)
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
    """Emit the event of the package's asset, with the revision, once the task has succeeded; log which asset it is, or why none.

    There is one: by the aliases among the outlets, or else of the asset that is an outlet; a partition needs the latter.
    An instance of a mapped task has the outlets of all instances, and leaves the packages of the others out. A task that made no
    revision emits none.
    """
    try:
        asset = quilt_asset(result["package"], result["registry"])
    except InputError:
        _log.info("No event: packages of the local registry %s have no asset", plain(result["registry"]))
        return
    own = [outlet for outlet in operator.outlets if isinstance(outlet, Asset) and outlet.uri == asset.uri]
    is_mapped = getattr(context.get("ti"), "map_index", -1) >= 0
    others = [outlet for outlet in operator.outlets if outlet not in own and not (is_mapped and is_package(outlet))]
    if not result["created"]:
        operator.outlets = others  # Airflow makes an event for each asset that is left.
        _log.info("No event of the asset %s: nothing has changed", asset.uri)
        return
    aliases = [outlet for outlet in others if isinstance(outlet, AssetAlias)]
    if partition_key is None and aliases:
        own = []  # Its event is made by the aliases.
    operator.outlets = [*own, *others]
    if (events := context.get("outlet_events")) is not None:
        extra = {name: result[name] for name in _EXTRA if name in result}
        for outlet in own:
            events[outlet].extra.update(extra)
            if partition_key is not None:
                events[outlet].add_partitions(partition_key)
        for alias in aliases:
            events[alias].add(asset, extra=extra)
        _log_event(asset, own, aliases, partition_key)


def _log_event(asset: Asset, own: Sequence[Asset], aliases: Sequence[AssetAlias], partition_key: str | None) -> None:
    registry, package = package_of(asset.uri)
    cure = f"outlets=[quilt_asset({package!r}, {registry!r})]"
    names = ", ".join(repr(alias.name) for alias in aliases)
    if own or aliases:
        _log.info("Event of the asset %s%s", asset.uri, f", by the alias {names}" if names else "")
    else:
        _log.info("No event of the asset %s: it is no outlet of the task; add %s", asset.uri, cure)
    if partition_key is not None and not own:
        _log.warning("The partition %s is lost, as the events of an alias have none: add %s", quoted(partition_key), cure)
