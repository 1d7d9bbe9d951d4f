"""The features of docs/operators.md in a run of a DAG: arguments from templates, from other tasks, and mapped."""

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from airflow.sdk import chain, task

from airflow_quilt.core import Draft, push
from airflow_quilt.operators import (
    QuiltBuildOperator,
    QuiltDeleteOperator,
    QuiltInstallOperator,
    QuiltPushOperator,
    QuiltRollbackOperator,
    QuiltVerifyOperator,
)
from tests.airflow.support import OTHER_HASH, Shared, result, run_here, states
from tests.test_docs import ROOT, blocks

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

OPERATORS = [
    QuiltPushOperator,
    QuiltBuildOperator,
    QuiltInstallOperator,
    QuiltVerifyOperator,
    QuiltDeleteOperator,
    QuiltRollbackOperator,
]
ELSEWHERE = {"partition_key"}
"""Arguments that other tests give in a run of a DAG: what newer Airflows have alone."""
CONFIG = """
version: "1"
is_workflow_required: false
workflows: {alpha: {name: Alpha, is_message_required: true}}
"""


class Ran:
    """A finished run, and the names of the arguments that its tasks give to each operator."""

    def __init__(self, place: Shared) -> None:
        self.place = place
        self.given: dict[type, set[str]] = {kind: set() for kind in OPERATORS}
        self.run: DagRun

    def task(self, kind: type, task_id: str, **arguments: Any) -> Any:
        """Make a task of the run."""
        self.given[kind] |= arguments.keys() & set(kind.template_fields)
        return kind(task_id=task_id, **arguments)

    def __getitem__(self, task_id: str) -> Any:
        return result(self.run, task_id)

    def errors(self, task_id: str) -> list[str]:
        """Return the errors of a task that failed for good, one for each attempt."""
        assert states(self.run)[task_id, -1] == "failed"
        return self.place.errors[task_id]


def of(task_id: str, part: str = "") -> str:
    """Return a template of the result of a task, or of a part of it."""
    return f"{{{{ ti.xcom_pull('{task_id}'){part} }}}}"


def example(words: str) -> str:
    """Return the document's code that holds these words."""
    [found] = [block for block in blocks(ROOT / "docs/operators.md") if words in block]
    return found


def pushes(ran: Ran) -> None:
    """Give the arguments of a push as the outputs of a task, as templates, and mapped."""
    place = ran.place
    values = {
        "package": "docs/given",
        "entries": {"{{ raw }}.txt": place.write("a.txt", "a"), "d/": [f"{place.source}/in/"]},
        "meta": {"by": "{{ raw }}", "n": [1]},
        "meta_mode": "replace",
        "message": "given",
        "registry": place.registry,
        "mode": "replace",
        "workflow": "alpha",
        "hash_type": OTHER_HASH,
        "unversioned": False,
        "follow_symlinks": "true",
        "dest": f"{place.registry}/given",
        "copy": "all",
        "conflict": "overwrite",
        "dedupe": "false",
        "allow_empty": True,
        "provenance": True,
        "null_meta": False,
        "quilt_conn_id": "quilt_default",
        "max_concurrency": 2,
    }

    @task(multiple_outputs=True)
    def given() -> dict[str, Any]:
        return values

    @task
    def rows() -> list[dict[str, Any]]:
        return [{"package": "docs/row", "entries": {"a.json": ["a"]}, "message": "mapped"}]

    output = given()
    ran.task(QuiltPushOperator, "from_task", **{name: output[name] for name in values})
    templates = {name: of("given", f"['{name}']") for name in values} | {
        "package": "docs/{{ params.name }}",
        "entries": {"{{ params.name }}/a.txt": of("given", "['entries'].values() | first")},
        "meta": {"{{ params.name }}": ["{{ run_id }}"]},
        "provenance": "{{ false }}",
    }
    output >> ran.task(QuiltPushOperator, "from_template", **templates)
    QuiltPushOperator.partial(task_id="mapped", meta={"row": "{{ ti.map_index }}"}).expand_kwargs(rows())


