"""The login at the Quilt service, against a stand-in on real HTTP; each failure has an error of its own."""

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.catalog.client import CATALOG_RETRY, Catalog, HttpSettings
from airflow_quilt.core.errors import CatalogError, CatalogUnavailableError, LoginError
from testbed.catalog import CatalogServer, running_catalog
from testbed.server import S3Server


class Sleeps:
    """Record the pauses, without sleeping."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


def login(
    server: CatalogServer, secret: str | None = None, *, sleeps: Sleeps | None = None, attempts: int = 5, **http: Any
) -> Catalog:
    retry = replace(CATALOG_RETRY, attempts=attempts, sleep=sleeps or Sleeps())
    return Catalog(server.url, secret or server.api_key, http=HttpSettings(**{"timeout": 5.0, **http}), retry=retry)


def test_config_names_registry_url(catalog: CatalogServer) -> None:
    found = Catalog(f"{catalog.url}/").config()

    assert (found.registry_url, found.region, found.stack_version) == (catalog.url, "us-east-1", "1.69.0")


def test_relative_registry_url(s3: S3Server) -> None:
    with running_catalog(s3, registry="/__reg") as server:
        assert Catalog(server.url).config().registry_url == f"{server.url}/__reg"
        assert login(server).credentials().access_key


def test_api_key_gives_credentials(catalog: CatalogServer, s3: S3Server, bucket: str) -> None:
    found = login(catalog).credentials()

    assert 3500 < found.lifetime <= 3601
    who = s3.assume("writer")
    client = s3.client(type(who)(found.access_key, found.secret_key, found.session_token, who.expiration))
    client.put_object(Bucket=bucket, Key="a", Body=b"a")
    assert catalog.calls == {"config": 1, "credentials": 1}


def test_refresh_token_is_single_use(catalog: CatalogServer) -> None:
    first = catalog.refresh_token
    client = login(catalog, first)
    for _ in range(3):
        client.credentials()
    assert catalog.calls == {"config": 1, "token": 1, "credentials": 3}

    catalog.access_lifetime = 30.0
    again = login(catalog, catalog.refresh_token)
    for _ in range(3):
        again.credentials()
    assert catalog.calls["token"] == 4
    with pytest.raises(LoginError, match="API key .* does not accept the refresh token .* was used before"):
        login(catalog, first).credentials()


def test_derived_secrets_reported(catalog: CatalogServer) -> None:
    """Report every derived secret before its first use."""
    reported: list[str] = []
    first = catalog.refresh_token
    found = Catalog(catalog.url, first, on_secret=reported.append).credentials()

    assert {found.secret_key, found.session_token, catalog.refresh_token} <= set(reported)
    assert len(reported) == 4


def test_revoked_key_names_cure(catalog: CatalogServer, sleeps: Sleeps) -> None:
    catalog.revoke()

    with pytest.raises(LoginError, match="make a new API key .* does not accept the API key .*revoked") as raised:
        login(catalog, sleeps=sleeps).credentials()
    assert not raised.value.transient
    assert catalog.api_key not in str(raised.value)
    assert sleeps.seconds == []


def test_error_hides_echoed_key(catalog: CatalogServer) -> None:
    catalog.fail("credentials", 403, body={"message": f"the key {catalog.api_key} is unknown"})

    with pytest.raises(LoginError, match=r"does not accept the API key \(status 403\)") as raised:
        login(catalog).credentials()
    assert "unknown" not in str(raised.value)


def test_login_needs_a_secret(catalog: CatalogServer) -> None:
    with pytest.raises(LoginError, match="nothing to log in with"):
        Catalog(catalog.url).credentials()


@pytest.mark.parametrize("endpoint", ["config", "credentials"])
@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_transient_errors_retried(catalog: CatalogServer, sleeps: Sleeps, endpoint: Any, status: int) -> None:
    catalog.fail(endpoint, status, times=4)

    assert login(catalog, sleeps=sleeps).credentials().access_key
    assert catalog.calls[endpoint] == 5
    assert len(sleeps.seconds) == 4
    assert len({round(seconds, 6) for seconds in sleeps.seconds}) > 1


def test_retries_are_bounded(catalog: CatalogServer, sleeps: Sleeps) -> None:
    catalog.fail("credentials", 503, times=100)

    with pytest.raises(CatalogUnavailableError, match="failed for now, with status 503") as raised:
        login(catalog, sleeps=sleeps).credentials()
    assert raised.value.transient
    assert catalog.calls["credentials"] == 5


@pytest.mark.parametrize(("header", "waited"), [("7", 7.0), ("0", 0.0), ("86400", 30.0), ("Fri, 31 Dec 2999 23:59:59 GMT", 30.0)])
def test_retry_after_up_to_30_s(catalog: CatalogServer, sleeps: Sleeps, header: str, waited: float) -> None:
    catalog.fail("credentials", 429, headers={"Retry-After": header})
    login(catalog, sleeps=sleeps).credentials()

    assert sleeps.seconds == [waited]


def test_non_catalog_page_refused(catalog: CatalogServer, sleeps: Sleeps) -> None:
    catalog.fail("config", 200, body="<html>Welcome to our shop</html>")
    with pytest.raises(CatalogError, match="something else than JSON; is .* the URL of a Quilt catalog") as raised:
        login(catalog, sleeps=sleeps).credentials()
    assert not raised.value.transient

    with pytest.raises(CatalogError, match=r"answered with status 404; is .* the URL of a Quilt catalog"):
        Catalog(f"{catalog.url}/shop", catalog.api_key).config()
    catalog.fail("config", 200, body={"name": "something else"})
    with pytest.raises(CatalogError, match="names no registryUrl"):
        login(catalog).config()


@pytest.mark.parametrize("body", [{}, {"AccessKeyId": "AK"}, {"Expiration": "soon"}], ids=["nothing", "half", "no time"])
def test_no_credentials_is_refused(catalog: CatalogServer, body: dict[str, str]) -> None:
    catalog.fail("credentials", 200, body={"AccessKeyId": "A", "SecretAccessKey": "S", **body} if "Expiration" in body else body)

    with pytest.raises(CatalogError, match="did not answer with credentials"):
        login(catalog).credentials()


@pytest.mark.parametrize("endpoint", ["config", "credentials"])
def test_redirect_is_not_followed(catalog: CatalogServer, s3: S3Server, endpoint: Any) -> None:
    with running_catalog(s3) as elsewhere:
        catalog.fail(endpoint, 302, headers={"Location": f"{elsewhere.url}/api/auth/get_credentials"})
        shown = elsewhere.url if endpoint == "config" else "elsewhere"  # The answer to a login may echo the key.
        with pytest.raises(CatalogError, match=f"redirects to {shown}.*nothing was sent there"):
            login(catalog).credentials()

        assert elsewhere.requests == []


@pytest.mark.parametrize("url", ["http://catalog.example.com", "http://10.0.0.1", "ftp://catalog.example.com", "https://"])
def test_plain_http_only_on_loopback(url: str) -> None:
    with pytest.raises(CatalogError, match="expected https://.*'allow_http'"):
        Catalog(url, "qk_key").config()


def test_allow_http_permits_host(catalog: CatalogServer) -> None:
    mapped = catalog.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")  # Not every Python takes this for loopback.

    assert Catalog(mapped, catalog.api_key, http=HttpSettings(allow_http=True)).config().stack_version == "1.69.0"


def test_registry_url_needs_tls(catalog: CatalogServer) -> None:
    catalog.config["registryUrl"] = "http://registry.example.com"

    with pytest.raises(CatalogError, match="http://registry.example.com/.*: expected https://"):
        login(catalog).credentials()
    assert not catalog.saw(catalog.api_key)


def test_unknown_ca_needs_verify(s3: S3Server, tmp_path: Path, sleeps: Sleeps) -> None:
    with running_catalog(s3, tmp_path) as server:
        with pytest.raises(CatalogError, match="TLS certificate is not trusted.*'verify'") as raised:
            login(server, sleeps=sleeps).credentials()
        assert not raised.value.transient
        assert server.requests == []

        assert login(server, verify=str(server.authority)).credentials().access_key


def test_missing_ca_bundle_named(s3: S3Server, tmp_path: Path) -> None:
    with running_catalog(s3, tmp_path) as server, pytest.raises(CatalogError, match=r"nowhere\.pem"):
        login(server, verify="/nowhere.pem").config()


@pytest.mark.parametrize(("skew", "word"), [(7200.0, "behind"), (-7200.0, "ahead of")])
def test_clock_skew_is_reported(catalog: CatalogServer, skew: float, word: str) -> None:
    catalog.skew = skew

    with pytest.raises(CatalogError, match=f"set the clock of this machine: it is 120 minutes {word}"):
        login(catalog).credentials()


@pytest.mark.parametrize("skew", [600.0, -600.0])
def test_lifetime_uses_server_clock(catalog: CatalogServer, skew: float) -> None:
    catalog.skew, catalog.lifetime = skew, 60.0

    assert 55 < login(catalog).credentials().lifetime < 65


def test_hanging_service_times_out(catalog: CatalogServer, sleeps: Sleeps) -> None:
    catalog.hang("credentials", 60, times=2)
    began = time.monotonic()

    with pytest.raises(CatalogUnavailableError, match="no answer within 0.5 seconds"):
        login(catalog, sleeps=sleeps, timeout=0.5, attempts=2).credentials()
    assert time.monotonic() - began < 10


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """The URL of a port without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_unreachable_is_transient(sleeps: Sleeps) -> None:
    with closed_port() as url, pytest.raises(CatalogUnavailableError, match="cannot be reached") as raised:
        Catalog(url, "qk_key", retry=replace(CATALOG_RETRY, sleep=sleeps)).config()
    assert raised.value.transient
    assert len(sleeps.seconds) == 4


def test_netrc_is_ignored(catalog: CatalogServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    assert login(catalog).credentials().access_key
