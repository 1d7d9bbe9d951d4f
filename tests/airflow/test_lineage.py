"""Lineage for OpenLineage: by operators, of assets, by code that uses the hook; and that nothing needs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset, ObjectStoragePath
from openlineage.client.serde import Serde

from airflow_quilt._compat import AirflowFailException
from airflow_quilt.assets import quilt_asset
from airflow_quilt.assets._lineage import MOST_SOURCES, dataset_of, sources_of
from airflow_quilt.assets.uri import convert_asset_to_openlineage
from airflow_quilt.get_provider_info import get_provider_info
from airflow_quilt.operators import (
    QuiltBuildOperator,
    QuiltDeleteOperator,
    QuiltInstallOperator,
    QuiltPushOperator,
    QuiltRollbackOperator,
    QuiltVerifyOperator,
    entry,
)
from airflow_quilt.operators._base import QuiltOperator
from testbed.server import S3Server
from tests.airflow.support import MappedOutput

HASH = "0123456789abcdef" * 4


ROOT = Path(__file__).parent.parent.parent


def plain(dataset: dict[str, Any]) -> dict[str, Any]:
    """Return a dataset without the fields of the producer of its facets."""
    return {
        name: {key: {k: v for k, v in facet.items() if not k.startswith("_")} for key, facet in value.items()}
        if name in {"facets", "inputFacets", "outputFacets"}
        else value
        for name, value in dataset.items()
        if value
    }


def told(task: QuiltOperator) -> dict[str, Any]:
    """Return the lineage of a task that ran: inputs and outputs as they are sent."""
    lineage = task.get_openlineage_facets_on_complete(None)
    assert lineage is not None
    return {
        "inputs": [plain(Serde.to_dict(each)) for each in lineage.inputs],
        "outputs": [plain(Serde.to_dict(each)) for each in lineage.outputs],
    }


def revision(registry: str, top_hash: str, package: str = "team/data") -> dict[str, Any]:
    manifest = {"namespace": registry, "name": f".quilt/packages/{top_hash}", "type": "LOCATION"}
    return {
        "namespace": f"quilt+{registry}",
        "name": package,
        "facets": {"version": {"datasetVersion": top_hash}, "symlinks": {"identifiers": [manifest]}},
    }


def published(registry: str, top_hash: str, change: str | None, size: int, files: int) -> dict[str, Any]:
    dataset = revision(registry, top_hash)
    if change:
        dataset["facets"]["lifecycleStateChange"] = {"lifecycleStateChange": change}
    return {**dataset, "outputFacets": {"outputStatistics": {"size": size, "fileCount": files}}}


def push(text: str = "a", **arguments: Any) -> QuiltPushOperator:
    entries = {"a.txt": entry(content=text)}
    return QuiltPushOperator(**{"task_id": "push", "package": "team/data", "entries": entries, **arguments})


def test_push_reports_its_output(connected: str) -> None:
    for text, change in (("a", "CREATE"), ("bb", "OVERWRITE"), ("bb", None)):
        task = push(text)
        top_hash = task.execute({})["top_hash"]

        assert told(task) == {"inputs": [], "outputs": [published(connected, top_hash, change, len(text), 1)]}


def test_push_reports_its_inputs(connected: str, s3: S3Server, other_bucket: str) -> None:
    source = f"s3://{other_bucket}"
    version = s3.client().put_object(Bucket=other_bucket, Key="in/a.txt", Body=b"aa")["VersionId"]
    s3.client().put_object(Bucket=other_bucket, Key="more/b c.txt", Body=b"bb")
    top_hash = push(package="team/other").execute({})["top_hash"]
    other = f"quilt+{connected}#package=team/other"
    task = push(
        entries={
            "object.txt": f"{source}/in/a.txt",
            "again.txt": entry(path=f"{source}/in/a.txt", meta={"a": 1}),
            "pinned.txt": f"{source}/in/a.txt?versionId={version}",
            "prefix/": MappedOutput([Asset(f"{source}/in/a.txt"), f"{source}/more/"]),
            "path/": [ObjectStoragePath(f"{source}/more/b c.txt")],
            "package/": f"{other}@{top_hash}",
            "part/": entry(path=f"{other}@{top_hash}&path=a.txt"),
            "latest/": other,
            "content.json": [f"{source}/in/content"],
            "described.json": entry(content={"path": f"{source}/in/content"}),
            "local.txt": __file__,
        }
    )
    task.execute({})

    assert told(task)["inputs"] == [
        {"namespace": source, "name": "in/a.txt"},
        {"namespace": source, "name": "in/a.txt", "facets": {"version": {"datasetVersion": version}}},
        {"namespace": source, "name": "more/"},
        {"namespace": source, "name": "more/b c.txt"},
        revision(connected, top_hash, "team/other"),
        {"namespace": f"quilt+{connected}", "name": "team/other"},
    ]


@pytest.mark.parametrize(
    "entries", [{"a/": "s3://b/a"}, "s3://b/a", {"path": "s3://b/a"}, ["s3://b/a"], {"refused": 5, "a": "s3://b/a"}]
)
def test_sources_of_any_entry_form(entries: object) -> None:
    assert [(each.namespace, each.name) for each in sources_of(entries)] == [("s3://b", "a")]


def test_bucket_and_package_names() -> None:
    [bucket, package] = sources_of(["s3://b", f"quilt+file:///registry#package=team/data@{HASH}"])

    assert (bucket.namespace, bucket.name) == ("s3://b", "/")
    assert plain(Serde.to_dict(package))["facets"]["symlinks"]["identifiers"] == [
        {"namespace": "file", "name": f"/registry/.quilt/packages/{HASH}", "type": "LOCATION"}
    ]


def test_source_count_is_capped() -> None:
    named = [f"s3://bucket/{number}" for number in range(MOST_SOURCES + 1)]

    assert [each.name for each in sources_of([*named[:10], *named])] == [str(number) for number in range(MOST_SOURCES)]


def test_build_reports_its_output(tmp_path: Path) -> None:
    registry = (tmp_path / "registry").as_uri()
    task = QuiltBuildOperator(task_id="b", package="team/data", registry=registry, quilt_conn_id=None, entries={"a.py": __file__})
    result = task.execute({})
    [output] = told(task)["outputs"]

    assert (output["namespace"], output["name"]) == (f"quilt+{registry}", "team/data")
    assert output["facets"]["version"] == {"datasetVersion": result["top_hash"]}
    assert output["outputFacets"]["outputStatistics"] == {"size": result["bytes"], "fileCount": 1}


def test_install_reports_its_copy(connected: str, other_bucket: str, tmp_path: Path) -> None:
    top_hash = push().execute({})["top_hash"]
    counts = {"outputStatistics": {"size": 1, "fileCount": 1}}
    for dest, namespace, name in (
        (f"s3://{other_bucket}/there", f"s3://{other_bucket}", "there"),
        (str(tmp_path / "there"), "file", str(tmp_path / "there")),
    ):
        task = QuiltInstallOperator(task_id="install", package="team/data", dest=dest)
        task.execute({})

        assert told(task) == {
            "inputs": [revision(connected, top_hash)],
            "outputs": [{"namespace": namespace, "name": name, "outputFacets": counts}],
        }


def test_failed_verify_reports_input(connected: str, tmp_path: Path) -> None:
    top_hash = push().execute({})["top_hash"]
    good = QuiltVerifyOperator(task_id="verify", package="team/data", revision=top_hash[:8])
    bad = QuiltVerifyOperator(task_id="verify", package="team/data", src=str(tmp_path))
    good.execute({})
    with pytest.raises(AirflowFailException, match="VerificationError"):
        bad.execute({})

    assert told(good) == told(bad) == {"inputs": [revision(connected, top_hash)], "outputs": []}


def test_rollback_reports_revision(connected: str) -> None:
    top_hash = push("a").execute({})["top_hash"]
    push("b").execute({})
    task = QuiltRollbackOperator(task_id="rollback", package="team/data", revision=top_hash[:8])
    task.execute({})

    assert told(task) == {"inputs": [], "outputs": [revision(connected, top_hash)]}


def test_delete_reports_its_change(connected: str) -> None:
    push("a").execute({})
    top_hash = push("b").execute({})["top_hash"]
    for what, change in (({"revision": top_hash}, "ALTER"), ({}, "DROP"), ({"missing_ok": True}, None)):
        task = QuiltDeleteOperator(**{"task_id": "delete", "package": "team/data", **what})
        task.execute({})
        facets = {"lifecycleStateChange": {"lifecycleStateChange": change}}
        gone = [{"namespace": f"quilt+{connected}", "name": "team/data", "facets": facets}] if change else []

        assert told(task) == {"inputs": [], "outputs": gone}


def test_failed_task_reports_nothing(connected: str) -> None:
    task = push(entries={"a.txt": "/no/such/file"})
    assert told(task) == {"inputs": [], "outputs": []}
    with pytest.raises(AirflowFailException):
        task.execute({})
    assert told(task) == {"inputs": [], "outputs": []}


def test_bad_dataset_only_warns(connected: str, caplog: pytest.LogCaptureFixture) -> None:
    push().execute({})
    task = QuiltInstallOperator(task_id="install", package="team/data", dest=f"{connected}/there")
    task.execute({})
    task.dest = "no://place"

    assert task.get_openlineage_facets_on_complete(None) is None
    assert "could not be reported to OpenLineage: 'no://place'" in caplog.text


def test_asset_becomes_a_dataset() -> None:
    def converted(package: str, extra: dict[str, Any] | None = None) -> Any:
        return convert_asset_to_openlineage(quilt_asset(package, "s3://bucket", extra=extra), None)

    assert plain(Serde.to_dict(converted("team/data", {"top_hash": HASH}))) == revision("s3://bucket", HASH)
    assert converted("team/data", {"top_hash": HASH}) == dataset_of("s3://bucket", "team/data", HASH)
    assert plain(Serde.to_dict(converted("team/data"))) == {"namespace": "quilt+s3://bucket", "name": "team/data"}
    assert converted("team/*") is None


def test_converter_is_registered() -> None:
    [assets] = get_provider_info()["asset-uris"]

    assert (
        assets["to_openlineage_converter"] == f"{convert_asset_to_openlineage.__module__}.{convert_asset_to_openlineage.__name__}"
    )


DAG = """
import pendulum
from airflow.sdk import dag, task
from airflow_quilt.operators import QuiltPushOperator

