"""The features of docs/assets.md in a run of a DAG; those that need a scheduler or a triggerer of their own are in tests/e2e."""

import json
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import AssetAlias, chain, task

from airflow_quilt.assets import quilt_asset
from airflow_quilt.operators import QuiltBuildOperator, QuiltInstallOperator, QuiltPushOperator
from airflow_quilt.sensors import QuiltPackageSensor
from tests.airflow.support import Shared, events, needs_airflow, result, run_here, states

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

CATALOG = "https://catalog.example.com"
FIRST = "{{{{ ti.xcom_pull('first')['{}'] }}}}"


@pytest.fixture(scope="module")
def run(shared: Shared) -> "DagRun":
    """A run that publishes three times, waits for each revision, and reads one."""
    connection = {"conn_type": "quilt", "host": CATALOG, "extra": {"registry": shared.registry, "provenance": "true"}}
    with shared.dag("docs_assets", params={"name": "data"}) as dag, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_WITH_CATALOG", json.dumps(connection))
        common = {"package": "assets/data", "registry": shared.registry}
        text = {"a.txt": shared.write("a.txt", "a")}

        @task.quilt_push(outlets=[AssetAlias("named while it runs")], package="assets/{{ params.name }}-of-a-function")
        def publish(package: str) -> dict[str, list[str]]:
            return {"a.json": [package]}

        first = QuiltPushOperator(task_id="first", entries=text, message="{{ params.name }}", **common)
        again = QuiltPushOperator(task_id="again", entries=text, message="data", **common)
        second = QuiltBuildOperator(
            task_id="second", entries=FIRST.format("quilt_uri"), meta={"a": 1}, quilt_conn_id="with_catalog", **common
        )
        newer = QuiltPackageSensor(task_id="newer", newer_than=FIRST.format("top_hash"), **common)
        deferred = {"newer_than": FIRST.format("published_at"), "path": "{{ 'a.txt' }}", "deferrable": True}
        waits = [
            newer,
            QuiltPackageSensor(
                task_id="deferred", quilt_conn_id="{{ 'with_catalog' }}", max_concurrency="2", **deferred, **common
            ),
            QuiltPackageSensor.partial(task_id="each").expand(package=["assets/data", "assets/{{ params.name }}"]),
        ]
        read = QuiltInstallOperator(
            task_id="read",
            package="{{ ti.xcom_pull('newer')['quilt_uri'] }}",
            dest=str(shared.path / "read"),
            quilt_conn_id="with_catalog",
        )
        publish(FIRST.format("package")).operator.set_upstream(first)
        chain(first, again, second, waits, read)
        return run_here(dag)


def uri(package: str, shared: Shared) -> str:
    return quilt_asset(package, shared.registry).uri


def test_new_revisions_emit_events(run: "DagRun", shared: Shared) -> None:
    first, second = result(run, "first"), result(run, "second")

    assert set(states(run).values()) == {"success"}
    assert [event.extra for event in events(uri("assets/data", shared))] == [
        {
            "top_hash": made["top_hash"],
            "previous": previous,
            "quilt_uri": f"quilt+{shared.registry}#package=assets/data@{made['top_hash']}",
            "catalog_url": made["catalog_url"],
            "message": message,
            "entries": 1,
            "bytes": 1,
            "added": int(previous is None),
            "modified": 0,
            "removed": 0,
        }
        for made, previous, message in ((first, None, "data"), (second, first["top_hash"], None))
    ]
    assert result(run, "again")["created"] is False
    [event] = events(uri("assets/data-of-a-function", shared))
    assert event.extra["top_hash"] == result(run, "publish")["top_hash"]


def test_sensors_find_revisions(run: "DagRun", shared: Shared) -> None:
    second = result(run, "second")
    found = [result(run, "newer"), result(run, "deferred"), *(result(run, "each", index) for index in (0, 1))]

    for each in found:
        assert (each["top_hash"], each["published_at"]) == (second["top_hash"], second["published_at"])
    assert found[0].keys() == {"registry", "package", "top_hash", "quilt_uri", "catalog_url", "published_at"}


def test_provenance_of_the_connection(run: "DagRun", shared: Shared) -> None:
    about = shared.read("assets/data").user_meta

    assert (about["a"], about["airflow"]["task_id"], about["airflow"]["run_id"]) == (1, "second", run.run_id)
    assert shared.read("assets/data", result(run, "first")["top_hash"]).user_meta == {}


def test_link_is_stored(run: "DagRun", shared: Shared) -> None:
    second = result(run, "second")["top_hash"]
    [link] = QuiltPushOperator.operator_extra_links
    page = f"{CATALOG}/b/{shared.registry[5:]}/packages/assets/data/tree/{second}/"

    for task_id in ("second", "read"):
        ti = run.get_task_instance(task_id)
        assert ti
        assert ti.xcom_pull(task_ids=task_id, key=link.xcom_key) == page
    assert (shared.path / "read/a.txt").read_text() == "a"


@needs_airflow("3.3")
def test_policies_decide_on_retries(shared: Shared) -> None:
    from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule

    errors = "airflow_quilt.core.errors."
    policies = {
        "again": ExceptionRetryPolicy(rules=[RetryRule(f"{errors}SourceError", RetryAction.RETRY)]),
        "never": ExceptionRetryPolicy(rules=[RetryRule(f"{errors}PermanentError", RetryAction.FAIL)]),
        "without": None,
    }
    with shared.dag("docs_policies") as dag:
        for name, policy in policies.items():
            QuiltPushOperator(
                task_id=name, package="assets/none", entries={"a.txt": "/none/such"}, retries=1, retry_policy=policy
            )

    run = run_here(dag)

    assert set(states(run).values()) == {"failed"}
    assert {name: len(shared.errors[name]) for name in policies} == {"again": 2, "never": 1, "without": 1}
