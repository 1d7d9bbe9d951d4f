"""Secrets of the connections stay out of everything that Airflow writes down."""

import json
import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pendulum
import pytest

from airflow_quilt.core.catalog.secrets import forms_of
from airflow_quilt.core.errors import QuiltError
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import QuiltPushOperator, entry
from testbed.catalog import CatalogServer
from testbed.server import S3Server
from tests.airflow.support import RunDag, run_here

if TYPE_CHECKING:
    from airflow.sdk import DAG

SECRET = "wJalrXUtnFEMI7MDENGbPxRfiCYEXAMPLE"  # noqa: S105  (of nobody)
LOGIN = f"ada:{SECRET}"
FAR = "https://catalog.example.com"


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

    good = run_dag("example_quilt_push", logical_date=pendulum.datetime(2007, 12, 31), run_conf={"workdir": str(tmp_path)})
    bad = run_dag("example_quilt_delete", run_conf={"package": "penguins/nowhere", "top_hash": "abcdef0"})
    catalog.revoke()
    rejected = run_dag("example_quilt_push", logical_date=pendulum.datetime(2008, 12, 31), run_conf={"workdir": str(tmp_path)})

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


def fragments(text: str, secret: str = SECRET) -> list[str]:
    """Return the parts of a secret, of eight characters, that a text has."""
    return [secret[at : at + 8] for at in range(len(secret) - 7) if secret[at : at + 8] in text]


def quilt(**fields: Any) -> str:
    return json.dumps({"conn_type": "quilt", **fields})


def aws(**fields: Any) -> str:
    return json.dumps({"conn_type": "aws", **fields})


BAD = {
    "login in the catalog": {"QUILT": quilt(host=f"https://{LOGIN}@catalog.example.com")},
    "login without a scheme": {"QUILT": quilt(host=f"{LOGIN}@catalog.example.com")},
    "token in the catalog": {"QUILT": quilt(host=f"https://{SECRET}@catalog.example.com")},
    "wrapped key": {"QUILT": quilt(host=FAR, password=f"qk_{SECRET[:20]}\n{SECRET[20:]}")},
    "key with a blank": {"QUILT": quilt(host=FAR, password=f"qk_{SECRET[:20]} {SECRET[20:]}")},
    "key with a letter": {"QUILT": quilt(host=FAR, password=f"qk_{SECRET}é")},
    "keys in the registry": {"QUILT": quilt(extra={"registry": f"s3://{LOGIN}@bucket"})},
    "keys with a slash": {"QUILT": quilt(extra={"registry": f"s3://AKIDEXAMPLE:{SECRET}/xxxx@bucket"})},
    "keys without a scheme": {"QUILT": quilt(extra={"registry": f"{LOGIN}@bucket"})},
    "keys in dest": {"QUILT": quilt(extra={"registry": "s3://bucket", "dest": f"s3://{LOGIN}@bucket/x"})},
    "password of an endpoint": {"AWS": aws(extra={"endpoint_url": f"http://{LOGIN}@127.0.0.1:9"})},
    "password of a service": {"AWS": aws(extra={"service_config": {"s3": {"endpoint_url": f"http://{LOGIN}@127.0.0.1:9"}}})},
    "wrapped secret of AWS": {"AWS": aws(login="AKIDEXAMPLE", password=f"{SECRET[:20]}\n{SECRET[20:]}")},
    "wrapped token of AWS": {"AWS": aws(login="AKIDEXAMPLE", password="x" * 9, extra={"aws_session_token": f"{SECRET}\n"})},
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_secrets_are_not_shown(kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A secret that cannot be masked is refused; the connection test, errors with their causes, and logs do not repeat it."""
    caplog.set_level(logging.DEBUG)
    connections = {"QUILT": quilt(extra={"registry": "s3://bucket"}), "AWS": aws(extra={"region_name": "us-east-1"}), **BAD[kind]}
    for name, value in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}_DEFAULT", value)

    ok, answer = QuiltHook().test_connection()
    with pytest.raises(Exception, match=r"not repeated here") as raised:
        QuiltPushOperator(task_id="t", package="a/b", entries={"a": entry(content="a")}).execute({})

    assert not ok
    assert "not repeated here" in answer
    assert not fragments(answer + caplog.text + "".join(traceback.format_exception(raised.value)))


def test_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", quilt(extra={"registry": "s3://bucket", "aws_conn_id": None}))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{LOGIN}@127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    with pytest.raises(QuiltError, match="its AWS_ENDPOINT_URL_S3: .*not repeated here") as raised:
        QuiltHook().registry()
    assert not fragments(str(raised.value))


def test_wrapped_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"registry": "s3://bucket", "aws_conn_id": None, "transport": "boto3"}
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", quilt(extra=extra))
    environment = {"ACCESS_KEY_ID": "AKIDEXAMPLE", "SECRET_ACCESS_KEY": "x" * 9, "SESSION_TOKEN": f"{SECRET}\n"}
    for name, value in {**environment, "ENDPOINT_URL_S3": "http://127.0.0.1:9", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)

    with pytest.raises(QuiltError, match="the credentials have line breaks") as raised:
        list(QuiltHook().registry().packages())
    assert not fragments("".join(traceback.format_exception(raised.value)))


def test_all_forms_of_a_key_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with blanks around it is used without them, and masked with and without, and encoded; so is an escaped password."""
    key, password = f"qk_{SECRET[::-1]}/+=", f"pass/word+{SECRET[9:]}{SECRET[:9]}"  # Masked by no other test.
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", quilt(host=FAR, password=f" {key}\n"))
    assert QuiltHook().settings.secret == key
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", quilt(host=f"https://ada:{quote(password)}@catalog.example.com"))
    with pytest.raises(QuiltError):
        QuiltHook("other").settings  # noqa: B018

    proxies = {"https": f"http://ada:{SECRET[5:]}{SECRET[:5]}@127.0.0.1:9"}  # It may have a password, which is masked.
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", aws(extra={"region_name": "us-east-1", "config_kwargs": {"proxies": proxies}}))
    QuiltHook(None).registry("s3://bucket")

    try:
        from airflow.sdk.log import redact
    except ImportError:  # Airflow 3.0
        from airflow.sdk.execution_time.secrets_masker import redact

    for secret in (key, password, f"{SECRET[5:]}{SECRET[:5]}"):
        assert not [form for form in forms_of(secret) if fragments(str(redact(f"before {form} after")), form)]
        assert redact(f"Bearer {secret}") == "Bearer ***"


def test_login_in_a_catalog_in_a_run(
    dag: "DAG",
    connected: str,
    airflow_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A catalog's URL with a password would reach XCom, the link, events and logs: the task fails before that."""
    host = f"https://{LOGIN}@catalog.example.com"
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", quilt(host=host, extra={"registry": connected}))
    with dag:
        QuiltPushOperator(task_id="push", package="team/data", entries={"a.txt": entry(content="a")})

    assert run_here(dag).state == "failed"
    places = {place: content.decode(errors="replace") for place, content in written(airflow_home).items()}
    assert "a URL holds a user name or a password" in caplog.text + "".join(capfd.readouterr())
    assert not {place for place, content in places.items() if fragments(content)}
    assert not fragments(caplog.text + "".join(capfd.readouterr()))
