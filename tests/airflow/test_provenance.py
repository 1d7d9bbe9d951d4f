"""A package's record of the run that published it."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.asset import AssetUniqueKey

from airflow_quilt._compat import AirflowFailException
from airflow_quilt.assets import quilt_asset
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.operators import QuiltPushOperator, entry
from airflow_quilt.operators._provenance import provenance_of
from tests.airflow.support import instance, run_here

NAME = PackageName("team", "data")


def push(context: Any = None, **arguments: Any) -> dict[str, Any]:
    entries = {"a.txt": entry(content="a")}
    task = QuiltPushOperator(**{"task_id": "push", "package": str(NAME), "entries": entries, **arguments})
    return task.execute(context or {})


def meta(registry: Registry) -> Any:
    return registry.read(NAME).user_meta


@pytest.mark.usefixtures("connected")
def test_no_provenance_by_default(s3_registry: Registry) -> None:
    push(instance())
    assert meta(s3_registry) == {}


@pytest.mark.usefixtures("connected")
def test_run_is_named_in_metadata(s3_registry: Registry) -> None:
    """Keep the top hash in every attempt."""
    first = push(instance(1), meta={"week": 47}, provenance=True)
    about = {"dag_id": "dag", "run_id": "run", "task_id": "push"}
    assert meta(s3_registry) == {"week": 47, "airflow": about}

    again = push(instance(2), meta={"week": 47}, provenance=True)
    assert again["top_hash"] == first["top_hash"]


@pytest.mark.usefixtures("connected")
def test_update_names_its_run(s3_registry: Registry) -> None:
    push(instance(), meta={"week": 47}, provenance=True)
    push(instance(task_id="later"), mode="update", entries={"b.txt": entry(content="b")}, provenance="true")

    assert meta(s3_registry) == {"week": 47, "airflow": {"dag_id": "dag", "run_id": "run", "task_id": "later"}}


@pytest.mark.usefixtures("connected")
def test_airflow_key_is_reserved() -> None:
    with pytest.raises(AirflowFailException, match="the key 'airflow' is written here; leave it out"):
        push(instance(), meta={"airflow": 1}, provenance=True)
    push(instance(), meta={"airflow": 1})


def test_connection_sets_provenance(connected: str, s3_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = f'{{"registry": "{connected}", "provenance": "true"}}'
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", f'{{"conn_type": "quilt", "extra": {extra}}}')

    push(instance(), meta={"a": 1}, provenance=False)
    assert meta(s3_registry) == {"a": 1}
    push(instance(), meta={"a": 1})
    assert meta(s3_registry)["airflow"]["dag_id"] == "dag"


def test_trigger_events_are_ordered() -> None:
    def event(hour: int, extra: dict[str, Any]) -> Any:
        at = datetime(2026, 11, 1, hour, tzinfo=UTC)
        return SimpleNamespace(timestamp=at, extra=extra, source_dag_id="producer", source_run_id="r")

    events = {
        AssetUniqueKey.from_asset(quilt_asset("team/raw", "s3://b")): [event(3, {"top_hash": "c" * 64}), event(1, {})],
        AssetUniqueKey.from_asset(quilt_asset("team/notes", "s3://b")): [
            event(2, {"from_trigger": True, "payload": {"top_hash": "d" * 64}})
        ],
    }

    found = provenance_of({**instance(map_index=4), "triggering_asset_events": events})  # type: ignore[typeddict-item]

    assert found["map_index"] == 4
    assert found["triggered_by"] == [
        {"asset": uri, "time": f"2026-11-01T0{hour}:00:00+00:00", "dag_id": "producer", "run_id": "r", **more}
        for hour, uri, more in (
            (1, "quilt+s3://b/team/raw", {}),
            (2, "quilt+s3://b/team/notes", {"top_hash": "d" * 64}),
            (3, "quilt+s3://b/team/raw", {"top_hash": "c" * 64}),
        )
    ]


@pytest.mark.usefixtures("connected")
def test_run_times_are_recorded(dag: DAG, s3_registry: Registry) -> None:
    entries = {"a.txt": entry(content="a")}
    QuiltPushOperator(task_id="push", package=str(NAME), entries=entries, provenance=True, dag=dag)

    run = run_here(dag, logical_date=datetime(2026, 11, 1, tzinfo=UTC))

    found = meta(s3_registry)["airflow"]
    assert (found["dag_id"], found["task_id"], found["run_id"]) == (dag.dag_id, "push", run.run_id)
    assert found["logical_date"] == "2026-11-01T00:00:00+00:00"
    assert "map_index" not in found
