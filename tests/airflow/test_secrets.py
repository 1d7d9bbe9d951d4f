"""Secrets of the connections stay out of everything that Airflow writes down."""

import json
from pathlib import Path

import pendulum
import pytest

from testbed.server import S3Server
from tests.airflow.support import RunDag

API_KEY = "qk_0123456789abcdef-not-a-real-one"


def written(home: Path) -> dict[str, bytes]:
    """Return every file below Airflow's home: the metadata database with XComs and rendered templates, and the logs."""
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_no_secret_is_in_logs_xcom_rendered_templates_or_the_database(
    run_dag: RunDag,
    connected: str,
    airflow_home: Path,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    quilt = {"conn_type": "quilt", "host": "https://catalog.example.com", "password": API_KEY, "extra": {"registry": connected}}
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", json.dumps(quilt))

    good = run_dag("penguins_weekly", logical_date=pendulum.datetime(2007, 12, 31), run_conf={"workdir": str(tmp_path)})
    bad = run_dag("retire_revision", run_conf={"package": "penguins/nowhere", "top_hash": "abcdef0"})

    assert (good.state, bad.state) == ("success", "failed")
    out, err = capfd.readouterr()
    places = {**written(airflow_home), "stdout": out.encode(), "stderr": err.encode(), "log": caplog.text.encode()}
    found = {
        (secret[:6], place)
        for secret in (s3.admin.secret_key, API_KEY)
        for place, content in places.items()
        if secret.encode() in content
    }
    assert not found
    # The search does find what is there to be found.
    assert any(b"penguins/weekly" in content for place, content in places.items() if place.startswith("airflow.db"))
    assert b"there is no package penguins/nowhere" in places["stdout"] + places["log"]
