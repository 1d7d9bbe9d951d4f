"""The Quilt service: the configuration of a catalog, and temporary S3 credentials for a login. The only HTTP besides S3.

A login is an API key (``qk_…``), or a refresh token, which the service exchanges for an access token and a new refresh token
each time. The requests are ``config.json``, ``/api/token`` and ``/api/auth/get_credentials``, as in quilt3's ``session``.
"""

import ipaddress
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import pendulum
import requests

from airflow_quilt.core.errors import CatalogError, CatalogUnavailableError, LoginError
from airflow_quilt.core.runtime.retry import RetryPolicy, retried
from airflow_quilt.core.runtime.stop import call_apart

API_KEY_PREFIX: Final = "qk_"

CATALOG_RETRY: Final = RetryPolicy(seconds=120.0, shortest=0.5, longest=30.0, attempts=5, final=())
"""The policy for a service that fails for now; ``Retry-After`` counts up to ``longest``."""

_MOST_SKEW: Final = 15 * 60
"""Seconds; S3 refuses signatures that are older."""
_EARLY: Final = 60
"""Seconds of its life in which an access token is not used any more."""
_SHORTEST_LIFE: Final = 15 * 60.0
"""Seconds that S3 credentials live at least: their lifetime where the service states none."""
_BUSY: Final = 429
_SERVER_ERROR: Final = 500
_NOT_FOUND: Final = 404
_REJECTED: Final = frozenset({400, 401, 403})
_MOST_SHOWN: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogConfig:
    """The public configuration of a catalog, its ``config.json``.

    Attributes:
        registry_url: the URL of the service, without a trailing ``/``.
        region: the AWS region of the buckets; None where the catalog states none.
        stack_version: the version of the platform; None where the catalog states none.
    """

    registry_url: str
    region: str | None
    stack_version: str | None


@dataclass(frozen=True, slots=True)
class TemporaryCredentials:
    """S3 credentials.

    Attributes:
        access_key: the access key ID.
        secret_key: the secret access key.
        session_token: the session token.
        lifetime: seconds from the moment of the answer, by the clock of the service.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    lifetime: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The settings of HTTP connections to the service.

    Attributes:
        verify: True to verify its TLS certificate, False to accept any, or the path of a CA bundle (PEM).
        timeout: seconds to connect, and between two bytes of an answer.
        allow_http: True to connect to other machines without TLS; this machine is always reached without.
    """

    verify: bool | str = True
    timeout: float = 30.0
    allow_http: bool = False


