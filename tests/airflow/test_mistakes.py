"""Mistakes that hold no template: they fail the import of the DAG, with one sentence that names the task, the argument and the cure."""

import datetime as dt
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.sdk import DAG, Asset, ObjectStoragePath, task

from airflow_quilt.core.errors import InputError
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
from airflow_quilt.operators._construction import parameters
from airflow_quilt.operators.shards import QuiltPlanPushOperator
from airflow_quilt.sensors import QuiltPackageSensor
from airflow_quilt.task_groups import quilt_push_group
from tests.airflow.support import Later, MappedOutput, dag_bag, needs_airflow

RIGHT: dict[Any, dict[str, Any]] = {
    QuiltPushOperator: {"entries": {"a.txt": "/data/a.txt"}},
    QuiltBuildOperator: {"entries": "s3://bucket/raw/"},
    QuiltInstallOperator: {"dest": "/data"},
    QuiltVerifyOperator: {},
    QuiltDeleteOperator: {},
    QuiltRollbackOperator: {"revision": "abcdef"},
    QuiltPackageSensor: {},
    QuiltPlanPushOperator: {"entries": "/data/"},
}
"""For each operator the arguments that it needs beside a package."""
WRONG: dict[str, Any] = {
    **dict.fromkeys(("mode", "meta_mode", "copy", "conflict", "hash_type", "revision", "newer_than"), "replase"),
    **dict.fromkeys(("unversioned", "follow_symlinks", "dedupe", "allow_empty", "provenance", "null_meta"), "maybe"),
    **dict.fromkeys(("return_paths", "extra_files_ok", "read_all", "missing_ok"), "maybe"),
    **dict.fromkeys(("max_concurrency", "shards", "shard_bytes", "shard_entries"), 0),
    **dict.fromkeys(("dest", "src", "staging"), "https://bucket/prefix"),
    **{name: ["x"] for name in ("quilt_conn_id", "workflow", "message")},
    "package": "penguins",
    "registry": "bucket",
    "entries": {"/a"},
    "meta": [1],
    "remove": "a.txt",
    "partition_key": " ",
    "path": "../a",
}
"""For each argument a value that can never work."""


def fault(kind: Any, **arguments: Any) -> str:
    """Return the sentence that a task with a mistake is answered with."""
    with pytest.raises(InputError) as raised:
        kind(**{"task_id": "t", "package": "team/data", **RIGHT.get(kind, {}), **arguments})
    text = str(raised.value)
    assert text.startswith("task 't': ")
    return text.removeprefix("task 't': ")


@pytest.mark.parametrize("kind", RIGHT)
def test_every_argument_is_checked(kind: Any) -> None:
    """A value that cannot be right is answered with the name of its argument, in one line; templates and outputs wait."""
    kind(task_id="t", package="team/data", **RIGHT[kind])
    for name in kind.template_fields:
        assert re.match(f"{name}|{name.replace('_', ' ')}", text := fault(kind, **{name: WRONG[name]})), name
        assert "\n" not in text
        kind(**{"task_id": "t", "package": "team/data", **RIGHT[kind], name: "{{ params.it }}"})
        kind(**{"task_id": "t", "package": "team/data", **RIGHT[kind], name: Later()})
        if parameters(kind)[name].default is not None and name not in {"workflow", "quilt_conn_id"}:
            assert fault(kind, **{name: None}).startswith((name, name.replace("_", " ")))


