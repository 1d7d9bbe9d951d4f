"""Helpers of the Airflow tests. Importing them gives this process its own Airflow home."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pendulum
import pytest
from packaging.version import Version

from airflow_quilt.core.format import hashes
from testbed.airflow_home import airflow_environment

if TYPE_CHECKING:
    from airflow.models.asset import AssetEvent
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

    from airflow_quilt.core.format.manifest import Manifest
    from airflow_quilt.core.registry.registry import Registry

EXAMPLES = Path(__file__).parent.parent.parent / "example_dags"
HOME = Path(tempfile.mkdtemp(prefix="quilt-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

os.environ.update(airflow_environment(HOME, EXAMPLES))
# A fixed key for the metadata database, and no warning where an operator's execute is called directly.
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"


RunDag = Callable[..., "DagRun"]

exceptions = import_module("airflow.sdk.exceptions")
"""The module of Airflow's exceptions: another one before Airflow 3.2."""
if not hasattr(exceptions, "TaskDeferred"):
    exceptions = import_module("airflow.exceptions")


OTHER_HASH = "CRC64NVME" if hashes.crc64nvme else hashes.CHUNKED
"""A type of hash beside the default, in rows of the matrix that can compute it."""


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
    _keep_api()
    DagBundlesManager().sync_bundles_to_db()
    bag = module.DagBag(HOME / "no_dags", collect_dags=False)
    bag.bag_dag(dag)
    module.sync_bag_to_db(bag, "dags-folder", None)
    return dag.test(**arguments)


def _keep_api() -> None:
    """Use one server for all tasks of this process, as Airflow 3.3 does: to make one takes Airflow 3.1 and 3.2 seconds a task."""
    supervisor: Any = import_module("airflow.sdk.execution_time.supervisor")
    if _is_before("3.3") and not hasattr(supervisor.in_process_api_server, "cache_info"):
        supervisor.in_process_api_server = cache(supervisor.in_process_api_server)


def run_data(dag: "DAG", **arguments: Any) -> "DagRun":
    """Run a DAG without assets to its end, in this process; in Airflow 3.0 too."""
    return dag.test(**arguments) if _is_before("3.1") else run_here(dag, **arguments)


def states(run: "DagRun") -> dict[tuple[str, int], str]:
    """Return the state of every task instance of a run."""
    return {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}


def result(run: "DagRun", task_id: str, map_index: int = -1) -> Any:
    """Return the XCom of a task instance."""
    ti = run.get_task_instance(task_id, map_index=map_index)
    assert ti
    return ti.xcom_pull(task_ids=task_id, map_indexes=None if map_index < 0 else map_index)


def events(uri: str) -> list["AssetEvent"]:
    """Return the events that Airflow stored of an asset, oldest first."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        statement = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.uri == uri)
        return list(session.scalars(statement.order_by(AssetEvent.id)))


class Later:
    """Stands where a template or the output of a task does, which is not known while a DAG is parsed."""

    def resolve(self, _context: object) -> None:
        return None


def has_common_runtime() -> bool:
    """Return whether awscrt can make the requests of S3; rows of the matrix have none, or an old one."""
    try:
        import airflow_quilt.core.storage.s3.crt.client  # noqa: F401
    except ImportError:
        return False
    return True


def serialization() -> Any:
    """Return the class of this Airflow that serializes DAGs."""
    from airflow.serialization import serialized_objects

    return getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG  # 3.2


def late(kind: Any, **arguments: Any) -> Any:
    """Return a task whose arguments are known only when it runs, and so are not checked before."""
    if "entries" in kind.template_fields:
        arguments = {"entries": None, **arguments}
    made = kind(**{name: value if name == "task_id" else Later() for name, value in arguments.items()})
    for name, value in arguments.items():
        setattr(made, name, value)
    return made


def instance(tries: int = 1, *, task_id: str = "push", map_index: int = -1, cleared: int = 0) -> dict[str, Any]:
    """Return the context of a task, as far as it counts here."""
    run = SimpleNamespace(start_date=pendulum.datetime(2026, 11, 1), clear_number=cleared)
    task = SimpleNamespace(dag_id="dag", run_id="run", task_id=task_id, map_index=map_index, try_number=tries)
    return {"ti": task, "dag_run": run}


@dataclass
class Shared:
    """A registry, a bucket of sources and a directory for one run of a DAG, and the errors of its tasks.

    Attributes:
        client: a boto3 client of the store.
        registry: the URL of the registry.
        source: the URL of a bucket with objects to pack.
        path: a directory.
        reported: for the ID of each task that failed, its errors, one for each attempt.
    """

    client: Any
    registry: str
    source: str
    path: Path
    reported: dict[str, list[str]] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, list[str]]:
        """The errors of each task; the test is skipped where ``dag.test()`` hands callbacks none."""
        if _is_before("3.3"):
            pytest.skip("needs Airflow 3.3 or newer, as it reads errors of a run")
        return self.reported

    def dag(self, name: str, **arguments: Any) -> "DAG":
        """Return a DAG whose tasks report their errors here."""
        from airflow.sdk import DAG

        report = {"on_failure_callback": self._report, "on_retry_callback": self._report, "retry_delay": 0}
        return DAG(name, schedule=None, start_date=pendulum.datetime(2026, 1, 1), default_args=report, **arguments)

    def _report(self, context: Mapping[str, Any]) -> None:
        self.reported.setdefault(context["ti"].task_id, []).append(str(context.get("exception")))

    def put(self, url: str, body: bytes = b"") -> str:
        """Write an object; return its URL."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=bucket, Key=key, Body=body)
        return url

    def write(self, name: str, text: str = "") -> str:
        """Write a file below the directory; return its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    @cached_property
    def opened(self) -> "Registry":
        """The registry, as the core opens it."""
        from airflow_quilt.hooks.quilt import QuiltHook

        return QuiltHook().registry()

    def read(self, package: str, revision: str | None = None) -> "Manifest":
        """Return the manifest of a revision, by default the latest."""
        return self.opened.read(package, revision)

    def contents(self, package: str) -> dict[str, bytes]:
        """Return the files of the latest revision of a package."""
        return {each.logical_key: self.opened.read_bytes(each) for each in self.read(package).entries}

    def keys(self, package: str, revision: str | None = None) -> list[str]:
        """Return the logical keys of a revision."""
        return [each.logical_key for each in self.read(package, revision).entries]


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
    """A sequence that is no list and has no slices, as the output of mapped tasks with ``.zip()``."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        assert not isinstance(index, slice)
        return self._items[index]

    def __repr__(self) -> str:
        return f"MappedOutput({self._items})"
