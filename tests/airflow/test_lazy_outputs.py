"""The output of mapped tasks, with Airflow's ``.map()``, ``.zip()`` and ``.concat()``; and functions that are coroutines."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.definitions.xcom_arg import MapXComArg, ZipXComArg

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.decorators import quilt_build, quilt_push
from airflow_quilt.operators import QuiltPushOperator, entry
from airflow_quilt.operators._values import plain
from tests.airflow.support import StateStore, instance, result, run_here, states


def contents(registry: Registry, package: str) -> dict[str, bytes]:
    manifest = registry.read(PackageName.parse(package))
    return {entry.logical_key: registry.read_bytes(entry) for entry in manifest.entries}


def described(path: str) -> dict[str, Any]:
    return entry(path=path, meta={"name": Path(path).name})


def name_of(path: str) -> str:
    return Path(path).name


def test_mapped_outputs_are_sources(dag: DAG, connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    @task
    def write(name: str) -> str:
        (tmp_path / name).write_text(name)
        return str(tmp_path / name)

    @task.quilt_push(package="lazy/taskflow", registry=connected)
    def publish(paths: Sequence[str], pairs: Sequence[tuple[str, str]], joined: Sequence[str]) -> dict[str, Any]:
        return {"paths/": paths, "pairs/": pairs, "joined.json": joined, "count.json": [len(paths), len(pairs), len(joined)]}

    with dag:
        one, other = write.expand(name=["a", "b"]), write.override(task_id="write_more").expand(name=["c", "d", "e"])
        entries = {
            "plain/": one,
            "map/": one.map(described),
            "zip/": one.zip(other),
            "concat/": one.concat(other),
            "chained/": one.concat(other).map(described),
            "nested/": [one.map(described), other],
            "names.json": one.zip(other, fillvalue="none").map(lambda pair: [Path(each).name for each in pair]),
        }
        lazy = QuiltPushOperator(task_id="push", package="lazy/push", entries=entries, meta={"names": one.map(name_of)})
        QuiltPushOperator(
            task_id="update",
            package="lazy/push",
            mode="update",
            entries={"f.txt": b"f"},
            remove=one.map(lambda path: f"plain/{Path(path).name}"),
        ).set_upstream(lazy)
        publish(one.map(lambda path: path), one.zip(other), one.concat(other).map(name_of))

    run = run_here(dag)

    assert set(states(run).values()) == {"success"}
    hashes = [result(run, task_id)["top_hash"] for task_id in ("push", "update")]
    first = s3_registry.read(PackageName.parse("lazy/push"), hashes[0])
    assert first.user_meta == {"names": ["a", "b"]}
    found = {item.logical_key: item for item in first.entries}
    directories = {"plain": "ab", "map": "ab", "zip": "abcd", "concat": "abcde", "chained": "abcde", "nested": "abcde"}
    assert found.keys() == {"names.json"} | {f"{key}/{name}" for key, names in directories.items() for name in names}
    assert found["chained/e"].meta == {"user_meta": {"name": "e"}}
    assert s3_registry.read_bytes(found["names.json"]) == b'[["a", "c"], ["b", "d"], ["none", "e"]]'
    after = contents(s3_registry, "lazy/push")
    assert after.keys() == (found.keys() - {"plain/a", "plain/b"}) | {"f.txt"}
    assert contents(s3_registry, "lazy/taskflow") == {
        "count.json": b"[2, 2, 5]",
        "joined.json": b'["a", "b", "c", "d", "e"]',
        **{f"paths/{name}": name.encode() for name in "ab"},
        **{f"pairs/{name}": name.encode() for name in "abcd"},
    }


class Resolved:
    """Stands where the output of a task does."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def resolve(self, _context: object) -> list[Any]:
        return self._items


def test_lazy_values_become_lists() -> None:
    """Call the function of ``.map()`` with single items: Airflow's sequences have no slices."""
    one, other = Resolved(["a", "b"]), Resolved(["c"])

    assert plain({"x": [MapXComArg(one, [str.upper]).resolve({})]}) == {"x": [["A", "B"]]}  # type: ignore[arg-type]
    assert plain(ZipXComArg([one, other], fillvalue="-").resolve({})) == [["a", "c"], ["b", "-"]]  # type: ignore[list-item]


@pytest.mark.parametrize("broken", [False, True], ids=["compared", "not read"])
def test_lazy_argument_reaches_function(connected: str, broken: bool) -> None:  # noqa: FBT001
    """Compare the arguments of attempts before the function is called; one that cannot be read is for the function alone."""

    def fail(_: str) -> str:
        raise AttributeError("no such attribute")

    called = []

    @quilt_push(package="team/data", dedupe=False)
    def make(values: Sequence[str]) -> dict[str, Any]:
        called.append(len(values))
        return {"a.json": 2}

    store = StateStore()
    lazy = MapXComArg(Resolved(["a", "b"]), [fail if broken else str.upper])  # type: ignore[arg-type]
    for attempt in (1, 2):
        operator = make(None).operator
        operator.op_args = [lazy.resolve({})]
        operator.execute({**instance(attempt), "task_state_store": store})

    assert called == ([2, 2] if broken else [2])


def test_coroutines_publish(dag: DAG, connected: str, s3_registry: Registry) -> None:
    async def later(value: str) -> str:
        await asyncio.sleep(0)
        return value

    @task.quilt_push(package="async/{{ ti.map_index }}", logical_key="a.json")
    async def content(text: str, *, params: dict[str, str]) -> list[str]:
        return [await later(text), params["more"]]

    @task.quilt_build(package="async/build")
    async def build(published: list[dict[str, str]]) -> str:
        return await later(published[1]["quilt_uri"])

    with dag:
        build(content.expand(text=["one", "two"]))

    run = run_here(dag, run_conf={"more": "more"})

    assert set(states(run).values()) == {"success"}
    assert contents(s3_registry, "async/0") == {"a.json": b'["one", "more"]'}
    assert contents(s3_registry, "async/build") == {"a.json": b'["two", "more"]'}


def test_awaitables_publish(connected: str, s3_registry: Registry) -> None:
    """Wait for the coroutine that an ordinary function returns."""

    async def later() -> list[str]:
        return ["text"]

    @quilt_push(package="team/data", logical_key="a.json")
    def make() -> Any:
        return later()

    make().operator.execute({})

    assert contents(s3_registry, "team/data") == {"a.json": b'["text"]'}


def yields() -> Iterator[str]:
    yield "/data/a.txt"


async def yields_later() -> AsyncIterator[str]:
    yield "/data/a.txt"


@pytest.mark.parametrize("decorator", [quilt_push, quilt_build])
@pytest.mark.parametrize("function", [yields, yields_later], ids=["generator", "async generator"])
def test_generators_are_refused(decorator: Any, function: Any) -> None:
    with pytest.raises(InputError, match="yields.* is a generator: return the entries"):
        decorator(package="team/data")(function)
