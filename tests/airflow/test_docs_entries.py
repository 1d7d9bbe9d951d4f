"""The sources of docs/entries.md in a run of a DAG: given, from templates, from other tasks, and mapped."""

import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from airflow.sdk import Asset, ObjectStoragePath, task

from airflow_quilt.operators import QuiltBuildOperator, QuiltPushOperator, entry
from tests.airflow.support import Shared, run_here, states

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

BROKEN = {
    "empty directory": ({"d/": "{{ params.home }}/empty"}, "EmptyPackageError: entry 'd/': give allow_empty=True"),
    "no value": ({"a.txt": "{{ params.home }}/data/{{ none }}"}, "has no value"),
    "a name twice": ({"a/": "{{ params.home }}/data", "a/1.txt": b""}, "'a/1.txt'"),
    "link that leads out": ({"d/": "{{ params.home }}/linked"}, "leads out of"),
}


def given(place: Shared) -> dict[str, Any]:
    """Return a source of every kind that a DAG file names itself."""
    import polars as pl
    import pyarrow as pa

    home = place.path
    frame = pd.DataFrame({"a": [1]})
    return {
        "path.txt": "{{ params.home }}/data/1.txt",
        "url.txt": (home / "data/1.txt").as_uri(),
        "pathlike.txt": home / "data/1.txt",
        "storage.txt": ObjectStoragePath(f"s3://other_conn@{place.source[5:]}/in/b 1%.txt"),
        "asset.txt": Asset(f"{place.source}/in/b 1%25.txt"),
        "object.txt": "{{ params.source }}/in/b 1%25.txt",
        "prefix/": "{{ params.source }}/in/",
        "folder/": str(home / "data"),
        "linked/": str(home / "inside"),
        "list/": ["{{ params.home }}/data/1.txt", home / "more"],
        "bytes.bin": b"\x00",
        "text.txt": entry(content="about {{ params.name }}", meta={"of": "{{ params.name }}"}),
        "value.json": {"{{ params.name }}": [1, None]},
        "number.json": 2.5,
        "frame.csv": frame,
        "frame.json": pl.DataFrame({"a": [1]}),
        "frame.parquet": pa.table({"a": [1]}),
        "indexed.csv": frame.set_index(pd.Index(["x"], name="key")),
        "described/": entry(path="{{ params.home }}/data", meta={"unit": "mm"}),
        "{{ params.name }}/": entry(meta={"unit": "{{ params.name }}"}),
        "{{ params.name }}/a.txt": b"",
    }


@pytest.fixture(scope="module")
def run(shared: Shared) -> "DagRun":
    """A run that pushes every kind of source, and fails for every rule."""
    home = shared.path
    for name in ("data/1.txt", "data/ignored.txt", "more/3.txt", "inside/real.txt", "linked/a.txt"):
        shared.write(name, name)
    shared.write("data/.quiltignore", "ignored.txt\n.quiltignore\n")
    (home / "empty").mkdir()
    (home / "inside/link.txt").symlink_to("real.txt")
    (home / "linked/out.txt").symlink_to(home / "more/3.txt")
    shared.put(f"{shared.source}/in/b 1%.txt", b"b")
    shared.put(f"{shared.source}/in/folder/", b"")
    params = {"home": str(home), "source": shared.source, "name": "sales"}

    with shared.dag("docs_entries", params=params) as dag:

        @task
        def write(number: int) -> dict[str, Any]:
            return entry(path=shared.write(f"mapped/{number}.txt", str(number)), meta={"n": number})

        @task
        def described() -> dict[str, Any]:
            return {"{{ raw }}.txt": str(home / "data/1.txt"), "b.json": ["{{ raw }}"]}

        pushed = QuiltPushOperator(task_id="given", package="sources/given", entries=given(shared))
        written = write.expand(number=[1, 2])
        entries = {"mapped/": written, "parts/{index}/": written, "list/": [written, str(home / "more")], "all.json": written}
        QuiltPushOperator(task_id="from_tasks", package="sources/tasks", entries=entries)
        lenient = {"entries": {"d/": str(home / "linked"), "e/": str(home / "empty")}, "package": "sources/lenient"}
        QuiltPushOperator(task_id="lenient", follow_symlinks="{{ true }}", allow_empty="true", **lenient)
        QuiltPushOperator.partial(task_id="each", package="sources/each").expand(entries=[described()])
        local = QuiltBuildOperator(
            task_id="local",
            package="sources/local",
            entries=str(home / "more"),
            registry=str(home / "registry"),
            quilt_conn_id=None,
        )
        uri = "{{ ti.xcom_pull('given')['quilt_uri'] }}"
        packages = {"part/": f"{uri}&path=described", "3.txt": "{{ ti.xcom_pull('local')['quilt_uri'] }}&path=3.txt"}
        [pushed, local] >> QuiltPushOperator(task_id="packages", package="sources/packages", entries=packages)
        for number, (broken, _) in enumerate(BROKEN.values()):
            QuiltPushOperator(task_id=f"broken_{number}", package="sources/broken", entries=broken, retries=1)
    return run_here(dag)


