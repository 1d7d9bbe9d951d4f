"""The Quilt service: the configuration of a catalog, and temporary S3 credentials for a login.

A login is an API key (``qk_…``), or a refresh token, which the service exchanges for an access token and a new refresh token
each time. The requests are ``config.json``, ``/api/token`` and ``/api/auth/get_credentials``, as in quilt3's ``session``.
"""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from airflow_quilt.core.catalog.answers import CatalogConfig, TemporaryCredentials, parse_config, parse_credentials, parse_tokens
from airflow_quilt.core.catalog.exchange import Answer, HttpSettings, exchange
from airflow_quilt.core.catalog.secrets import is_sendable
from airflow_quilt.core.errors import CatalogError, CatalogUnavailableError, LocationError, LoginError
from airflow_quilt.core.format.web_url import WebUrl
from airflow_quilt.core.runtime.retry import RetryPolicy, retried

__all__ = ["API_KEY_PREFIX", "CATALOG_RETRY", "Catalog", "CatalogConfig", "HttpSettings", "TemporaryCredentials"]

API_KEY_PREFIX: Final = "qk_"

CATALOG_RETRY: Final = RetryPolicy(seconds=120.0, shortest=0.5, longest=30.0, attempts=5, final=())
"""The policy for a service that fails for now; ``Retry-After`` counts up to ``longest``."""

_MOST_SKEW: Final = 15 * 60
"""Seconds; S3 refuses signatures that are older."""
_EARLY: Final = 60
"""Seconds of its life in which an access token is not used any more."""
_LONGEST_ACCESS: Final = 24 * 3600.0
"""Seconds for which an access token is used at most, whatever the service states."""
_OK: Final = 200
_BUSY: Final = 429
_SERVER_ERROR: Final = 500
_NOT_FOUND: Final = 404
_REJECTED: Final = frozenset({400, 401, 403})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_HEADER: Final = 64
"""Characters of a header with a time."""