def updates(ran: Ran) -> Any:
    """Publish a package, update it by the document's example and by each argument, and promote it; return the last task."""

    @task
    def gone() -> list[str]:
        return ["b.txt"]

    @task
    def summarise() -> dict[str, float]:
        return {"mean": 2.5}

    package = {"package": "penguins/weekly"}
    entries = {"a.txt": b"a", "b.txt": b"b", "plots/p.png": b"p"}
    base = ran.task(QuiltPushOperator, "base", entries=entries, meta={"by": "lab"}, message="first", **package)
    names = {"QuiltPushOperator": QuiltPushOperator, "summarise": summarise}
    correct, approve = (
        eval(compile(example(words), "docs/operators.md", "eval"), names)  # noqa: S307
        for words in ("summarise()", "approved_by")
    )
    exec(compile(example("def largest"), "docs/operators.md", "exec"), names)  # noqa: S102
    for helper, arguments in {"largest": (), "summary": (), "changes": (of("base", "['top_hash']"),)}.items():
        approve >> names[helper]("penguins/weekly", *arguments)
    promoted = ran.task(QuiltPushOperator, "promoted", package="docs/promoted", entries=of("approve", "['quilt_uri']"))
    old = {"revision": of("base", "['top_hash'][:8]"), "remove": gone()}
    revised = ran.task(QuiltPushOperator, "revised", mode="update", **old, **package)
    chain(base, correct, approve, promoted, revised)
    return revised


def copies(ran: Ran) -> None:
    """Push objects of both buckets by the rules that differ, and build them."""
    place = ran.place
    here, there = place.put(f"{place.registry}/raw/here.txt", b"here"), place.put(f"{place.source}/in/there.txt", b"there")
    for rule in ("if-outside", "local-only", "none"):
        entries = {"here.txt": here, "there.txt": there, **({} if rule == "none" else {"content.txt": rule.encode()})}
        ran.task(QuiltPushOperator, rule, package=f"docs/{rule}", entries=entries, copy=rule)
    build = {"package": "docs/built", "entries": {"here.txt": here, "d/": f"{place.source}/in/"}, "unversioned": "true"}
    more = {"registry": place.registry, "message": "{{ params.name }}", "meta": {"a": 1}, "hash_type": OTHER_HASH}
    even_more = {"workflow": None, "follow_symlinks": False, "conflict": "fail", "dedupe": "True", "allow_empty": "false"}
    built = ran.task(QuiltBuildOperator, "built", **build, **more, **even_more, provenance=False, max_concurrency="2")
    update = {"package": "docs/built", "mode": "update", "revision": of("built", "['top_hash']"), "remove": ["here.txt"]}
    built >> ran.task(QuiltBuildOperator, "built_again", meta={"b": 2}, meta_mode="{{ 'merge' }}", **update)
    local = {"registry": str(place.path / "registry"), "quilt_conn_id": None, "entries": {"a.txt": place.write("a.txt", "a")}}
    ran.task(QuiltBuildOperator, "built_here", package="docs/local", **local)
    ran.task(QuiltBuildOperator, "null", package="docs/null", entries={"here.txt": here}, null_meta="{{ true }}")


def reads(ran: Ran) -> list[Any]:
    """Install and verify in each way, a directory that differs too; return the tasks that read the package."""
    place, home = ran.place, ran.place.path
    package, old = {"package": "penguins/weekly"}, {"package": "penguins/weekly", "revision": of("base", "['top_hash'][:6]")}
    common = {"registry": place.registry, "quilt_conn_id": "{{ 'quilt_default' }}", "max_concurrency": "2"}

    @task
    def add(installed: dict[str, Any]) -> str:
        assert installed["files"] == len(installed["paths"])
        return str(Path(place.write("copy/more.txt")).parent)

    paths = {"dest": home / "copy", "return_paths": "true"}
    installed = ran.task(QuiltInstallOperator, "installed", **paths, **package, **common)
    added = add(installed.output)
    checks = {"src": added, "read_all": "true", "extra_files_ok": "{{ true }}"}
    intact = ran.task(QuiltVerifyOperator, "intact", **checks, **package, **common)
    ran.task(QuiltVerifyOperator, "differs", src=added, retries=2, **package)
    part = {"path": "{{ 'plots' }}/"}
    copied = ran.task(QuiltInstallOperator, "copied", dest=f"{place.source}/copy/", **part, **old)
    by_uri = QuiltInstallOperator.partial(task_id="by_uri", package=of("base", "['quilt_uri']"), dest=f"{home}/{{{{ run_id }}}}")
    itself = ran.task(QuiltVerifyOperator, "itself", path="plots/", **old)
    return [intact, copied, by_uri.expand(path=["plots/p.png"]), itself]


