"""Provenance: the run that published a package, written into the package's metadata on request."""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow.sdk import Context

KEY: Final = "airflow"
"""The key in the package's metadata."""
_MOST_EVENTS: Final = 100


def provenance_of(context: "Context") -> dict[str, Any]:
    """Return the identity of the run and its triggers: values that all attempts of the task share."""
    run, instance = context.get("dag_run"), context.get("ti")
    fields = {
        "dag_id": getattr(instance, "dag_id", None),
        "task_id": getattr(instance, "task_id", None),
        "map_index": index if (index := getattr(instance, "map_index", -1)) >= 0 else None,
        "run_id": getattr(instance, "run_id", None),
        "logical_date": _time(getattr(run, "logical_date", None)),
        "data_interval_start": _time(getattr(run, "data_interval_start", None)),
        "data_interval_end": _time(getattr(run, "data_interval_end", None)),
        "triggered_by": _events(context),
    }
    return {name: value for name, value in fields.items() if value}


def _time(moment: Any) -> str | None:
    return None if moment is None else moment.isoformat()


def _events(context: "Context") -> list[dict[str, Any]]:
    """Return the asset events that triggered the run, at most 100."""
    found = []
    for asset, events in dict(context.get("triggering_asset_events") or {}).items():
        for event in events:
            extra = event.extra or {}
            fields = {
                "asset": getattr(asset, "uri", None) or getattr(asset, "name", None),
                "time": _time(event.timestamp),
                "dag_id": getattr(event, "source_dag_id", None),
                "run_id": getattr(event, "source_run_id", None),
                "top_hash": (extra.get("payload") or extra).get("top_hash"),
            }
            found.append({name: value for name, value in fields.items() if value is not None})
    return sorted(found, key=lambda event: (event["time"], event["asset"] or ""))[:_MOST_EVENTS]
