"""The ceiling of the bench's network: a trivial client and a trivial server, without it and through it.

``python -m benchmarks.ceiling`` prints the table. A server's answer is as long as the request asks for.
"""

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, cast

from benchmarks.measure import cpu_of
from benchmarks.report import figure
from testbed.network import Network, running_network
from testbed.server import free_ports, running_process

_NETWORKS: Final = {
    "none": None,
    "0 ms, no bound": Network(0, rate=0),
    **{f"{delay} ms": Network(delay) for delay in (0, 5, 25, 100)},
}
_REQUEST: Final = struct.Struct("!I508x")  # The size of the answer, and the room of a request's headers.
_SMALL: Final = 4096
_LARGE: Final = 8 * 1024 * 1024
_MANY: Final = 256
_FEW: Final = 8


@dataclass(frozen=True, slots=True)
class _Load:
    """Connections that ask for answers of one size, a number of them at a time."""

    connections: int
    answer: int
    depth: int = 1


@dataclass(frozen=True, slots=True)
class _Rates:
    """Exchanges and MB (10^6 bytes) a second; and microseconds of the network's CPU time for an exchange, and for an MB."""

    exchanges: float
    megabytes: float
    cpu_of_exchange: float
    cpu_of_megabyte: float


class _Server(asyncio.Protocol):
    _zeros: Final = bytes(_LARGE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._received = cast("asyncio.WriteTransport", transport), bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= _REQUEST.size:
            [size] = _REQUEST.unpack_from(self._received)
            del self._received[: _REQUEST.size]
            self._transport.write(self._zeros[:size])


class _Client(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._request = cast("asyncio.WriteTransport", transport), _REQUEST.pack(self._load.answer)
        self._transport.write(self._request * self._load.depth)

    def data_received(self, data: bytes) -> None:
        before, self.received = self.received, self.received + len(data)
        for _ in range(self.received // self._load.answer - before // self._load.answer):
            self._transport.write(self._request)


def table(scale: float) -> str:
    """Measure each network for some seconds at a scale; return a table."""
    columns = ["network", "first exchange of a connection, ms", "another one, ms", f"exchanges a second, {_MANY} connections"]
    columns += ["MB/s, one connection", f"MB/s, {_FEW} connections", "µs of its CPU an exchange", "µs of its CPU an MB"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    with TemporaryDirectory(prefix="quilt-bench-") as directory, _running_server(Path(directory)) as server:
        for name, network in _NETWORKS.items():
            if network is None:
                lines.append(_line(name, server, None, scale))
                continue
            with running_network(network, server, Path(directory)) as (port, process):
                lines.append(_line(name, port, process, scale))
    return "\n".join(lines)


def _line(name: str, port: int, process: int | None, scale: float) -> str:
    first, another = _round_trips(port)
    small, one, few = (
        asyncio.run(_rates(port, process, load, scale))
        for load in (_Load(_MANY, _SMALL), _Load(1, _LARGE, depth=4), _Load(_FEW, _LARGE, depth=4))
    )
    cells = [first, another, small.exchanges, one.megabytes, few.megabytes]
    used = [figure(small.cpu_of_exchange), figure(few.cpu_of_megabyte)] if process else ["", ""]
    return f"| {name} | {' | '.join([*map(figure, cells), *used])} |"


def _round_trips(port: int) -> tuple[float, float]:
    """Return the milliseconds of the first exchange of a connection, with its handshake, and of another one."""
    first: list[float] = []
    others: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
            for number in range(5):
                connection.sendall(_REQUEST.pack(_SMALL))
                answers.read(_SMALL)
                ended = time.perf_counter()
                (others if number else first).append((ended - began) * 1000)
                began = ended
    return median(first), median(others)


async def _rates(port: int, process: int | None, load: _Load, scale: float) -> _Rates:
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: _Client(load), "127.0.0.1", port) for _ in range(load.connections)]
    clients = [client for _, client in opened]
    await asyncio.sleep(1.0 * scale)  # All are connected, and the link is full.
    began, before, cpu = time.perf_counter(), sum(each.received for each in clients), cpu_of(process)
    await asyncio.sleep(2.0 * scale)
    seconds, received = time.perf_counter() - began, sum(each.received for each in clients) - before
    used = (cpu_of(process) - cpu) * 1e6
    for transport, _ in opened:
        transport.abort()
    exchanges, megabytes = received / load.answer, received / 1e6
    return _Rates(exchanges / seconds, megabytes / seconds, used / max(exchanges, 1), used / max(megabytes, 1))


@contextmanager
def _running_server(directory: Path) -> Iterator[int]:
    [port] = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.ceiling", str(port)]

    def connect() -> None:
        socket.create_connection(("127.0.0.1", port)).close()

    with running_process(command, directory / "server.log", connect, (OSError,)):
        yield port


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", port, backlog=_MANY)
    await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_serve(int(sys.argv[1])))
    else:
        print(table(1.0))
