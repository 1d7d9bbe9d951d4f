"""The example DAGs, run to their end by real Airflow against the real store."""

import asyncio
import json
import os
import re
import runpy
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pendulum
import pytest
from airflow.sdk import Asset

from airflow_quilt.assets import quilt_asset
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.operators import QuiltPushOperator, entry
from testbed.server import S3Server
from testbed.sqs import running_queue
from tests.airflow.support import EXAMPLES, RunDag, dag_bag, events, result, run_here, states

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

Publish = Callable[[int], "DagRun"]
PENGUINS = PackageName.parse("penguins/weekly")


@pytest.fixture
def publish(run_dag: RunDag, connected: str, tmp_path: Path) -> Publish:
    """A runner of the penguins of a year."""

    def run(year: int) -> "DagRun":
        return run_dag("example_quilt_push", logical_date=pendulum.datetime(year, 12, 29), run_conf={"workdir": str(tmp_path)})

    return run


def test_examples_harm_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an Airflow that knows nothing of Quilt yet: their names tell whose they are, none runs by itself, nothing is watched."""
    for name in ("QUILT_REGISTRY", "QUILT_QUEUE_URL"):
        monkeypatch.delenv(name, raising=False)
    bag = dag_bag().DagBag(EXAMPLES)

    assert not bag.import_errors
    assert len(bag.dags) >= len(list(EXAMPLES.glob("*.py")))
    for dag_id, dag in bag.dags.items():
        assert dag_id.startswith(Path(dag.fileloc).stem)
        assert "connection `quilt_default`" in dag.doc_md
        assert dag.schedule is None or isinstance(dag.schedule, list) or dag.is_paused_upon_creation, dag_id
    assets = [value for path in EXAMPLES.glob("*.py") for value in runpy.run_path(str(path)).values() if isinstance(value, Asset)]
    assert assets
    assert not [asset for asset in assets if asset.watchers]


def test_penguins_weekly_publishes(publish: Publish, s3_registry: Registry, bucket: str) -> None:
    run = publish(2009)

    assert states(run) == {
        ("clean", -1): "success",
        ("species", -1): "success",
        ("plot", 0): "success",
        ("plot", 1): "success",
        ("plot", 2): "success",
        ("summarise", -1): "success",
        ("publish", -1): "success",
    }
    manifest = s3_registry.read(PENGUINS)
    assert manifest.header == {"version": "v0", "user_meta": {"week": "2009-12-29"}, "message": "Penguins, week of 2009-12-29"}
    entries = {entry.logical_key: entry for entry in manifest.entries}
    assert sorted(entries) == [
        "penguins.parquet",
        "plots/adelie.png",
        "plots/chinstrap.png",
        "plots/gentoo.png",
        "summary.json",
    ]
    [revision] = s3_registry.revisions(PENGUINS)
    assert result(run, "publish") == {
        "registry": f"s3://{bucket}",
        "package": "penguins/weekly",
        "top_hash": revision.top_hash,
        "quilt_uri": f"quilt+s3://{bucket}#package=penguins/weekly@{revision.top_hash}",
        "catalog_url": None,
        "entries": 5,
        "bytes": sum(entry.size for entry in entries.values()),
        "bytes_copied": sum(entry.size for entry in entries.values()),
        "bytes_reused": 0,
        "published_at": revision.published_at.to_iso8601_string(),
        "created": True,
        "previous": None,
        "checksum_only": 0,
        "added": 5,
        "modified": 0,
        "removed": 0,
    }


def test_readme_is_true(database: None, connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    """The DAG of the README publishes, and its revision is an event for the DAG below it."""
    [text] = re.findall(
        r"^```python\n(.*?)^```", (EXAMPLES.parent / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "plots").mkdir()
    for name in ("penguins.parquet", "plots/adelie.png", "plots/gentoo.png"):
        (tmp_path / name).write_text(name)
    path = tmp_path / "readme.py"
    path.write_text(text.replace("s3://my-bucket", connected).replace("/data", str(tmp_path)))
    bag = dag_bag().DagBag(path)
    assert not bag.import_errors

    run = run_here(bag.dags["penguins"], logical_date=pendulum.datetime(2026, 11, 29))

    published = result(run, "publish")
    assert published["quilt_uri"] == f"quilt+{connected}#package=penguins/weekly@{s3_registry.resolve(PENGUINS)}"
    [event] = events(bag.dags["report"].schedule[0].uri)
    assert event.extra["top_hash"] == published["top_hash"]
    assert result(run_here(bag.dags["report"]), "count") == 333


def test_same_week_is_deduplicated(publish: Publish, s3_registry: Registry) -> None:
    first, again, other = (result(publish(year), "publish") for year in (2008, 2008, 2009))

    assert [published["created"] for published in (first, again, other)] == [True, False, True]
    assert [(each["added"], each["modified"], each["removed"]) for each in (first, again, other)] == [
        (5, 0, 0),
        (0, 0, 0),
        (0, 5, 0),
    ]
    assert first["top_hash"] == again["top_hash"]
    assert first["published_at"] == again["published_at"]
    assert [revision.top_hash for revision in s3_registry.revisions(PENGUINS)] == [other["top_hash"], first["top_hash"]]


def test_retire_revision_keeps_data(publish: Publish, run_dag: RunDag, s3: S3Server, s3_registry: Registry, bucket: str) -> None:
    old, new = (str(result(publish(year), "publish")["top_hash"]) for year in (2008, 2009))
    data = s3.client().list_object_versions(Bucket=bucket, Prefix="penguins/")["Versions"]

    run = run_dag("example_quilt_delete", run_conf={"package": "penguins/weekly", "top_hash": new[:7]})

    assert states(run) == {("retire", -1): "success"}
    assert result(run, "retire") == {
        "registry": f"s3://{bucket}",
        "package": "penguins/weekly",
        "top_hash": new,
        "quilt_uri": f"quilt+s3://{bucket}#package=penguins/weekly@{new}",
        "catalog_url": None,
        "revisions_deleted": 1,
    }
    assert [revision.top_hash for revision in s3_registry.revisions(PENGUINS)] == [old]
    assert s3_registry.resolve(PENGUINS) == old
    assert s3.client().list_object_versions(Bucket=bucket, Prefix="penguins/")["Versions"] == data


def test_correction_is_verified(publish: Publish, run_dag: RunDag, s3_registry: Registry, tmp_path: Path) -> None:
    first = result(publish(2008), "publish")

    run = run_dag("example_quilt_read", run_conf={"package": "penguins/weekly", "workdir": str(tmp_path / "copy")})

    assert states(run) == {
        ("install", -1): "success",
        ("correct", -1): "success",
        ("publish", -1): "success",
        ("verify", -1): "success",
        ("rollback", -1): "skipped",
    }
    manifest = s3_registry.read(PENGUINS)
    entries = {entry.logical_key: entry for entry in manifest.entries}
    assert sorted(entries) == ["penguins.parquet", "summary.json"]
    assert manifest.user_meta == {"week": "2008-12-29"}
    assert json.loads(s3_registry.read_bytes(entries["summary.json"]))["corrected_from"] == first["top_hash"]
    assert sorted(path.name for path in (tmp_path / "copy").rglob("*.png")) == ["adelie.png", "chinstrap.png", "gentoo.png"]


def test_index_copies_no_objects(run_dag: RunDag, connected: str, s3: S3Server, s3_registry: Registry, bucket: str) -> None:
    for day, size in (("mon", 10), ("tue", 30), ("wed", 20)):
        s3.client().put_object(Bucket=bucket, Key=f"raw/{day}.csv", Body=b"x" * size)

    run = run_dag("example_quilt_build", run_conf={"prefix": f"{connected}/raw/", "package": "lab/raw"})

    assert states(run) == {("index", -1): "success", ("largest", -1): "success"}
    assert result(run, "largest") == "tue.csv"
    assert result(run, "index")["bytes_copied"] == 0
    keys = [entry.physical_keys[0].partition("?")[0] for entry in s3_registry.read(PackageName.parse("lab/raw")).entries]
    assert keys == [f"s3://{bucket}/raw/{day}.csv" for day in ("mon", "tue", "wed")]
    assert s3.client().list_objects_v2(Bucket=bucket, Prefix="lab/")["KeyCount"] == 0


def test_release_names_every_year(run_dag: RunDag, connected: str, s3_registry: Registry) -> None:
    run = run_dag("example_quilt_taskflow")

    assert states(run) == {**{("publish", index): "success" for index in range(3)}, ("release", -1): "success"}
    years, release = (list(s3_registry.read(PackageName.parse(f"penguins/{name}")).entries) for name in ("years", "release"))
    assert [entry.logical_key for entry in years] == [
        f"{year}/{name}" for year in (2007, 2008, 2009) for name in ("README.txt", "penguins.parquet")
    ]
    assert s3_registry.read_bytes(years[0]) == b"110 penguins\n"
    assert [(entry.logical_key, entry.physical_keys) for entry in release] == [
        (entry.logical_key, entry.physical_keys) for entry in years
    ]
    assert len(list(s3_registry.revisions(PackageName.parse("penguins/years")))) == 3


def test_experiment_names_its_run(run_dag: RunDag, connected: str, s3_registry: Registry) -> None:
    """Emit the event of the package's asset through an alias."""
    run = run_dag("example_quilt_experiments_publish", run_conf={"name": "run-7", "reading": 5})

    assert states(run) == {("publish", -1): "success"}
    about = s3_registry.read(PackageName.parse("experiments/run-7")).user_meta["airflow"]
    assert (about["dag_id"], about["task_id"], about["run_id"]) == ("example_quilt_experiments_publish", "publish", run.run_id)
    [event] = events(quilt_asset("experiments/run-7", connected).uri)
    assert event.extra["top_hash"] == result(run, "publish")["top_hash"]


