"""A stand-in for the Quilt service, over real HTTP: a catalog, a login, and real temporary credentials of a store.

Its answers are those of the service; ``tests/oracle/test_oracle_login.py`` shows that quilt3 logs in to it.
"""

import collections
import contextlib
import email.utils
import itertools
import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal

from testbed.loopback import Exchange, LoopbackServer, Request
from testbed.server import Role, S3Server
from testbed.tls import loopback_tls

Endpoint = Literal["config", "token", "credentials"]
"""``config.json``, ``/api/token`` and ``/api/auth/get_credentials``."""

_METHODS: Final[Mapping[Endpoint, str]] = {"config": "GET", "token": "POST", "credentials": "GET"}
_SECONDS: Final = 3600  # that the store's credentials live


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Forced:
    answer: _Answer | None = None
    delay: float = 0.0


class CatalogServer:
    """A running service, with one user. Tests may set its attributes at any time.

    Attributes:
        url: the catalog's.
        authority: the path of the CA bundle (PEM) of its certificate, if it uses TLS.
        config: the content of ``config.json``.
        api_key: is valid until :meth:`revoke`.
        refresh_token: the valid one; each login with it makes another.
        role: of the credentials.
        lifetime: seconds that the answer reports as the lifetime of credentials; None for the real one, an hour.
        access_lifetime: lifetime of access tokens, in seconds.
        skew: seconds by which the service's clock is ahead.
        calls: number of calls of each endpoint.
        requests: all requests, also to other paths.
        handed_out: the credentials and tokens in answers, secret parts only.
    """

    def __init__(self, url: str, store: S3Server, registry: str = "", authority: Path | None = None) -> None:
        self.url = url
        self.authority = authority
        self.config: dict[str, Any] = _config(registry or url)
        self.api_key: Final = f"qk_{secrets.token_urlsafe(32)}"
        self.refresh_token = secrets.token_urlsafe(32)
        self.role: Role = "writer"
        self.lifetime: float | None = None
        self.access_lifetime = 1800.0
        self.skew = 0.0
        self.calls: collections.Counter[Endpoint] = collections.Counter()
        self.requests: list[Request] = []
        self.handed_out: list[str] = []
        self._store = store
        self._endpoints: Mapping[str, Endpoint] = {
            "/config.json": "config",
            f"{registry}/api/token": "token",
            f"{registry}/api/auth/get_credentials": "credentials",
        }
        self._access: dict[str, float] = {}
        self._revoked = False
        self._forced: dict[Endpoint, collections.deque[_Forced]] = {name: collections.deque() for name in _METHODS}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def revoke(self) -> None:
        """Make the API key and all tokens invalid."""
        with self._lock:
            self._revoked = True

    def fail(
        self,
        endpoint: Endpoint,
        status: int,
        *,
        body: Mapping[str, Any] | str | None = None,
        headers: Mapping[str, str] | None = None,
        times: int = 1,
    ) -> None:
        """Answer the next calls of an endpoint with a JSON object, or with a `str` as a web page."""
        answer = _page(status, body, headers) if isinstance(body, str) else _json(status, body, headers)
        self._force(endpoint, _Forced(answer), times)

    def hang(self, endpoint: Endpoint, seconds: float, *, times: int = 1) -> None:
        """Answer the next calls of an endpoint late."""
        self._force(endpoint, _Forced(delay=seconds), times)

    def saw(self, secret: str) -> bool:
        """Return whether any request contained a `str`."""
        return any(
            secret in text
            for request in tuple(self.requests)
            for text in (request.path, str(request.headers), request.body.decode(errors="replace"))
        )

    def respond(self, exchange: Exchange) -> None:
        """Answer a request."""
        request = Request(exchange.command, exchange.path, exchange.headers, b"".join(exchange.body()))
        answer = self._answer(request)
        headers = {"Date": email.utils.formatdate(time.time() + self.skew, usegmt=True), **answer.headers}
        exchange.answer(answer.status, headers, answer.body.encode())

    def stop(self) -> None:
        """End the delays of all requests."""
        self._stopped.set()

    def _force(self, endpoint: Endpoint, forced: _Forced, times: int) -> None:
        with self._lock:
            self._forced[endpoint].extend(itertools.repeat(forced, times))

    def _answer(self, request: Request) -> _Answer:
        endpoint = self._endpoints.get(urllib.parse.urlsplit(request.path).path)
        with self._lock:
            self.requests.append(request)
            if endpoint is None:
                return _page(404, "<html>There is no such page.</html>")
            self.calls[endpoint] += 1
            waiting = self._forced[endpoint]
            forced = waiting.popleft() if waiting else _Forced()
        self._stopped.wait(forced.delay)
        if forced.answer:
            return forced.answer
        if request.method != _METHODS[endpoint]:
            return _json(405)
        match endpoint:
            case "config":
                return _json(200, self.config)
            case "token":
                return self._log_in(request)
            case "credentials":
                return self._hand_out(request)

    def _log_in(self, request: Request) -> _Answer:
        [given, *_] = urllib.parse.parse_qs(request.body.decode()).get("refresh_token", [""])
        if not given:
            return _json(400)
        with self._lock:
            if self._revoked or given != self.refresh_token:
                return _json(401, {"message": "Token invalid"})
            self.refresh_token, access = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
            ends = self._access[access] = time.time() + self.access_lifetime
            self.handed_out += [self.refresh_token, access]
            answer = {"refresh_token": self.refresh_token, "access_token": access, "expires_at": int(ends + self.skew)}
        return _json(200, answer)

    def _hand_out(self, request: Request) -> _Answer:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return _json(401, {"message": "Not logged in"})
        with self._lock:
            valid = not self._revoked and (token == self.api_key or self._access.get(token, 0.0) > time.time())
        if not valid:
            return _json(401, {"message": "Token invalid."})
        credentials = self._store.assume(self.role, _SECONDS)
        self.handed_out += [credentials.secret_key, credentials.session_token]
        end = credentials.expiration
        if self.lifetime is not None:
            end = datetime.now(UTC) + timedelta(seconds=self.lifetime)
        answer = {
            "AccessKeyId": credentials.access_key,
            "SecretAccessKey": credentials.secret_key,
            "SessionToken": credentials.session_token,
            "Expiration": (end.astimezone(UTC) + timedelta(seconds=self.skew)).isoformat(),
        }
        return _json(200, answer)


