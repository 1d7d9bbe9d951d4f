"""A whole Airflow: DAGs wait for packages that quilt3 publishes from outside, with a restart in between."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.airflow_home import connections
from testbed.quilt3 import quilt3_environment
from testbed.server import S3Server
from testbed.standalone import Airflow, standalone

ROOT = Path(__file__).parent.parent.parent
CATALOG = "https://catalog.example.com"
PATIENCE = 120
PUBLISH = """
import pathlib, sys, quilt3
registry, name, text = sys.argv[1:]
file = pathlib.Path("note.txt")
file.write_text(text)
package = quilt3.Package()
package.set("note.txt", file)
print(package.push(name, registry=registry, message=text, force=True).top_hash)
"""
PENGUINS = """
import os
import signal

from airflow.sdk import DAG, task

from airflow_quilt.assets import quilt_alias, quilt_asset
from airflow_quilt.operators import QuiltPushOperator, QuiltRollbackOperator, entry


class DyingPush(QuiltPushOperator):
    def execute(self, context):
        super().execute(context)
        os.kill(os.getpid(), signal.SIGKILL)


def publish(dag_id, operator):
    with DAG(dag_id, schedule=None, params={"text": "Adelie"}):
        operator(task_id="push", package="penguins/weekly", entries={"a.txt": entry(content="{{ params.text }}")})


def follow(dag_id, schedule):
    with DAG(dag_id, schedule=[schedule]):
        task(lambda: None, task_id="see")()


publish("penguins_publish", QuiltPushOperator)
publish("penguins_die", DyingPush)
with DAG("penguins_back", schedule=None):
    QuiltRollbackOperator(task_id="back", package="penguins/weekly", revision="{{ dag_run.conf['revision'] }}")
follow("penguins_follow", quilt_asset("penguins/weekly", os.environ["QUILT_REGISTRY"], watch={"poll_interval": 1}))
follow("penguins_follow_task", quilt_alias("penguins_publish", "push"))
"""


class Place:
    """An Airflow that can be stopped and started again, with the DAGs of the examples."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._home, self._dags, self._environment = directory / "home", directory / "dags", environment
        self._running = ExitStack()
        self._airflow: Airflow | None = None
        self.workdir = directory / "work"
        self._dags.mkdir()
        workdir = repr(str(self.workdir))
        self._take(
            "assets", {'"poll_interval": 60': '"poll_interval": 1', 'str(Path(tempfile.gettempdir(), "measurements"))': workdir}
        )
        (self._dags / "penguins.py").write_text(PENGUINS)
        self._take("sensor", {"deferrable=True": "start_from_trigger=True", "poke_interval=60": "poke_interval=1"})

    def _take(self, name: str, changes: Mapping[str, str]) -> None:
        """Copy an example, with other settings."""
        path = ROOT / f"example_dags/example_quilt_{name}.py"
        text = path.read_text()
        for old, new in changes.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        (self._dags / path.name).write_text(text)

    def start(self) -> Airflow:
        """Return the Airflow that runs; start it, if none does."""
        if self._airflow is None:
            self._airflow = self._running.enter_context(standalone(self._home, self._dags, self._environment))
            until("the DAGs", lambda: self._airflow.call("GET", "dags")["total_entries"] == 9)
        return self._airflow

    def stop(self) -> None:
        self._running.close()
        self._airflow = None


@pytest.fixture(scope="module")
def registry_bucket(s3: S3Server) -> str:
    return s3.make_bucket("assets")


