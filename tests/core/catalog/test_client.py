"""The login at the Quilt service, against a stand-in on real HTTP; each way to go wrong is told in its own words."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.catalog.client import Catalog, Http
from airflow_quilt.core.errors import CatalogError, CatalogUnavailableError, LoginError
from testbed.catalog import CatalogServer, running_catalog
from testbed.server import S3Server


class Sleeps:
    """Keeps what somebody wanted to wait, and does not."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


def login(server: CatalogServer, secret: str | None = None, *, sleeps: Sleeps | None = None, **http: Any) -> Catalog:
    options = {"timeout": 5.0, **http}
    return Catalog(server.url, secret or server.api_key, http=Http(**options), sleep=sleeps or Sleeps())


def test_a_catalog_says_where_its_service_is(catalog: CatalogServer) -> None:
    found = Catalog(f"{catalog.url}/").config()

    assert (found.registry_url, found.region, found.stack_version) == (catalog.url, "us-east-1", "1.69.0")


def test_a_relative_address_of_the_service_is_below_the_catalog(s3: S3Server) -> None:
    with running_catalog(s3, registry="/__reg") as server:
        assert Catalog(server.url).config().registry_url == f"{server.url}/__reg"
        assert login(server).credentials().access_key


def test_an_api_key_gives_credentials_that_the_store_takes(catalog: CatalogServer, s3: S3Server, bucket: str) -> None:
    found = login(catalog).credentials()

    assert 3500 < found.lifetime <= 3601
    who = s3.assume("writer")
    client = s3.client(type(who)(found.access_key, found.secret_key, found.session_token, who.expiration))
    client.put_object(Bucket=bucket, Key="a", Body=b"a")
    assert catalog.calls == {"config": 1, "credentials": 1}


def test_a_refresh_token_is_used_once_and_the_next_one_kept(catalog: CatalogServer) -> None:
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
    with pytest.raises(LoginError, match="does not accept the refresh token .* was used before .* API key"):
        login(catalog, first).credentials()


def test_every_derived_secret_is_told_before_it_is_used(catalog: CatalogServer) -> None:
    told: list[str] = []
    first = catalog.refresh_token
    found = Catalog(catalog.url, first, on_secret=told.append).credentials()

    assert {found.secret_key, found.session_token, catalog.refresh_token} <= set(told)
    assert len(told) == 4


def test_a_revoked_key_is_told_with_the_cure_and_without_the_key(catalog: CatalogServer, sleeps: Sleeps) -> None:
    catalog.revoke()

    with pytest.raises(LoginError, match="does not accept the API key .*revoked.* make a new one") as raised:
        login(catalog, sleeps=sleeps).credentials()
    assert not raised.value.transient
    assert catalog.api_key not in str(raised.value)
    assert sleeps.seconds == []


def test_an_answer_that_repeats_the_key_does_not_get_it_into_the_error(catalog: CatalogServer) -> None:
    catalog.fail("credentials", 403, body={"message": f"the key {catalog.api_key} is unknown"})

    with pytest.raises(LoginError, match=r"the key \*\*\* is unknown") as raised:
        login(catalog).credentials()
    assert catalog.api_key not in str(raised.value)


def test_without_a_secret_there_is_no_login(catalog: CatalogServer) -> None:
    with pytest.raises(LoginError, match="nothing to log in with"):
        Catalog(catalog.url).credentials()


@pytest.mark.parametrize("endpoint", ["config", "credentials"])
@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_fails_for_now_is_asked_again(catalog: CatalogServer, sleeps: Sleeps, endpoint: Any, status: int) -> None:
    catalog.fail(endpoint, status, times=4)

    assert login(catalog, sleeps=sleeps).credentials().access_key
    assert catalog.calls[endpoint] == 5
    assert len(sleeps.seconds) == 4
    assert len({round(seconds, 6) for seconds in sleeps.seconds}) > 1


def test_it_is_not_asked_for_ever(catalog: CatalogServer, sleeps: Sleeps) -> None:
    catalog.fail("credentials", 503, times=100)

    with pytest.raises(CatalogUnavailableError, match="failed for now, with status 503") as raised:
        login(catalog, sleeps=sleeps).credentials()
    assert raised.value.transient
    assert catalog.calls["credentials"] == 5


@pytest.mark.parametrize(("header", "waited"), [("7", 7.0), ("0", 0.0), ("86400", 30.0), ("Fri, 31 Dec 2999 23:59:59 GMT", 30.0)])
def test_the_service_says_how_long_to_wait_within_reason(
    catalog: CatalogServer, sleeps: Sleeps, header: str, waited: float
) -> None:
    catalog.fail("credentials", 429, headers={"Retry-After": header})
    login(catalog, sleeps=sleeps).credentials()

    assert sleeps.seconds == [waited]