def test_package_is_awaited(run_dag: RunDag, connected: str) -> None:
    room = {"room.json": entry(content={"celsius": 20})}
    published = QuiltPushOperator(task_id="push", package="lab/measurements", entries=room).execute({})

    run = run_dag("example_quilt_sensor")

    assert states(run) == {("arrived", -1): "success", ("verify", -1): "success"}
    assert result(run, "arrived")["top_hash"] == published["top_hash"]


def test_queue_events_are_followed(connected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_queue() as queue:
        connection = json.loads(os.environ["AIRFLOW_CONN_AWS_DEFAULT"])
        connection["extra"]["service_config"] = {"sqs": {"endpoint_url": queue.endpoint}}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("QUILT_REGISTRY", connected)
        monkeypatch.setenv("QUILT_QUEUE_URL", queue.url)
        [watcher] = runpy.run_path(str(EXAMPLES / "example_quilt_queue.py"))["PUBLISHED"].watchers

        async def first_event() -> dict[str, Any]:
            async with asyncio.timeout(60), aclosing(watcher.trigger.run()) as found:
                wanted = asyncio.ensure_future(anext(found))
                await asyncio.sleep(5)  # The first poll sets the baseline.
                push = QuiltPushOperator(task_id="push", package="lab/new", entries={"a.txt": entry(content="a")})
                published = await asyncio.to_thread(push.execute, {})
                await asyncio.to_thread(queue.send, connected, "lab/new", published["top_hash"])
                return {"published": published, "event": (await wanted).payload}

        told = asyncio.run(first_event())
    assert told["event"]["quilt_uri"] == told["published"]["quilt_uri"]


def test_images_push_in_shards(run_dag: RunDag, connected: str, s3: S3Server, s3_registry: Registry, bucket: str) -> None:
    for number in range(9):
        s3.client().put_object(Bucket=bucket, Key=f"microscope/{number}.tif", Body=b"x" * number)

    run = run_dag(
        "example_quilt_group",
        logical_date=pendulum.datetime(2026, 11, 1),
        run_conf={"source": f"{connected}/microscope/", "package": "lab/images", "shards": 3},
    )

    assert states(run) == {
        ("push.plan", -1): "success",
        ("push.transfer", 0): "success",
        ("push.transfer", 1): "success",
        ("push.transfer", 2): "success",
        ("push.commit", -1): "success",
        ("push.clean_up", -1): "success",
        ("report", -1): "success",
    }
    [revision] = s3_registry.revisions(PackageName.parse("lab/images"))
    assert result(run, "report") == f"quilt+{connected}#package=lab/images@{revision.top_hash}"
    keys = [item.physical_keys[0].partition("?")[0] for item in s3_registry.read(PackageName.parse("lab/images")).entries]
    assert keys == [f"s3://{bucket}/lab/images/{number}.tif" for number in range(9)]