def moves(ran: Ran) -> Any:
    """Roll back, and delete a revision and a package; return the first task."""
    common = {"registry": ran.place.registry, "quilt_conn_id": "quilt_default", "max_concurrency": 4}
    package, revision = {"package": "penguins/{{ 'weekly' }}"}, of("back", "['previous']")
    back = ran.task(QuiltRollbackOperator, "back", revision=of("correct", "['top_hash']"), **package, **common)
    one = ran.task(QuiltDeleteOperator, "one", revision=revision, **package, **common)
    again = ran.task(QuiltDeleteOperator, "again", revision=revision, missing_ok="{{ params.name == 'templated' }}", **package)
    ran.task(QuiltDeleteOperator, "none_such", package="docs/none-such", retries=2)
    chain(back, one, again, ran.task(QuiltDeleteOperator, "every", package="docs/promoted"))
    return back


def failures(ran: Ran) -> None:
    """Fail for good at once, and for a conflict until the next attempt."""
    ran.task(QuiltPushOperator, "no_message", package="docs/failed", entries={"a.txt": b"a"}, workflow="alpha", retries=2)
    theirs: list[str] = []

    def interfere(logical_key: str, _info: object) -> str:
        """Publish another revision while the first attempt is under way."""
        if not theirs:
            theirs.append(push(ran.place.opened, Draft(package="docs/crowded", entries={"theirs.json": 1})).top_hash)
        return f"{ran.place.registry}/crowded/{logical_key}"

    ran.task(QuiltPushOperator, "crowded", package="docs/crowded", entries={"a.txt": b"a"}, dest=interfere, retries=1)


@pytest.fixture(scope="module")
def ran(shared: Shared) -> Ran:
    """The run of all tasks above."""
    ran = Ran(shared)
    shared.put(f"{shared.registry}/.quilt/workflows/config.yml", CONFIG.encode())
    with shared.dag("docs_operators", params={"name": "templated", "reviewer": "Ada"}) as dag:
        copies(ran)
        pushes(ran)
        failures(ran)
        last, readers = updates(ran), reads(ran)
        chain(last, [dag.get_task("installed"), *readers[1:]])
        chain(readers, moves(ran))
    ran.run = run_here(dag)
    return ran


def test_every_argument_is_in_the_run(ran: Ran) -> None:
    assert ran.given == {kind: set(kind.template_fields) - ELSEWHERE for kind in OPERATORS}


def test_only_expected_tasks_fail(ran: Ran) -> None:
    expected = {"differs", "none_such", "no_message"}

    assert {name for (name, _), state in states(ran.run).items() if state != "success"} == expected
    assert {name: len(ran.errors(name)) for name in expected} == dict.fromkeys(expected, 1)


def test_push_takes_arguments(ran: Ran) -> None:
    manifest, published = ran.place.read("docs/given"), ran["from_task"]
    about = dict(manifest.user_meta)
    assert about.pop("airflow")["task_id"] == "from_task"
    assert (about, manifest.header["message"]) == ({"by": "{{ raw }}", "n": [1]}, "given")
    assert manifest.header["workflow"]["id"] == "alpha"
    found = list(manifest.entries)
    assert {each.logical_key: unquote(each.physical_keys[0].partition("?")[0]) for each in found} == {
        key: f"{ran.place.registry}/given/{key}" for key in ("{{ raw }}.txt", "d/there.txt")
    }
    assert {each.hash.type for each in found} == {OTHER_HASH}
    assert (published["entries"], published["bytes"], published["bytes_copied"], published["created"]) == (2, 6, 6, True)

    assert ran.place.read("docs/templated").user_meta == {"templated": [ran.run.run_id]}
    assert ran.place.keys("docs/templated") == ["templated/a.txt"]
    assert ran.place.read("docs/row").user_meta == {"row": "0"}
    assert ran.place.contents("docs/row") == {"a.json": b'["a"]'}


def test_updates_keep_the_rest(ran: Ran) -> None:
    correct, approve, revised = (ran[name] for name in ("correct", "approve", "revised"))

    for made in (correct, approve):
        assert ran.place.keys("penguins/weekly", made["top_hash"]) == ["a.txt", "b.txt", "summary.json"]
    assert ran.place.read("penguins/weekly", correct["top_hash"]).user_meta == {"by": "lab"}
    assert ran.place.read("penguins/weekly", approve["top_hash"]).user_meta == {"by": "lab", "approved_by": "Ada"}
    assert (revised["entries"], revised["previous"]) == (2, approve["top_hash"])
    assert ran["promoted"]["entries"] == approve["entries"]


