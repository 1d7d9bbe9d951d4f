"""Answers without bounds: of size, of time, of type; and answers that echo the secret of their request."""

import gzip
import itertools
import json
import logging
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from airflow_quilt.core.catalog.client import Catalog, HttpSettings
from airflow_quilt.core.catalog.exchange import MOST_BYTES
from airflow_quilt.core.errors import CatalogError, CatalogUnavailableError, LoginError
from airflow_quilt.core.runtime.retry import NO_RETRY
from testbed.loopback import Exchange, LoopbackServer

KEY = "qk_Zr7bWq3LxVt9Ns5KpYd2HfGm8JcRu4Ea"
MOST_SENT = 16 * 1024 * 1024
"""Bytes that the buffers of sockets may take from a server beyond those that are read."""
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PART = b"x" * 65536
BOMB = gzip.compress(b'{"registryUrl": "' + b" " * (48 * 1024 * 1024), compresslevel=1)
ENCODED = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB)

Answer = Callable[[Exchange], Iterable[bytes]]


@dataclass
class Rogue:
    """A server that answers in its own way: the paths that were requested, the parts and bytes sent, and whether it is done."""

    url: str
    paths: list[str] = field(default_factory=list)
    parts: int = 0
    size: int = 0
    ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def answering(answer: Answer) -> Iterator[Rogue]:
    """Run a server that sends the parts of an answer, as they are, until its client has gone."""
    server = LoopbackServer()
    rogue = Rogue(server.url)

    def respond(exchange: Exchange) -> None:
        rogue.paths.append(exchange.path)
        exchange.close_connection = True
        try:
            for part in answer(exchange):
                exchange.wfile.write(part)
                rogue.parts, rogue.size = rogue.parts + 1, rogue.size + len(part)
        finally:
            rogue.ended.set()

    with server.serving(respond):
        yield rogue


def login(url: str, timeout: float = 20.0) -> Catalog:
    return Catalog(url, KEY, http=HttpSettings(timeout=timeout), retry=NO_RETRY)


def fixed(*parts: bytes) -> Answer:
    """Return the answer of these parts; the last one is repeated for ever."""
    return lambda _exchange: itertools.chain(parts[:-1], itertools.repeat(parts[-1]))


def once(*parts: bytes) -> Answer:
    return lambda _exchange: parts


