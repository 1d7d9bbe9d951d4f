"""A task that is killed: Airflow sends SIGTERM to its process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from testbed.server import S3Server

DAG = """
import pendulum
from airflow.sdk import dag
from airflow_quilt.operators import QuiltPushOperator

@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1))
def killed():
    QuiltPushOperator(task_id="push", package="team/big", entries={"big.bin": PATH})

killed()
"""
SIZE = 2 * 1024**3
PATIENCE = 120


def test_kill_leaves_no_upload(database: None, connected: str, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(SIZE)  # Sparse: it takes no space, and long enough to send.
    (dags / "killed.py").write_text(DAG.replace("PATH", repr(str(tmp_path / "big.bin"))), encoding="utf-8")
    client = s3.client()

    def uploads() -> list[object]:
        found = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return [upload for upload in found if upload["Key"].startswith("team/")]  # Not the check that comes before.

    command = [str(Path(sys.executable).with_name("airflow")), "dags", "test", "killed"]
    environment = {**os.environ, "AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as task:
        deadline = time.monotonic() + PATIENCE
        while not uploads() and task.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        begun = bool(uploads())
        task.send_signal(signal.SIGTERM)
        output, _ = task.communicate(timeout=PATIENCE)

    assert begun, output
    assert "CancelledError: stopped on request" in output
    assert task.returncode != 0
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert not client.list_object_versions(Bucket=bucket).get("Versions")
