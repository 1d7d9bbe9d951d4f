"""Helpers of the Airflow tests. Importing them gives this process its own Airflow home."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pendulum
import pytest
from packaging.version import Version

from testbed.airflow_home import airflow_environment

if TYPE_CHECKING:
    from airflow.models.asset import AssetEvent
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

EXAMPLES = Path(__file__).parent.parent.parent / "example_dags"
HOME = Path(tempfile.mkdtemp(prefix="quilt-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

os.environ.update(airflow_environment(HOME, EXAMPLES))
# A fixed key for the metadata database, and no warning where an operator's execute is called directly.
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"


RunDag = Callable[..., "DagRun"]


def needs_airflow(oldest: str) -> pytest.MarkDecorator:
    """Skip a test under an Airflow without the tested feature."""
    return pytest.mark.skipif(_is_before(oldest), reason=f"needs Airflow {oldest} or newer")


def until_airflow(first: str) -> pytest.MarkDecorator:
    """Skip a test of a substitute for a feature of newer Airflows."""
    return pytest.mark.skipif(not _is_before(first), reason=f"is about Airflow before {first}")


def _is_before(oldest: str) -> bool:
    return Version(version("apache-airflow")) < Version(oldest)


def dag_bag() -> Any:
    """Return the module of Airflow that reads DAGs. A test that runs one is skipped in Airflow 3.0, where assets stay inactive."""
    if _is_before("3.1"):
        pytest.skip("needs Airflow 3.1 or newer, as it runs a DAG")
    return import_module("airflow.models.dagbag" if _is_before("3.2") else "airflow.dag_processing.dagbag")


def run_here(dag: "DAG", **arguments: Any) -> "DagRun":
    """Run a DAG that a test made to its end, in this process."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    module = dag_bag()
    DagBundlesManager().sync_bundles_to_db()
    bag = module.DagBag(HOME / "no_dags", collect_dags=False)
    bag.bag_dag(dag)
    module.sync_bag_to_db(bag, "dags-folder", None)
    return dag.test(**arguments)


def events(uri: str) -> list["AssetEvent"]:
    """Return the events that Airflow stored of an asset, oldest first."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        statement = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.uri == uri)
        return list(session.scalars(statement.order_by(AssetEvent.id)))


def instance(tries: int = 1, *, task_id: str = "push", map_index: int = -1, cleared: int = 0) -> dict[str, Any]:
    """Return the context of a task, as far as it counts here."""
    run = SimpleNamespace(start_date=pendulum.datetime(2026, 11, 1), clear_number=cleared)
    task = SimpleNamespace(dag_id="dag", run_id="run", task_id=task_id, map_index=map_index, try_number=tries)
    return {"ti": task, "dag_run": run}


class StateStore:
    """Airflow's state of a task instance over its attempts; it may be out of reach."""

    def __init__(self) -> None:
        self.noted: dict[str, Any] = {}
        self.is_down = False

    def get(self, key: str) -> Any:
        self._check()
        return json.loads(json.dumps(self.noted.get(key)))

    def set(self, key: str, value: Any) -> None:
        self._check()
        self.noted[key] = value

    def _check(self) -> None:
        if self.is_down:
            raise RuntimeError("the API server is gone")


class MappedOutput(Sequence[Any]):
    """A sequence that is no list, as the output of mapped tasks is."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __repr__(self) -> str:
        return f"MappedOutput({self._items})"
