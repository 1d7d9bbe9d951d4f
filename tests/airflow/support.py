"""What the Airflow tests share. Importing it gives this process an Airflow home of its own."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.airflow_home import airflow_environment

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

EXAMPLES = Path(__file__).parent.parent.parent / "example_dags"
HOME = Path(tempfile.mkdtemp(prefix="quilt-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

os.environ.update(airflow_environment(HOME, EXAMPLES))
# A fixed key for the metadata database, and no warning where an operator's execute is called directly.
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"


RunDag = Callable[..., "DagRun"]


def run_here(dag: "DAG", **arguments: Any) -> "DagRun":
    """Run a DAG that a test made to its end, in this process."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(HOME / "no_dags", collect_dags=False)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
    return dag.test(**arguments)


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
