"""Quilt's own catalog judges ours: the hook logs in to it, and it finds packages pushed with its credentials."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

import tests.airflow.support  # noqa: F401  (An Airflow home of its own, before anything imports Airflow.)
from airflow_quilt.core.catalog.client import Catalog, CatalogConfig
from airflow_quilt.core.errors import AccessDeniedError, LoginError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.hooks.quilt import QuiltHook
from testbed.quilt3_local import PYTHON, quilt3_local, quilt3_local_with
from testbed.server import Role, S3Server, TemporaryCredentials

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="quilt3-local is installed on Python 3.11 only")

KEY = "qk_that-nobody-looks-at"
Connect = Callable[..., QuiltHook]

REVISIONS = """
query ($bucket: String!, $name: String!) {
  package(bucket: $bucket, name: $name) {
    bucket name modified
    latest: revision { hash }
    revisions { total page(number: 1, perPage: 10) { hash modified } }
  }
}"""
PACKAGES = "query ($bucket: String!) { packages(bucket: $bucket) { total page(perPage: 1000) { name } } }"


@dataclass
class Local:
    """A running catalog, the role of its user, and the credentials that it has handed on."""

    store: S3Server
    url: str = ""
    role: Role = "writer"
    handed_on: list[TemporaryCredentials] = field(default_factory=list)

    def make(self) -> TemporaryCredentials:
        self.handed_on.append(self.store.assume(self.role))
        return self.handed_on[-1]

    def ask(self, query: str, **variables: str) -> Any:
        """Request the data of the catalog's pages."""
        answer = requests.post(f"{self.url}/__reg/graphql/", json={"query": query, "variables": variables}, timeout=30).json()
        assert "errors" not in answer
        return answer["data"]


@pytest.fixture(scope="module")
def running(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    local = Local(s3)
    with quilt3_local(tmp_path_factory.mktemp("quilt3-local"), s3, local.make) as local.url:
        yield local


@pytest.fixture
def local(running: Local) -> Local:
    running.role = "writer"
    running.handed_on.clear()
    return running


@pytest.fixture
def connect(s3: S3Server, local: Local, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A function that makes a hook with a login, and no keys."""

    def connect(**changes: Any) -> QuiltHook:
        quilt = {
            "conn_type": "quilt",
            "host": local.url,
            "password": KEY,
            "extra": {"registry": f"s3://{bucket}", "aws_conn_id": "store"},
        }
        aws = {"conn_type": "aws", "extra": {"endpoint_url": s3.endpoint, "region_name": "us-east-1"}}
        monkeypatch.setenv("AIRFLOW_CONN_QUILT_LOCAL", json.dumps({**quilt, **changes}))
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(aws))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "not-to-be-used")
        return QuiltHook("quilt_local")

    return connect


@pytest.mark.parametrize("end", ["", "/"])
def test_registry_url_is_relative(local: Local, end: str) -> None:
    assert requests.get(f"{local.url}/config.json", timeout=30).json()["registryUrl"] == "/__reg"

    config = Catalog(local.url + end).config()

    assert config == CatalogConfig(registry_url=f"{local.url}/__reg", region=None, stack_version=None)


def test_login_passes_credentials(local: Local) -> None:
    told: list[str] = []
    got = Catalog(local.url, KEY, on_secret=told.append).credentials()

    (made,) = local.handed_on
    assert (got.access_key, got.secret_key, got.session_token) == (made.access_key, made.secret_key, made.session_token)
    assert 800 < got.lifetime < 1000  # From the moment of the answer, which may come long after that of the credentials.
    assert told == [made.secret_key, made.session_token]


def test_pushed_revisions_are_found(connect: Connect, local: Local, bucket: str, name: str) -> None:
    registry = connect().registry()
    first = push(registry, Draft(package=name, entries={"a.txt": b"one"}, message="The first"))
    second = push(registry, Draft(package=name, entries={"a.txt": b"two", "b/c.txt": b"three"}, meta={"n": 2}))

    manifest = registry.read(PackageName.parse(name))
    assert {entry.logical_key: registry.read_bytes(entry) for entry in manifest.entries} == {"a.txt": b"two", "b/c.txt": b"three"}
    assert len(local.handed_on) == 1

    package = local.ask(REVISIONS, bucket=bucket, name=name)["package"]
    ours = [{"hash": one.top_hash, "modified": one.revision.published_at.isoformat()} for one in (second, first)]
    assert package == {
        "bucket": bucket,
        "name": name,
        "modified": ours[0]["modified"],
        "latest": {"hash": second.top_hash},
        "revisions": {"total": 2, "page": ours},
    }


def test_deleted_package_is_unlisted(connect: Connect, local: Local, bucket: str, name: str) -> None:
    registry = connect().registry()
    push(registry, Draft(package=name, entries={"a.txt": b"one"}))
    assert {"name": name} in local.ask(PACKAGES, bucket=bucket)["packages"]["page"]

    registry.delete(PackageName.parse(name))

    assert {"name": name} not in local.ask(PACKAGES, bucket=bucket)["packages"]["page"]
    assert local.ask(REVISIONS, bucket=bucket, name=name) == {"package": None}


def test_role_decides_access(connect: Connect, local: Local, name: str) -> None:
    local.role = "reader"
    registry = connect().registry()

    with pytest.raises(AccessDeniedError):
        push(registry, Draft(package=name, entries={"a.txt": b"one"}))
    assert registry.latest(PackageName.parse(name)) is None


def test_connection_test_passes(connect: Connect, local: Local, s3: S3Server) -> None:
    ok, text = connect().test_connection()

    lines = [line.removesuffix(";") for line in text.splitlines()]
    assert ok
    assert [line.partition(":")[0] for line in lines] == [
        *("OK connection", "OK catalog", "OK login", "OK identity", "OK list"),
        *("OK read", "OK write", "OK versions", "OK workflows"),
    ]
    assert lines[1:4] == [
        f"OK catalog: {local.url}, version unknown, its service at {local.url}/__reg",
        "OK login: S3 credentials for 15 minutes",
        f"OK identity: access key …{local.handed_on[0].access_key[-4:]} at {s3.endpoint}",
    ]


def test_no_password_names_catalog(connect: Connect, local: Local, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = connect(password=None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.admin.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.admin.secret_key)
    ok, text = hook.test_connection()

    assert ok
    assert "OK catalog: " in text
    assert "login" not in text
    assert not local.handed_on


def test_unknown_expiry_is_15_min(s3: S3Server, tmp_path: Path) -> None:
    """Those that it was started with, where they are temporary."""
    given = s3.assume("writer")
    with quilt3_local_with(tmp_path, s3, given) as url:
        found = Catalog(url, KEY).credentials()

    assert (found.access_key, found.session_token, found.lifetime) == (given.access_key, given.session_token, 900.0)


def test_refresh_token_is_refused(local: Local) -> None:
    with pytest.raises(LoginError, match="takes no refresh tokens; put an API key"):
        Catalog(local.url, "a-refresh-token").credentials()
