"""Logging in through a connection: the credentials of the Quilt service open the store, and stay fresh."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook

from airflow_quilt._compat import AirflowFailException
from airflow_quilt.core.errors import CatalogUnavailableError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.hooks.aws import QuiltCredentialsMixin
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import QuiltPushOperator, QuiltVerifyOperator, entry
from testbed.catalog import CatalogServer
from testbed.proxy import S3Proxy, access_key
from testbed.server import S3Server

PART = 8 * 1024 * 1024
Connect = Callable[..., None]


def variables(catalog: CatalogServer, store: S3Server, bucket: str, **changes: Any) -> dict[str, str]:
    """Return the connections of a user with a login, and no keys."""
    quilt = {
        "conn_type": "quilt",
        "host": catalog.url,
        "password": changes.pop("password", catalog.api_key),
        "extra": {"registry": f"s3://{bucket}", "aws_conn_id": "store", **changes},
    }
    aws = {"conn_type": "aws", "extra": {"endpoint_url": store.endpoint}}
    return {"AIRFLOW_CONN_QUILT_DEFAULT": json.dumps(quilt), "AIRFLOW_CONN_STORE": json.dumps(aws)}


@pytest.fixture
def connect(catalog: CatalogServer, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A function that puts connections with a login in the environment."""

    def connect(store: S3Server = s3, **changes: Any) -> None:
        for name, value in variables(catalog, store, bucket, **changes).items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "not-to-be-used")

    return connect


def push(entries: object = None) -> dict[str, Any]:
    return QuiltPushOperator(task_id="push", package="team/data", entries=entries or {"a.txt": entry(content="a")}).execute({})


@pytest.mark.parametrize("kind", ["api_key", "refresh_token"])
def test_each_login_kind_works(connect: Connect, catalog: CatalogServer, kind: str) -> None:
    connect(password=getattr(catalog, kind))

    assert push()["created"]
    assert catalog.calls == {"config": 1, "credentials": 1} | ({"token": 1} if kind == "refresh_token" else {})


def test_role_decides_access(connect: Connect, catalog: CatalogServer) -> None:
    connect()
    push()
    catalog.role = "reader"

    with pytest.raises(AirflowFailException, match="AccessDeniedError: .*access denied"):
        push({"b.txt": b"b"})
    assert QuiltVerifyOperator(task_id="verify", package="team/data").execute({})["entries"] == 1


def test_other_service_fails_the_test(connect: Connect, catalog: CatalogServer) -> None:
    connect(registry_host="registry.example.com")

    ok, answer = QuiltHook().test_connection()
    assert not ok
    assert f"names the service {catalog.url}, and the connection's extra 'registry_host' is 'registry.example.com'" in answer
    with pytest.raises(AirflowFailException, match="nothing was sent there"):
        push()
    assert not catalog.saw(catalog.api_key)
    connect(registry_host="127.0.0.1")
    assert push()["created"]


def test_revoked_key_is_permanent(connect: Connect, catalog: CatalogServer) -> None:
    connect()
    catalog.revoke()

    with pytest.raises(AirflowFailException, match="LoginError: .*does not accept the API key") as raised:
        push()
    assert catalog.api_key not in str(raised.value)


def test_catalog_outage_is_transient(connect: Connect, catalog: CatalogServer) -> None:
    connect()
    catalog.fail("credentials", 503, headers={"Retry-After": "0"}, times=100)

    with pytest.raises(CatalogUnavailableError):
        push()


