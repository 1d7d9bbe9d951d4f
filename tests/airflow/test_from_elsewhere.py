"""Packages and pipelines that come from other programs, in a DAG run: Quilt+ URIs of any kind, odd metadata, frames, quilt3's null."""

from pathlib import Path
from typing import Any

import pandas as pd
from airflow.sdk import DAG, task

from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry, make_header
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.decorators import quilt_push
from airflow_quilt.operators import QuiltInstallOperator, QuiltPushOperator, QuiltVerifyOperator, entry
from testbed.server import S3Server
from tests.airflow.support import run_here
from tests.core.packages import commit, files_below

NAME = PackageName("team", "data")


def states(run: Any) -> dict[str, str]:
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


def test_every_pin_in_a_run(connected: str, bucket: str, s3: S3Server, dag: DAG, s3_registry: Registry, tmp_path: Path) -> None:
    """Install, verify and push by the URIs that a task returned: a short hash, a time, a tag, a raw plus."""
    with dag:
        files = {"C++.csv": entry(content="plus"), "C  .csv": entry(content="spaces")}
        first = QuiltPushOperator(task_id="first", package=str(NAME), entries=files)
        second = QuiltPushOperator(task_id="second", package=str(NAME), entries={"new": entry(content="new")})

        @task
        def uris(old: dict[str, Any]) -> list[str]:
            time = next(revision for revision in s3_registry.revisions(NAME) if revision.top_hash == old["top_hash"])
            pointer = layout.pointer(NAME, "prod")
            s3.client().put_object(Bucket=bucket, Key=pointer, Body=old["top_hash"].encode())
            uri = f"Quilt+{connected}#package={NAME}"
            pins = [f"@{old['top_hash'][:7]}", f":{time.published_at.int_timestamp}", ":prod", ""]
            return [f"{uri}{pin}{'&path=C++.csv' if pin else ''}" for pin in pins]

        given = uris(first.output)
        first >> second >> given
        installed = QuiltInstallOperator.partial(task_id="install", dest=str(tmp_path / "{{ ti.map_index }}")).expand(
            package=given
        )
        QuiltVerifyOperator.partial(task_id="verify").expand(package=given)
        copies = {"tag/": "{{ ti.xcom_pull(task_ids='uris')[2] }}", "new/": "{{ ti.xcom_pull(task_ids='uris')[3] }}"}
        QuiltPushOperator(task_id="copy", package="team/copy", entries=copies) << installed
    run = run_here(dag)

    assert set(states(run).values()) == {"success"}
    assert [entry.logical_key for entry in s3_registry.read("team/copy").entries] == ["new/new", "tag/C++.csv"]
    assert [files_below(tmp_path / str(index)) for index in range(4)] == [{"C++.csv": b"plus"}] * 3 + [{"new": b"new"}]


def test_odd_metadata_in_a_run(connected: str, dag: DAG, s3_registry: Registry) -> None:
    """Keep a text in an update; refuse provenance, and a frame that JSON would cut, in another; write null as quilt3 does."""
    header = {**make_header(None, None), "user_meta": "their text"}
    empty: list[Entry] = []
    commit(s3_registry, NAME, empty, header)
    with dag:
        added = {"{{ ds_nodash | default('a') }}.txt": entry(content="a")}
        keep = QuiltPushOperator(task_id="keep", package=str(NAME), mode="update", entries=added)
        refuse = QuiltPushOperator(task_id="refuse", package=str(NAME), mode="update", entries=added, provenance="{{ true }}")
        keep >> refuse

        @quilt_push(package="team/frames", logical_key="t.json")
        def lossy() -> Any:
            return pd.DataFrame([[1, 2]], columns=[1, "1"])

        lossy()
        moved = {"package": "team/moved", "entries": {"a.txt": entry(content="a")}, "null_meta": "{{ params.null }}"}
        again = QuiltPushOperator(task_id="again", **moved, params={"null": True})
        QuiltPushOperator(task_id="null", **moved, params={"null": True}) >> again
    run = run_here(dag)

    assert states(run) == {"keep": "success", "refuse": "failed", "lossy": "failed", "null": "success", "again": "success"}
    assert s3_registry.read(NAME).user_meta == "their text"
    assert s3_registry.latest("team/frames") is None
    assert s3_registry.read("team/moved").header == {"version": "v0", "user_meta": None, "message": None}
    assert len(list(s3_registry.revisions("team/moved"))) == 1
