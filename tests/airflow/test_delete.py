"""QuiltDeleteOperator in a DAG run, with names that no client should have given to a package."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_quilt.core.format import layout
from airflow_quilt.core.registry.open import open_registry
from airflow_quilt.operators import QuiltDeleteOperator
from tests.airflow.support import run_here

if TYPE_CHECKING:
    from airflow.sdk import DAG


def test_odd_names_are_deleted(dag: "DAG", tmp_path: Path) -> None:
    """Delete the package of exactly that name: Jinja drops a newline at the end, and another package would go."""
    from airflow.sdk import task

    names = ["team/data", "team/data\n", "team/x\n", "team/mapped\n", "te am/from.task"]
    for name in names:
        directory = tmp_path / layout.NAMES / name
        directory.mkdir(parents=True)
        (directory / "latest").write_text("0" * 64)
    where: dict[str, Any] = {"registry": str(tmp_path), "quilt_conn_id": None}
    with dag:

        @task
        def name_of() -> str:
            return names[-1]

        QuiltDeleteOperator(task_id="literal", package="team/data\n", **where)
        QuiltDeleteOperator(task_id="templated", package="team/{{ 'x' }}\n", **where)
        QuiltDeleteOperator(task_id="handed_over", package=name_of(), **where)  # type: ignore[arg-type]
        QuiltDeleteOperator.partial(task_id="mapped", **where).expand(package=["team/mapped\n"])

    run = run_here(dag)
    assert run.state == "success"
    assert [str(each) for each in open_registry(str(tmp_path)).packages()] == ["team/data"]
    uris = [run.get_task_instance(each).xcom_pull(task_ids=each)["quilt_uri"] for each in ("literal", "handed_over")]  # type: ignore[union-attr]
    assert [uri.partition("#")[2] for uri in uris] == ["package=team/data%0A", "package=te%20am/from.task"]
