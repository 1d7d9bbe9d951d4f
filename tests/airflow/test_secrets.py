"""Secrets of the connections stay out of everything that Airflow writes down."""

import json
from pathlib import Path

import pendulum
import pytest

from testbed.catalog import CatalogServer
from testbed.server import S3Server
from tests.airflow.support import RunDag


def written(home: Path) -> dict[str, bytes]:
    """Return every file below Airflow's home: the metadata database with XComs and rendered templates, and the logs."""
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["api_key", "refresh_token", "keys"])
def test_no_secret_leaks(
    run_dag: RunDag,
    connected: str,
    airflow_home: Path,
    s3: S3Server,
    catalog: CatalogServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """Search logs, XCom, rendered templates, serialized DAGs and the database."""
    secrets = {s3.admin.secret_key, catalog.api_key, catalog.refresh_token}
    quilt = {"conn_type": "quilt", "host": catalog.url, "extra": {"registry": connected}}
    if kind != "keys":
        quilt |= {"password": getattr(catalog, kind)}
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", json.dumps(quilt))

    good = run_dag("penguins_weekly", logical_date=pendulum.datetime(2007, 12, 31), run_conf={"workdir": str(tmp_path)})
    bad = run_dag("retire_revision", run_conf={"package": "penguins/nowhere", "top_hash": "abcdef0"})
    catalog.revoke()
    rejected = run_dag("penguins_weekly", logical_date=pendulum.datetime(2008, 12, 31), run_conf={"workdir": str(tmp_path)})

    assert (good.state, bad.state, rejected.state) == ("success", "failed", "success" if kind == "keys" else "failed")
    assert bool(catalog.handed_out) is (kind != "keys")
    out, err = capfd.readouterr()
    places = {**written(airflow_home), "stdout": out.encode(), "stderr": err.encode(), "log": caplog.text.encode()}
    found = {
        (secret[:6], place)
        for secret in {*secrets, *catalog.handed_out}
        for place, content in places.items()
        if secret.encode() in content
    }
    assert not found
    # The search does find what is there to be found.
    assert any(b"penguins/weekly" in content for place, content in places.items() if place.startswith("airflow.db"))
    if kind == "api_key":
        assert b"there is no package penguins/nowhere" in places["stdout"] + places["log"]
        assert b"does not accept the API key" in places["stdout"] + places["log"]