SENTENCES: list[tuple[Any, dict[str, Any], str]] = [
    (QuiltPushOperator, {"mode": "updat"}, "mode 'updat': expected 'replace' or 'update'; did you mean 'update'?"),
    (
        QuiltPushOperator,
        {"default_args": {"mode": "reschedule"}},
        "mode 'reschedule' is a sensor's: give this task its own, 'replace' or",
    ),
    (QuiltPushOperator, {"copy": "if_outside"}, "did you mean 'if-outside'?"),
    (QuiltPushOperator, {"conflict": "rebaze"}, "did you mean 'rebase'?"),
    (QuiltPushOperator, {"hash_type": "crc64nvme"}, "did you mean 'CRC64NVME'?"),
    (QuiltPushOperator, {"package": "my team/data"}, ", such as 'my-team/data'"),
    (QuiltPushOperator, {"package": "quilt+s3://b#package=a/b@12"}, ", such as 'a/b'"),
    (QuiltPushOperator, {"package": "s3://bucket/team/data"}, ", such as 'team/data'"),
    (QuiltPushOperator, {"package": "team/*"}, "'*' stands for several packages only in assets"),
    (QuiltPackageSensor, {"package": "team/*"}, "name one package"),
    (QuiltPushOperator, {"package": 5}, "package name '5'"),
    (QuiltInstallOperator, {"package": "quilt+s3://b#pkg=a/b"}, "unknown part 'pkg'"),
    (QuiltInstallOperator, {"package": "quilt+s3://b#package=a/b", "registry": "s3://c"}, "registry 's3://c': leave it out"),
    (QuiltPushOperator, {"registry": "s3://bucket/prefix"}, "a registry is a whole bucket, write 's3://bucket'"),
    (QuiltPushOperator, {"registry": "bucket"}, "a bucket is written 's3://bucket'"),
    (QuiltPushOperator, {"registry": "s3a://bucket/x"}, "did you mean 's3://bucket'?"),
    (QuiltPushOperator, {"registry": "/data/registry"}, "use build for a local one"),
    (QuiltPushOperator, {"registry": "s3://bucket", "dest": "s3://other/x"}, "give a prefix in the registry's bucket"),
    (QuiltInstallOperator, {"path": "/"}, "path '/': leave it out for the whole package"),
    (
        QuiltPushOperator,
        {"entries": {"/data/a": "/data/a"}},
        "'/data/a': no part may be empty, '.' or '..'; begin it without '/'",
    ),
    (QuiltVerifyOperator, {"revision": "latst"}, "did you mean 'latest'?"),
    (QuiltDeleteOperator, {"revision": "12AB34"}, ", such as '12ab34'"),
    (QuiltPackageSensor, {"newer_than": "yesterday"}, "or a time, such as"),
    (QuiltPushOperator, {"remove": "a.txt", "mode": "update"}, "write ['a.txt']"),
    (QuiltPushOperator, {"revision": "abcdef"}, "revision and remove are for mode='update'"),
    (QuiltPushOperator, {"entries": None}, "entries is missing: give logical keys and their sources"),
    (QuiltPushOperator, {"entries": {}}, "entries {} is empty"),
    (QuiltPushOperator, {"entries": {"": "/data/a"}}, "entry '': a logical key is empty"),
    (QuiltPushOperator, {"entries": {"d/": ["{{ ds }}", Later(), None]}}, "entry 'd/': give a source; it is None"),
    (QuiltPushOperator, {"entries": {"{{ ds }}": None}}, "give a source; it is None"),
    (QuiltPushOperator, {"entries": {"a.txt": {"/data/a"}}}, "or a list, which has an order"),
    (
        QuiltPushOperator,
        {"entries": {"a": {"path": "/a", "metadata": {}}}},
        "a dict of path or content, and meta, without 'metadata'",
    ),
    (
        QuiltPushOperator,
        {"entries": {"a": {"path": None}}},
        "of type NoneType: a task may have returned nothing",
    ),
    (QuiltPushOperator, {"entries": {"a": "https://example.com/a"}}, "download it first, to a file or an object"),
    (QuiltBuildOperator, {"entries": {"a.txt": b"a"}}, "entry 'a.txt': write it to a file or object first"),
    (QuiltPushOperator, {"entries": Asset("name only")}, "it has no URI"),
    (QuiltPushOperator, {"meta": {"day": dt.date(2026, 1, 1)}}, "meta.day: date is not JSON"),
    (QuiltPushOperator, {"mesage": "x"}, "there is no argument 'mesage'; did you mean 'message'?"),
    (QuiltPushOperator, {"folder": "x"}, "the arguments are package, registry"),
    (QuiltPlanPushOperator, {"conflict": "rebase", "mode": "update"}, "only a push or build by one task"),
]


def test_sentences_name_the_cure() -> None:
    for kind, arguments, words in SENTENCES:
        assert words in fault(kind, **arguments), words
    several = fault(QuiltPushOperator, package="penguins", mode="updat", dedupe="maybe")
    assert [line.split()[0] for line in several.splitlines()] == ["package", "mode", "dedupe"]
    with pytest.raises(InputError, match=r"^task 't': there is no argument 'pakage'; did you mean 'package'\?$"):
        QuiltPushOperator(task_id="t", pakage="team/data", entries="/data/")
    with pytest.raises(InputError, match="^task 't': dest is missing: give a value$"):
        QuiltInstallOperator(task_id="t", package="team/data")  # type: ignore[call-arg]


def test_defaults_of_a_dag_are_checked() -> None:
    with DAG("defaults", schedule=None, default_args={"registry": "bucket", "mode": "updat", "unknown": 1}):
        assert {line.split()[0] for line in fault(QuiltPushOperator).splitlines()} == {"registry", "mode"}
        with pytest.raises(InputError, match="registry 'bucket'"):
            QuiltPushOperator.partial(task_id="m", mode="update").expand_kwargs([{"package": "team/data"}])