class Catalog:
    """A catalog, and the service behind it. Safe to use from several threads.

    Args:
        url: the catalog's, such as ``https://catalog.example.com``.
        secret: an API key or a refresh token; None where only :meth:`config` is needed.
        http: the settings of its connections.
        retry: the policy for requests that fail for now.
        on_secret: receives each secret that the login yields, before any code can print it.
        registry_host: the only host that the catalog may name as its service, maybe with a port; None for any but those that
            are refused anyway.

    Raises:
        CatalogError: the URL is none of a web server.
        LoginError: the secret has other characters than visible ASCII; the message does not repeat it.
    """

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        *,
        http: HttpSettings | None = None,
        retry: RetryPolicy = CATALOG_RETRY,
        on_secret: Callable[[str], object] = lambda _secret: None,
        registry_host: str | None = None,
    ) -> None:
        if secret is not None and not is_sendable(secret):
            raise LoginError("the API key or refresh token is not visible ASCII in one piece: copy it again, without line breaks")
        try:
            self._url = WebUrl.parse(url)
        except LocationError as error:
            raise CatalogError(f"{error}; expected https://…, or http with the connection's extra 'allow_http'") from None
        self.url = str(self._url)
        self._http = http or HttpSettings()
        self._retry = retry
        self._on_secret = on_secret
        self._registry_host = registry_host
        self._lock = threading.RLock()
        self._config: CatalogConfig | None = None
        self._service = self._url
        self._api_key = secret if secret and secret.startswith(API_KEY_PREFIX) else None
        self._refresh_token = None if self._api_key else secret
        self._access_token = ""
        self._access_ends = 0.0

    def config(self) -> CatalogConfig:
        """Return the configuration of the catalog; it is requested once.

        Raises:
            CatalogError: the URL is no catalog's, its certificate is not trusted, it would be reached without TLS, or it names a
                service that is not permitted.
            CatalogUnavailableError: the catalog cannot be reached, or fails for now.
        """
        with self._lock:
            if self._config is None:
                answer = self._call("GET", self._url.join("/config.json"))
                config, service = parse_config(answer.body, self._url)
                self._check_service(service)
                self._config, self._service = config, service
            return self._config

    def credentials(self) -> TemporaryCredentials:
        """Fetch new S3 credentials.

        Raises:
            LoginError: the API key or refresh token is not accepted, or there is none.
            CatalogError: the answer holds no credentials, or the clocks differ by more than 15 minutes.
            CatalogUnavailableError: the service cannot be reached, or fails for now.
        """
        with self._lock:
            self.config()
            url = self._service.join("/api/auth/get_credentials")
            answer = self._call("GET", url, headers={"Authorization": f"Bearer {self._token()}"})
            clock = _date(answer.headers)
            self._check_clock(clock)
            found = parse_credentials(answer.body, str(url), clock or datetime.now(UTC))
            self._on_secret(found.secret_key)
            self._on_secret(found.session_token)
            return found

    def _token(self) -> str:
        """Return the proof of the login: the API key, or an access token that lives for a minute more."""
        if self._api_key:
            return self._api_key
        if not self._refresh_token:
            raise LoginError(f"{self.url}: put an API key into the connection's password; there is nothing to log in with")
        if time.monotonic() > self._access_ends - _EARLY:
            url = self._service.join("/api/token")
            answer = self._call("POST", url, data={"refresh_token": self._refresh_token})
            try:
                tokens = parse_tokens(answer.body, str(url))
            except CatalogError as error:
                raise self._rejected(str(error)) from None
            self._on_secret(tokens.access_token)
            self._on_secret(tokens.refresh_token)
            self._access_token, self._refresh_token = tokens.access_token, tokens.refresh_token
            clock = _date(answer.headers)
            life = tokens.expires_at - (clock.timestamp() if clock else time.time())
            self._access_ends = time.monotonic() + min(life, _LONGEST_ACCESS)
        return self._access_token

    def _rejected(self, reason: str) -> LoginError:
        if self._api_key:
            return LoginError(
                f"{self.url}: make a new API key in the catalog, and put it into the connection's password; the service does not "
                f"accept the API key ({reason}): it was revoked or has expired"
            )
        return LoginError(
            f"{self.url}: put an API key into the connection's password, which several workers can share; the service does not "
            f"accept the refresh token ({reason}): it was used before or has expired, as each one counts once"
        )

    def _check_clock(self, clock: datetime | None) -> None:
        skew = (datetime.now(UTC) - clock).total_seconds() if clock else 0.0
        if abs(skew) > _MOST_SKEW:
            raise CatalogError(
                f"set the clock of this machine: it is {abs(skew) / 60:,.0f} minutes {'ahead of' if skew > 0 else 'behind'} that "
                f"of {self.url}, and S3 would refuse its signatures"
            )

    @retried
    def _call(self, method: str, url: WebUrl, /, **content: Any) -> Answer:
        """Make a request; return the answer, which has the status 200."""
        self._check_tls(url)
        answer = exchange(method, url, self._http, **content)
        if answer.status != _OK:
            raise self._refused(url, answer)
        return answer

    def _refused(self, url: WebUrl, answer: Answer) -> CatalogError:
        """Return the error for a status; none repeats a text of the answer, which may echo the secret of the request."""
        status, is_login = answer.status, "/api/" in url.path
        if status in _REDIRECTS:
            return CatalogError(
                f"{url} redirects to {'elsewhere' if is_login else _target(answer.headers)}: nothing was sent there; "
                "if that is where the catalog is, give the connection that URL"
            )
        if status == _BUSY or status >= _SERVER_ERROR:
            return CatalogUnavailableError(f"{url} failed for now, with status {status}", _retry_after(answer.headers))
        if status in _REJECTED and is_login:
            return self._rejected(f"status {status}")
        if status == _NOT_FOUND and url.path.endswith("/api/token"):
            return LoginError(
                f"{self.url} takes no refresh tokens; put an API key ({API_KEY_PREFIX}…) into the connection's password"
            )
        return CatalogError(f"{url} answered with status {status}; is {self.url} the URL of a Quilt catalog?")

    def _check_tls(self, url: WebUrl) -> None:
        """Check that a request goes over TLS, or to this machine, or that it may go without.

        Raises:
            CatalogError: it may not.
        """
        if url.scheme != "https" and not self._http.allow_http and not url.is_loopback:
            raise CatalogError(f"{url}: expected https://…; to do without TLS set the connection's extra 'allow_http' to true")

    def _check_service(self, service: WebUrl) -> None:
        """Check that the catalog may name this service, to which the login is sent.

        Raises:
            CatalogError: it may not.
        """
        pinned = self._registry_host
        if pinned and pinned not in {service.host, f"{service.host}:{service.port}"}:
            raise CatalogError(
                f"{self.url}/config.json names the service {service}, and the connection's extra 'registry_host' is {pinned!r}: "
                "nothing was sent there; correct the extra, or ask the owner of the catalog"
            )
        is_own = service.host == self._url.host or (service.is_loopback and self._url.is_loopback)
        if service.is_internal and not is_own and not pinned:
            raise CatalogError(
                f"{self.url}/config.json names the service {service}, which is this machine or its own network link: nothing was "
                "sent there; if it is meant, set the connection's extra 'registry_host' to it"
            )


def _target(headers: Mapping[str, str]) -> str:
    """Return the target of a redirect, if it is the plain URL of a web server."""
    try:
        return str(WebUrl.parse(headers.get("Location", "")))
    except LocationError:
        return "elsewhere"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, given as such or as a date; None if it does not ask."""
    text = headers.get("Retry-After", "")[:_MOST_HEADER]
    if text.isascii() and text.isdigit():
        return float(text)
    moment = _time(text)
    return (moment - datetime.now(UTC)).total_seconds() if moment else None


def _date(headers: Mapping[str, str]) -> datetime | None:
    return _time(headers.get("Date", "")[:_MOST_HEADER])


def _time(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