def test_a_page_that_is_no_catalog_is_told(catalog: CatalogServer, sleeps: Sleeps) -> None:
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
def test_an_answer_without_credentials_is_told(catalog: CatalogServer, body: dict[str, str]) -> None:
    catalog.fail("credentials", 200, body={"AccessKeyId": "A", "SecretAccessKey": "S", **body} if "Expiration" in body else body)

    with pytest.raises(CatalogError, match="did not answer with credentials"):
        login(catalog).credentials()


@pytest.mark.parametrize("endpoint", ["config", "credentials"])
def test_nothing_is_sent_to_where_an_answer_redirects(catalog: CatalogServer, s3: S3Server, endpoint: Any) -> None:
    with running_catalog(s3) as elsewhere:
        catalog.fail(endpoint, 302, headers={"Location": f"{elsewhere.url}/api/auth/get_credentials"})
        with pytest.raises(CatalogError, match=f"redirects to {elsewhere.url}.*nothing was sent there"):
            login(catalog).credentials()

        assert elsewhere.requests == []


@pytest.mark.parametrize("url", ["http://catalog.example.com", "http://10.0.0.1", "ftp://catalog.example.com", "https://"])
def test_without_tls_only_this_machine_is_spoken_to(url: str) -> None:
    with pytest.raises(CatalogError, match="expected https://.*'allow_http'"):
        Catalog(url, "qk_key").config()


def test_another_machine_is_spoken_to_without_tls_when_that_is_allowed(catalog: CatalogServer) -> None:
    mapped = catalog.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")  # Not every Python takes this for loopback.

    assert Catalog(mapped, catalog.api_key, http=Http(allow_http=True)).config().stack_version == "1.69.0"


def test_the_service_must_speak_tls_too(catalog: CatalogServer) -> None:
    catalog.config["registryUrl"] = "http://registry.example.com"

    with pytest.raises(CatalogError, match="http://registry.example.com/.*: expected https://"):
        login(catalog).credentials()
    assert not catalog.saw(catalog.api_key)


def test_a_certificate_of_an_unknown_authority_is_told_and_may_be_named(s3: S3Server, tmp_path: Path, sleeps: Sleeps) -> None:
    with running_catalog(s3, tmp_path) as server:
        with pytest.raises(CatalogError, match="TLS certificate is not trusted.*'verify'") as raised:
            login(server, sleeps=sleeps).credentials()
        assert not raised.value.transient
        assert server.requests == []

        assert login(server, verify=str(server.authority)).credentials().access_key


def test_a_file_of_an_authority_that_is_not_there_is_told(s3: S3Server, tmp_path: Path) -> None:
    with running_catalog(s3, tmp_path) as server, pytest.raises(CatalogError, match=r"nowhere\.pem"):
        login(server, verify="/nowhere.pem").config()


@pytest.mark.parametrize(("skew", "word"), [(7200.0, "behind"), (-7200.0, "ahead of")])
def test_clocks_that_differ_too_much_are_told(catalog: CatalogServer, skew: float, word: str) -> None:
    catalog.skew = skew

    with pytest.raises(CatalogError, match=f"the clock of this machine is 120 minutes {word}"):
        login(catalog).credentials()


@pytest.mark.parametrize("skew", [600.0, -600.0])
def test_a_lifetime_is_counted_by_the_services_own_clock(catalog: CatalogServer, skew: float) -> None:
    catalog.skew, catalog.lifetime = skew, 60.0

    assert 55 < login(catalog).credentials().lifetime < 65


def test_a_service_that_hangs_is_given_up(catalog: CatalogServer, sleeps: Sleeps) -> None:
    catalog.hang("credentials", 60, times=2)
    began = time.monotonic()

    with pytest.raises(CatalogUnavailableError, match="no answer within 0.5 seconds"):
        login(catalog, sleeps=sleeps, timeout=0.5, attempts=2).credentials()
    assert time.monotonic() - began < 10


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_service_that_cannot_be_reached_is_left_to_a_retry(sleeps: Sleeps) -> None:
    with nobody() as url, pytest.raises(CatalogUnavailableError, match="cannot be reached") as raised:
        Catalog(url, "qk_key", sleep=sleeps).config()
    assert raised.value.transient
    assert len(sleeps.seconds) == 4


def test_a_netrc_file_does_not_take_the_place_of_the_login(
    catalog: CatalogServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    assert login(catalog).credentials().access_key
