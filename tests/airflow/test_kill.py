"""A task that is killed, for which Airflow sends SIGTERM to its process, and a task that takes too long."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_quilt.core.errors import CancelledError
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.stop import stoppable
from airflow_quilt.hooks._settings import QuiltSettings
from airflow_quilt.hooks._stores import make_client
from airflow_quilt.hooks.aws import BoundedAwsHook
from testbed.airflow_home import connections
from testbed.faults import Fault
from testbed.loopback import Request
from testbed.proxy import S3Proxy
from testbed.server import S3Server
from tests.airflow.support import run_here

if TYPE_CHECKING:
    from airflow.sdk import DAG

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
HANG = 60.0
"""Seconds for which a request is held up."""


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


def push_prefix(bucket: str, **arguments: Any) -> None:
    from airflow_quilt.operators import QuiltPushOperator

    QuiltPushOperator(task_id="work", package="team/new", entries=f"s3://{bucket}/raw/", **arguments)


def delete_package(_: str, **arguments: Any) -> None:
    from airflow_quilt.operators import QuiltDeleteOperator

    QuiltDeleteOperator(task_id="work", package="team/data", **arguments)


HELD: dict[str, tuple[Callable[..., None], Callable[[Request], bool]]] = {
    "push": (push_prefix, lambda request: request.method == "GET" and "versions" in request.path),
    "delete": (delete_package, lambda request: request.method == "GET" and "prefix=.quilt%2Fnamed_packages" in request.path),
}


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the handlers of signals, which Airflow sets when it runs a task."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("work", "end"), [("push", "SIGTERM"), ("push", "execution_timeout"), ("delete", "SIGTERM")])
def test_task_does_not_wait_for_store(
    dag: "DAG",
    handlers: None,
    s3: S3Server,
    s3_registry: Registry,
    bucket: str,
    proxy: S3Proxy,
    monkeypatch: pytest.MonkeyPatch,
    work: str,
    end: str,
) -> None:
    push(s3_registry, Draft(package="team/data", entries={"a": b"a"}))
    for name, value in connections(proxy.store, f"s3://{bucket}").items():
        monkeypatch.setenv(name, value)
    make, where = HELD[work]
    seen: list[int] = []

    def hold(request: Request) -> Fault | None:
        if not where(request):
            return None
        seen.append(len(proxy.requests))
        if end == "SIGTERM":
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return Fault("delay", seconds=HANG)

    with dag:
        make(bucket, execution_timeout=timedelta(seconds=3) if end == "execution_timeout" else None)
    with proxy.disturbed(hold):
        run = run_here(dag)

    assert not proxy.is_idle  # The request hangs still: the task has not waited for it.
    [task] = run.get_task_instances()
    assert task.state == "failed"
    assert len(seen) == 1
    # A push reads `latest` and the workflows beside it.
    beside = ("/team/data/latest", "/.quilt/workflows/config.yml")
    assert all(request.method == "DELETE" or request.path.endswith(beside) for request in proxy.requests[seen[0] :])
    assert not s3.client().list_objects_v2(Bucket=bucket, Prefix=".quilt/locks/").get("Contents")


def test_hanging_role_is_left(connected: str) -> None:
    release, stop = threading.Event(), threading.Event()

    class HangingHook(BoundedAwsHook):
        """A hook whose session waits for a service that does not answer."""

        def get_client_type(self, *_: Any, **__: Any) -> Any:
            stop.set()
            release.wait(HANG)

    with pytest.raises(CancelledError), stoppable(stop):
        make_client(QuiltSettings(), HangingHook(client_type="s3"))
    assert not release.is_set()
    release.set()
