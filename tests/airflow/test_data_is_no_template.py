"""Outputs of tasks, parameters and the configuration of a run are data: text in them that reads like a template stays."""

import json
from typing import Any

import pytest
from airflow.sdk import DAG, task, task_group

from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.decorators import quilt_push
from airflow_quilt.operators import QuiltPushOperator
from airflow_quilt.sensors import QuiltPackageSensor
from tests.airflow.support import run_data, states

LEAK = "{{ conn.vault.password }}"
KEY = f"d{LEAK}.txt"
BROKEN = "{% x"
NOTES = {KEY: [LEAK, {BROKEN: [LEAK]}], "text": BROKEN}
ENTRIES = {KEY: {"content": LEAK, "meta": NOTES}, BROKEN: {"content": BROKEN}, f"{KEY}.json": [LEAK, {KEY: [BROKEN]}]}
CONTENTS = {KEY: LEAK.encode(), BROKEN: BROKEN.encode(), f"{KEY}.json": json.dumps(ENTRIES[f"{KEY}.json"]).encode()}


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection with a secret."""
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", json.dumps({"conn_type": "generic", "password": "S3CR3T"}))


def published(registry: Registry) -> dict[str, tuple[dict[str, bytes], Any]]:
    """Return the files and the metadata of each package."""
    manifests = {str(name): registry.read(name) for name in registry.packages()}
    return {
        name: ({each.logical_key: registry.read_bytes(each) for each in manifest.entries}, manifest.user_meta)
        for name, manifest in manifests.items()
    }


def add_pushes(tree: Any, trees: Any, arguments: Any) -> None:
    """Add operators that take the outputs of tasks as arguments, and whose own templates are rendered."""

    def push(name: str, **more: Any) -> QuiltPushOperator:
        return QuiltPushOperator(task_id=f"push_{name}", package=f"team/{name}", **more)

    def mapped(name: str, **more: Any) -> Any:
        return QuiltPushOperator.partial(task_id=f"push_{name}", package=f"team/{name}", **more)

    push("nested", entries=tree, meta={"list": [tree], "{{ 'dee' + 'per' }}": {"in": [tree]}})
    push("params", params={"key": KEY}, entries={"{{ params.key }}": {"content": "{{ dag_run.conf['text'] }}"}})
    mapped("expand").expand(entries=trees)
    mapped("zipped", entries=tree).expand(meta=trees.zip(trees).map(lambda pair: pair[0]))
    mapped("keywords_map").expand_kwargs(trees.map(lambda each: {"entries": each, "message": LEAK}))
    own = {"package": "team/{{ 'o' + 'wn' }}", "entries": tree, "meta": {"{{ 'k' + 'ey' }}": "{{ 'val' + 'ue' }}"}}
    QuiltPushOperator.partial(task_id="each").expand_kwargs([own, arguments])

    @task_group
    def group(files: Any) -> None:
        push("in_a_group", entries=files)

    group.expand(files=trees)


def add_decorated(tree: Any, trees: Any) -> None:
    """Add decorated functions that publish their arguments."""

    @quilt_push(package="team/decorated_expand", multiple_outputs=False)
    def decorated_expand(files: Any, other: Any) -> Any:
        assert other == files
        return files

    @quilt_push(package="team/decorated_keywords", multiple_outputs=False)
    def decorated_keywords(**given: Any) -> Any:
        assert given["notes"] == NOTES
        return {key: source for key, source in given.items() if key in ENTRIES}

    decorated_expand.partial(other=tree).expand(files=trees)
    decorated_keywords.expand_kwargs(trees.map(lambda each: {**each, "notes": NOTES}))


@pytest.mark.filterwarnings("ignore:Using Connection.get_connection_from_secrets:DeprecationWarning")  # Airflow 3.0
@pytest.mark.usefixtures("vault", "connected")
def test_what_tasks_return_is_data(dag: DAG, s3_registry: Registry) -> None:
    """Publish it as it is, however it comes: the secret of a connection stands in no key, no metadata and no content."""
    with dag:

        @task
        def one() -> Any:
            return ENTRIES

        @task
        def several() -> Any:
            return [ENTRIES]

        @task
        def keywords() -> Any:
            return {"package": "team/keywords", "entries": ENTRIES, "meta": NOTES, "message": LEAK}

        tree, trees = one(), several()
        add_pushes(tree, trees, keywords())
        add_decorated(tree, trees)
        waits = QuiltPackageSensor.partial(task_id="sensor", package="team/nested", timeout=0.1, poke_interval=0.1)
        dag.task_dict["push_nested"] >> waits.expand_kwargs(trees.map(lambda _: {"path": KEY}))
    run = run_data(dag, run_conf={"text": LEAK})

    assert set(states(run).values()) == {"success"}, states(run)
    found = published(s3_registry)
    assert len(found) == 10
    assert found.pop("team/params")[0] == {KEY: LEAK.encode()}
    assert {name: files for name, (files, _) in found.items()} == dict.fromkeys(found, CONTENTS)
    assert found["team/own"][1] == {"key": "value"}
    assert found["team/nested"][1] == {"list": [ENTRIES], "deeper": {"in": [ENTRIES]}}
    assert found["team/zipped"][1] == ENTRIES
    assert found["team/keywords"][1] == NOTES
