"""The ports of the test servers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_ASK: Final = "import json; from testbed.server import free_ports; print(json.dumps(free_ports(900, 10_000)), flush=True)"


def test_processes_share_no_port() -> None:
    def ask() -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", f"{_ASK}; input()"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])

    def answer(process: "subprocess.Popen[bytes]") -> list[int]:
        assert process.stdout is not None
        return [int(port) for port in json.loads(process.stdout.readline())]

    with ask() as first:
        ports = answer(first)
        with ask() as second:
            ports += answer(second)
            second.communicate(b"\n")
        first.communicate(b"\n")
    assert len(set(ports)) == 1_800
