"""The stand-in for the Quilt service serves its tests; its likeness to the real one is shown by quilt3 in the oracle."""

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
from botocore.exceptions import ClientError

from testbed.catalog import CatalogServer, running_catalog
from testbed.server import S3Server, TemporaryCredentials


def get(catalog: CatalogServer, path: str, token: str | None = None, **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(catalog.url + path, headers=headers, timeout=30, allow_redirects=False, **options)


def log_in(catalog: CatalogServer, refresh_token: str) -> requests.Response:
    return requests.post(f"{catalog.url}/api/token", data={"refresh_token": refresh_token}, timeout=30)


def credentials(catalog: CatalogServer, token: str | None = None) -> TemporaryCredentials:
    answer = get(catalog, "/api/auth/get_credentials", token or catalog.api_key)
    answer.raise_for_status()
    told = answer.json()
    end = datetime.fromisoformat(told["Expiration"])
    return TemporaryCredentials(told["AccessKeyId"], told["SecretAccessKey"], told["SessionToken"], end)


def test_config_names_the_registry(catalog: CatalogServer) -> None:
    config = get(catalog, "/config.json").json()

    assert config["registryUrl"] == catalog.url
    assert (config["region"], config["crc64Checksums"], config["mode"]) == ("us-east-1", True, "PRODUCT")


def test_registry_may_have_a_path(s3: S3Server) -> None:
    with running_catalog(s3, registry="/__reg") as catalog:
        registry = get(catalog, "/config.json").json()["registryUrl"]

        assert registry == "/__reg"
        assert get(catalog, f"{registry}/api/auth/get_credentials", catalog.api_key).ok
        assert get(catalog, "/api/auth/get_credentials", catalog.api_key).status_code == 404


def test_login_renews_refresh_token(catalog: CatalogServer) -> None:
    first = catalog.refresh_token
    answer = log_in(catalog, first).json()
    again = log_in(catalog, first)

    assert answer["refresh_token"] == catalog.refresh_token != first
    assert answer["expires_at"] == pytest.approx(time.time() + 1800, abs=5)
    assert (again.status_code, again.json()) == (401, {"message": "Token invalid"})
    assert log_in(catalog, catalog.refresh_token).ok
    assert catalog.calls["token"] == 3


@pytest.mark.parametrize("login", ["an API key", "an access token"])
def test_credentials_open_the_store(catalog: CatalogServer, s3: S3Server, bucket: str, login: str) -> None:
    token = catalog.api_key if login == "an API key" else log_in(catalog, catalog.refresh_token).json()["access_token"]
    given = credentials(catalog, token)
    client = s3.client(given)
    client.put_object(Bucket=bucket, Key="a.txt", Body=b"a")

    assert client.get_object(Bucket=bucket, Key="a.txt")["Body"].read() == b"a"
    assert given.expiration - datetime.now(UTC) == pytest.approx(timedelta(hours=1), abs=timedelta(seconds=5))


def test_reader_role_may_not_write(catalog: CatalogServer, s3: S3Server, bucket: str) -> None:
    s3.client().put_object(Bucket=bucket, Key="a.txt", Body=b"a")
    catalog.role = "reader"
    client = s3.client(credentials(catalog))

    assert client.get_object(Bucket=bucket, Key="a.txt")["Body"].read() == b"a"
    assert client.list_object_versions(Bucket=bucket)["Versions"]
    for write in (client.put_object, client.delete_object, client.create_multipart_upload):
        with pytest.raises(ClientError, match="AccessDenied"):
            write(Bucket=bucket, Key="a.txt")


@pytest.mark.parametrize("token", [None, "qk_other", "other"])
def test_other_tokens_are_refused(catalog: CatalogServer, token: str | None) -> None:
    answer = get(catalog, "/api/auth/get_credentials", token)

    assert answer.status_code == 401
    assert answer.json() == {"message": "Token invalid." if token else "Not logged in"}


def test_revoked_login_is_refused(catalog: CatalogServer) -> None:
    access = log_in(catalog, catalog.refresh_token).json()["access_token"]
    catalog.revoke()

    assert log_in(catalog, catalog.refresh_token).status_code == 401
    for token in (catalog.api_key, access):
        assert get(catalog, "/api/auth/get_credentials", token).status_code == 401


def test_access_token_expires(catalog: CatalogServer) -> None:
    catalog.access_lifetime = 0.0
    answer = log_in(catalog, catalog.refresh_token).json()

    assert answer["expires_at"] <= time.time()
    assert get(catalog, "/api/auth/get_credentials", answer["access_token"]).status_code == 401


def test_expiration_follows_clock(catalog: CatalogServer) -> None:
    catalog.lifetime = 5.0
    catalog.skew = 7200.0
    answer = get(catalog, "/api/auth/get_credentials", catalog.api_key)
    now = datetime.now(UTC)
    near = {"abs": timedelta(seconds=3)}

    assert datetime.fromisoformat(answer.json()["Expiration"]) == pytest.approx(now + timedelta(seconds=7205), **near)
    assert parsedate_to_datetime(answer.headers["Date"]) == pytest.approx(now + timedelta(seconds=7200), **near)
    assert log_in(catalog, catalog.refresh_token).json()["expires_at"] == pytest.approx(time.time() + 9000, abs=3)


def test_wrong_call_is_refused(catalog: CatalogServer) -> None:
    assert requests.post(f"{catalog.url}/config.json", timeout=30).status_code == 405
    assert requests.post(f"{catalog.url}/api/token", timeout=30).status_code == 400
    assert get(catalog, "/elsewhere").status_code == 404


def test_endpoint_fails_as_ordered(catalog: CatalogServer) -> None:
    catalog.fail("config", 429, headers={"Retry-After": "7"}, times=2)
    catalog.fail("config", 502, body="<html>Bad gateway</html>")
    catalog.fail("config", 302, headers={"Location": "http://elsewhere.invalid/"})
    catalog.fail("config", 200, body={"error": "none"})
    answers = [get(catalog, "/config.json") for _ in range(6)]

    assert [answer.status_code for answer in answers] == [429, 429, 502, 302, 200, 200]
    assert (answers[0].headers["Retry-After"], answers[0].json()) == ("7", {"message": "Too Many Requests"})
    assert (answers[2].headers["Content-Type"], answers[2].text) == ("text/html", "<html>Bad gateway</html>")
    assert answers[3].headers["Location"] == "http://elsewhere.invalid/"
    assert answers[4].json() == {"error": "none"}
    assert answers[5].json() == catalog.config
    assert get(catalog, "/api/auth/get_credentials", catalog.api_key).ok


def test_endpoint_hangs_once(catalog: CatalogServer) -> None:
    catalog.hang("config", 30)

    with pytest.raises(requests.Timeout):
        requests.get(f"{catalog.url}/config.json", timeout=0.3)
    assert get(catalog, "/config.json").ok


def test_stop_ends_every_request(s3: S3Server) -> None:
    threads = threading.active_count()
    start = time.monotonic()
    with requests.Session() as idle, running_catalog(s3) as catalog:
        idle.get(f"{catalog.url}/config.json", timeout=30)
        catalog.hang("config", 60)
        with pytest.raises(requests.Timeout):
            requests.get(f"{catalog.url}/config.json", timeout=0.2)

    assert time.monotonic() - start < 10
    assert threading.active_count() == threads


def test_requests_are_recorded(catalog: CatalogServer) -> None:
    refresh_token = catalog.refresh_token
    get(catalog, "/elsewhere?x=1")
    seen_before = [catalog.saw(refresh_token), catalog.saw(catalog.api_key)]
    log_in(catalog, refresh_token)
    get(catalog, "/api/auth/get_credentials", catalog.api_key)

    assert seen_before == [False, False]
    assert catalog.saw(refresh_token)
    assert catalog.saw(catalog.api_key)
    assert [request.path for request in catalog.requests] == ["/elsewhere?x=1", "/api/token", "/api/auth/get_credentials"]
    assert "authorization" in catalog.requests[2].headers
    assert catalog.calls == {"token": 1, "credentials": 1}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tls_needs_the_authority(s3: S3Server, tmp_path: Path, host: str) -> None:
    with running_catalog(s3, tmp_path) as catalog:
        url = urljoin(catalog.url.replace("127.0.0.1", host), "config.json")
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(url, timeout=30)

        assert requests.get(url, timeout=30, verify=str(catalog.authority)).json()["registryUrl"] == catalog.url
