"""A network on loopback: a proxy that delays every byte, and bounds the bandwidth of each connection (``testbed/network.c``)."""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from testbed.server import S3Server, free_ports, running_process

S3_RATE: Final = 90.0
"""Megabytes (10^6 bytes) a second that S3 gives one connection, in each direction: about as many."""
_SOURCE: Final = Path(__file__).with_suffix(".c")


class NoCompilerError(Exception):
    """There is no C compiler."""


@dataclass(frozen=True, slots=True)
class Network:
    """The properties of a network.

    Attributes:
        round_trip: milliseconds from a request to its answer; a new connection takes as long once more, with TLS longer.
        rate: the most megabytes (10^6 bytes) a second of one connection in one direction; 0 for no such bound.
    """

    round_trip: float = 0.0
    rate: float = S3_RATE


def find_compiler() -> Sequence[str]:
    """Return the command of a C compiler: ``$CC``, the system's ``cc``, or that of the package ``ziglang``.

    Raises:
        NoCompilerError: there is none of them.
    """
    for command in (shlex.split(os.environ.get("CC", "")), ["cc"]):
        if command and shutil.which(command[0]):
            return command
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise NoCompilerError("a network on loopback needs a C compiler; install one, such as with: pip install ziglang")


@contextlib.contextmanager
def running_network(network: Network, target: int, directory: Path) -> Iterator[tuple[int, int]]:
    """Run a network in front of a port of loopback until the block ends or this process dies; yield its port and process id.

    Args:
        network: its properties.
        target: the port of the server.
        directory: it is compiled there, unless it was before.

    Raises:
        NoCompilerError: there is no C compiler.
    """
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "network"
    if not program.exists():
        subprocess.run([*find_compiler(), "-O2", "-o", program, _SOURCE], check=True)
    [port] = free_ports(1)
    command = [str(program), str(port), str(target), str(network.round_trip), str(network.rate)]
    with running_process(command, directory / "network.log", lambda: _connect(port), (OSError,)) as process:
        yield port, process


@contextlib.contextmanager
def behind_network(server: S3Server, network: Network, directory: Path) -> Iterator[S3Server]:
    """Run a network in front of a store; yield the store as clients see it through the network."""
    url = urlsplit(server.endpoint)
    if url.port is None:
        raise ValueError(f"{server.endpoint} names no port")
    with running_network(network, url.port, directory) as (port, process):
        yield replace(server, endpoint=f"{url.scheme}://{url.hostname}:{port}", process=process)


def _connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port)).close()
