"""The network on loopback passes all bytes on, and ends with its connections and its parent."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from testbed.network import Network, NoCompilerError, find_compiler, running_network

ROOT = Path(__file__).parents[2]
MANY = 60
FAST = Network(round_trip=2, rate=0)
PARENT = """
import sys; from pathlib import Path; from testbed.network import Network, running_network
with running_network(Network(), 9, Path(sys.argv[1])) as (_, process):
    print(process, flush=True); sys.stdin.read()
"""

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


def receive(connection: socket.socket) -> bytes:
    """Receive all bytes to the end of the stream."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("network")  # It is compiled once.


@contextmanager
def through_network(directory: Path, answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run a server that answers each connection on a thread, with a network in front; yield the port of the network."""

    def serve(connection: socket.socket) -> None:
        with connection:
            answer(connection)

    def accept() -> None:
        with suppress(OSError):  # It is closed at the end.
            while True:
                threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()

    with closing(socket.create_server(("127.0.0.1", 0), backlog=MANY)) as server:
        threading.Thread(target=accept, daemon=True).start()
        with running_network(FAST, server.getsockname()[1], directory) as (port, _):
            yield port


@needs_compiler
def test_bytes_pass_both_ways(directory: Path) -> None:
    """Many connections at once, a large one among them; each ends its own direction before it has an answer."""

    def ask(body: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(body)
            connection.shutdown(socket.SHUT_WR)
            return receive(connection)

    bodies = [os.urandom(4_000_000 if number == 0 else 1000) for number in range(MANY)]
    with through_network(directory, lambda each: each.sendall(receive(each)[::-1])) as port, ThreadPoolExecutor(MANY) as pool:
        answers = list(pool.map(ask, bodies))

    assert [answer[::-1] for answer in answers] == bodies


@needs_compiler
def test_early_answer_arrives(directory: Path) -> None:
    """An answer arrives although its server closes the connection before it has read the request."""

    def refuse(connection: socket.socket) -> None:
        connection.sendall(b"refused")

    with through_network(directory, refuse) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with suppress(ConnectionError, BrokenPipeError):
            connection.sendall(bytes(50_000_000))
        assert connection.recv(100) == b"refused"


@needs_compiler
def test_absent_server_ends_stream(directory: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        absent = server.getsockname()[1]
    with running_network(FAST, absent, directory) as (port, _), socket.create_connection(("127.0.0.1", port), 60) as connection:
        assert connection.recv(1) == b""


@needs_compiler
def test_ends_with_its_parent(directory: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        network = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, _ = psutil.wait_procs([network], timeout=30)

    assert gone


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)

    with pytest.raises(NoCompilerError, match="install one"):
        find_compiler()
