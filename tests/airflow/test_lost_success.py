"""A task that has published, and whose success is lost: Airflow tries it again."""

import os
import subprocess
import sys
from pathlib import Path

from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from tests.airflow.support import needs_airflow

DAG = """
import pendulum
from airflow.sdk import dag
from airflow_quilt.operators import QuiltPushOperator

def is_lost(context, result):
    if context["ti"].try_number == 1:
        raise RuntimeError("the worker is lost")

@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1))
def lost():
    QuiltPushOperator(
        task_id="push",
        package="team/data",
        entries={"a.txt": PATH},
        dedupe=False,
        retries=1,
        retry_delay=pendulum.duration(seconds=0),
        post_execute=is_lost,
    )

lost()
"""


@needs_airflow("3.3")
def test_lost_result_is_returned(database: None, connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    """Read no source again."""
    dags = tmp_path / "dags"
    dags.mkdir()
    (tmp_path / "a.txt").write_text("a")
    (dags / "lost.py").write_text(DAG.replace("PATH", repr(str(tmp_path / "a.txt"))), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("airflow")), "dags", "test", "lost"]
    environment = {**os.environ, "AIRFLOW__CORE__DAGS_FOLDER": str(dags), "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    output = done.stdout + done.stderr
    [revision] = s3_registry.revisions(PackageName("team", "data"))

    assert "the worker is lost" in output
    assert f"An earlier attempt of this task published quilt+{connected}#package=team/data@{revision.top_hash}" in output
    assert done.returncode == 0, output