def test_every_source_is_pushed(run: "DagRun", shared: Shared) -> None:
    manifest = shared.read("sources/given")
    entries = {each.logical_key: each for each in manifest.entries}
    bodies = shared.contents("sources/given")

    texts = {key: bodies[key].decode() for key in bodies if not key.endswith(".parquet")}
    assert texts == {
        **dict.fromkeys(["path.txt", "url.txt", "pathlike.txt", "folder/1.txt", "list/1.txt", "described/1.txt"], "data/1.txt"),
        **dict.fromkeys(["storage.txt", "asset.txt", "object.txt", "prefix/b 1%.txt"], "b"),
        "list/3.txt": "more/3.txt",
        "linked/real.txt": "inside/real.txt",
        "linked/link.txt": "inside/real.txt",
        "bytes.bin": "\x00",
        "text.txt": "about sales",
        "value.json": '{"sales": [1, null]}',
        "number.json": "2.5",
        "frame.csv": "a\n1\n",
        "frame.json": '[{"a":1}]',
        "indexed.csv": "key,a\nx,1\n",
        "sales/a.txt": "",
    }
    assert entries["text.txt"].meta == {"user_meta": {"of": "sales"}}
    assert manifest.directories == {"described/": {"unit": "mm"}, "sales/": {"unit": "sales"}}


def test_outputs_of_tasks_are_data(run: "DagRun", shared: Shared) -> None:
    mapped = [entry(path=str(shared.path / f"mapped/{number}.txt"), meta={"n": number}) for number in (1, 2)]
    found = shared.contents("sources/tasks")

    assert json.loads(found.pop("all.json")) == mapped
    assert found == {
        "mapped/1.txt": b"1",
        "mapped/2.txt": b"2",
        "parts/0/1.txt": b"1",
        "parts/1/2.txt": b"2",
        "list/1.txt": b"1",
        "list/2.txt": b"2",
        "list/3.txt": b"more/3.txt",
    }
    assert shared.contents("sources/each") == {"{{ raw }}.txt": b"data/1.txt", "b.json": b'["{{ raw }}"]'}


def test_packages_are_sources(run: "DagRun", shared: Shared) -> None:
    [part] = [each for each in shared.read("sources/packages").entries if each.logical_key == "part/1.txt"]

    assert shared.contents("sources/packages") == {"part/1.txt": b"data/1.txt", "3.txt": b"more/3.txt"}
    assert part.physical_keys == shared.opened.entry("sources/given", "described/1.txt").physical_keys


def test_rules_fail_at_once(run: "DagRun", shared: Shared) -> None:
    failed = {f"broken_{number}" for number in range(len(BROKEN))}

    assert {name for (name, _), state in states(run).items() if state != "success"} == failed
    for number, (name, (_, message)) in enumerate(BROKEN.items()):
        [error] = shared.errors[f"broken_{number}"]
        assert message in error, name
    assert "sources/broken" not in set(map(str, shared.opened.packages()))
    assert shared.keys("sources/lenient") == ["d/a.txt", "d/out.txt"]
