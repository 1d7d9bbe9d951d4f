"""Runs commands as processes, and measures their cost."""

import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from tempfile import TemporaryFile
from typing import Any, Final, TypeVar

import psutil

K = TypeVar("K")

_SECONDS: Final = 1800.0
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Command:
    """A command to measure, with the whole of its environment.

    Attributes:
        is_client: it prints, in its last line, the seconds and CPU seconds of the work itself, as ``ours`` and ``theirs`` do;
            others are measured as whole processes.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    is_client: bool = True


COUNTS: Final = "BENCHMARK_COUNTS"
"""The environment variable that makes a client count its requests."""

Round = Callable[[int], Command]
"""Prepares a round, unmeasured, and returns the command to measure."""


@dataclass(frozen=True, slots=True)
class Took:
    """The cost of a piece of work.

    Attributes:
        seconds: wall clock of the work, without the start of the interpreter and its imports.
        cpu: CPU seconds, likewise.
        memory: peak memory of the process, in bytes.
        store: CPU seconds of the store meanwhile; 0 if it has no part in the work.
        facts: values that the client reports of the work, such as the number of bytes moved.
    """

    seconds: float
    cpu: float
    memory: int
    store: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


class FailedError(Exception):
    """A command failed; the message is the end of its output."""


def run(command: Command, store: int | None = None) -> Took:
    """Run a command to its end.

    Args:
        command: the command.
        store: the process of the store that it uses, if any.

    Raises:
        FailedError: it failed.
    """
    with TemporaryFile() as out, TemporaryFile() as errors:
        began, before = time.perf_counter(), cpu_of(store)
        process = subprocess.Popen(command.arguments, env=command.environment, stdout=out, stderr=errors)
        status, usage = _wait(process, began + _SECONDS)
        seconds = time.perf_counter() - began
        out.seek(0)
        errors.seek(0)
        if status:
            raise FailedError((errors.read() or out.read()).decode(errors="replace").strip()[-300:])
        told = json.loads(out.read().splitlines()[-1]) if command.is_client else {}
    cpu = usage.ru_utime + usage.ru_stime
    by_store = cpu_of(store) - before
    return Took(told.pop("seconds", seconds), told.pop("cpu", cpu), usage.ru_maxrss * _KIB, by_store, told)


def cpu_of(process: int | None) -> float:
    """Return the CPU seconds of a process so far; 0 without one."""
    if process is None:
        return 0.0
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def alternate(
    clients: Mapping[K, Round], rounds: int, store: int | None = None, *, enough: float = math.inf
) -> tuple[dict[K, list[Took]], dict[K, str]]:
    """Run clients in turn, round after round; return their costs, and the reason of each that fails and is not run again.

    Args:
        clients: the rounds of each client.
        rounds: how many.
        store: the process of the store.
        enough: seconds of work after which a client gets no further round.
    """
    took: dict[K, list[Took]] = {client: [] for client in clients}
    failed: dict[K, str] = {}
    for number in range(rounds):
        for client, ready in clients.items():
            if client in failed or sum(each.seconds for each in took[client]) >= enough:
                continue
            try:
                took[client].append(run(ready(number), store))
            except FailedError as error:
                failed[client] = str(error)
                print(f"{client} fails: {error}", flush=True)
    return took, failed


def count(clients: Mapping[K, Round], number: int) -> dict[K, Mapping[str, Any]]:
    """Run clients once more, unmeasured, and count their requests and the bytes that they read."""
    counted: dict[K, Mapping[str, Any]] = {}
    for client, ready in clients.items():
        command = ready(number)
        if command.is_client:
            counted[client] = run(replace(command, environment={**command.environment, COUNTS: "1"})).facts
    return counted


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> tuple[int, Any]:
    """Wait for the end of a process; return its exit status and its resource usage."""
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage
        if time.perf_counter() > deadline:
            process.kill()
        time.sleep(0.001)
