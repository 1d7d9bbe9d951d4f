"""The view of a run in Airflow's pages and in XCom: single values, rendered arguments and labels of mapped instances."""

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.definitions.xcom_arg import MapXComArg

from airflow_quilt.decorators import quilt_build
from airflow_quilt.operators import QuiltBuildOperator
from airflow_quilt.operators._shown import ShownSequence
from tests.airflow.support import MappedOutput, result, run_data, states

# Airflow 3.0 warns of what it itself calls to read a connection.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FILES = 3


class Ran:
    """The run that the tests share."""

    def __init__(self, dag: DAG) -> None:
        self.run = run_data(dag)
        self.id = str(self.run.run_id)

    def keys(self, task_id: str) -> set[str]:
        """Return the keys of the rows of XCom that a task wrote, without those of links."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            found = session.scalars(select(XComModel.key).where(XComModel.run_id == self.id, XComModel.task_id == task_id))
            return {key for key in found if not key.startswith("_link")}

    def rendered(self, task_id: str) -> dict[str, Any]:
        """Return the arguments of a task as the page Rendered Templates shows them."""
        from airflow.models.renderedtifields import RenderedTaskInstanceFields as Fields
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            found = session.scalars(select(Fields.rendered_fields).where(Fields.run_id == self.id, Fields.task_id == task_id))
            return dict(found.one())

    def labels(self, task_id: str) -> list[str | None]:
        """Return the labels of the instances of a mapped task."""
        instances = [ti for ti in self.run.get_task_instances() if ti.task_id == task_id]
        return [ti.rendered_map_index for ti in sorted(instances, key=lambda ti: ti.map_index)]


@pytest.fixture(scope="module")
def ran(database: None, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    path = tmp_path_factory.mktemp("shown")
    same: dict[str, Any] = {"registry": str(path / "registry"), "quilt_conn_id": None}
    everything: dict[str, Any] = {"entries": f"{path}/files/0.txt", **same}
    (path / "files").mkdir()

    with DAG("shown", schedule=None) as dag:

        @task
        def write(number: int) -> str:
            file = path / f"files/{number}.txt"
            file.write_text(str(number))
            return str(file)

        @task
        def packages() -> list[dict[str, str]]:
            return [{"package": f"of/{name}"} for name in "ab"]

        @task
        def name_of(top_hash: str, catalog_url: str | None) -> str:
            return f"{top_hash} {catalog_url}"

        @quilt_build(package="team/one", **same)
        def one(paths: list[str]) -> list[str]:
            return paths

        @quilt_build(package="team/every", multiple_outputs=True, **same)
        def every(path: str) -> str:
            return path

        written = write.expand(number=[*range(FILES)])
        published = one(written)
        name_of(published["top_hash"], "none")
        lazy = {"all/": written, "names.txt": everything["entries"]}
        classic = QuiltBuildOperator(task_id="nested", package="team/nested", **{**same, "entries": lazy})
        whole = QuiltBuildOperator(task_id="whole", package="team/whole", **{**same, "entries": written.map(Path)})
        name_of.override(task_id="of_classic")(classic.output["top_hash"], "none")
        published >> every(everything["entries"]) >> classic
        mapped = QuiltBuildOperator.partial(task_id="mapped", **everything).expand(package=["team/x", "team/{{ ti.map_index }}"])
        update = QuiltBuildOperator.partial(task_id="numbered", package="team/x", mode="update", **same)
        numbered = update.expand(entries=[{f"{name}.txt": everything["entries"]} for name in "ab"])
        given = QuiltBuildOperator.partial(task_id="given", map_index_template="{{ ti.map_index + 1 }}", **everything)
        keywords = QuiltBuildOperator.partial(task_id="keywords", **everything).expand_kwargs(packages())
        decorated = every.override(task_id="decorated", package="of/{{ op_kwargs_name }}").expand(path=[everything["entries"]])
        published >> [classic, whole] >> mapped >> numbered >> given.expand(package=["team/z"]) >> keywords >> decorated.operator

    dag.user_defined_macros = {"op_kwargs_name": "decorated"}
    return Ran(dag)


def test_run_succeeds(ran: Ran) -> None:
    assert set(states(ran.run).values()) == {"success"}


def test_taken_values_have_rows(ran: Ran) -> None:
    """A value that another task takes has a row of its own, and no other one has; all of them if that is asked for."""
    whole = result(ran.run, "one")

    assert ran.keys("one") == {"return_value", "top_hash"}
    assert ran.keys("nested") == {"return_value", "top_hash"}
    assert ran.keys("whole") == {"return_value"}
    assert {*whole} - {"catalog_url", "previous"} <= ran.keys("every") <= {"return_value", *whole}
    assert result(ran.run, "name_of") == f"{whole['top_hash']} none"
    assert result(ran.run, "of_classic") == f"{result(ran.run, 'nested')['top_hash']} none"


def test_rendered_lists_are_shown(ran: Ran) -> None:
    """The page shows the items of the output of mapped tasks: as an argument, within one, and for a function."""
    for shown in (ran.rendered("whole")["entries"], ran.rendered("nested")["entries"], ran.rendered("one")["op_args"]):
        assert all(f"files/{number}.txt" in str(shown) for number in range(FILES))
        assert "Lazy" not in str(shown)
    assert isinstance(ran.rendered("whole")["entries"], list)
    assert result(ran.run, "whole")["entries"] == FILES


def test_few_items_are_shown() -> None:
    """A long sequence is cut, and read no further; one that cannot be read is shown as Airflow does, and is for the task."""
    read: list[int] = []

    class Numbers(MappedOutput):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return super().__getitem__(index)

    items = ShownSequence(Numbers([*range(1000)]))
    assert items.serialize() == [*range(20), "… and 980 more"]
    assert (repr(items), max(read)) == (str(items.serialize()), 19)
    assert list(items) == [*range(1000)]
    broken = MapXComArg(Resolved([1, 2]), [lambda item: item.missing]).resolve({})  # type: ignore[arg-type]
    assert "MapResult" in str(ShownSequence(broken))
    assert ShownSequence(MappedOutput([Path("/a"), {1: b"b"}])).serialize() == ["/a", {"1": "b'b'"}]


class Resolved:
    """Stands where the output of a task does."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def resolve(self, _context: object) -> list[Any]:
        return self._items


def test_mapped_are_labelled(ran: Ran) -> None:
    assert ran.labels("mapped") == ["team/x", "team/1"]
    assert ran.labels("numbered") == ["team/x [0]", "team/x [1]"]
    assert ran.labels("given") == ["1"]
    assert ran.labels("keywords") == ["of/a", "of/b"]
    assert ran.labels("decorated") == ["of/decorated"]
