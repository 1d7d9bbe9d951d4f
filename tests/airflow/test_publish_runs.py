"""Publications in DAG runs: parts of mapped tasks, metadata, promotions, links, and updates at the same time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.operators import QuiltBuildOperator, QuiltPushOperator
from airflow_quilt.task_groups import quilt_push_group
from testbed.server import S3Server
from tests.airflow.support import run_here


def states(run: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for ti in run.get_task_instances():
        found.setdefault(ti.task_id, set()).add(str(ti.state))
    return found


def keys(registry: Registry, package: str) -> list[str]:
    return [entry.logical_key for entry in registry.read(package).entries]


def test_mapped_parts_are_numbered(dag: DAG, connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    """Parts of one name are refused in one directory, and kept apart by ``{index}``, also those that a decorated task returns."""

    @task
    def part(day: str, home: str) -> str:
        path = Path(home) / day / "part.csv"
        path.parent.mkdir()
        path.write_text(day)
        return str(path)

    @task.quilt_push(package="team/returned", logical_key="{{ params.below }}/{index}/")
    def returned(parts: Any) -> list[Any]:
        return [[each] for each in parts]

    with dag:
        parts = part.partial(home=str(tmp_path)).expand(day=["mon", "tue"])
        QuiltPushOperator(task_id="clash", package="team/clash", entries={"parts/": parts})
        QuiltPushOperator(
            task_id="numbered", package="team/parts", entries={"parts/{index}/": parts, "{{ params.below }}/{index}.csv": parts}
        )
        returned(parts)

    run = run_here(dag, run_conf={"below": "by-day"})

    assert states(run) == {"part": {"success"}, "clash": {"failed"}, "numbered": {"success"}, "returned": {"success"}}
    assert keys(s3_registry, "team/parts") == ["by-day/0.csv", "by-day/1.csv", "parts/0/part.csv", "parts/1/part.csv"]
    assert keys(s3_registry, "team/returned") == ["by-day/0/part.csv", "by-day/1/part.csv"]


def test_metadata_of_updates(dag: DAG, connected: str, s3_registry: Registry) -> None:
    """Merge metadata from XCom by a templated mode, from mapped updates; promote the result, also by many task instances."""

    @task
    def found(number: int) -> dict[str, int]:
        return {f"found-{number}": number}

    with dag:
        first = QuiltPushOperator(
            task_id="first",
            package="team/data",
            entries={"d/a.txt": {"content": "a", "meta": {"unit": "mm"}}, "d/": {"meta": {"of": "d"}}},
            meta={"by": "us"},
        )
        updates = QuiltPushOperator.partial(
            task_id="update", package="team/data", mode="update", meta_mode="{{ params.meta_mode }}", conflict=None
        ).expand(meta=found.expand(number=[1, 2]))
        last = QuiltPushOperator(task_id="last", package="team/data", mode="update", remove=["x"])
        uri = "{{ ti.xcom_pull(task_ids='last')['quilt_uri'] }}"
        alone = QuiltBuildOperator(task_id="promote", package="team/release", entries=uri, meta=None)
        group = quilt_push_group(package="team/grouped", entries=uri, shards=2)
        first >> updates >> last >> [alone, group]

    run = run_here(dag, run_conf={"meta_mode": "merge"})

    assert str(run.state) == "success"
    source = s3_registry.read("team/data")
    assert source.user_meta == {"by": "us", "found-1": 1, "found-2": 2}
    for package in ("team/release", "team/grouped"):
        assert s3_registry.resolve(package) == s3_registry.resolve("team/data")


def test_gone_object_is_sent_again(dag: DAG, connected: str, s3: S3Server, bucket: str, s3_registry: Registry) -> None:
    """A push of the same content makes no revision, and its manifest names the object that is there."""

    def publish(name: str) -> QuiltPushOperator:
        return QuiltPushOperator(
            task_id=name, package="team/data", entries={"a.txt": {"content": "a"}, "b.txt": {"content": "b"}}
        )

    @task
    def destroy() -> None:
        [version] = s3.client().list_object_versions(Bucket=bucket, Prefix="team/data/a.txt")["Versions"]
        s3.client().delete_object(Bucket=bucket, Key="team/data/a.txt", VersionId=version["VersionId"])

    with dag:
        publish("first") >> destroy() >> publish("again")  # type: ignore[operator]

    run = run_here(dag)

    results = [ti.xcom_pull(task_ids=name) for name in ("first", "again") for ti in run.get_task_instances(["success"])[:1]]
    assert [(each["created"], each["bytes_copied"], each["top_hash"]) for each in results] == [
        (True, 2, results[0]["top_hash"]),
        (False, 1, results[0]["top_hash"]),
    ]
    assert [s3_registry.read_bytes(entry) for entry in s3_registry.read("team/data").entries] == [b"a", b"b"]


def test_links_of_a_directory(dag: DAG, connected: str, s3_registry: Registry, write: Callable[..., Path]) -> None:
    """A link that leads out needs the flag, here from a template; one that leads nowhere fails in any case."""
    directory = write("data/a.txt", "a").parent
    (directory / "out").symlink_to(write("elsewhere/b.txt", "b").parent)
    dangling = write("other/a.txt", "a").parent
    (dangling / "gone.txt").symlink_to("nowhere")

    with dag:
        for name, path, follow in (("kept", directory, "no"), ("followed", directory, "yes"), ("dangling", dangling, "yes")):
            flag: Any = f"{{{{ params.{follow} }}}}"
            QuiltPushOperator(task_id=name, package=f"team/{name}", entries=str(path), follow_symlinks=flag)

    run = run_here(dag, run_conf={"no": "false", "yes": "true"})

    assert states(run) == {"kept": {"failed"}, "followed": {"success"}, "dangling": {"failed"}}
    assert keys(s3_registry, "team/followed") == ["a.txt", "out/b.txt"]