@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1))
def told():
    @task
    def derive(pushed):
        from airflow_quilt.core.publish.draft import Draft
        from airflow_quilt.core.push import push
        from airflow_quilt.hooks.quilt import QuiltHook

        hook, quilt_uri = QuiltHook(), pushed["quilt_uri"]
        published = push(hook.registry(), Draft(package="team/derived", entries={"from/": quilt_uri}))
        assert hook.read_bytes(quilt_uri, "a.txt") == b"a"
        hook.report_read("quilt+file:///registry#package=team/local")
        hook.report_published(published.uri)

    derive(QuiltPushOperator(task_id="push", package="team/data", entries={"a.txt": SOURCE}).output)

told()
"""


def test_openlineage_gets_datasets(database: None, connected: str, s3: S3Server, other_bucket: str, tmp_path: Path) -> None:
    s3.client().put_object(Bucket=other_bucket, Key="in/a.txt", Body=b"a")
    dags, events = tmp_path / "dags", tmp_path / "events"
    dags.mkdir()
    (dags / "told.py").write_text(DAG.replace("SOURCE", repr(f"s3://{other_bucket}/in/a.txt")), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("airflow")), "dags", "test", "told"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(events), "append": True}),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    complete = {}
    for event in map(json.loads, events.read_text(encoding="utf-8").splitlines()):
        if event["eventType"] == "COMPLETE":
            complete[event["job"]["name"]] = [list(map(plain, event[side])) for side in ("inputs", "outputs")]
    [made] = complete["told.push"][1]
    top_hash = made["facets"]["version"]["datasetVersion"]
    assert complete["told.push"] == [
        [{"namespace": f"s3://{other_bucket}", "name": "in/a.txt"}],
        [published(connected, top_hash, "CREATE", 1, 1)],
    ]
    [derived] = complete["told.derive"][1]
    assert complete["told.derive"] == [
        [revision(connected, top_hash)],
        [revision(connected, derived["facets"]["version"]["datasetVersion"], "team/derived")],
    ]


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        module = name.partition("airflow.providers.openlineage.")[2]
        # The entry point stays: Airflow finds it in the distribution.
        if name.partition(".")[0] == "openlineage" or (module and module != "get_provider_info"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import QuiltBuildOperator, QuiltInstallOperator

where = {"package": "team/data", "registry": sys.argv[1] + "/registry", "quilt_conn_id": None}
build = QuiltBuildOperator(task_id="build", entries={"a.py": sys.argv[0]}, **where)
install = QuiltInstallOperator(task_id="install", dest=sys.argv[1] + "/there", **where)
built, installed = build.execute({}), install.execute({})
assert built["top_hash"] == installed["top_hash"]
QuiltHook(None).report_read(built["quilt_uri"])
print("told", build.get_openlineage_facets_on_complete(None), install.get_openlineage_facets_on_complete(None))
"""


def test_openlineage_is_optional(tmp_path: Path) -> None:
    script = tmp_path / "without.py"
    script.write_text(WITHOUT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "told None None" in done.stdout
    assert (tmp_path / "there/a.py").read_text(encoding="utf-8") == WITHOUT
