"""Functions as tasks that publish their results: run by real Airflow against the real store, or called directly."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pendulum
import pytest
from airflow.sdk import DAG, Asset, BaseOperator, ObjectStoragePath, task

from airflow_quilt._compat import AirflowFailException
from airflow_quilt.assets import quilt_alias, quilt_asset
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.decorators import quilt_build, quilt_push
from airflow_quilt.operators import QuiltBuildOperator, QuiltPushOperator, entry
from airflow_quilt.operators._parameters import BuildTaskParameters, PushTaskParameters, TaskParameters
from testbed.server import S3Server
from tests.airflow.support import MappedOutput, StateStore, events, instance, run_here
from tests.test_docs import ROOT, blocks

BOTH = [(quilt_push, QuiltPushOperator), (quilt_build, QuiltBuildOperator)]
TYPES = {quilt_push: PushTaskParameters, quilt_build: BuildTaskParameters}


@pytest.fixture(autouse=True)
def taking(dag: DAG) -> Iterator[None]:
    """Let the DAG take the tasks that a test makes."""
    with dag:
        yield


def contents(registry: Registry, package: str) -> dict[str, bytes]:
    """Return the files of the latest revision of a package."""
    manifest = registry.read(PackageName.parse(package))
    return {entry.logical_key: registry.read_bytes(entry) for entry in manifest.entries}


def returning(value: object, **arguments: Any) -> Any:
    """Return the task of a function that returns a value."""

    @quilt_push(**{"package": "team/data", **arguments})
    def make() -> Any:
        return value

    return make().operator


def test_airflow_finds_decorators() -> None:
    assert (task.quilt_push, task.quilt_build) == (quilt_push, quilt_build)


@pytest.mark.parametrize(("decorator", "operator"), BOTH)
def test_parameters_match_operator(decorator: Any, operator: type) -> None:
    parameters = inspect.signature(decorator).parameters.values()
    names = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    typed = TYPES[decorator].__annotations__.keys() - TaskParameters.__annotations__.keys()

    assert names == {"package", "multiple_outputs"}
    assert names | typed == {*operator.template_fields, "logical_key", "multiple_outputs"} - {"entries"}  # type: ignore[attr-defined]


def test_airflow_parameters_are_typed() -> None:
    """Name each parameter of a task, also those of newer Airflows: type checkers refuse the others."""
    parameters = inspect.signature(BaseOperator).parameters.keys()

    assert parameters - {"kwargs", "multiple_outputs"} <= TaskParameters.__annotations__.keys()


@pytest.mark.parametrize(("decorator", "operator"), BOTH)
def test_decorator_makes_operator(decorator: Any, operator: type) -> None:
    @decorator(package="team/{{ day }}", message="{{ day }}", logical_key="{{ day }}.csv", dedupe=False, retries=3)
    def make(source: str) -> str:
        """Name the product."""
        return source

    made = make("/data/{{ day }}.csv").operator
    made.render_template_fields({"day": "monday"})

    assert isinstance(made, operator)
    assert (made.task_id, made.retries, made.dedupe, made.doc_md) == ("make", 3, False, "Name the product.")
    assert (made.package, made.message, made.logical_key) == ("team/monday", "monday", "monday.csv")
    assert list(made.op_args) == ["/data/monday.csv"]


def test_dag_defaults_apply() -> None:
    with DAG("defaults", schedule=None, default_args={"registry": "s3://bucket", "conflict": "overwrite", "dedupe": False}):
        made = returning("/data/", dedupe=True)

    assert (made.registry, made.conflict, made.dedupe) == ("s3://bucket", "overwrite", True)


def test_entries_argument_fails() -> None:
    with pytest.raises(TypeError, match="multiple values for keyword argument 'entries'"):
        returning("/data/", entries={"a.txt": "/data/a.txt"})


def test_known_package_is_an_outlet() -> None:
    assert returning("/data/", registry="s3://bucket").outlets == [quilt_asset("team/data", "s3://bucket")]
    unknown = returning("/data/", registry="s3://bucket", package="team/{{ ds }}")
    assert unknown.outlets == [quilt_alias(unknown.dag_id, unknown.task_id)]


def test_xcom_and_context_are_passed(dag: DAG, connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    @task
    def write(name: str) -> str:
        (tmp_path / name).write_text(name)
        return str(tmp_path / name)

    @task.quilt_push(package="team/{{ params.name }}", message="{{ params.name }}", meta={"run": "{{ run_id }}"})
    def publish(path: str, unit: str, *, ds: str, params: dict[str, str]) -> dict[str, object]:
        return {"a.txt": path, "{{ ds }}.json": {"ds": ds, "unit": unit, **params}, "b.txt": entry(content="b", meta={"c": 1})}

    @task
    def tell(top_hash: str, published: dict[str, object]) -> bool:
        return published["top_hash"] == top_hash

    published = publish(write("a.txt"), unit="{{ params.name }}s")
    tell(published["top_hash"], published)

    run = run_here(dag, run_conf={"name": "metre"}, logical_date=pendulum.datetime(2026, 11, 23))

    assert str(run.state) == "success"
    manifest = s3_registry.read(PackageName.parse("team/metre"))
    assert manifest.header == {"version": "v0", "user_meta": {"run": run.run_id}, "message": "metre"}
    assert contents(s3_registry, "team/metre") == {
        "a.txt": b"a.txt",
        "b.txt": b"b",
        "{{ ds }}.json": b'{"ds": "2026-11-23", "unit": "metres", "name": "metre"}',
    }
    [revision] = s3_registry.revisions(PackageName.parse("team/metre"))
    [teller, publisher] = (run.get_task_instance(name) for name in ("tell", "publish"))
    assert teller.xcom_pull(task_ids="tell") is True
    assert publisher.xcom_pull(task_ids="publish") == {
        "registry": connected,
        "package": "team/metre",
        "top_hash": revision.top_hash,
        "quilt_uri": f"quilt+{connected}#package=team/metre@{revision.top_hash}",
        "catalog_url": None,
        "entries": 3,
        "bytes": 61,
        "bytes_copied": 61,
        "bytes_reused": 0,
        "published_at": revision.published_at.to_iso8601_string(),
        "created": True,
        "previous": None,
        "checksum_only": 0,
        "added": 3,
        "modified": 0,
        "removed": 0,
    }


def test_return_types_publish(dag: DAG, connected: str, s3: S3Server, s3_registry: Registry, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.txt").write_text("a")
    s3.client().put_object(Bucket=bucket, Key="raw/b.txt", Body=b"b")

    @task.quilt_push(package="team/directory")
    def directory() -> Path:
        return tmp_path

    @task.quilt_push(package="team/frame", logical_key="table/data.csv")
    def frame() -> pd.DataFrame:
        return pd.DataFrame({"a": [1, 2]})

    @task.quilt_build(package="team/prefix")
    def prefix(registry: str) -> ObjectStoragePath:
        return ObjectStoragePath(f"{registry}/raw/")

    directory()
    frame()
    prefix(connected)

    run = run_here(dag)

    assert str(run.state) == "success"
    assert contents(s3_registry, "team/directory") == {"sub/a.txt": b"a"}
    assert contents(s3_registry, "team/frame") == {"table/data.csv": b"a\n1\n2\n"}
    assert contents(s3_registry, "team/prefix") == {"b.txt": b"b"}
    [named] = s3_registry.read(PackageName.parse("team/prefix")).entries
    assert named.physical_keys[0].startswith(f"s3://{bucket}/raw/b.txt?")


def test_documented_example_runs(dag: DAG, connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    [example] = [block for block in blocks(ROOT / "docs/operators.md") if "@task.quilt_push" in block]
    (tmp_path / "mon.csv").write_text("mm\n1\n3\n")
    exec(compile(example.replace("/data/mon.csv", str(tmp_path / "mon.csv")), "docs/operators.md", "exec"), {})  # noqa: S102

    run = run_here(dag, logical_date=pendulum.datetime(2026, 11, 23))

    assert str(run.state) == "success"
    assert contents(s3_registry, "lab/20261123") == {"readings.csv": b"mm\n1\n3\n", "about.json": b'{"day": "2026-11-23"}'}
    assert contents(s3_registry, "lab/means") == {"means.csv": b"mm\n2.0\n"}
    assert {key.partition("/")[0] for key in contents(s3_registry, "lab/raw")} == {"20261123", "means"}


def test_mapped_tasks_publish(dag: DAG, connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    """Publish from overridden tasks too, and call a failed function again."""
    tries = []

    @task.quilt_push(package="team/mapped", mode="update", registry=connected, logical_key="texts/")
    def add(name: str, text: str) -> str:
        path = tmp_path / f"{name}.txt"
        path.write_text(text)
        return str(path)

    @task.quilt_push(package="team/data", retries=1, retry_delay=pendulum.duration(seconds=0))
    def fail_once() -> dict[str, object]:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("not yet")
        return {"a.txt": entry(content="a")}

    added = add.partial(text="text").expand(name=["one", "two"])
    added >> fail_once.override(task_id="renamed", package="team/other")()

    run = run_here(dag)

    assert str(run.state) == "success"
    assert contents(s3_registry, "team/mapped") == {"texts/one.txt": b"text", "texts/two.txt": b"text"}
    assert len(list(s3_registry.revisions(PackageName.parse("team/mapped")))) == 2
    assert contents(s3_registry, "team/other") == {"a.txt": b"a"}
    assert len(tries) == 2
    assert [link.name for link in added.operator.operator_extra_links] == ["Quilt Catalog"]


def test_unchanged_push_emits_no_event(dag: DAG, connected: str) -> None:
    @task.quilt_push(package="team/data", registry=connected, logical_key="a.json")
    def publish(*, params: dict[str, str]) -> list[str]:
        return [params["text"]]

    publish()

    runs = [run_here(dag, run_conf={"text": "same"}) for _ in range(2)]

    assert [str(run.state) for run in runs] == ["success"] * 2
    [event] = events(quilt_asset("team/data", connected).uri)
    assert event.extra["quilt_uri"].startswith(f"quilt+{connected}#package=team/data@")


@pytest.mark.parametrize(
    ("value", "arguments", "message"),
    [
        (None, {}, "make: return .*; it returned None"),
        (None, {"logical_key": "a.json"}, "make: return .*; it returned None"),
        (pd.DataFrame(), {}, "make: give logical_key='data.parquet' in the decorator, .* type DataFrame"),
        (b"bytes", {}, "make: give logical_key=.* a value of type bytes"),
        (1, {}, "make: give logical_key=.* a value of type int"),
        (entry(content="text"), {}, "content needs the key of a file, as in {'a.csv'"),
        ([b"bytes"], {}, "content needs the key of a file, as in {'a.csv'"),
        (pd.DataFrame(), {"logical_key": "data.xls"}, r"'data.xls': a DataFrame needs a key that ends in one of .csv"),
        ({}, {}, "no entries"),
        (Asset("name only"), {}, "it has no URI"),
    ],
)
def test_bad_result_is_permanent(
    connected: str, s3_registry: Registry, value: object, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(AirflowFailException, match=message):
        returning(value, **arguments).execute({})
    assert list(s3_registry.packages()) == []


def test_returned_asset_is_a_source(connected: str, s3: S3Server, s3_registry: Registry, bucket: str) -> None:
    """Pass a given asset to the function as it is."""
    s3.client().put_object(Bucket=bucket, Key="raw/b.txt", Body=b"b")
    given = Asset("name only")

    @quilt_build(package="team/data", logical_key="c.txt")
    def make(asset: Asset) -> Asset:
        return Asset(f"{connected}/raw/b.txt", extra={"from": asset.name})

    operator = make(given).operator
    operator.execute({})

    assert contents(s3_registry, "team/data") == {"c.txt": b"b"}
    assert operator.inlets == [given]


class Calls:
    """A function that is called by the tries of a task, each with a task of its own, as workers have."""

    def __init__(self, store: StateStore) -> None:
        self.made = 0
        self._store = store

    def retry(self, tries: int, *arguments: object) -> dict[str, Any]:
        @quilt_push(package="team/data", dedupe=False, logical_key="a.json")
        def make(*_arguments: object) -> dict[str, str]:
            self.made += 1
            return {"text": "mine"}

        result: dict[str, Any] = make(*arguments).operator.execute({**instance(tries), "task_state_store": self._store})
        return json.loads(json.dumps(result))


@pytest.mark.parametrize(
    "argument",
    ["text", {"key": Path("/path")}, memoryview(b"hello")[::2], MappedOutput(["one", "two"])],
    ids=["text", "path", "bytes", "mapped"],
)
def test_lost_success_is_not_rerun(connected: str, s3_registry: Registry, argument: object) -> None:
    calls = Calls(StateStore())
    first, again = (calls.retry(tries, argument) for tries in (1, 2))

    assert again == first
    assert calls.made == 1


@pytest.mark.parametrize(
    ("arguments", "noted"), [((1, 2), ["quilt_published"]), ((pd.DataFrame(),) * 2, [])], ids=["other arguments", "a data frame"]
)
def test_retry_finds_its_revision(
    connected: str, s3_registry: Registry, arguments: tuple[object, object], noted: list[str]
) -> None:
    """Call the function again without a stored state, and publish no second revision."""
    store = StateStore()
    calls = Calls(store)
    first, again = (calls.retry(tries, argument) for tries, argument in enumerate(arguments, 1))

    assert (again["top_hash"], again["published_at"]) == (first["top_hash"], first["published_at"])
    assert calls.made == 2
    assert list(store.noted) == noted
    assert len(list(s3_registry.revisions(PackageName("team", "data")))) == 1
