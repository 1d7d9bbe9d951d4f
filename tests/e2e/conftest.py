"""A whole Airflow, a browser in front of it, and a Quilt service and a store behind it; one of each for all tests."""

import json
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from testbed.catalog import CatalogServer, running_catalog
from testbed.server import S3Server
from testbed.standalone import Airflow, standalone

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--no-sandbox",  # It does not start for root otherwise.
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
PATIENCE = 20_000  # milliseconds
MISTAKES = """
import pendulum
from airflow.sdk import dag, task
from airflow_quilt.operators import QuiltPushOperator

@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1))
def mistakes():
    @task
    def report() -> str:
        return "1,204 rows, none of them late"

    QuiltPushOperator(
        task_id="push", package="team/report", entries={"report.txt": report()}, quilt_conn_id="mistakes_quilt"
    )

mistakes()
"""


@pytest.fixture(scope="session")
def catalog(s3: S3Server) -> Iterator[CatalogServer]:
    with running_catalog(s3) as server:
        yield server


@pytest.fixture(scope="session")
def airflow(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """An Airflow with the connection ``our_store``, the store's endpoint and no credentials, and the DAG ``mistakes``."""
    dags = tmp_path_factory.mktemp("dags")
    (dags / "mistakes.py").write_text(MISTAKES)
    with standalone(tmp_path_factory.mktemp("airflow"), dags) as running:
        extra = {"endpoint_url": s3.endpoint, "region_name": "us-east-1"}
        running.call("POST", "connections", {"connection_id": "our_store", "conn_type": "aws", "extra": json.dumps(extra)})
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert program, f"install a browser, such as Debian's chromium: none of {', '.join(BROWSERS)} is there"
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=SWITCHES)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, airflow: Airflow) -> Iterator[Page]:
    """A page so high that the whole form fits."""
    with browser.new_context(base_url=airflow.url, viewport={"width": 1280, "height": 2600}) as context:
        context.set_default_timeout(PATIENCE)
        yield context.new_page()
