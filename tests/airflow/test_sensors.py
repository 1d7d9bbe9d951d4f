"""The sensor: its conditions, its ways to wait, its result."""

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.sdk import DAG
from airflow.triggers.base import BaseTrigger

from airflow_quilt.core.errors import StorageUnavailableError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import QuiltPushOperator, QuiltRollbackOperator, entry
from airflow_quilt.sensors import QuiltPackageSensor
from airflow_quilt.triggers.revision import QuiltRevisionTrigger
from testbed.airflow_home import connections
from testbed.server import Identity, S3Server
from tests.airflow.support import run_here

NAME = PackageName("team", "data")


def publish(text: str) -> str:
    result = QuiltPushOperator(task_id="push", package=str(NAME), entries={"a.txt": entry(content=text)}).execute({})
    return str(result["top_hash"])


def sensor(**arguments: Any) -> QuiltPackageSensor:
    return QuiltPackageSensor(**{"task_id": "wait", "package": str(NAME), **arguments})


def polled(**arguments: Any) -> Any:
    """Poll once; return the top hash that was found, if any."""
    found = sensor(**arguments).poke({})
    return found.xcom_value["top_hash"] if found.is_done else None


@pytest.mark.usefixtures("connected")
def test_poke_checks_each_condition() -> None:
    assert polled() is None
    first = publish("first")
    assert polled() == first
    assert polled(newer_than=first) is None
    assert polled(newer_than=first[:10]) is None
    assert polled(newer_than="2020-01-01T00:00:00+00:00") == first
    assert polled(newer_than="2999-01-01") is None
    assert polled(path="a.txt") == first
    assert polled(path="b.txt") is None

    second = publish("second")
    assert polled(newer_than=first) == second
    QuiltRollbackOperator(task_id="back", package=str(NAME), revision=first).execute({})
    assert polled() == first


def test_result_is_the_revision(connected: str, s3_registry: Registry) -> None:
    top_hash = publish("first")
    [revision] = s3_registry.revisions(NAME)

    assert sensor().execute({}) == {
        "registry": connected,
        "package": "team/data",
        "top_hash": top_hash,
        "quilt_uri": f"quilt+{connected}#package=team/data@{top_hash}",
        "catalog_url": None,
        "published_at": revision.published_at.to_iso8601_string(),
    }


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"package": "no name"}, "PackageNameError"),
        ({"registry": "s3://no-such-bucket-here"}, "BucketNotFoundError"),
        ({"newer_than": "xyz"}, "TopHashError"),
        ({"path": "../a"}, "LogicalKeyError"),
    ],
)
@pytest.mark.usefixtures("connected")
def test_bad_wait_is_permanent(arguments: dict[str, Any], error: str) -> None:
    with pytest.raises(AirflowFailException, match=f"^{error}: "):
        sensor(**arguments).poke({})


def test_store_outage_fails_attempt(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = S3Server("http://127.0.0.1:9", Identity.make(), Identity.make())
    for name, value in connections(nobody, f"s3://{bucket}").items():
        monkeypatch.setenv(name, value)

    waiting = sensor()
    waiting.hook = QuiltHook(max_concurrency=1, retry=RetryPolicy(seconds=0.5))
    with pytest.raises(StorageUnavailableError):
        waiting.poke({})


@pytest.mark.usefixtures("connected")
def test_trigger_gets_same_condition() -> None:
    first = publish("first")
    task = sensor(newer_than=first, path="a.txt", deferrable=True, poke_interval=7, timeout=70)

    with pytest.raises(TaskDeferred) as deferred:
        task.execute({})

    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.timeout is not None
    assert deferred.value.timeout.total_seconds() == 70
    assert isinstance(deferred.value.trigger, QuiltRevisionTrigger)
    assert deferred.value.trigger.serialize()[1] == {
        "package": "team/data",
        "registry": None,
        "quilt_conn_id": "quilt_default",
        "newer_than": first,
        "path": "a.txt",
        "poll_interval": 7.0,
    }


@pytest.mark.usefixtures("connected")
def test_no_deferral_when_found() -> None:
    top_hash = publish("first")

    assert sensor(deferrable=True).execute({})["top_hash"] == top_hash


def test_trigger_event_is_result() -> None:
    task = sensor(deferrable=True)
    found = {"quilt_uri": "quilt+s3://b#package=team/data", "catalog_url": "https://catalog/page", "top_hash": "f" * 64}

    assert task.execute_complete({}, {"found": found}) == found
    assert task.catalog_url == "https://catalog/page"
    with pytest.raises(AirflowFailException, match="BucketNotFoundError: it is gone"):
        task.execute_complete({}, {"error": "BucketNotFoundError: it is gone"})


def test_starts_in_the_triggerer() -> None:
    task = sensor(start_from_trigger=True, newer_than="{{ ds }}", poke_interval=5, timeout=50)

    assert task.deferrable
    assert task.start_from_trigger == hasattr(BaseTrigger, "on_kill")
    if task.start_from_trigger:
        arguments = task.start_trigger_args.trigger_kwargs
        assert arguments
        assert QuiltRevisionTrigger(**arguments).serialize()[1] == arguments
        assert arguments["newer_than"] == "{{ ds }}"
        assert set(arguments) - {"poll_interval"} <= set(task.template_fields)
    assert sensor().start_trigger_args.trigger_kwargs == {}  # Of this task alone.


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("mode", [{"mode": "poke"}, {"mode": "reschedule"}, {"deferrable": True}])
def test_wait_modes_agree(dag: DAG, mode: dict[str, Any]) -> None:
    publish("first")
    sensor(**mode, dag=dag, newer_than="{{ params.since }}", poke_interval=1)

    run = run_here(dag, run_conf={"since": "2020-01-01"})

    assert str(run.state) == "success"
    [ti] = run.get_task_instances()
    assert ti.xcom_pull(task_ids="wait")["package"] == "team/data"