class Catalog:
    """A catalog, and the service behind it. Safe to use from several threads.

    Args:
        url: the catalog's, such as ``https://catalog.example.com``.
        secret: an API key or a refresh token; None where only :meth:`config` is needed.
        http: the settings of its connections.
        retry: the policy for requests that fail for now.
        on_secret: receives each secret that the login yields, before any code can print it.
    """

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        *,
        http: HttpSettings | None = None,
        retry: RetryPolicy = CATALOG_RETRY,
        on_secret: Callable[[str], object] = lambda _secret: None,
    ) -> None:
        self.url = url.rstrip("/")
        self._http = http or HttpSettings()
        self._retry = retry
        self._on_secret = on_secret
        self._lock = threading.RLock()
        self._config: CatalogConfig | None = None
        self._api_key = secret if secret and secret.startswith(API_KEY_PREFIX) else None
        self._refresh_token = None if self._api_key else secret
        self._access_token = ""
        self._access_ends = 0.0

    def config(self) -> CatalogConfig:
        """Return the configuration of the catalog; it is requested once.

        Raises:
            CatalogError: the URL is no catalog's, its certificate is not trusted, or it would be reached without TLS.
            CatalogUnavailableError: the catalog cannot be reached, or fails for now.
        """
        with self._lock:
            if self._config is None:
                answer, _ = self._call("GET", f"{self.url}/config.json")
                registry = answer.get("registryUrl")
                if not isinstance(registry, str) or not registry:
                    raise CatalogError(f"{self.url}/config.json names no registryUrl; is this the URL of a Quilt catalog?")
                self._config = CatalogConfig(
                    registry_url=urljoin(f"{self.url}/", registry).rstrip("/"),
                    region=answer.get("region"),
                    stack_version=answer.get("stackVersion"),
                )
            return self._config

    def credentials(self) -> TemporaryCredentials:
        """Fetch new S3 credentials.

        Raises:
            LoginError: the API key or refresh token is not accepted, or there is none.
            CatalogError: the answer holds no credentials, or the clocks differ by more than 15 minutes.
            CatalogUnavailableError: the service cannot be reached, or fails for now.
        """
        with self._lock:
            url = f"{self.config().registry_url}/api/auth/get_credentials"
            answer, clock = self._call("GET", url, headers={"Authorization": f"Bearer {self._token()}"})
            self._check_clock(clock)
            try:
                access, secret, token = (str(answer[name]) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
                lifetime = _lifetime(answer["Expiration"], clock or pendulum.now("UTC"))
            except (KeyError, TypeError, ValueError) as error:
                raise CatalogError(f"{url} did not answer with credentials: {error!r}") from error
            self._on_secret(secret)
            self._on_secret(token)
            return TemporaryCredentials(access, secret, token, lifetime)

    def _token(self) -> str:
        """Return the proof of the login: the API key, or an access token that lives for a minute more."""
        if self._api_key:
            return self._api_key
        if not self._refresh_token:
            raise LoginError(f"{self.url}: there is nothing to log in with; put an API key into the connection's password")
        if time.monotonic() > self._access_ends - _EARLY:
            url = f"{self.config().registry_url}/api/token"
            answer, clock = self._call("POST", url, data={"refresh_token": self._refresh_token})
            try:
                access, refresh, ends = str(answer["access_token"]), str(answer["refresh_token"]), float(answer["expires_at"])
            except (KeyError, TypeError, ValueError) as error:
                raise self._rejected(str(answer.get("error", f"no token in the answer of {url}"))) from error
            self._on_secret(access)
            self._on_secret(refresh)
            self._access_token, self._refresh_token = access, refresh
            self._access_ends = time.monotonic() + ends - (clock.timestamp() if clock else time.time())
        return self._access_token

    def _rejected(self, reason: str) -> LoginError:
        if secret := self._api_key or self._refresh_token:
            reason = reason.replace(secret, "***")
        if self._api_key:
            return LoginError(
                f"{self.url} does not accept the API key ({reason}): it was revoked or has expired; "
                "make a new one in the catalog and put it into the connection's password"
            )
        return LoginError(
            f"{self.url} does not accept the refresh token ({reason}): it was used before or has expired, as each one counts "
            "once; put an API key into the connection's password instead, which several workers can share"
        )

    def _check_clock(self, clock: pendulum.DateTime | None) -> None:
        skew = (pendulum.now("UTC") - clock).total_seconds() if clock else 0.0
        if abs(skew) > _MOST_SKEW:
            raise CatalogError(
                f"the clock of this machine is {abs(skew) / 60:,.0f} minutes {'ahead of' if skew > 0 else 'behind'} that of "
                f"{self.url}: S3 would refuse its signatures; set the clock"
            )

    @retried
    def _call(self, method: str, url: str, /, **options: Any) -> tuple[Mapping[str, Any], pendulum.DateTime | None]:
        """Make a request; return the fields of the answer, and the time of the service's clock."""
        self._check_url(url)
        http = self._http
        with requests.Session() as session:
            session.trust_env = True
            session.auth = _NoAuth()  # A .netrc file must not replace the login.
            try:
                options = {"timeout": http.timeout, "verify": http.verify, "allow_redirects": False, **options}
                response = call_apart(partial(session.request, method, url, **options))
            except requests.exceptions.SSLError as error:
                raise CatalogError(
                    f"{url}: its TLS certificate is not trusted; 'verify' may name its authority ({error})"
                ) from error
            except requests.exceptions.Timeout as error:
                raise CatalogUnavailableError(f"{url}: no answer within {http.timeout:g} seconds") from error
            except requests.exceptions.ConnectionError as error:
                raise CatalogUnavailableError(f"{url} cannot be reached: {error}") from error
            except (requests.exceptions.RequestException, OSError) as error:
                raise CatalogError(f"{url}: {error}") from error
        return self._read(url, response)

    def _read(self, url: str, response: requests.Response) -> tuple[Mapping[str, Any], pendulum.DateTime | None]:
        status = response.status_code
        if response.is_redirect:
            raise CatalogError(
                f"{url} redirects to {response.headers['Location']}: nothing was sent there; "
                "if that is where the catalog is, give the connection that URL"
            )
        if status == _BUSY or status >= _SERVER_ERROR:
            raise CatalogUnavailableError(f"{url} failed for now, with status {status}", _retry_after(response))
        if status in _REJECTED and "/api/" in url:
            raise self._rejected(f"status {status}: {response.text[:_MOST_SHOWN]}")
        if status == _NOT_FOUND and url.endswith("/api/token"):
            raise LoginError(
                f"{self.url} takes no refresh tokens; put an API key ({API_KEY_PREFIX}…) into the connection's password"
            )
        if not response.ok:
            raise CatalogError(f"{url} answered with status {status}; is {self.url} the URL of a Quilt catalog?")
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise CatalogError(f"{url} answered with something else than JSON; is {self.url} the URL of a Quilt catalog?")
        return answer, _date(response)

    def _check_url(self, url: str) -> None:
        """Check that a request goes over TLS, or to this machine, or that it may go without.

        Raises:
            CatalogError: it may not.
        """
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.hostname:
            return
        if parts.scheme == "http" and parts.hostname and (self._http.allow_http or _is_loopback(parts.hostname)):
            return
        raise CatalogError(f"{url}: expected https://…; to do without TLS set the connection's extra 'allow_http' to true")


def _lifetime(expiration: object, clock: pendulum.DateTime) -> float:
    if expiration is None:  # As Quilt's own local catalog answers, whose web pages take that for no end.
        return _SHORTEST_LIFE
    end = pendulum.parse(str(expiration), strict=False)
    if not isinstance(end, pendulum.DateTime):
        raise TypeError(f"{expiration!r} is no time")
    return (end - clock).total_seconds()


class _NoAuth(requests.auth.AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds that an answer asks to wait, given as such or as a date; None if it does not ask."""
    text = response.headers.get("Retry-After", "")
    if text.isdigit():
        return float(text)
    try:
        return (parsedate_to_datetime(text) - pendulum.now("UTC")).total_seconds()
    except (TypeError, ValueError):
        return None


def _date(response: requests.Response) -> pendulum.DateTime | None:
    try:
        return pendulum.instance(parsedate_to_datetime(response.headers.get("Date", "")))
    except (TypeError, ValueError):
        return None