TOO_LARGE = {
    "no length": fixed(OK + b"\r\n", PART),
    "a length of exabytes": fixed(OK + b"Content-Length: 1152921504606846976\r\n\r\n", PART),
    "chunks": fixed(CHUNKED, b"10000\r\n" + PART + b"\r\n"),
    "a chunk of negative length": fixed(CHUNKED + b"-1\r\n", PART),
    "a chunk size without end": fixed(CHUNKED, b"0" * 65536),
    "a trailer without end": fixed(CHUNKED + b"0\r\n", b"X-More: 1\r\n" * 5000),
    "headers": fixed(OK, b"X-More: " + PART[:60000] + b"\r\n"),
    "a status line without end": fixed(b"HTTP/1.1 200 ", PART),
    "interim answers": fixed(b"HTTP/1.1 100 Continue\r\nX-More: " + PART[:60000] + b"\r\n\r\n"),
    "gzip": once(OK + ENCODED, BOMB),
    "gzip of an error": once(b"HTTP/1.1 403 No\r\n" + ENCODED, BOMB),
    "gzip of a redirect": once(b"HTTP/1.1 302 No\r\nLocation: /else\r\n" + ENCODED, BOMB),
    "another encoding": once(OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}"),
    "damaged gzip": once(OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
    "depth": once(OK + b"\r\n" + b'{"a":' + b"[" * 500_000),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_size_of_answers_is_bounded(kind: str) -> None:
    with answering(TOO_LARGE[kind]) as rogue:
        tracemalloc.start()
        try:
            with pytest.raises(CatalogError):
                login(rogue.url).config()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert rogue.ended.wait(20)

    assert rogue.paths == ["/config.json"]
    assert rogue.size < MOST_SENT
    assert peak < 8 * MOST_BYTES


def dripped(beginning: bytes, drop: bytes) -> Answer:
    """Return an answer that goes on slowly, for ever."""

    def answer(_exchange: Exchange) -> Iterator[bytes]:
        yield beginning
        while True:
            time.sleep(0.02)
            yield drop

    return answer


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [(OK + b"Content-Length: 1000000\r\n\r\n", b" "), (CHUNKED, b"1\r\n \r\n"), (OK + b"X-Slow: ", b"x"), (b"", b"H")],
    ids=["body", "chunks", "header", "status"],
)
def test_slow_drops_meet_a_deadline(beginning: bytes, drop: bytes) -> None:
    """The deadline is for the whole: it counts no byte as progress, and leaves no thread behind."""
    with answering(dripped(beginning, drop)) as rogue:
        with pytest.raises(CatalogUnavailableError, match="no answer within 0.3 seconds"):
            login(rogue.url, 0.3).config()
        assert rogue.ended.wait(20)  # The connection is closed: no thread goes on reading.

    assert rogue.parts < 500


def test_bounded_gzip_is_read() -> None:
    """A file that a catalog has stored compressed is read, although it was asked for as it is."""
    asked = {}
    body = gzip.compress(b'{"registryUrl": "/service", "stackVersion": ["odd"], "region": "eu-west-1"}')

    def answer(exchange: Exchange) -> Iterator[bytes]:
        asked.update(exchange.headers)
        yield OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    with answering(answer) as rogue:
        found = login(rogue.url).config()

    assert (found.registry_url, found.region, found.stack_version) == (f"{rogue.url}/service", "eu-west-1", None)
    assert asked["Accept-Encoding"] == "identity"


ECHOES: dict[str, Callable[[str], bytes]] = {
    "body": lambda key: b'HTTP/1.1 403 No\r\nContent-Length: 300\r\n\r\n{"message": "' + key.encode().ljust(287),
    "body of success": lambda key: OK + b"\r\n" + json.dumps({"error": key, "Expiration": key}).encode(),
    "fields": lambda key: OK + b"\r\n" + json.dumps({"AccessKeyId": key, "SecretAccessKey": [key], "SessionToken": key}).encode(),
    "time": lambda key: (
        OK + b"\r\n" + json.dumps({"AccessKeyId": "a", "SecretAccessKey": "b", "SessionToken": "c", "Expiration": key}).encode()
    ),
    "reason": lambda key: b"HTTP/1.1 418 " + key.encode() + b"\r\n\r\n",
    "status line": lambda key: key.encode() + b"\r\n\r\n",
    "no status": lambda key: b"HTTP/1.1 " + key.encode() + b"\r\n\r\n",
    "redirect": lambda key: b"HTTP/1.1 302 No\r\nLocation: https://x/" + key.encode() + b"\r\n\r\n",
    "header": lambda key: OK + key.encode() + b"\r\n\r\n{}",
    "encoding": lambda key: OK + b"Content-Encoding: " + key.encode() + b"\r\n\r\n{}",
    "length": lambda key: OK + b"Content-Length: " + key.encode() + b"\r\n\r\n{}",
    "chunk": lambda key: CHUNKED + key.encode() + b"\r\n",
    "retry": lambda key: b"HTTP/1.1 503 No\r\nRetry-After: \xb2" + key.encode() + b"\r\n\r\n",
}


def fragments(secret: str, text: str) -> list[str]:
    """Return the parts of a secret of eight characters that a text has."""
    return [secret[at : at + 8] for at in range(len(secret) - 7) if secret[at : at + 8] in text]


@pytest.mark.parametrize("secret", [KEY, KEY.removeprefix("qk_")], ids=["api key", "refresh token"])
def test_echoed_secrets_are_not_shown(secret: str, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that echoes a secret, or the beginning of it, in any place is not repeated, nor is it in a traceback."""
    caplog.set_level(logging.DEBUG)
    echoed = [b""]

    def answer(exchange: Exchange) -> Iterator[bytes]:
        yield OK + b"\r\n" + json.dumps({"registryUrl": "/"}).encode() if exchange.path == "/config.json" else echoed[0]

    with answering(answer) as rogue:
        for kind, echo in ECHOES.items():
            for shown in (secret, secret[:20], f"Bearer {secret}"):
                echoed[0] = echo(shown)
                with pytest.raises(CatalogError) as raised:
                    Catalog(rogue.url, secret, http=HttpSettings(timeout=20.0), retry=NO_RETRY).credentials()
                text = "".join(traceback.format_exception(raised.value)) + str(raised.value.__context__)
                assert not fragments(secret, text), kind
        assert not fragments(secret, caplog.text)


@pytest.mark.parametrize(
    "secret", [f"{KEY[:16]}\n{KEY[16:]}", f"{KEY} ", f"\t{KEY}", f"{KEY[:9]} {KEY[9:]}", f"{KEY}\x00", f"{KEY}é", ""]
)
def test_unsendable_keys_are_refused(secret: str) -> None:
    with pytest.raises(LoginError, match="visible ASCII") as raised:
        Catalog("https://catalog.example.com", secret)
    assert not fragments(KEY, "".join(traceback.format_exception(raised.value)))
