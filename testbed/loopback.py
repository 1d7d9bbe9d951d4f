"""HTTP servers on free ports of loopback, in threads of this process, which end with all their connections."""

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from email.message import Message

_POLL_SECONDS: Final = 0.02
_PART: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a server: its path with the query, its headers (case-insensitive), and its body if the server keeps it."""

    method: str
    path: str
    headers: "Message[str, str]"
    body: bytes = b""


class Exchange(BaseHTTPRequestHandler):
    """A connection and its current request; it stays open for the next one."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, respond: "Callable[[Exchange], None]", *connection: Any) -> None:
        self._respond = respond
        super().__init__(*connection)

    def respond(self) -> None:
        """Answer the request by the server."""
        self._respond(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    @property
    def chunked(self) -> bool:
        """Whether the request does not state the length of its body."""
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def body(self) -> Iterator[bytes]:
        """Read the body of the request, in parts."""
        if not self.chunked:
            yield from self._read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield from self._read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer with these headers only, and the length of the body."""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read(self, size: int) -> Iterator[bytes]:
        while size:
            part = self.rfile.read(min(size, _PART))
            if not part:
                raise ConnectionAbortedError("the body ends too early")
            size -= len(part)
            yield part


class LoopbackServer(ThreadingHTTPServer):
    """Listens from the start; answers while the block of :meth:`serving` lasts."""

    daemon_threads = False  # They are waited for.

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self._open: set[socket.socket] = set()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"
        if tls:
            # Each thread shakes hands on its own connection.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @contextlib.contextmanager
    def serving(self, respond: Callable[[Exchange], None]) -> Iterator[None]:
        """Answer requests with ``respond`` until the block ends."""
        self.RequestHandlerClass = lambda *connection: Exchange(respond, *connection)
        thread = threading.Thread(target=self.serve_forever, args=(_POLL_SECONDS,))
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            for connection in tuple(self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnected, or do not trust the certificate."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
