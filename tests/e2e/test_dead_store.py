"""A whole Airflow: its triggerer waits at stores that do not answer, and sees packages elsewhere all the same."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_quilt.core import Draft, open_registry, push
from testbed.airflow_home import connections
from testbed.faults import Fault
from testbed.proxy import S3Proxy
from testbed.server import S3Server
from testbed.standalone import Airflow, standalone

PATIENCE = 45
SENSORS = 12
DAGS = f"""
import pendulum
from airflow.sdk import DAG, task
from airflow_quilt.sensors import QuiltPackageSensor

with DAG("dead", schedule=None, start_date=pendulum.datetime(2026, 1, 1)):
    for number in range({SENSORS}):
        QuiltPackageSensor(
            task_id=f"wait_{{number}}", package="team/data", registry=f"s3://dead-{{number % 3}}", quilt_conn_id="dead",
            start_from_trigger=True, poke_interval=1,
        )

with DAG("alive", schedule=None, start_date=pendulum.datetime(2026, 1, 1), params={{"path": "a.txt"}}):
    @task
    def name():
        return "team/data"

    QuiltPackageSensor(task_id="known", package="team/data", path="{{{{ params.path }}}}", start_from_trigger=True)
    QuiltPackageSensor(task_id="output", package=name(), start_from_trigger=True)
    QuiltPackageSensor.partial(task_id="mapped", start_from_trigger=True).expand(package=["team/data"] * 2)
    QuiltPackageSensor(task_id="late", package="team/none", start_from_trigger=True, soft_fail=True, poke_interval=1, timeout=5)
"""
ENDED = {"success", "failed", "skipped", "upstream_failed"}


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def states(airflow: Airflow, dag: str) -> dict[tuple[str, int], str]:
    found: Any = airflow.call("GET", f"dags/{dag}/dagRuns/~/taskInstances")["task_instances"]
    return {(each["task_id"], each["map_index"]): each["state"] for each in found}


def test_dead_stores_stop_no_other(s3: S3Server, proxy: S3Proxy, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "stores.py").write_text(DAGS)
    quilt = {"conn_type": "quilt", "extra": {"aws_conn_id": "dead_store"}}
    environment = {
        **connections(s3, f"s3://{bucket}"),
        "AIRFLOW_CONN_DEAD": json.dumps(quilt),
        "AIRFLOW_CONN_DEAD_STORE": connections(proxy.store, "s3://none")["AIRFLOW_CONN_AWS_DEFAULT"],
    }
    push(open_registry(f"s3://{bucket}", client=s3.client()), Draft(package="team/data", entries={"a.txt": b"a"}))
    proxy.order(Fault("delay", seconds=3600), times=1_000_000)

    with standalone(tmp_path / "home", tmp_path / "dags", environment) as airflow:
        until(lambda: len(airflow.call("GET", "dags")["dags"]) == 2)
        airflow.call("POST", "dags/dead/dagRuns", {"logical_date": None})
        until(lambda: proxy.count() >= SENSORS)
        airflow.call("POST", "dags/alive/dagRuns", {"logical_date": None})
        until(lambda: states(airflow, "alive").get(("known", -1)) == "success")
        until(lambda: set(states(airflow, "alive").values()) <= ENDED)

        assert states(airflow, "alive") == {
            ("name", -1): "success",
            ("known", -1): "success",
            ("output", -1): "success",
            ("mapped", 0): "success",
            ("mapped", 1): "success",
            ("late", -1): "skipped",
        }
        assert set(states(airflow, "dead").values()) == {"deferred"}
