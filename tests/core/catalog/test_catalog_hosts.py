"""The hosts that see a login: the catalog's and its service's, as every library reads their URLs, and no proxy in clear text."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_quilt.core.catalog.client import Catalog, HttpSettings
from airflow_quilt.core.errors import CatalogError, CatalogUnavailableError
from airflow_quilt.core.runtime.retry import NO_RETRY
from testbed.catalog import CatalogServer, running_catalog
from testbed.loopback import Exchange, LoopbackServer
from testbed.server import S3Server

ANY = ".".join("0000")
"""An address by which Linux reaches this machine, and that is none of loopback."""


def login(url: str, key: str, *, registry_host: str | None = None, **http: Any) -> Catalog:
    return Catalog(url, key, http=HttpSettings(**{"timeout": 5.0, **http}), retry=NO_RETRY, registry_host=registry_host)


@pytest.fixture
def elsewhere(s3: S3Server) -> Iterator[CatalogServer]:
    """Another service on this machine."""
    with running_catalog(s3) as server:
        yield server


@pytest.mark.parametrize(
    "form", ["http://evil\\@{}", "http://evil@{}", "http://evil#@{}", "http://{}\\@evil", "http://{} ", "http://{}\n"]
)
def test_odd_urls_send_nothing(catalog: CatalogServer, form: str) -> None:
    url = form.format(catalog.url.removeprefix("http://"))
    with pytest.raises(CatalogError):
        login(url, catalog.api_key, allow_http=True).credentials()
    catalog.config["registryUrl"] = url
    with pytest.raises(CatalogError, match="registryUrl cannot be used"):
        login(catalog.url, catalog.api_key, allow_http=True).credentials()

    assert not catalog.saw(catalog.api_key)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_loopback_is_named_by_loopback(catalog: CatalogServer, elsewhere: CatalogServer, name: str) -> None:
    """A catalog of this machine may name a service of it; one that is reached by another address may not."""
    port = elsewhere.url.rpartition(":")[2]
    catalog.config["registryUrl"] = f"http://{name}:{port}"
    remote = catalog.url.replace("127.0.0.1", ANY)

    with pytest.raises(CatalogError, match=r"names the service .* this machine or its own network link.*'registry_host'"):
        login(remote, elsewhere.api_key, allow_http=True).credentials()
    assert elsewhere.requests == []
    assert login(catalog.url, elsewhere.api_key).credentials().access_key
    assert login(remote, elsewhere.api_key, allow_http=True, registry_host=name).credentials().access_key


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "https://[fd00:ec2::254]", "http://0.0.0.0:1", "https://x.localhost"]
)
def test_internal_services_are_refused(catalog: CatalogServer, url: str) -> None:
    catalog.config["registryUrl"] = url

    with pytest.raises(CatalogError, match="its own network link: nothing was sent"):
        login(catalog.url, catalog.api_key, allow_http=True).config()


def test_registry_host_is_pinned(catalog: CatalogServer, elsewhere: CatalogServer) -> None:
    catalog.config["registryUrl"] = elsewhere.url
    port = elsewhere.url.rpartition(":")[2]
    for pinned in ("registry.example.com", "127.0.0.1:1", "localhost"):
        with pytest.raises(CatalogError, match=f"names the service {elsewhere.url}, and .*'registry_host' is '{pinned}'"):
            login(catalog.url, elsewhere.api_key, registry_host=pinned).credentials()
    assert elsewhere.requests == []

    for pinned in ("127.0.0.1", f"127.0.0.1:{port}"):
        assert login(catalog.url, elsewhere.api_key, registry_host=pinned).credentials().access_key


@contextlib.contextmanager
def recording_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let the environment name a proxy for everything; the requests that it sees are returned."""
    seen: list[str] = []

    def respond(exchange: Exchange) -> None:
        seen.append(exchange.path)
        exchange.answer(200, {}, b"{}")

    server = LoopbackServer()
    with server.serving(respond):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, server.url)
            monkeypatch.setenv(name.lower(), server.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        yield seen


def test_proxies_see_no_clear_text(catalog: CatalogServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"AccessKeyId": "a", "SecretAccessKey": "b", "SessionToken": "c", "Expiration": None}
    catalog.fail("credentials", 200, body=answer, times=2)  # It would ask the store for others by the proxy.
    with recording_proxy(monkeypatch) as seen:
        assert login(catalog.url, catalog.api_key).credentials().access_key
        remote = login(catalog.url.replace("127.0.0.1", ANY), catalog.api_key, allow_http=True, registry_host="127.0.0.1")
        assert remote.credentials().access_key
        with pytest.raises(CatalogUnavailableError):  # Not by the proxy, which does answer.
            login("http://catalog.invalid", catalog.api_key, allow_http=True).config()
        assert seen == []
        with pytest.raises(CatalogUnavailableError, match="cannot be reached"):
            login("https://catalog.invalid", catalog.api_key).config()
    assert [path for path in seen if path != "catalog.invalid:443"] == []
