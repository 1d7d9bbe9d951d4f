"""A push and a build by many task instances."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, AssetAlias, TaskGroup, task

from airflow_quilt._compat import AirflowSkipException
from airflow_quilt.assets import quilt_asset
from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Source, Upload
from airflow_quilt.core.publish.sharded.staging import ActionBlock
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.codec import encode
from airflow_quilt.operators import QuiltBuildOperator, QuiltPushOperator
from airflow_quilt.operators._parameters import BuildGroupParameters, PushGroupParameters
from airflow_quilt.operators.shards import PLANS, ROOT
from airflow_quilt.task_groups import quilt_build_group, quilt_push_group
from testbed.server import S3Server
from tests.airflow.support import events, run_here

NAME = PackageName("team", "data")
STATES = {"plan": ["success"], "transfer": ["success"] * 3, "commit": ["success"], "clean_up": ["success"]}


@pytest.mark.parametrize(("kind", "typed"), [("push", PushGroupParameters), ("build", BuildGroupParameters)])
def test_parameters_match_plan(kind: str, typed: type) -> None:
    assert typed.__annotations__.keys() == {*PLANS[kind].template_fields, "outlets"}


def states(run: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for ti in run.get_task_instances():
        found.setdefault(ti.task_id.rpartition(".")[2], []).append(str(ti.state))
    return found


def staged(s3: S3Server, bucket: str) -> list[str]:
    found = s3.client().list_objects_v2(Bucket=bucket, Prefix=ROOT)
    return [each["Key"] for each in found.get("Contents", [])]


@pytest.fixture
def files(write: Callable[..., Path]) -> Path:
    """A directory of ten files."""
    for number in range(10):
        path = write(f"data/{number}.txt", "x" * number)
    return path.parent


def test_sharded_push_equals_one(dag: DAG, connected: str, s3: S3Server, bucket: str, s3_registry: Registry, files: Path) -> None:
    with dag:
        group = quilt_push_group(
            package=str(NAME), registry=connected, entries=str(files), message="by {{ params.who }}", shards=3, meta={"a": 1}
        )
    assert [outlet.uri for task in dag.tasks for outlet in task.outlets] == [quilt_asset(str(NAME), connected).uri]

    run = run_here(dag, run_conf={"who": "many"})

    assert str(run.state) == "success"
    assert states(run) == STATES
    assert staged(s3, bucket) == []
    commit = run.get_task_instance("push.commit")
    told = commit.xcom_pull(task_ids="push.commit")
    again = QuiltPushOperator(
        task_id="one", package=str(NAME), registry=connected, entries=str(files), message="by many", meta={"a": 1}
    ).execute({})
    assert {**again, "created": True, "bytes_copied": 45, "bytes_reused": 0, "added": 10} == told
    [event] = events(quilt_asset(str(NAME), connected).uri)
    assert (event.extra["top_hash"], event.extra["message"], event.extra["entries"]) == (told["top_hash"], "by many", 10)
    labels = [ti.rendered_map_index for ti in run.get_task_instances() if ti.task_id == "push.transfer"]
    assert sorted(label.split(":")[0] for label in labels if label) == ["shard 0", "shard 1", "shard 2"]
    assert group.output.operator.task_id == "push.commit"


def test_sharded_build_in_place(dag: DAG, connected: str, s3: S3Server, bucket: str) -> None:
    for number in range(7):
        s3.client().put_object(Bucket=bucket, Key=f"raw/{number}", Body=b"x" * number)
    with dag:
        quilt_build_group(package=str(NAME), entries=f"{connected}/raw/", shard_entries=3, transfer={"retries": 2})

    run = run_here(dag)

    assert states(run) == STATES
    told = run.get_task_instance("build.commit").xcom_pull(task_ids="build.commit")
    alone = QuiltBuildOperator(task_id="one", package=str(NAME), entries=f"{connected}/raw/").execute({})
    assert (told["top_hash"], told["bytes_copied"]) == (alone["top_hash"], 0)
    assert staged(s3, bucket) == []


def test_failure_removes_staging(dag: DAG, connected: str, s3: S3Server, bucket: str, files: Path) -> None:
    with dag:
        quilt_push_group(package=str(NAME), entries={"gone.txt": "{{ params.gone }}"}, shards=1)
    missing = files / "gone.txt"
    missing.write_text("here while it is planned")

    def vanish(context: Any) -> None:
        missing.unlink()

    dag.get_task("push.transfer").partial_kwargs["pre_execute"] = vanish

    run = run_here(dag, run_conf={"gone": str(missing)})

    assert str(run.state) == "failed"
    assert states(run) == {"plan": ["success"], "transfer": ["failed"], "commit": ["upstream_failed"], "clean_up": ["success"]}
    assert staged(s3, bucket) == []


def test_forged_shard_fails_the_run(
    dag: DAG, connected: str, s3: S3Server, bucket: str, s3_registry: Registry, files: Path, write: Callable[..., Path]
) -> None:
    """Send no file of the worker that another writer of the bucket orders, while a shard waits for its worker."""
    secret, client = write("environ", "SECRET=1"), s3.client()
    with dag:
        quilt_push_group(package=str(NAME), registry=connected, entries=str(files), shards=2)

    def forge(context: Any) -> None:
        source = Source(logical_key=LogicalKey("0.txt"), origin=PhysicalKey(None, str(secret)), size=8)
        block = encode(ActionBlock([], [Upload(source, PhysicalKey(bucket, "loot"))]))
        for key in staged(s3, bucket):
            if "/shards/" in key:
                client.put_object(Bucket=bucket, Key=key, Body=struct.pack(">Q", len(block)) + block)

    dag.get_task("push.transfer").partial_kwargs["pre_execute"] = forge

    run = run_here(dag)

    failed = {"plan": ["success"], "transfer": ["failed"] * 2, "commit": ["upstream_failed"], "clean_up": ["success"]}
    assert states(run) == failed
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert s3_registry.latest(NAME) is None


@pytest.mark.usefixtures("connected")
def test_failed_plan_stages_nothing(dag: DAG) -> None:
    with dag:
        quilt_push_group(package=str(NAME), entries="/no/such/file")

    run = run_here(dag)

    assert str(run.state) == "failed"
    assert states(run)["plan"] == ["failed"]


def test_default_args_keep_groups_whole(dag: DAG, connected: str, files: Path) -> None:
    """Take the retries of the DAG, and no trigger rule but where the group begins: after a task that is skipped."""
    alias = AssetAlias("of every task")
    dag.default_args = {
        "trigger_rule": "none_failed",
        "retries": 2,
        "retry_delay": 0,
        "pool": "default_pool",
        "outlets": [alias],
        "conflict": "overwrite",
        "bash_command": "of other operators",
    }

    @task(outlets=[])
    def skip() -> None:
        raise AirflowSkipException

    @task
    def report(published: dict[str, Any]) -> str:
        return published["package"]

    with dag:
        push = quilt_push_group(package=str(NAME), registry=connected, entries=str(files), shards=1)
        skip() >> push
        report(push.output)
    dag.validate()

    of_group = {each.task_id.partition(".")[2]: each for each in dag.tasks if each.task_id.startswith("push.")}
    assert {each.retries for each in of_group.values()} == {2}
    assert {name for name, each in of_group.items() if alias in each.outlets} == {"commit"}
    assert [of_group[name].trigger_rule for name in ("plan", "transfer", "commit", "clean_up")] == [
        "none_failed",
        "all_success",
        "all_success",
        "all_done_setup_success",
    ]

    run = run_here(dag)

    found = states(run)
    assert found.pop("skip") == ["skipped"]
    assert found == {**{name: ["success"] for name in STATES}, "report": ["success"]}


def test_group_arguments_keep_it_whole(dag: DAG, connected: str, s3: S3Server, bucket: str) -> None:
    """Return the shards of the plan, and the results of the transfers, in any case: the tasks after them need those."""
    s3.client().put_object(Bucket=bucket, Key="raw/a", Body=b"a")
    with dag, TaskGroup("outer", default_args={"do_xcom_push": False, "multiple_outputs": True, "trigger_rule": "all_done"}):
        quilt_build_group(
            package=str(NAME),
            entries=f"{connected}/raw/",
            shards=1,
            default_args={"trigger_rule": "one_success", "depends_on_past": True, "do_xcom_push": False},
            transfer={"pool_slots": 1, "outlets": [], "do_xcom_push": False, "multiple_outputs": True},
        )

    run = run_here(dag)

    assert states(run) == {name: ["success"] for name in STATES}
    assert staged(s3, bucket) == []


@pytest.mark.parametrize("group", [quilt_push_group, quilt_build_group])
def test_trigger_rule_of_transfer_fails(group: Any) -> None:
    with DAG("refused", schedule=None), pytest.raises(InputError, match="transfer: leave trigger_rule out"):
        group(package=str(NAME), transfer={"trigger_rule": "all_done", "retries": 3})
