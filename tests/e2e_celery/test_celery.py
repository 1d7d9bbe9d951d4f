"""A push by many tasks, some of which are killed half-way: under CeleryExecutor with their worker, under LocalExecutor alone."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.operators.shards import ROOT
from benchmarks.stage import Stage
from testbed.airflow_home import connections
from testbed.celery import CeleryAirflow, celery_airflow
from testbed.loopback import Request
from testbed.proxy import S3Proxy
from testbed.server import S3Server
from testbed.standalone import Airflow, standalone
from tests.chaos.conftest import Figures

OBJECTS = 20_000
SIZE = 1_000
SHARDS = 32
OF_A_SHARD = OBJECTS // SHARDS
PACKAGE = "team/many"
MESSAGE = "by many"
PATIENCE = 900
SMALL_PART = OF_A_SHARD // 6  # Of a shard is sent when its worker is killed ...
MOST = OF_A_SHARD // 2  # ... and it is not nearly done.
DAG = f"""
import datetime
import pendulum
from airflow.sdk import dag
from airflow_quilt.task_groups import quilt_push_group

@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1))
def many():
    quilt_push_group(
        package="{PACKAGE}",
        entries="SOURCE",
        message="{MESSAGE}",
        copy="all",
        shards={SHARDS},
        transfer={{"retries": 2, "retry_delay": datetime.timedelta(seconds=1)}},
    )

many()
"""


class Writes:
    """Counts the requests that come, and how often each object of the package is written."""

    def __init__(self, bucket: str) -> None:
        self._prefix = f"/{bucket}/{PACKAGE}/"
        self.requests: Counter[str] = Counter()
        self.of: Counter[str] = Counter()
        self.of_shard: Counter[int] = Counter()

    def __call__(self, request: Request) -> None:
        copies = "x-amz-copy-source" in request.headers
        self.requests["COPY" if copies else request.method] += 1
        path = request.path.partition("?")[0]
        if request.method == "PUT" and path.startswith(self._prefix):
            self.of[path] += 1
            self.of_shard[shard_of(path)] += 1


class Run:
    """A run of the DAG."""

    def __init__(self, airflow: Airflow) -> None:
        self._airflow = airflow
        self._until(lambda: airflow.call("GET", "dags")["dags"])
        self._path = f"dags/many/dagRuns/{airflow.call('POST', 'dags/many/dagRuns', {'logical_date': None})['dag_run_id']}"

    def tries(self, task: str) -> list[dict[str, Any]]:
        """Return the task instances of a task."""
        found = self._airflow.call("GET", f"{self._path}/taskInstances?limit=100")["task_instances"]
        return [each for each in found if each["task_id"] == f"push.{task}"]

    def seconds(self, task: str) -> float:
        """Return the seconds from the begin of the first instance of a task to the end of the last."""
        tries = self.tries(task)
        began, ended = ([datetime.fromisoformat(each[name]) for each in tries] for name in ("start_date", "end_date"))
        return (max(ended) - min(began)).total_seconds()

    def result(self, task: str) -> Any:
        """Return the result of a task."""
        return self._airflow.call("GET", f"{self._path}/taskInstances/push.{task}/xcomEntries/return_value")["value"]

    def processes(self) -> dict[int, int]:
        """Return the processes that transfer shards, by the number of the shard."""
        return {each["map_index"]: each["pid"] for each in self.tries("transfer") if each["state"] == "running" and each["pid"]}

    def under_way(self, processes: set[int]) -> set[int]:
        """Return the shards that some processes transfer, as far as Airflow knows."""
        return {each["map_index"] for each in self.tries("transfer") if each["state"] == "running" and each["pid"] in processes}

    def wait_for_half(self) -> None:
        """Wait until half of the shards are done."""
        self._until(lambda: len([each for each in self.tries("transfer") if each["state"] == "success"]) >= SHARDS // 2)

    def wait_for_end(self) -> str:
        """Wait until the run has ended; return how."""
        ends = ("success", "failed")
        return str(
            self._until(lambda: next((end for end in ends if end == self._airflow.call("GET", self._path)["state"]), None))
        )

    @staticmethod
    def _until(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, "nothing came of it"
            time.sleep(0.3)
        return found


def shard_of(path: str) -> int:
    """Return the shard of an object by its name, which ends with its number; shards are ranges of the same length."""
    return int(path.rpartition("/")[2]) // OF_A_SHARD


def kill_in_a_shard(run: Run, processes: Callable[[], set[int]], kill: Callable[[int], set[int]], writes: Writes) -> set[int]:
    """Kill the process of a shard when a small part is sent; return the shards that were killed.

    ``processes`` returns the candidates; ``kill`` takes the number of a shard, and returns the processes that it killed.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for shard in run.under_way(processes()):
            while writes.of_shard[shard] < SMALL_PART and processes() and time.monotonic() < deadline:
                time.sleep(0.01)
            if writes.of_shard[shard] < MOST:
                return run.under_way(kill(shard))
    raise AssertionError("no shard was found half-way")


