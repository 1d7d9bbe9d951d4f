"""An Airflow for these tests: its home is made before anything imports Airflow, as Airflow reads it at import."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pendulum
import pytest

from testbed.airflow_home import connections
from testbed.server import S3Server
from tests.airflow.support import EXAMPLES, HOME, RunDag, Shared, dag_bag

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """Airflow's home; it is removed when Python ends."""
    return HOME


@pytest.fixture(scope="session")
def database() -> None:
    """Airflow's metadata database, in sqlite."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def connected(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Connections to the store in the environment; the registry that they name is returned."""
    for name, value in connections(s3, f"s3://{bucket}").items():
        monkeypatch.setenv(name, value)
    return f"s3://{bucket}"


@pytest.fixture(scope="module")
def module_registry(s3: S3Server, buckets: Iterator[str]) -> Iterator[str]:
    """As ``connected``, for all tests of a module."""
    registry = f"s3://{next(buckets)}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in connections(s3, registry).items():
            patch.setenv(name, value)
        yield registry


@pytest.fixture(scope="module")
def shared(
    s3: S3Server, buckets: Iterator[str], module_registry: str, database: None, tmp_path_factory: pytest.TempPathFactory
) -> Shared:
    """A place for the one run that the tests of a module share; its registry is that of the connections."""
    dag_bag()  # Skips the tests where no DAG can be run.
    return Shared(s3.client(), module_registry, f"s3://{next(buckets)}", tmp_path_factory.mktemp("shared"))


@pytest.fixture
def dag(database: None, request: pytest.FixtureRequest) -> "DAG":
    """A DAG of the test's own, with a name of its own: rows that Airflow stored of a namesake would get into the way."""
    from airflow.sdk import DAG

    name = re.sub(r"\W+", "_", request.node.nodeid.rpartition("/")[2])
    return DAG(name, schedule=None, start_date=pendulum.datetime(2026, 1, 1))


@pytest.fixture
def run_dag(database: None) -> RunDag:
    """A function that runs an example DAG to its end, in this process."""

    def run(dag_id: str, **arguments: Any) -> "DagRun":
        bag = dag_bag().DagBag(EXAMPLES)
        assert not bag.import_errors
        dag = bag.get_dag(dag_id)
        assert dag
        return dag.test(**arguments)

    return run
