"""Functions for ``dest`` and ``copy``: they stand in template fields, and are called for each entry while a DAG runs."""

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.plan.placement import EntryInfo
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.decorators import quilt_push
from airflow_quilt.operators import QuiltPushOperator
from airflow_quilt.operators.shards import QuiltPlanPushOperator
from airflow_quilt.task_groups import quilt_push_group
from testbed.server import S3Server
from tests.airflow.support import needs_airflow, run_here, serialization, states

FILES = {"copy.txt": b"01234567", "keep.txt": b"keep"}


def placed(prefix: str, logical_key: str, info: EntryInfo) -> str:
    return f"{prefix}/{info.size}/{logical_key}"


class Placed:
    """A destination as an object that can be called, and as a method."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __call__(self, logical_key: str, info: EntryInfo) -> str:
        return placed(self._prefix, logical_key, info)

    def method(self, logical_key: str, info: EntryInfo) -> str:
        return self(logical_key, info)


def is_copied(logical_key: str, info: EntryInfo) -> bool:
    return logical_key == "copy.txt" and info.size == len(FILES["copy.txt"])


def callables(prefix: str) -> dict[str, Callable[..., str]]:
    """Return destinations of all kinds; one would take Airflow's arguments too."""

    def function(logical_key: str, info: EntryInfo) -> str:
        return placed(prefix, logical_key, info)

    def open_to_all(*arguments: Any, **more: Any) -> str:
        assert not more, "called for a template"
        return placed(prefix, *arguments)

    return {
        "function": function,
        "lambda": lambda logical_key, info: placed(prefix, logical_key, info),
        "partial": functools.partial(placed, prefix),
        "object": Placed(prefix),
        "method": Placed(prefix).method,
        "kwargs": open_to_all,
    }


def test_functions_work_in_a_run(
    dag: DAG, connected: str, s3: S3Server, s3_registry: Registry, bucket: str, other_bucket: str
) -> None:
    for key, body in FILES.items():
        s3.client().put_object(Bucket=other_bucket, Key=f"in/{key}", Body=body)
    kinds = callables(f"{connected}/by-size")
    source = f"s3://{other_bucket}/in/"
    with dag:
        QuiltPushOperator(task_id="push", package="team/push", entries=source, dest=kinds["kwargs"], copy=is_copied)
        partial = functools.partial(QuiltPushOperator.partial, entries=source, copy=is_copied)
        partial(task_id="mapped", dest=kinds["lambda"]).expand(package=["team/mapped"])
        partial(task_id="each", package="team/{{ ti.map_index }}").expand(dest=[kinds["function"], kinds["partial"]])

        @task.quilt_push(package="team/taskflow", dest=kinds["object"], copy=is_copied)
        def publish(url: str) -> str:
            return url

        publish(source)
        publish.override(task_id="mapped_publish", package="team/mapped-taskflow").expand(url=[source])
        quilt_push_group("group", package="team/group", entries=source, dest=kinds["method"], copy=is_copied, shards=1)

    run = run_here(dag)

    assert set(states(run).values()) == {"success"}
    names = [f"team/{name}" for name in ("0", "1", "group", "mapped", "mapped-taskflow", "push", "taskflow")]
    assert sorted(map(str, s3_registry.packages())) == names
    for name in names:
        entries = s3_registry.read(PackageName.parse(name)).entries
        assert {entry.logical_key: entry.physical_keys[0].partition("?")[0] for entry in entries} == {
            "copy.txt": f"s3://{bucket}/by-size/8/copy.txt",
            "keep.txt": f"s3://{other_bucket}/in/keep.txt",
        }, name


def decorated(**arguments: Any) -> Any:
    @quilt_push(package="team/data", **arguments)
    def make() -> str:
        return "/data/"

    return make().operator


@pytest.mark.parametrize("kind", [QuiltPushOperator, QuiltPlanPushOperator, decorated], ids=["push", "plan", "decorated"])
@pytest.mark.parametrize("name", callables(""))
def test_rendering_calls_no_function(kind: Any, name: str) -> None:
    """Render the other arguments, and those that are no functions."""
    function = callables("s3://bucket")[name]
    arguments = {"message": "{{ day }}", "dest": function, "copy": "{{ rule }}"}
    made = decorated(**arguments) if kind is decorated else kind(task_id="t", package="team/data", entries="/data/", **arguments)
    made.render_template_fields({"day": "monday", "rule": "all"})

    assert (made.dest, made.copy, made.message) == (function, "all", "monday")


@needs_airflow("3.1")
def test_serialized_dag_is_stable(dag: DAG) -> None:
    """Keep the version of the DAG from one parsing to the next: no address of a function is in it."""

    def serialized() -> str:
        with DAG("stable", schedule=None) as made:
            for name, function in callables("s3://bucket").items():
                QuiltPushOperator(task_id=name, package="team/data", entries="/data/", dest=function, copy=is_copied)
                QuiltPushOperator.partial(task_id=f"mapped_{name}", entries="/data/", copy=is_copied, package="team/data").expand(
                    dest=[function]
                )
        return json.dumps(serialization().to_dict(made), sort_keys=True)

    first = serialized()
    assert "<callable" in first
    assert " at 0x" not in first
    assert first == serialized()
