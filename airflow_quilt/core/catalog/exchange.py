"""One HTTP exchange with a catalog or its service, bounded in bytes and seconds. The only HTTP besides S3.

Nothing of an answer is believed, and no text of it is repeated: it may echo the secret of the request.

==========  =================================================================================================================
bound       place
==========  =================================================================================================================
seconds     one deadline for the whole exchange. Each reception waits only for the rest of it, so an answer that comes byte by
            byte, its headers too, ends there; the names of hosts are resolved on a thread that is left behind
bytes       counted where the connection receives them, framing and headers included; and again when a body is decompressed
hosts       the connection goes to the host of the checked :class:`WebUrl`; no redirect is followed; a proxy is used only where
            it passes TLS on
==========  =================================================================================================================
"""

import io
import socket
import ssl
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter

from airflow_quilt.core.errors import CatalogError, CatalogUnavailableError
from airflow_quilt.core.format.web_url import WebUrl
from airflow_quilt.core.runtime.stop import call_apart

MOST_BYTES: Final = 1024 * 1024
"""Bytes of an answer, as received and as decompressed; a catalog's has less than 10 KiB."""
_PART: Final = 64 * 1024
_OK: Final = 200
_GZIP: Final = zlib.MAX_WBITS | 16
_MOST_CAUSES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The settings of HTTP connections to the service.

    Attributes:
        verify: True to verify its TLS certificate, False to accept any, or the path of a CA bundle (PEM).
        timeout: seconds for a whole exchange.
        allow_http: True to connect to other machines without TLS; this machine is always reached without.
    """

    verify: bool | str = True
    timeout: float = 30.0
    allow_http: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Attributes:
        status: of HTTP.
        headers: by name, whose case does not count.
        body: decompressed; empty unless the status is 200.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def exchange(method: str, url: WebUrl, http: HttpSettings, **content: Any) -> Answer:
    """Send a request, and return the answer.

    Args:
        method: of HTTP.
        url: its scheme and host are permitted.
        http: the settings of the connection.
        **content: ``headers`` and ``data``, as for requests.

    Raises:
        CatalogError: the answer is too large or malformed, or the certificate is not trusted.
        CatalogUnavailableError: there is no connection, or no answer in time.
        CancelledError: a stop was requested.
    """
    deadline = time.monotonic() + http.timeout
    try:
        return call_apart(partial(_exchange, method, url, http, deadline, content), http.timeout)
    except TimeoutError:
        raise _late(url, http) from None


def _exchange(method: str, url: WebUrl, http: HttpSettings, deadline: float, content: Mapping[str, Any]) -> Answer:
    try:
        with requests.Session() as session, closing(_Adapter(url, deadline)) as adapter:
            session.auth = _NoAuth()  # A .netrc file must not replace the login.
            session.headers["Accept-Encoding"] = "identity"
            request = session.prepare_request(requests.Request(method, str(url), **content))
            # The adapter alone: a session reads the body of a redirect without a bound.
            return _receive(url, adapter.send(request, timeout=http.timeout, **_route(session, url, http)))
    except CatalogError:
        raise
    except Exception as error:  # noqa: BLE001  (of requests, urllib3, http.client, ssl and socket)
        failure = _failure(url, http, error)
    raise failure  # Without the errors that led to it: their texts may be the answer's.


def _route(session: requests.Session, url: WebUrl, http: HttpSettings) -> dict[str, Any]:
    """Return the options of the connection, with those of the environment: a CA bundle, proxies."""
    options = dict(session.merge_environment_settings(str(url), {}, True, http.verify, None))  # noqa: FBT003  (stream)
    if url.scheme == "http" or url.is_loopback:
        options["proxies"] = {}  # A proxy would read the secrets; and from there loopback is another machine.
    bundle = options["verify"]
    if isinstance(bundle, str) and not Path(bundle).exists():
        raise CatalogError(f"{url}: there is no CA bundle {bundle!r}, which 'verify' or the environment names")
    return options


def _receive(url: WebUrl, response: requests.Response) -> Answer:
    with response:
        if response.status_code != _OK:
            return Answer(response.status_code, response.headers, b"")
        raw: Any = response.raw
        body = b"".join(iter(partial(raw.read, _PART, decode_content=False), b""))
        return Answer(response.status_code, response.headers, _decoded(url, response.headers, body))


def _decoded(url: WebUrl, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a body decompressed: files of a catalog may be stored compressed, although the request asks for them as they are."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in {"gzip", "x-gzip"}:
        raise CatalogError(f"{url} answered in an encoding that was not asked for")
    try:
        text = zlib.decompressobj(_GZIP).decompress(body, MOST_BYTES + 1)
    except zlib.error:
        raise CatalogError(f"{url} answered with damaged gzip data") from None
    if len(text) > MOST_BYTES:
        raise _too_large(url)
    return text


class _Adapter(HTTPAdapter):
    """The connection of one exchange, whose receptions are bounded."""

    def __init__(self, url: WebUrl, deadline: float) -> None:
        self._url = url
        self._deadline = deadline
        super().__init__()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if (pool.scheme, pool.host.strip("[]"), pool.port) != (self._url.scheme, self._url.host.strip("[]"), self._url.port):
            raise CatalogError(f"{self._url}: requests reads this URL as another host's; nothing was sent")
        pool.ConnectionCls = partial(self._connect, pool.ConnectionCls)
        return pool

    def _connect(self, kind: Any, **options: Any) -> Any:
        connection = kind(**options)

        def receive(sock: socket.socket, *args: Any, **more: Any) -> HTTPResponse:
            source: Any = _Reception(self._url, sock, self._deadline)  # It is asked for makefile() alone.
            return _Response(source, *args, **more)

        connection.response_class = receive
        return connection


class _Response(HTTPResponse):
    """An answer whose headers are well-formed: urllib3 logs others, with their text."""

    def begin(self) -> None:
        super().begin()
        if self.msg.defects or self.msg.get_payload():
            raise HTTPException


class _Reception(io.RawIOBase):
    """The bytes that a connection receives for an answer, until one too many, or too late."""

    def __init__(self, url: WebUrl, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._url = url
        self._sock = sock
        self._file: Any = sock.makefile("rb", buffering=0)
        self._deadline = deadline
        self._count = 0

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a reader of the bytes, as http.client asks a socket for one."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        count: int = self._file.readinto(buffer)
        self._count += count
        if self._count > MOST_BYTES:
            raise _too_large(self._url)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _NoAuth(requests.auth.AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _failure(url: WebUrl, http: HttpSettings, error: Exception) -> CatalogError:
    """Return the core's error for one of HTTP; of texts it has those of the system and of OpenSSL only."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CatalogError(
                f"{url}: its TLS certificate is not trusted; 'verify' may name its authority ({cause.verify_message})"
            )
        if isinstance(cause, ssl.SSLError):
            return CatalogError(f"{url}: no TLS connection ({cause.reason or type(cause).__name__})")
    if any(isinstance(cause, TimeoutError | requests.exceptions.Timeout) for cause in causes):
        return _late(url, http)
    texts = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    reason = texts[0] if texts else type(causes[-1]).__name__
    if any(isinstance(cause, ValueError) for cause in causes):  # Of the request: an invalid URL of a proxy, for one.
        return CatalogError(f"{url}: no request can be made ({reason})")
    return CatalogUnavailableError(f"{url} cannot be reached: {reason}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it is made of: requests and urllib3 hold them in several places."""
    waiting: list[Any] = [error]
    seen: list[BaseException] = []
    while waiting and len(seen) < _MOST_CAUSES:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and cause not in seen:
            yield cause
            seen.append(cause)
            waiting += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]


def _late(url: WebUrl, http: HttpSettings) -> CatalogError:
    return CatalogUnavailableError(f"{url}: no answer within {http.timeout:g} seconds")


def _too_large(url: WebUrl) -> CatalogError:
    return CatalogError(f"{url} answered with more than {MOST_BYTES:,} bytes; is this the URL of a Quilt catalog?")
