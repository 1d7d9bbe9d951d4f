"""Arguments at run time: None, templates of text, and keys that come out the same, as they meet an operator in a DAG run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, ObjectStoragePath, task

from airflow_quilt._compat import AirflowFailException
from airflow_quilt.assets import quilt_asset
from airflow_quilt.core.errors import InputError
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.sources.parse import parse_entries
from airflow_quilt.decorators import quilt_push
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
from airflow_quilt.operators._construction import parameters
from airflow_quilt.operators.shards import QuiltCommitOperator, QuiltPlanPushOperator, QuiltShardOperator
from airflow_quilt.sensors import QuiltPackageSensor
from tests.airflow.support import events, late, needs_airflow, run_here

OPERATORS: list[tuple[Any, dict[str, Any]]] = [
    (QuiltPushOperator, {"entries": "/data/"}),
    (QuiltBuildOperator, {"entries": "/data/"}),
    (QuiltInstallOperator, {"dest": "/data"}),
    (QuiltVerifyOperator, {}),
    (QuiltDeleteOperator, {}),
    (QuiltRollbackOperator, {"revision": "abcdef"}),
    (QuiltPackageSensor, {}),
    (QuiltPlanPushOperator, {"entries": "/data/"}),
    (QuiltShardOperator, {"shard": {}}),
    (QuiltCommitOperator, {"shards": [], "results": []}),
]
WITH_NONE = {"quilt_conn_id", "workflow"}
"""Arguments for which None has a meaning."""


class Nothing:
    """Stands where the output of a task that returned None does."""

    def resolve(self, _context: object) -> None:
        return None


def made(operator: Any, required: dict[str, Any], **arguments: Any) -> QuiltOperator:
    return operator(**{"task_id": "t", "package": "team/data", **required, **arguments})


def rendered(operator: Any, *, native: bool = False, context: dict[str, Any] | None = None, **arguments: Any) -> QuiltOperator:
    """Return an operator whose arguments are rendered, as text or as native objects, and checked."""
    with DAG("native" if native else "plain", schedule=None, render_template_as_native_obj=native):
        instance = made(operator, {}, **arguments)
    instance.render_template_fields(context or {})
    instance.check_arguments()
    return instance


def faults(operator: Any, **arguments: Any) -> str:
    with pytest.raises(InputError) as raised:
        rendered(operator, **arguments)
    return str(raised.value)


def every_argument() -> Iterator[tuple[Any, dict[str, Any], str]]:
    for operator, required in OPERATORS:
        for name in operator.template_fields:
            yield operator, required, name


def states(run: Any) -> dict[tuple[str, int], str]:
    return {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}


def test_none_fails_the_task(dag: DAG, database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that returned nothing names no directory, no revision and no registry; the others of its kind go on."""
    monkeypatch.chdir(tmp_path)
    registry = str(tmp_path / "registry")
    (tmp_path / "a.txt").write_text("a")
    shared = {"package": "team/data", "registry": registry, "quilt_conn_id": None}
    QuiltBuildOperator(task_id="build", entries=str(tmp_path / "a.txt"), **shared).execute({})

    with dag:

        @task
        def nothing() -> None:
            return None

        @task
        def directories() -> list[str | None]:
            return [str(tmp_path), None]

        @task
        def keywords() -> list[dict[str, str | None]]:
            return [{"dest": "out"}, {"dest": "two", "path": None}]

        none, template = nothing(), "{{ ti.xcom_pull(task_ids='nothing') }}"
        checks = {
            "src": QuiltVerifyOperator(task_id="src", src=none, **shared),
            "src_text": QuiltVerifyOperator(task_id="src_text", src=template, **shared),
            "revision": QuiltVerifyOperator(task_id="revision", revision=none, **shared),
            "dest": QuiltInstallOperator(task_id="dest", dest=none, **shared),
            "dest_below": QuiltInstallOperator(task_id="dest_below", dest=f"{tmp_path}/{template}/", **shared),
            "delete": QuiltDeleteOperator(task_id="delete", revision=none, **shared),
            "entries": QuiltBuildOperator(task_id="entries", entries={"a.txt": entry(path="a.txt", meta=none)}, **shared),
            "meta": QuiltBuildOperator(task_id="meta", entries="a.txt", meta=none, **shared),
        }
        for each in checks.values():
            none >> each
        QuiltVerifyOperator.partial(task_id="of_task", extra_files_ok=True, **shared).expand(src=directories())
        QuiltInstallOperator.partial(task_id="kwargs", **shared).expand_kwargs(keywords())

    found = states(run_here(dag))

    assert {found[name, -1] for name in checks} == {"failed"}
    assert [found[name, index] for name in ("of_task", "kwargs") for index in (0, 1)] == ["success", "failed"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out", "registry"]


def test_every_none_is_named() -> None:
    """No argument that is given and None is taken for one that was left out; the error names it."""
    for operator, required, name in every_argument():
        task = made(operator, {**required, name: Nothing()})
        task.render_template_fields({})
        if name in WITH_NONE:
            task.check_arguments()
        else:
            with pytest.raises(InputError, match=f"^{name} is None: "):
                task.check_arguments()
        if parameters(operator)[name].default is None and name != "entries":
            made(operator, {**required, name: None}).check_arguments()


def test_none_in_text_is_refused() -> None:
    """A location, a name or a key with the text None in it was not meant; a message may have it."""
    for arguments in ({"src": "/data/{{ none }}/x"}, {"path": "{{ missing['it'] }}/b"}, {"registry": "s3://{{ none }}"}):
        [name] = arguments
        assert f"{name}: an expression in" in faults(QuiltVerifyOperator, context={"missing": {"it": None}}, **arguments)
    for name in ("package", "src", "path", "revision", "registry"):
        assert faults(QuiltVerifyOperator, **{name: "{{ none }}"}).startswith(f"{name} is None: its template '{{{{ none }}}}'")
        assert f"{name}: '{{{{ nothing }}}}' is rendered to an empty str" in faults(
            QuiltVerifyOperator, context={"nothing": ""}, **{name: "{{ nothing }}"}
        )
        assert f"{name} is empty" in faults(QuiltVerifyOperator, **{name: ""})
    assert "entries['a.txt']: an expression in 's3://b/{{ none }}'" in faults(
        QuiltPushOperator, entries={"a.txt": "s3://b/{{ none }}"}
    )
    assert "entries: the key '{{ none }}' has no value" in faults(QuiltPushOperator, entries={"{{ none }}": b""})
    for name, template in {"dest": "{{ many }}", "path": "a/{{ many }}", "revision": "{{ {'a': 1} }}"}.items():
        arguments = {"dest": "/data", name: template}
        assert f"{name}: an expression in" in faults(QuiltInstallOperator, context={"many": ["/data"]}, **arguments)
    for place in (ObjectStoragePath("s3://b/{{ none }}/x"), ObjectStoragePath("file:///{{ none }}")):
        assert "src: an expression in" in faults(QuiltVerifyOperator, src=place)
    several = faults(QuiltPushOperator, entries={"d/": entry(path=Nothing())}, message=Nothing(), dest="{{ none }}")
    assert re.findall(r"(?m)^\S+", several) == ["entries['d/']['path']", "message", "dest"]

    task = rendered(
        QuiltPushOperator, message="of {{ none }}", workflow="{{ none }}", meta={"a": "{{ none }}"}, mode="{{ 'update' }}"
    )
    assert (task.message, task.workflow, task.meta, task.mode) == ("of None", None, {"a": "None"}, "update")  # type: ignore[attr-defined]


def test_described_none_is_kept() -> None:
    """A described source keeps a None, which is an error under each key; it was left out, and a JSON file held ``{}``."""
    assert entry(path=None, meta={"a": 1}) == {"path": None, "meta": {"a": 1}}
    assert entry(content=None) == {"content": None}
    assert entry(path="a", meta=None) == {"path": "a"}
    with pytest.raises(InputError, match="entry 'a.json': give a path or URL as path; it is a value of type NoneType"):
        list(parse_entries({"a.json": entry(path=None)}))


def test_equal_keys_are_refused(dag: DAG, connected: str, s3_registry: Registry) -> None:
    """Two keys that are rendered to one lose a file, a directory or metadata: they are an error that names both."""
    cases: dict[str, dict[str, Any]] = {
        "files": {"entries": {"{{ params.a }}.txt": entry(content="1"), "{{ params.b }}.txt": entry(content="2")}},
        "directories": {"entries": {"{{ params.a }}/": "/data/one", "{{ params.b }}/": "/data/two"}},
        "literal": {"entries": {"same.txt": entry(content="1"), "{{ params.b }}.txt": entry(content="2")}},
        "of_entry": {"entries": {"a.txt": entry(content="1", meta={"{{ params.a }}": 1, "{{ params.b }}": 2})}},
        "of_json": {"entries": {"a.json": {"{{ params.a }}": 1, "{{ params.b }}": 2}}},
        "meta": {"meta": {"{{ params.a }}": 1, "{{ params.b }}": 2}},
        "nested": {"meta": {"of": [{"{{ params.a }}": 1, "{{ params.b }}": 2}]}},
    }
    with dag:
        for name, arguments in cases.items():
            QuiltPushOperator(**{"task_id": name, "package": f"team/{name}", "entries": {"x": entry(content="x")}, **arguments})

    run = run_here(dag, run_conf={"a": "same", "b": "same"})

    assert states(run) == {(name, -1): "failed" for name in cases}
    assert list(s3_registry.packages()) == []
    assert "entries: the keys '{{ a }}.txt' and '{{ b }}.txt' are both rendered to 'x.txt'" in faults(
        QuiltPushOperator, entries={"{{ a }}.txt": b"", "{{ b }}.txt": b""}, context={"a": "x", "b": "x"}
    )
    assert "meta['of']: the keys 'x' and '{{ b }}' " in faults(
        QuiltPushOperator, entries="a", meta={"of": {"x": 1, "{{ b }}": 2}}, native=True, context={"b": "x"}
    )


@needs_airflow("3.3")
def test_native_text_is_published(dag: DAG, connected: str, s3_registry: Registry) -> None:
    """Digits stay text with native rendering: a partition, a key, a path, a message, and a number that a task returned."""
    dag.render_template_as_native_obj = True
    top_hash = "{{ ti.xcom_pull(task_ids='push')['top_hash'] }}"
    with dag:

        @task
        def number() -> int:
            return 20261130

        given = {"registry": connected, "package": "2026/11"}
        push = QuiltPushOperator(
            task_id="push",
            entries={"{{ '2026_11' }}": entry(content="a"), "{{ '1e3' }}/": entry(meta={"n": "{{ 5 + 1 }}"})},
            meta={"n": "{{ params.n }}", "{{ '20' }}": "{{ [1, 2] }}"},
            message="{{ '0x10' }}",
            partition_key="{{ '2026_11' }}",
            **given,
        )
        of_int = QuiltPushOperator(
            task_id="of_int", entries={"b": entry(content="b")}, message=number(), partition_key=number(), **given
        )
        path = QuiltVerifyOperator(
            task_id="path", package="{{ '2026' }}/{{ 11 }}", path="{{ '2026_11' }}", revision=top_hash, registry=connected
        )
        push >> path >> of_int

    run = run_here(dag, run_conf={"n": 3})

    assert set(states(run).values()) == {"success"}
    assert [event.partition_key for event in events(quilt_asset("2026/11", connected).uri)] == ["2026_11", "20261130"]
    newest, oldest = s3_registry.revisions("2026/11")
    first = s3_registry.read("2026/11", oldest.top_hash)
    assert first.header["message"] == "0x10"
    assert first.header["user_meta"] == {"n": 3, "20": [1, 2]}
    assert [each.logical_key for each in first.entries] == ["2026_11"]
    assert s3_registry.read("2026/11", newest.top_hash).header["message"] == "20261130"


def test_native_text_keeps_its_form() -> None:
    """The text of a number stays as it is written, for every argument that is text; a quoted text loses its quotes."""
    texts = ["20261130", "2026_11", "0x1f", "12e45678", "12e4", "1e999", "1j", "+5", "007", "True", "None", "...", "1, 2", "[1]"]
    for name in ("package", "revision", "path", "registry", "src", "quilt_conn_id"):
        for text in texts:
            task = rendered(QuiltVerifyOperator, native=True, context={"x": text}, **{name: "{{ x }}"})
            assert getattr(task, name) == text
    push = rendered(
        QuiltPushOperator,
        native=True,
        context={"x": "12e4", "n": 7, "yes": True, "many": ["a", "b"], "day": "2026_11"},
        partition_key="'{{ x }}'",
        message="{{ n }}",
        hash_type="{{ yes }}",
        dest="{{ day }}{{ n }}",
        entries={"{{ n }}": "{{ day }}", "d/": "{{ many }}", "e/": "['{{ day }}', '{{ x }}']", "f.json": ["{{ n }}", "{{ x }}"]},
        remove=["{{ day }}", "{{ n }}"],
        max_concurrency="{{ n }}",
        dedupe="{{ yes }}",
    )
    assert {name: getattr(push, name) for name in ("partition_key", "message", "hash_type", "dest")} == {
        "partition_key": "12e4",
        "message": "7",
        "hash_type": "True",
        "dest": "2026_117",
    }
    assert push.entries == {"7": "2026_11", "d/": ["a", "b"], "e/": ["2026_11", "12e4"], "f.json": [7, 120000.0]}  # type: ignore[attr-defined]
    assert (push.remove, push.max_concurrency, push.dedupe) == (["2026_11", "7"], 7, True)  # type: ignore[attr-defined]
    for value in (12e45, ["a"], {"a": 1}, b"a"):
        assert re.match("revision.*: ", faults(QuiltVerifyOperator, native=True, context={"x": value}, revision="{{ x }}"))
    assert "revision 1.2e+46: a float may have lost digits" in faults(QuiltVerifyOperator, revision=1.2e46)


@needs_airflow("3.3")
def test_bad_partition_publishes_nothing(connected: str, s3_registry: Registry) -> None:
    for key in (" ", "x" * 251, 12e45, ["2026"]):
        push = late(QuiltPushOperator, task_id="push", package="team/data", entries={"a": entry(content="a")}, partition_key=key)
        with pytest.raises(AirflowFailException, match="partition_key"):
            push.execute({})
    assert list(s3_registry.packages()) == []


def test_decorated_none_calls_nothing(dag: DAG, connected: str, s3_registry: Registry) -> None:
    """An argument that is None fails before the function is called."""
    calls = []
    with dag:

        @task
        def nothing() -> None:
            return None

        @quilt_push(package="team/data", message=nothing())
        def make() -> dict[str, Any]:
            calls.append("made")
            return {"a.txt": entry(content="a")}

        make()

    assert states(run_here(dag)) == {("nothing", -1): "success", ("make", -1): "failed"}
    assert (calls, list(s3_registry.packages())) == ([], [])


def test_own_fields_are_the_users(database: None) -> None:
    """A field that a subclass adds may be None, and is rendered by Airflow."""

    class Own(QuiltVerifyOperator):
        template_fields = (*QuiltVerifyOperator.template_fields, "limit")

        def __init__(self, *, limit: object = None, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.limit = limit

    assert issubclass(Own, BaseOperator)
    assert rendered(Own, limit=Nothing()).limit is None  # type: ignore[attr-defined]
    assert rendered(Own, limit="{{ '1e3' }}", native=True).limit == 1000.0  # type: ignore[attr-defined]
