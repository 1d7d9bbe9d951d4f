"""A proxy in front of an S3 store, which lets chosen requests go wrong."""

import contextlib
import dataclasses
import email.utils
import http.client
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal

from testbed.loopback import Exchange, LoopbackServer, Request
from testbed.server import S3Server

Code = Literal["ExpiredToken", "SlowDown", "InternalError"]
Where = Callable[[Request], bool]

_ERRORS: Final[Mapping[Code, tuple[int, str]]] = {
    "ExpiredToken": (400, "The provided token has expired."),
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
}
_TIMEOUT: Final = 60
_PART: Final = 1 << 18


def every(_request: Request) -> bool:
    """Choose any request."""
    return True


def access_key(request: Request) -> str | None:
    """Return the access key that a request is signed with, in its headers or its URL."""
    signed = f"{request.headers.get('Authorization', '')} {urllib.parse.urlsplit(request.path).query}"
    found = re.search(r"(?:Credential=|AWSAccessKeyId=|AWS )(\w+)", signed)
    return found[1] if found else None


@dataclasses.dataclass(slots=True)
class _Fault:
    kind: Code | Literal["cut", "lose", "truncate"]
    where: Where
    times: int


class S3Proxy:
    """A running proxy. Requests that are to go wrong are chosen by functions; faults that were ordered first come first.

    Attributes:
        store: the store, as clients see it through the proxy.
        requests: all that came, without their bodies.
    """

    def __init__(self, url: str, store: S3Server) -> None:
        self.store: Final = dataclasses.replace(store, endpoint=url)
        self.requests: list[Request] = []
        self._target = urllib.parse.urlsplit(store.endpoint).netloc
        self._faults: list[_Fault] = []
        self._expired: set[str] = set()
        self._lock = threading.Lock()

    def count(self, where: Where = every) -> int:
        """Count the requests that came."""
        return sum(map(where, tuple(self.requests)))

    def fail(self, code: Code, where: Where = every, *, times: int = 1) -> None:
        """Answer requests with an error; they do not reach the store."""
        self._order(_Fault(code, where, times))

    def cut(self, where: Where = every, *, times: int = 1) -> None:
        """Cut the connections of requests; they do not reach the store."""
        self._order(_Fault("cut", where, times))

    def lose(self, where: Where = every, *, times: int = 1) -> None:
        """Cut the connections of requests when the store has done what they ask for."""
        self._order(_Fault("lose", where, times))

    def truncate(self, where: Where = every, *, times: int = 1) -> None:
        """Cut the connections of requests when half of the answer's body is sent."""
        self._order(_Fault("truncate", where, times))

    def expire(self, key: str) -> None:
        """Refuse what is signed with an access key from now on, as S3 does at its end: SeaweedFS names another reason."""
        with self._lock:
            self._expired.add(key)

    def respond(self, exchange: Exchange) -> None:
        """Forward a request, or let it go wrong."""
        match self._kind(Request(exchange.command, exchange.path, exchange.headers)):
            case "cut":
                exchange.close_connection = True
            case None | "lose" | "truncate" as kind:
                self._forward(exchange, kind)
            case code:
                for _ in exchange.body():
                    pass
                _refuse(exchange, code)

    def _order(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _kind(self, request: Request) -> Code | Literal["cut", "lose", "truncate"] | None:
        with self._lock:
            self.requests.append(request)
            if access_key(request) in self._expired:
                return "ExpiredToken"
            for fault in self._faults:
                if fault.times and fault.where(request):
                    fault.times -= 1
                    return fault.kind
        return None

    def _forward(self, exchange: Exchange, kind: Literal["lose", "truncate"] | None) -> None:
        with contextlib.closing(http.client.HTTPConnection(self._target, timeout=_TIMEOUT)) as store:
            store.putrequest(exchange.command, exchange.path, skip_host=True, skip_accept_encoding=True)
            for header in exchange.headers.items():
                store.putheader(*header)
            store.endheaders()
            _send_body(exchange, store)
            with store.getresponse() as answer:
                if kind == "lose":
                    exchange.close_connection = True
                else:
                    _return(exchange, answer, truncate=kind == "truncate")


@contextlib.contextmanager
def running_proxy(store: S3Server) -> Iterator[S3Proxy]:
    """Run a proxy in front of a store until the block ends."""
    server = LoopbackServer()
    proxy = S3Proxy(server.url, store)
    with server.serving(proxy.respond):
        yield proxy


def _send_body(exchange: Exchange, store: http.client.HTTPConnection) -> None:
    listens = True
    for part in exchange.body():
        if listens:
            try:
                store.send(_chunk(part) if exchange.chunked else part)
            except ConnectionError:  # It has refused the request already.
                listens = False
    if exchange.chunked and listens:
        store.send(_chunk(b""))


def _return(exchange: Exchange, answer: http.client.HTTPResponse, *, truncate: bool) -> None:
    exchange.send_response_only(answer.status, answer.reason)
    for header in answer.getheaders():
        exchange.send_header(*header)
    exchange.end_headers()
    if truncate:
        exchange.wfile.write(answer.read((answer.length or 0) // 2))
        exchange.close_connection = True
        return
    chunked = answer.chunked and exchange.command != "HEAD"
    while part := answer.read(_PART):
        exchange.wfile.write(_chunk(part) if chunked else part)
    if chunked:
        exchange.wfile.write(_chunk(b""))


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


def _refuse(exchange: Exchange, code: Code) -> None:
    status, message = _ERRORS[code]
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    headers = {"Date": email.utils.formatdate(usegmt=True), "Content-Type": "application/xml"}
    exchange.answer(status, headers, body.encode())