def test_registry_helps_any_task(ran: Ran) -> None:
    assert ran["largest"] == "summary.json"
    assert ran["summary"] == {"mean": 2.5}
    assert sorted(ran["changes"]) == ["added summary.json", "deleted plots/p.png"]


def test_copy_rules_place_objects(ran: Ran) -> None:
    here, there = f"{ran.place.registry}/raw/here.txt", f"{ran.place.source}/in/there.txt"

    def places(rule: str) -> dict[str, str]:
        found = ran.place.read(f"docs/{rule}").entries
        return {each.logical_key: each.physical_keys[0].partition("?")[0] for each in found}

    def landed(rule: str, *keys: str) -> dict[str, str]:
        return {key: f"{ran.place.registry}/docs/{rule}/{key}" for key in keys}

    assert places("if-outside") == {"here.txt": here, **landed("if-outside", "there.txt", "content.txt")}
    assert places("local-only") == {"here.txt": here, "there.txt": there, **landed("local-only", "content.txt")}
    assert places("none") == {"here.txt": here, "there.txt": there}
    assert [ran[rule]["bytes_copied"] for rule in ("if-outside", "local-only", "none")] == [15, 10, 0]


def test_builds_name_files_in_place(ran: Ran) -> None:
    built = ran.place.read("docs/built", ran["built"]["top_hash"])

    assert {each.logical_key: each.physical_keys for each in built.entries} == {
        "d/there.txt": (f"{ran.place.source}/in/there.txt",),
        "here.txt": (f"{ran.place.registry}/raw/here.txt",),
    }
    assert (built.header["message"], built.header["workflow"]["id"], built.user_meta) == ("templated", None, {"a": 1})
    assert ran.place.keys("docs/built") == ["d/there.txt"]
    assert ran.place.read("docs/built").user_meta == {"a": 1, "b": 2}
    assert ran.place.read("docs/null").header["user_meta"] is None
    local = (ran.place.path / "registry").as_uri()
    assert ran["built_here"]["quilt_uri"] == f"quilt+{local}#package=docs/local@{ran['built_here']['top_hash']}"


def test_install_chooses_revisions(ran: Ran) -> None:
    home, base = ran.place.path, ran["base"]["top_hash"]
    [by_uri] = [result(ran.run, "by_uri", index) for name, index in states(ran.run) if name == "by_uri"]

    assert ran["installed"]["paths"] == [str(home / "copy" / key) for key in ("a.txt", "plots/p.png")]
    assert (ran["copied"]["top_hash"], ran["copied"]["files"], ran["copied"]["paths"]) == (base, 1, None)
    assert ran.place.client.get_object(Bucket=ran.place.source[5:], Key="copy/p.png")["Body"].read() == b"p"
    assert (by_uri["top_hash"], by_uri["files"]) == (base, 1)
    assert (home / ran.run.run_id / "p.png").read_bytes() == b"p"


def test_verify_fails_at_once(ran: Ran) -> None:
    assert [(ran[name]["entries"], ran[name]["extra"]) for name in ("intact", "itself")] == [(2, 1), (1, 0)]
    [error] = ran.errors("differs")
    assert error.startswith("VerificationError: ")
    assert error.endswith("- extra: more.txt")


def test_pointers_move(ran: Ran) -> None:
    back, correct = ran["back"], ran["correct"]["top_hash"]

    assert (back["top_hash"], back["previous"]) == (correct, ran["revised"]["top_hash"])
    assert [ran[name]["revisions_deleted"] for name in ("one", "again", "every")] == [1, 0, 1]
    assert ran.place.opened.resolve("penguins/weekly") == correct
    [error] = ran.errors("none_such")
    assert error.startswith("PackageNotFoundError: ")


def test_errors_decide_on_retries(ran: Ran) -> None:
    [workflow], [conflict] = ran.errors("no_message"), ran.place.errors["crowded"]

    assert workflow.endswith("the workflow 'alpha' of the registry:\n- a message is required")
    assert "docs/crowded" in conflict
    assert ran["crowded"]["created"] is True
    assert len(list(ran.place.opened.revisions("docs/crowded"))) == 2