@pytest.fixture(scope="module")
def place(s3: S3Server, registry_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    registry = f"s3://{registry_bucket}"
    quilt = {"conn_type": "quilt", "host": CATALOG, "extra": {"registry": registry}}
    environment = {**connections(s3, registry), "AIRFLOW_CONN_QUILT_DEFAULT": json.dumps(quilt), "QUILT_REGISTRY": registry}
    there = Place(tmp_path_factory.mktemp("assets"), environment)
    yield there
    there.stop()


@pytest.fixture(scope="module")
def publish_by_hand(s3: S3Server, registry_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that publishes a revision with quilt3 and returns its top hash."""
    directory = tmp_path_factory.mktemp("quilt3")
    environment = quilt3_environment(s3, directory)

    def publish(text: str, package: str = "lab/notes") -> str:
        command = [sys.executable, "-c", PUBLISH, f"s3://{registry_bucket}", package, text]
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()[-1]

    return publish


def until(name: str, find: Callable[[], Any]) -> Any:
    """Wait until a search finds something, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := find()):
        assert time.monotonic() < deadline, f"waited in vain for {name}"
        time.sleep(0.5)
    return found


def runs(airflow: Airflow, dag: str) -> list[dict[str, Any]]:
    """Return the runs of a DAG that have ended, oldest first."""
    found = airflow.call("GET", f"dags/{dag}/dagRuns?order_by=start_date")["dag_runs"]
    return [run for run in found if run["state"] in {"success", "failed"}]


def wait_for_runs(airflow: Airflow, dag: str, count: int) -> list[dict[str, Any]]:
    ended: list[dict[str, Any]] = until(f"{count} runs of {dag}", lambda: len(found := runs(airflow, dag)) >= count and found)
    assert [run["state"] for run in ended] == ["success"] * count
    return ended


def states(airflow: Airflow, dag: str) -> dict[str, str]:
    """Return the states of the task instances of the only run of a DAG."""
    found = airflow.call("GET", f"dags/{dag}/dagRuns/~/taskInstances")["task_instances"]
    return {each["task_id"]: each["state"] for each in found}


def installed(airflow: Airflow, dag: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a run's install."""
    path = f"dags/{dag}/dagRuns/{run['dag_run_id']}/taskInstances/install/xcomEntries/return_value"
    value = airflow.call("GET", path)["value"]
    return dict(json.loads(value) if isinstance(value, str) else value)


def events(airflow: Airflow, uri: str) -> list[dict[str, Any]]:
    """Return the events of an asset, oldest first."""
    found = airflow.call("GET", "assets/events?order_by=timestamp&limit=100")["asset_events"]
    return [event for event in found if event["uri"] == uri]


def trigger(airflow: Airflow, dag: str, conf: Mapping[str, Any]) -> None:
    airflow.call("POST", f"dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})


def test_revision_starts_dag_once(
    place: Place,
    publish_by_hand: Callable[..., str],
    registry_bucket: str,
    s3: S3Server,
    browser: Browser,
) -> None:
    registry = Registry(RegistryLocation.parse(f"s3://{registry_bucket}"), Stores(LocalStorage(), S3Storage(s3.client())))
    publish_by_hand("before the first poll")
    airflow = place.start()

    # DAG A publishes; DAG B is started by the event, and installs the revision that the event names.
    trigger(airflow, "example_quilt_assets_publish", {"celsius": 20})
    wait_for_runs(airflow, "example_quilt_assets_publish", 1)
    [report] = wait_for_runs(airflow, "example_quilt_assets_report", 1)
    measurements = PackageName("lab", "measurements")
    first = registry.resolve(measurements)
    uri = f"quilt+s3://{registry_bucket}/lab/measurements"
    [event] = events(airflow, uri)
    assert event["extra"] == {
        "top_hash": first,
        "previous": None,
        "quilt_uri": f"quilt+s3://{registry_bucket}#package=lab/measurements@{first}",
        "catalog_url": f"{CATALOG}/b/{registry_bucket}/packages/lab/measurements/tree/{first}/",
        "message": "20 °C",
        "entries": 1,
        "bytes": 17,
        "added": 1,
        "modified": 0,
        "removed": 0,
    }
    assert installed(airflow, "example_quilt_assets_report", report)["top_hash"] == first
    assert json.loads((place.workdir / report["dag_run_id"] / "room.json").read_text()) == {"celsius": "20"}

    # A sensor waits for the next revision without a slot of a worker.
    trigger(airflow, "example_quilt_sensor", {"package": "lab/measurements", "newer_than": first})
    until("the sensor in the triggerer", lambda: "deferred" in states(airflow, "example_quilt_sensor").values())

    # Nothing new: no event, no run. Something new: one of each.
    trigger(airflow, "example_quilt_assets_publish", {"celsius": 20})
    wait_for_runs(airflow, "example_quilt_assets_publish", 2)
    trigger(airflow, "example_quilt_assets_publish", {"celsius": 22})
    wait_for_runs(airflow, "example_quilt_assets_publish", 3)
    assert len(wait_for_runs(airflow, "example_quilt_assets_report", 2)) == 2
    assert [each["extra"]["previous"] for each in events(airflow, uri)] == [None, first]
    wait_for_runs(airflow, "example_quilt_sensor", 1)
    assert states(airflow, "example_quilt_sensor") == {"arrived": "success", "verify": "success"}

    # The link leads to exactly the revision, over REST and in the browser.
    [run, *_] = runs(airflow, "example_quilt_assets_publish")
    links = f"dags/example_quilt_assets_publish/dagRuns/{run['dag_run_id']}/taskInstances/publish/links"
    assert airflow.call("GET", links)["extra_links"] == {"Quilt Catalog": event["extra"]["catalog_url"]}
    check_pages(browser, airflow, run["dag_run_id"], uri, event["extra"])

    # The first poll sets the baseline and does not fire; a revision that quilt3 publishes then does.
    watched = f"quilt+s3://{registry_bucket}/lab/notes"
    until("the first poll", lambda: state_of(airflow, watched))
    assert events(airflow, watched) == []
    by_hand = publish_by_hand("while Airflow was up")
    [follow] = wait_for_runs(airflow, "example_quilt_assets_follow", 1)
    assert installed(airflow, "example_quilt_assets_follow", follow)["top_hash"] == by_hand
    until("the saved revision", lambda: by_hand in json.dumps(state_of(airflow, watched)))

    # After a restart nothing is repeated, and a revision published while Airflow was down starts one run.
    place.stop()
    while_down = publish_by_hand("while Airflow was down")
    airflow = place.start()
    _, follow = wait_for_runs(airflow, "example_quilt_assets_follow", 2)
    assert installed(airflow, "example_quilt_assets_follow", follow)["top_hash"] == while_down
    until("the saved revision", lambda: while_down in json.dumps(state_of(airflow, watched)))
    place.stop()
    airflow = place.start()
    last = publish_by_hand("after that")
    wait_for_runs(airflow, "example_quilt_assets_follow", 3)
    payloads = [each["extra"]["payload"] for each in events(airflow, watched)]
    assert [(payload["top_hash"], payload["previous"]) for payload in payloads] == [
        (by_hand, registry_hashes(registry)[0]),
        (while_down, by_hand),
        (last, while_down),
    ]


def test_watched_push_has_one_event(place: Place, publish_by_hand: Callable[..., str], registry_bucket: str) -> None:
    """Publish as the README does a package that the same Airflow watches: a run for each change, by any writer."""
    airflow, uri = place.start(), f"quilt+s3://{registry_bucket}/penguins/weekly"
    until("the first poll", lambda: state_of(airflow, uri))

    def reported(top_hash: str) -> bool:
        return top_hash in json.dumps(state_of(airflow, uri))

    trigger(airflow, "penguins_publish", {"text": "Adelie"})
    wait_for_runs(airflow, "penguins_publish", 1)
    wait_for_runs(airflow, "penguins_follow", 1)
    wait_for_runs(airflow, "penguins_follow_task", 1)
    [event] = events(airflow, uri)
    first = event["extra"]["top_hash"]
    until("the poll that found it", lambda: reported(first))

    second = publish_by_hand("by quilt3", "penguins/weekly")
    until("the poll that found it", lambda: reported(second))
    trigger(airflow, "penguins_die", {"text": "Gentoo"})
    until("the end of the dead", lambda: [run["state"] for run in runs(airflow, "penguins_die")] == ["failed"])
    wait_for_runs(airflow, "penguins_follow", 3)
    trigger(airflow, "penguins_back", {"revision": first})
    wait_for_runs(airflow, "penguins_follow", 4)
    until("the poll that found it", lambda: reported(first))

    assert len(runs(airflow, "penguins_follow_task")) == 1
    told = [each["extra"].get("payload", each["extra"]) for each in events(airflow, uri)]
    third = told[2]["top_hash"]
    changes = [(None, first), (first, second), (second, third), (third, first)]
    assert [(each["previous"], each["top_hash"]) for each in told] == changes
    assert ["from_trigger" in each["extra"] for each in events(airflow, uri)] == [False, True, True, False]


def registry_hashes(registry: Registry) -> list[str]:
    return [revision.top_hash for revision in registry.revisions(PackageName("lab", "notes"))][::-1]


def state_of(airflow: Airflow, uri: str) -> Any:
    """Return the state of an asset in Airflow's database."""
    [asset] = [each for each in airflow.call("GET", "assets?limit=100")["assets"] if each["uri"] == uri]
    found = airflow.call("GET", f"assets/{asset['id']}/state-store")
    return next((value for value in found.values() if isinstance(value, list)), found)


def check_pages(browser: Browser, airflow: Airflow, run_id: str, uri: str, extra: Mapping[str, Any]) -> None:
    """Check the task's link and the asset's page in a browser; SCREENSHOTS=1 keeps pictures for the documents."""
    [asset] = [each for each in airflow.call("GET", "assets?limit=100")["assets"] if each["uri"] == uri]
    with browser.new_context(base_url=airflow.url, viewport={"width": 1280, "height": 800}) as context:
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.goto(f"/dags/example_quilt_assets_publish/runs/{run_id}/tasks/publish/details")
        link = page.get_by_role("link", name="Quilt Catalog")
        expect(link).to_have_attribute("href", extra["catalog_url"])
        picture(page, "catalog-link.png")
        page.goto(f"/assets/{asset['id']}")
        expect(page.get_by_text(uri).first).to_be_visible()
        page.locator(".codicon-folding-collapsed").last.click()
        until("the event", lambda: any(extra["top_hash"] in shown for shown in editors(page)))
        picture(page, "asset-events.png")


def editors(page: Page) -> list[str]:
    """Return the texts of Airflow's editors, without the spaces and line breaks that they add."""
    return ["".join(text.split()) for text in page.locator(".view-lines").all_inner_texts()]


def picture(page: Page, name: str) -> None:
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=ROOT / "docs/images" / name)