@contextmanager
def expiring(proxy: S3Proxy, seconds: float) -> Iterator[set[str]]:
    """Let each access key that was seen be worth nothing a moment later; return them."""
    stop, expired = threading.Event(), set[str]()

    def run() -> None:
        while not stop.wait(seconds):
            for key in {access_key(request) for request in tuple(proxy.requests)} - expired - {None}:
                proxy.expire(str(key))
                expired.add(str(key))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield expired
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A directory of 300 small files and one of three parts."""
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text(str(number))
    (tmp_path / "large.bin").write_bytes(os.urandom(2 * PART + 5))
    return tmp_path


def test_push_outlives_expiry(connect: Connect, catalog: CatalogServer, proxy: S3Proxy, many: Path) -> None:
    connect(proxy.store)
    with expiring(proxy, 0.15) as expired:
        result = push(f"{many}/")

    assert result["entries"] == 301
    assert len(expired) > 2
    # One fetch for each key that expired, however many threads were refused, and the first one.
    assert catalog.calls["credentials"] <= len(expired) + 1
    assert catalog.calls["config"] == 1


def test_short_credentials_refresh(connect: Connect, catalog: CatalogServer, proxy: S3Proxy, many: Path) -> None:
    catalog.lifetime = 0.1
    connect(proxy.store)

    assert push(f"{many}/")["entries"] == 301
    keys = {access_key(request) for request in proxy.requests}
    assert len(keys) > 1
    assert len(keys) <= catalog.calls["credentials"] <= len(keys) + 1


def test_threads_fetch_once(connect: Connect, catalog: CatalogServer, proxy: S3Proxy) -> None:
    connect(proxy.store)
    registry = QuiltHook().registry()
    registry.latest(PackageName("team", "data"))
    proxy.expire(str(access_key(proxy.requests[-1])))
    start = threading.Barrier(16)

    def read(_: int) -> object:
        start.wait(10)
        return registry.latest(PackageName("team", "data"))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read, range(16))) == [None] * 16
    assert catalog.calls["credentials"] == 2


PROCESS = """
from airflow_quilt.operators import QuiltPushOperator
import sys
print(QuiltPushOperator(task_id="push", package=f"team/{sys.argv[1]}", entries={"a.txt": b"a"}).execute({})["created"])
"""


def test_processes_share_one_key(connect: Connect, catalog: CatalogServer, s3: S3Server, bucket: str) -> None:
    connect()
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(number)], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for number in range(4)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]

    assert [text.splitlines()[-1] for text in said] == ["True"] * 4
    assert catalog.calls == {"config": 4, "credentials": 4}


def test_amazon_hook_shares_login(connect: Connect, catalog: CatalogServer, bucket: str) -> None:
    class QuiltS3Hook(QuiltCredentialsMixin, S3Hook):
        """S3 with the login of a Quilt connection."""

    connect()
    push()
    hook = QuiltS3Hook(credentials=QuiltHook().credentials, aws_conn_id="store")

    assert hook.list_keys(bucket, prefix="team/") == ["team/data/a.txt"]
    assert hook.get_session("us-east-1") is hook.get_session("us-east-1")
    assert catalog.calls["credentials"] == 2
    with pytest.raises(NotImplementedError, match="without deferrable=True"):
        hook.get_session(deferrable=True)


def test_connection_test_lists_parts(connect: Connect, catalog: CatalogServer, bucket: str) -> None:
    connect()
    ok, text = QuiltHook().test_connection()

    assert ok, text
    lines = [line.removesuffix(";") for line in text.splitlines()]
    assert f"OK catalog: {catalog.url}, version 1.69.0, its service at {catalog.url}" in lines
    assert "OK login: S3 credentials for 60 minutes" in lines
    assert [line.split()[1] for line in lines] == [
        "connection:",
        "catalog:",
        "login:",
        "identity:",
        "list:",
        "read:",
        "write:",
        "versions:",
        "workflows:",
    ]
    assert catalog.api_key not in text


@pytest.mark.parametrize(
    ("endpoint", "status", "body", "failing", "says"),
    [
        ("config", 200, "<html>", "catalog:", "the URL of a Quilt catalog"),
        ("config", 503, None, "catalog:", "status 503"),
        ("credentials", 401, None, "login:", "does not accept the API key"),
        ("credentials", 502, None, "login:", "status 502"),
    ],
    ids=["another page", "down", "rejected", "service down"],
)
def test_first_failure_ends_test(
    connect: Connect, catalog: CatalogServer, endpoint: Any, status: int, body: str | None, failing: str, says: str
) -> None:
    connect()
    catalog.fail(endpoint, status, body=body)
    ok, text = QuiltHook().test_connection()

    assert not ok
    first = text.splitlines()[0]  # Airflow's list shows the beginning.
    assert first.startswith(f"FAILED {failing}")
    assert says in first


def test_refresh_token_is_not_spent(connect: Connect, catalog: CatalogServer) -> None:
    token = catalog.refresh_token
    connect(password=token)
    ok, text = QuiltHook().test_connection()

    assert ok
    assert "WARNING login: use an API key; a refresh token is not tested" in text
    assert catalog.refresh_token == token
    assert not catalog.saw(token)
