"""A real supervisor: a task is taken away while a slow part is under way. It has five seconds, and leaves no upload open."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.airflow_home import connections
from testbed.proxy import S3Proxy, running_proxy
from testbed.server import S3Server
from testbed.standalone import Airflow, standalone

PATIENCE = 120
SLOW = 128 * 1024
"""Bytes a second: a part takes a minute."""
DAG = """
import pendulum
from airflow.sdk import dag
from airflow_quilt.operators import QuiltPushOperator

@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1))
def slow():
    QuiltPushOperator(task_id="push", package="team/big", entries={"big.bin": PATH})

slow()
"""


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.make_bucket("killed")


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[S3Proxy]:
    with running_proxy(s3) as server:
        yield server


@pytest.fixture(scope="module")
def airflow(proxy: S3Proxy, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    place = tmp_path_factory.mktemp("killed")
    (place / "dags").mkdir()
    with (place / "big.bin").open("wb") as file:
        file.truncate(20 * 1024 * 1024)
    (place / "dags/slow.py").write_text(DAG.replace("PATH", repr(str(place / "big.bin"))), encoding="utf-8")
    with standalone(place / "home", place / "dags", connections(proxy.store, f"s3://{bucket}")) as running:
        until("the DAG", lambda: running.call("GET", "dags")["total_entries"] == 1)
        yield running


def until(name: str, find: Callable[[], Any]) -> Any:
    """Wait until a search finds something, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := find()):
        assert time.monotonic() < deadline, f"waited in vain for {name}"
        time.sleep(0.2)
    return found


def clear(airflow: Airflow, run: str) -> None:
    body = {"dry_run": False, "dag_run_id": run, "task_ids": ["push"], "only_failed": False, "reset_dag_runs": True}
    airflow.call("POST", "dags/slow/clearTaskInstances", body)


def fail(airflow: Airflow, run: str) -> None:
    airflow.call("PATCH", f"dags/slow/dagRuns/{run}/taskInstances/push", {"new_state": "failed"})


def state(airflow: Airflow, run: str) -> str:
    return str(airflow.call("GET", f"dags/slow/dagRuns/{run}/taskInstances/push")["state"])


@pytest.mark.parametrize("take_away", [fail, clear])
def test_task_taken_away_leaves_no_upload(
    airflow: Airflow, s3: S3Server, proxy: S3Proxy, bucket: str, take_away: Callable[[Airflow, str], None]
) -> None:
    def uploads() -> list[Any]:
        return s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])

    proxy.slow(SLOW)
    begun = len(proxy.requests)
    run = airflow.call("POST", "dags/slow/dagRuns", {"logical_date": None})["dag_run_id"]
    until("a part under way", lambda: any("partNumber=" in each.path for each in proxy.requests[begun:]))
    [upload] = uploads()
    take_away(airflow, run)
    until("the abort", lambda: any(each.method == "DELETE" and upload["UploadId"] in each.path for each in proxy.requests))

    proxy.slow(None)
    if take_away is clear:  # The next attempt begins anew, and completes.
        until("the next attempt", lambda: state(airflow, run) == "success")
    proxy.wait_until_idle()  # No part of the first attempt is on its way any more.
    assert uploads() == []
    assert "did not terminate in time" not in (Path(airflow.environment["AIRFLOW_HOME"]) / "standalone.log").read_text()