@contextlib.contextmanager
def running_catalog(store: S3Server, tls: Path | None = None, *, registry: str = "") -> Iterator[CatalogServer]:
    """Run a service that hands out credentials of a store, until the block ends.

    Args:
        store: has STS.
        tls: a directory for certificates; with one, the service uses TLS.
        registry: a path of the registry, such as ``/__reg``; with one, ``registryUrl`` is relative.
    """
    context, authority = loopback_tls(tls) if tls else (None, None)
    server = LoopbackServer(context)
    catalog = CatalogServer(server.url, store, registry, authority)
    with server.serving(catalog.respond):
        try:
            yield catalog
        finally:
            catalog.stop()


def _config(registry_url: str) -> dict[str, Any]:
    return {
        "alwaysRequiresAuth": True,
        "analyticsBucket": "",
        "apiGatewayEndpoint": "",
        "binaryApiGatewayEndpoint": "",
        "crc64Checksums": True,
        "mixpanelToken": "",
        "mode": "PRODUCT",
        "noDownload": False,
        "passwordAuth": "ENABLED",
        "region": "us-east-1",
        "registryUrl": registry_url,
        "s3Proxy": "",
        "serviceBucket": "",
        "ssoAuth": "DISABLED",
        "ssoProviders": "",
        "stackVersion": "1.69.0",
    }


def _json(status: int, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None) -> _Answer:
    text = json.dumps({"message": HTTPStatus(status).phrase} if body is None else body)
    return _Answer(status, text, {"Content-Type": "application/json", **(headers or {})})


def _page(status: int, text: str, headers: Mapping[str, str] | None = None) -> _Answer:
    return _Answer(status, text, {"Content-Type": "text/html", **(headers or {})})
