"""The real quilt3 logs in to the stand-in for the Quilt service, which proves it fit for other tests."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.catalog import CatalogServer, running_catalog
from testbed.server import S3Server

WORKER = Path(__file__).with_name("quilt3_login.py")

Run = Callable[..., list[Any]]


@pytest.fixture
def run(s3: S3Server, tmp_path: Path) -> Run:
    """A function that runs steps with quilt3, each time in a new process; all share a home, and have no AWS keys."""
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "QUILT_DISABLE_USAGE_METRICS": "true",
        "AWS_ENDPOINT_URL_S3": s3.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "REQUESTS_CA_BUNDLE": str(tmp_path / "tls" / "authority.pem"),
    }

    def run(*steps: tuple[str, ...]) -> list[Any]:
        done = subprocess.run(
            [sys.executable, WORKER], input=json.dumps(steps), env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        answers: list[Any] = json.loads(done.stdout)
        return answers

    return run


def test_refresh_token_opens_bucket(catalog: CatalogServer, run: Run, s3: S3Server, bucket: str, name: str) -> None:
    first = catalog.refresh_token
    answers = run(
        ("config", catalog.url),
        ("logged in",),
        ("log in", first),
        ("logged in",),
        ("write", bucket, name, "content"),
        ("read", bucket, name),
    )

    assert answers == [catalog.url, None, None, catalog.url, None, "content"]
    assert s3.client().get_object(Bucket=bucket, Key=name)["Body"].read() == b"content"
    assert name in run(("list", bucket))[0]
    assert run(("log in", first)) == ["QuiltException: Authentication error: 401"]
    assert catalog.calls == {"config": 1, "token": 2, "credentials": 1}


def test_tls_reader_may_not_write(run: Run, s3: S3Server, bucket: str, name: str, tmp_path: Path) -> None:
    s3.client().put_object(Bucket=bucket, Key=name, Body=b"content")
    with running_catalog(s3, tmp_path / "tls") as catalog:
        catalog.role = "reader"
        *answers, error = run(
            ("config", catalog.url),
            ("log in", catalog.refresh_token),
            ("read", bucket, name),
            ("write", bucket, name, "new"),
        )

    assert answers == [catalog.url, None, "content"]
    assert "(AccessDenied) when calling the PutObject operation" in error


def test_short_tokens_are_renewed(catalog: CatalogServer, run: Run, bucket: str, name: str) -> None:
    catalog.lifetime = catalog.access_lifetime = 50.0
    login = [("config", catalog.url), ("log in", catalog.refresh_token), ("write", bucket, name, "a")]

    assert run(*login)[2:] == [None]
    assert catalog.calls["credentials"] > 1
    calls = catalog.calls.copy()
    assert run(("write", bucket, name, "b"), ("read", bucket, name)) == [None, "b"]
    assert catalog.calls["credentials"] > calls["credentials"]
    assert catalog.calls["token"] == calls["token"] + 1


def test_api_key_gets_credentials(catalog: CatalogServer, run: Run, bucket: str, name: str) -> None:
    login = [("config", catalog.url), ("use key", catalog.api_key)]
    fetched = ["access_key", "expiry_time", "secret_key", "token"]

    assert run(*login, ("logged in",), ("read", bucket, name))[2:] == [
        catalog.url,
        "QuiltException: No Quilt credentials found.",
    ]
    assert run(*login, ("fetch",), ("write", bucket, name, "content"), ("read", bucket, name))[2:] == [fetched, None, "content"]
    assert catalog.calls["token"] == 0


def test_revoked_login_is_refused(catalog: CatalogServer, run: Run, bucket: str, name: str) -> None:
    catalog.lifetime = catalog.access_lifetime = 50.0
    run(("config", catalog.url), ("log in", catalog.refresh_token))
    catalog.revoke()

    refused = "QuiltException: Authentication failed. Check your credentials or API key."
    assert run(("use key", catalog.api_key), ("fetch",)) == [None, refused]
    assert run(("log in", catalog.refresh_token)) == ["QuiltException: Authentication error: 401"]
    [error] = run(("read", bucket, name))
    assert error == ("QuiltException: Failed to update the access token (Authentication error: 401). Run `quilt3 login` again.")


def test_quilt3_reports_failures(catalog: CatalogServer, run: Run) -> None:
    catalog.fail("config", 404)
    catalog.fail("token", 200, body={"error": "no"})
    catalog.fail("credentials", 500, body={"message": "Failed to get credentials"})

    assert run(("config", catalog.url)) == ["QuiltException: An HTTP Error (404) occurred: Not Found"]
    assert run(("config", catalog.url), ("log in", catalog.refresh_token))[1:] == ["QuiltException: Failed to log in: no"]
    assert run(("use key", catalog.api_key), ("fetch",)) == [None, "QuiltException: Failed to get credentials"]


def test_quilt3_needs_absolute_url(s3: S3Server, run: Run) -> None:
    with running_catalog(s3, registry="/__reg") as catalog:
        url, error = run(("config", catalog.url), ("log in", catalog.refresh_token))

    assert url == "/__reg"
    assert error.startswith("MissingSchema: ")