@pytest.fixture(scope="module")
def sources(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prefix with many small objects with a SHA-256 in the store: only it proves the uploads of an attempt."""
    return Stage(s3, tmp_path_factory.mktemp("stage")).objects(OBJECTS, SIZE, ChecksumAlgorithm="SHA256")


@pytest.fixture
def writes(proxy: S3Proxy, bucket: str) -> Iterator[Writes]:
    counting = Writes(bucket)
    with proxy.disturbed(counting):
        yield counting


@pytest.fixture
def running(proxy: S3Proxy, bucket: str, sources: str, tmp_path: Path) -> Iterator[CeleryAirflow]:
    """An Airflow with two workers, whose requests all go through the proxy."""
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "many.py").write_text(DAG.replace("SOURCE", sources), encoding="utf-8")
    with celery_airflow(tmp_path / "home", dags, connections(proxy.store, f"s3://{bucket}")) as airflow:
        yield airflow


@pytest.fixture
def local(proxy: S3Proxy, bucket: str, sources: str, tmp_path: Path) -> Iterator[Airflow]:
    """An Airflow with LocalExecutor, whose requests all go through the proxy."""
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "many.py").write_text(DAG.replace("SOURCE", sources), encoding="utf-8")
    more = {**connections(proxy.store, f"s3://{bucket}"), "AIRFLOW__CORE__PARALLELISM": "4"}
    with standalone(tmp_path / "home", dags, more) as airflow:
        yield airflow


def registry_of(s3: S3Server, bucket: str) -> Registry:
    return Registry(RegistryLocation.parse(f"s3://{bucket}"), Stores(LocalStorage(), S3Storage(s3.client())))


def entries_of(registry: Registry, top_hash: str) -> list[tuple[Any, ...]]:
    """Return the entries of a package without the places of their bytes."""
    return [
        (each.logical_key, each.size, each.hash, each.meta)
        for each in registry.read(PackageName.parse(PACKAGE), top_hash).entries
    ]


def arrived(s3: S3Server, bucket: str) -> set[str]:
    """Return the paths of the objects of the package that the store has."""
    pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{PACKAGE}/")
    return {f"/{bucket}/{each['Key']}" for page in pages for each in page.get("Contents", [])}


def pushed_alone(s3: S3Server, bucket: str, sources: str) -> tuple[Registry, PublishResult, float]:
    """Push the same sources by one call; return how long that took, too."""
    registry = registry_of(s3, s3.make_bucket(f"{bucket}-alone"))
    began = time.monotonic()
    published = push(registry, Draft(package=PACKAGE, entries=sources, message=MESSAGE), copy="all")
    return registry, published, time.monotonic() - began


def test_killed_worker_sends_once(
    s3: S3Server, bucket: str, sources: str, writes: Writes, running: CeleryAirflow, figures: Figures
) -> None:
    """Publish the revision of a push by one task."""
    run, worker = Run(running.airflow), running.workers[0]
    run.wait_for_half()
    killed = kill_in_a_shard(run, worker.processes, lambda _: worker.kill(), writes)
    check(s3, bucket, sources, writes, run, killed, figures)
    figures(f"{OBJECTS:,} objects of {SIZE:,} bytes in {SHARDS} shards, on 2 Celery workers of 2 tasks")


def test_local_task_kill_recovers(
    s3: S3Server, bucket: str, sources: str, writes: Writes, local: Airflow, figures: Figures
) -> None:
    """Publish the revision of a push by one task."""
    run = Run(local)
    run.wait_for_half()

    def kill(shard: int) -> set[int]:
        process = run.processes().get(shard)
        assert process, "the task has ended meanwhile"
        os.kill(process, signal.SIGKILL)
        return {process}

    killed = kill_in_a_shard(run, lambda: {*run.processes().values()}, kill, writes)
    check(s3, bucket, sources, writes, run, killed, figures)
    figures(f"{OBJECTS:,} objects of {SIZE:,} bytes in {SHARDS} shards, 4 tasks at a time under LocalExecutor")


def check(s3: S3Server, bucket: str, sources: str, writes: Writes, run: Run, killed: set[int], figures: Figures) -> None:
    """Wait for the end of a run of which some shards were killed, and check all that holds of it."""
    there, sent, began = arrived(s3, bucket), set(writes.of), time.monotonic()
    ended = run.wait_for_end()
    figures(f"killed at shards {sorted(killed)}, with {len(there):,} objects there; {time.monotonic() - began:.0f} s to the end")

    transfers = run.tries("transfer")
    assert (ended, Counter(each["state"] for each in transfers)) == ("success", {"success": SHARDS})
    retried = {each["map_index"] for each in transfers if each["try_number"] > 1}
    assert retried
    assert retried <= killed

    twice = {path for path, times in writes.of.items() if times > 1}
    assert len(writes.of) == OBJECTS
    assert not twice & there
    assert {shard_of(path) for path in twice} <= retried
    assert twice <= sent
    assert len(twice) <= Limits().max_concurrency * len(killed)

    told, (alone, published, seconds) = run.result("commit"), pushed_alone(s3, bucket, sources)
    reused = {path for path in sent - twice if shard_of(path) in retried}
    assert reused
    assert (told["top_hash"], told["entries"], told["bytes_reused"]) == (published.top_hash, OBJECTS, len(reused) * SIZE)
    assert entries_of(registry_of(s3, bucket), told["top_hash"]) == entries_of(alone, published.top_hash)
    assert "Contents" not in s3.client().list_objects_v2(Bucket=bucket, Prefix=ROOT)

    steps = ", ".join(f"{task} {run.seconds(task):.0f} s" for task in ("plan", "transfer", "commit", "clean_up"))
    figures(f"{steps}; {seconds:.0f} s alone")
    figures(
        f"{len(retried)} shards tried again: {len(reused)} objects found, {len(twice)} sent twice; requests: {dict(writes.requests)}"
    )
