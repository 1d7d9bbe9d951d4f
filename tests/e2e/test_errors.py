"""The log view of a real Airflow: the sentence of an error is on the screen where the page opens, and stands alone."""

import json
import os
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect

from testbed.airflow_home import connections
from testbed.server import S3Server
from testbed.standalone import Airflow

IMAGE = Path(__file__).parent.parent.parent / "docs/images/error-log.png"
PATIENCE = 120
RIGHT_END = """phrase => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = document.createRange()
    while (texts.nextNode()) {
        const at = texts.currentNode.data.indexOf(phrase)
        if (at < 0) continue
        range.setStart(texts.currentNode, at)
        range.setEnd(texts.currentNode, at + phrase.length)
        return range.getBoundingClientRect().right
    }
}"""
SHORTEN = """() => {  // The paths of this machine concern no reader.
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) {
        const text = texts.currentNode
        text.data = text.data.replace(/\\/[^" ]*\\/(site-packages|airflow_quilt)\\//g, "…/$1/")
        text.data = text.data.replace(/ in '\\/[^']*', the working/g, " in '/opt/airflow', the working")
    }
}"""
SIZE = {"width": 1280, "height": 800}


def failed(airflow: Airflow, dag: str, task: str) -> str:
    """Run a DAG until a task of it has failed; return the ID of the run."""
    deadline = time.monotonic() + PATIENCE
    while not any(each["dag_id"] == dag for each in airflow.call("GET", "dags")["dags"]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    run = str(airflow.call("POST", f"dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"])
    while airflow.call("GET", f"dags/{dag}/dagRuns/{run}/taskInstances/{task}")["state"] != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return run


def test_sentence_is_on_the_screen(airflow: Airflow, browser: Browser, s3: S3Server) -> None:
    registry = f"s3://{s3.make_bucket('mistakes')}"
    for variable, text in connections(s3, registry).items():
        given: dict[str, Any] = json.loads(text)
        name = f"mistakes_{given['conn_type']}"
        extra = given.get("extra", {}) | ({"aws_conn_id": "mistakes_aws"} if variable.endswith("QUILT_DEFAULT") else {})
        airflow.call("POST", "connections", {**given, "connection_id": name, "extra": json.dumps(extra)})
    run = failed(airflow, "mistakes", "push")

    lines = airflow.call("GET", f"dags/mistakes/dagRuns/{run}/taskInstances/push/logs/1")["content"]
    [error] = [detail for line in lines for detail in line.get("error_detail") or ()]
    assert error["exc_type"] == "AirflowFailException"
    assert "give entry(content=…)" in error["exc_value"]
    assert not any("/core/" in frame["filename"] for frame in error["frames"])

    with browser.new_context(base_url=airflow.url, viewport=SIZE) as context:
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.goto(f"/dags/mistakes/runs/{run}/tasks/push")
        expect(page.get_by_text("give entry(content=").first).to_be_in_viewport(timeout=PATIENCE * 1000)
        assert page.evaluate(RIGHT_END, "give entry(content=…)") < SIZE["width"]  # Long lines are cut.
        if os.environ.get("SCREENSHOTS"):
            page.evaluate(SHORTEN)
            page.screenshot(path=IMAGE)