def test_mapped_tasks_are_checked() -> None:
    """Literal items are checked one by one, and the arguments of all instances once; outputs of tasks wait."""
    build = QuiltBuildOperator.partial
    same: dict[str, Any] = {"task_id": "m", "entries": "/data/"}

    def output() -> Any:
        return task(packages)()

    for make, words in (
        (lambda: build(**same, mode="updat").expand(package=output()), "mode 'updat'"),
        (lambda: build(**same).expand(package=["team/a", "b"]), "package name 'b'"),
        (lambda: build(**same).expand(package=["team/a", None]), "package is None for an instance of the task"),
        (lambda: build(**same).expand(message=["a"]), "package is missing"),
        (lambda: build(task_id="m", package="a/b").expand(message=["a"]), "entries is missing"),
        (lambda: build(**same).expand(packages=["a/b"]), "did you mean 'package'?"),
        (lambda: build(**same, packag="a/b"), "did you mean 'package'?"),
        (lambda: build(**same).expand_kwargs([{"package": "a/b"}, {"package": "b"}]), "package name 'b'"),
        (lambda: build(**same).expand_kwargs([{"package": "a/b", "mod": "update"}]), "did you mean 'mode'?"),
        (lambda: build(**same, mode="updat").expand_kwargs(output()), "mode 'updat'"),
        (lambda: decorated(package="b").expand(path=["x"]), "package name 'b'"),
        (lambda: decorated(mesage="b").expand(path=["x"]), "did you mean 'message'?"),
        (lambda: decorated(logical_key="../b")("x"), "logical key '../b'"),
        (lambda: quilt_push_group(package="a/b", entries="/data/", shard_byte=1), "did you mean 'shard_bytes'?"),  # type: ignore[call-arg]
        (lambda: quilt_push_group(package="a/b", entries="/data/", transfer={"retires": 1}), "did you mean 'retries'?"),
    ):
        with DAG("mapped", schedule=None), pytest.raises(InputError) as raised:
            make()  # type: ignore[no-untyped-call]
        assert re.match("task '[a-z.]+': ", str(raised.value))
        assert words in str(raised.value)
    with DAG("known_later", schedule=None):
        build(**same).expand(package=["team/a", "{{ params.x }}"])
        build(**{**same, "task_id": "output"}).expand(package=output())
        build(**{**same, "task_id": "keywords"}).expand_kwargs([{"package": "team/a", "workflow": None}, output()])
        decorated().expand(path=["x"])


def packages() -> list[Any]:
    return []


def decorated(**arguments: Any) -> Any:
    @quilt_push(**{"package": "team/data", **arguments})
    def make(path: str) -> str:
        return path

    return make


def test_known_later_is_not_refused() -> None:
    """A text that the DAG's own Jinja renders, a value that is read when the task runs, and a subclass that completes itself."""
    custom = {"variable_start_string": "<<", "variable_end_string": ">>", "line_statement_prefix": "%%"}
    with DAG("custom", schedule=None, jinja_environment_kwargs=custom):
        QuiltBuildOperator(task_id="a", package="team/<< ds >>", entries="/data/")
        QuiltBuildOperator(task_id="b", package="%% include 'name'", entries="/data/")
    with DAG("native", schedule=None, render_template_as_native_obj=True):
        QuiltBuildOperator(task_id="a", package="team/a", remove="['a']", mode="update", entries={"d/": "['/a', '/b']"})  # type: ignore[arg-type]
    paths: Any = {
        "a": ObjectStoragePath("s3://b/{{ ds }}/a"),
        "b": Path("/{{ ds }}"),
        "c.csv": pd.DataFrame(),
        "d/": MappedOutput([]),
    }
    QuiltPushOperator(task_id="a", package="team/a\n", entries=paths, dest=lambda key, _: key, copy="{{ x }}")
    QuiltPushOperator(task_id="b", package=lambda **_: "team/b", entries=entry(path=Later(), meta=Later()))  # type: ignore[arg-type]

    class Own(QuiltPushOperator):
        template_ext = (".name",)

        def __init__(self, *, table: str, **kwargs: Any) -> None:
            self.more = kwargs.pop("more", None)
            super().__init__(package=table, **kwargs)
            if table == "later":
                self.package = "team/later"

    assert Own(task_id="own", table="later", entries="/data/", more=1).more == 1  # type: ignore[call-arg]
    Own(task_id="file", table="package.name", entries="/data/")

    class Completed(QuiltPushOperator):
        def execute(self, context: Any) -> Any:
            self.package = "team/late"
            return super().execute(context)

    Completed(task_id="completed", package="")


@needs_airflow("3.1")
def test_import_error_is_a_sentence(database: None, tmp_path: Path) -> None:
    """Airflow's pages show the line of the DAG and the sentence."""
    file = tmp_path / "broken.py"
    file.write_text(
        "from airflow.sdk import DAG\nfrom airflow_quilt.operators import QuiltPushOperator\n"
        "with DAG('broken', schedule=None):\n    QuiltPushOperator(task_id='push', package='a/b', entries='/d/', mode='updat')\n",
        encoding="utf-8",
    )
    [text] = dag_bag().DagBag(str(tmp_path)).import_errors.values()

    assert text.splitlines()[-1] == (
        "airflow_quilt.core.errors.InputError: task 'push': mode 'updat': expected 'replace' or 'update'; did you mean 'update'?"
    )
    assert "QuiltPushOperator(task_id='push'" in text
    assert len(text.splitlines()) < 10
