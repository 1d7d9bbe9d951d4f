"""A proxy in front of an S3 store that injects faults into requests: chosen by a test, or random."""

import contextlib
import dataclasses
import email.utils
import http.client
import os
import re
import socket
import ssl
import struct
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from testbed.faults import ERRORS, Code, Fault, Kind
from testbed.loopback import Exchange, LoopbackServer, Request
from testbed.server import S3Server

Where = Callable[[Request], bool]
Choose = Callable[[Request], Fault | None]

_TIMEOUT: Final = 60
_PART: Final = 1 << 18
_NO_LINGER: Final = struct.pack("ii", 1, 0)


def every(_request: Request) -> bool:
    """Choose any request."""
    return True


def nothing(_request: Request) -> None:
    """Return no fault."""


def access_key(request: Request) -> str | None:
    """Return the access key that a request is signed with, in its headers or its URL."""
    signed = f"{request.headers.get('Authorization', '')} {urllib.parse.urlsplit(request.path).query}"
    found = re.search(r"(?:Credential=|AWSAccessKeyId=|AWS )(\w+)", signed)
    return found[1] if found else None


@dataclasses.dataclass(slots=True)
class _Order:
    fault: Fault
    where: Where
    times: int


class S3Proxy:
    """A running proxy. Functions choose the requests that get a fault; faults that were ordered first come first.

    Attributes:
        store: the store, as clients see it through the proxy.
        requests: all requests, without their bodies.
        faults: the faults, each with its request. No empty body is corrupted or truncated.
    """

    def __init__(self, url: str, store: S3Server) -> None:
        self.store: Final = dataclasses.replace(store, endpoint=url)
        self.requests: list[Request] = []
        self.faults: list[tuple[Fault, Request]] = []
        self._target = urllib.parse.urlsplit(store.endpoint).netloc
        self._orders: list[_Order] = []
        self._choose: Choose = nothing
        self._expired: set[str] = set()
        self._rate: float | None = None
        self._under_way = 0
        self._changed = threading.Condition()
        self._ended = threading.Event()

    def count(self, where: Where = every) -> int:
        """Count the requests."""
        return sum(map(where, tuple(self.requests)))

    def count_faults(self) -> Counter[Kind]:
        """Count the faults, by kind."""
        return Counter(fault.kind for fault, _ in tuple(self.faults))

    def order(self, fault: Fault, where: Where = every, *, times: int = 1) -> None:
        """Order faults for requests."""
        with self._changed:
            self._orders.append(_Order(fault, where, times))

    def fail(self, code: Code, where: Where = every, *, times: int = 1) -> None:
        """Answer requests with an error; they do not reach the store."""
        self.order(Fault.refusal(code), where, times=times)

    def cut(self, where: Where = every, *, times: int = 1) -> None:
        """Cut the connections of requests; they do not reach the store."""
        self.order(Fault("drop"), where, times=times)

    def lose(self, where: Where = every, *, times: int = 1) -> None:
        """Cut the connections of requests after the store has carried them out."""
        self.order(Fault("lose"), where, times=times)

    def truncate(self, where: Where = every, *, times: int = 1) -> None:
        """Cut the connections of requests when half of the answer's body is sent."""
        self.order(Fault("truncate"), where, times=times)

    def expire(self, key: str) -> None:
        """Refuse requests that are signed with an access key from now on, as S3 does on expiry; SeaweedFS gives another code."""
        with self._changed:
            self._expired.add(key)

    def slow(self, rate: float | None) -> None:
        """Let the bodies of requests pass at so many bytes a second each; None for no such limit."""
        self._rate = rate

    @contextlib.contextmanager
    def disturbed(self, choose: Choose) -> Iterator[None]:
        """Inject the faults that a function chooses until the block ends; it may be random, and gets one request at a time."""
        self._choose = choose
        try:
            yield
        finally:
            self._choose = nothing

    def wait_until_idle(self) -> None:
        """Wait until no request is in flight, not even one that its client has given up."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._under_way, _TIMEOUT):
                raise TimeoutError(f"{self._under_way} requests are under way still")

    @property
    def is_idle(self) -> bool:
        """Whether no request is in flight, not even one that its client has given up."""
        return not self._under_way

    def end(self) -> None:
        """End all delays."""
        self._ended.set()

    def respond(self, exchange: Exchange) -> None:
        """Forward a request, or inject a fault."""
        request = Request(exchange.command, exchange.path, exchange.headers)
        with self._counted():
            fault = self._fault(request)
            match fault:
                case Fault(code=str(code)):
                    self.faults.append((fault, request))
                    for _ in exchange.body():
                        pass
                    _refuse(exchange, code)
                case Fault("drop"):
                    self.faults.append((fault, request))
                    exchange.close_connection = True
                case Fault("reset", late=False):
                    self.faults.append((fault, request))
                    _reset(exchange)
                case _:
                    self._forward(exchange, request, fault)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _fault(self, request: Request) -> Fault | None:
        with self._changed:
            self.requests.append(request)
            if access_key(request) in self._expired:
                return Fault.refusal("ExpiredToken")
            for order in self._orders:
                if order.times and order.where(request):
                    order.times -= 1
                    return order.fault
            return self._choose(request)

    def _forward(self, exchange: Exchange, request: Request, fault: Fault | None) -> None:
        if fault and fault.kind == "delay" and not fault.late:
            self._delay(fault, request)
            fault = None
        with contextlib.closing(http.client.HTTPConnection(self._target, timeout=_TIMEOUT)) as store:
            store.putrequest(exchange.command, exchange.path, skip_host=True, skip_accept_encoding=True)
            for header in exchange.headers.items():
                store.putheader(*header)
            store.endheaders()
            body = self._paced(exchange.body())
            if fault and fault.kind == "corrupt" and not fault.late:
                body = self._spoilt(b"".join(body), fault, request)
                fault = None
            _send_body(exchange, store, body)
            with store.getresponse() as answer:
                self._return(exchange, answer, request, fault)

    def _return(self, exchange: Exchange, answer: http.client.HTTPResponse, request: Request, fault: Fault | None) -> None:
        match fault:
            case None:
                _send_answer(exchange, answer, iter(lambda: answer.read(_PART), b""))
            case Fault("delay"):
                self._delay(fault, request)
                _send_answer(exchange, answer, iter(lambda: answer.read(_PART), b""))
            case Fault("corrupt"):
                _send_answer(exchange, answer, self._spoilt(answer.read(), fault, request))
            case Fault("truncate"):
                body = answer.read()
                _send_answer(exchange, answer, self._spoilt(body, fault, request), whole=not body)
                exchange.close_connection = bool(body)
            case _:
                self.faults.append((fault, request))
                exchange.close_connection = True
                if fault.kind == "reset":
                    if body := answer.read():
                        _send_answer(exchange, answer, [fault.spoil(body)], whole=False)
                    _reset(exchange)

    def _paced(self, body: Iterable[bytes]) -> Iterator[bytes]:
        for part in body:
            yield part
            if self._rate:
                self._ended.wait(len(part) / self._rate)

    def _delay(self, fault: Fault, request: Request) -> None:
        self.faults.append((fault, request))
        self._ended.wait(fault.seconds)

    def _spoilt(self, body: bytes, fault: Fault, request: Request) -> Iterator[bytes]:
        if body:
            self.faults.append((fault, request))
            yield fault.spoil(body)


@contextlib.contextmanager
def running_proxy(store: S3Server, tls: ssl.SSLContext | None = None) -> Iterator[S3Proxy]:
    """Run a proxy in front of a store until the block ends; with a certificate, it uses TLS."""
    server = LoopbackServer(tls)
    proxy = S3Proxy(server.url, store)
    with server.serving(proxy.respond):
        try:
            yield proxy
        finally:
            proxy.end()


def _send_body(exchange: Exchange, store: http.client.HTTPConnection, body: Iterable[bytes]) -> None:
    listens = True
    for part in body:
        if listens:
            try:
                store.send(_chunk(part) if exchange.chunked else part)
            except ConnectionError:  # It has refused the request already.
                listens = False
    if exchange.chunked and listens:
        store.send(_chunk(b""))


def _send_answer(exchange: Exchange, answer: http.client.HTTPResponse, body: Iterable[bytes], *, whole: bool = True) -> None:
    exchange.send_response_only(answer.status, answer.reason)
    for header in answer.getheaders():
        exchange.send_header(*header)
    exchange.end_headers()
    chunked = answer.chunked and exchange.command != "HEAD"
    for part in body:
        exchange.wfile.write(_chunk(part) if chunked else part)
    if chunked and whole:
        exchange.wfile.write(_chunk(b""))


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


def _refuse(exchange: Exchange, code: Code) -> None:
    _, status, message = ERRORS[code]
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    headers = {"Date": email.utils.formatdate(usegmt=True), "Content-Type": "application/xml"}
    exchange.answer(status, headers, body.encode())


def _reset(exchange: Exchange) -> None:
    """Reset a connection: its client sees a reset, not an end."""
    exchange.close_connection = True
    connection: socket.socket = exchange.connection
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    os.close(connection.detach())
