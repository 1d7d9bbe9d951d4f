"""Runs a command as a process, and says what it took."""

import json
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
        is_client: it prints, in its last line, the seconds and the processor time that the work itself took, as ``ours`` and
            ``theirs`` do; of others the whole process counts.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    is_client: bool = True


COUNTS: Final = "BENCHMARK_COUNTS"
"""What the environment of a client holds that is to count its requests."""

Round = Callable[[int], Command]
"""Gets all ready for a round, which is not measured, and returns the command that is."""


@dataclass(frozen=True, slots=True)
class Took:
    """What a piece of work took.

    Attributes:
        seconds: of the work, by the wall's clock; without the start of the interpreter and its imports.
        cpu: seconds of the processor, likewise.
        memory: bytes, the most that the process held at any time.
        store: seconds of the processor that the store took meanwhile, or nothing where it has no part in the work.
        facts: what the client says of the work, such as how many bytes it moved.
    """

    seconds: float
    cpu: float
    memory: int
    store: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


class FailedError(Exception):
    """A command failed; the message is the end of what it said."""


def run(command: Command, store: int | None = None) -> Took:
    """Run a command to its end.

    Args:
        command: what to run.
        store: the process that it asks, if it asks any.

    Raises:
        FailedError: it failed.
    """
    with TemporaryFile() as out, TemporaryFile() as errors:
        began, before = time.perf_counter(), _cpu_of(store)
        process = subprocess.Popen(command.arguments, env=command.environment, stdout=out, stderr=errors)
        status, usage = _wait(process, began + _SECONDS)
        seconds = time.perf_counter() - began
        out.seek(0)
        errors.seek(0)
        if status:
            raise FailedError((errors.read() or out.read()).decode(errors="replace").strip()[-300:])
        told = json.loads(out.read().splitlines()[-1]) if command.is_client else {}
    cpu = usage.ru_utime + usage.ru_stime
    by_store = _cpu_of(store) - before
    return Took(told.pop("seconds", seconds), told.pop("cpu", cpu), usage.ru_maxrss * _KIB, by_store, told)


def _cpu_of(process: int | None) -> float:
    if process is None:
        return 0.0
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def alternate(clients: Mapping[K, Round], rounds: int, store: int | None = None) -> tuple[dict[K, list[Took]], dict[K, str]]:
    """Let clients take turns, round after round; return what each took, and why some fail, who are not asked again."""
    took: dict[K, list[Took]] = {client: [] for client in clients}
    failed: dict[K, str] = {}
    for number in range(rounds):
        for client, ready in clients.items():
            if client in failed:
                continue
            try:
                took[client].append(run(ready(number), store))
            except FailedError as error:
                failed[client] = str(error)
                print(f"{client} fails: {error}", flush=True)
    return took, failed


def count(clients: Mapping[K, Round], number: int) -> dict[K, Mapping[str, Any]]:
    """Let clients do the work once more, unmeasured, and count the requests that they make and the bytes that they read."""
    counted: dict[K, Mapping[str, Any]] = {}
    for client, ready in clients.items():
        command = ready(number)
        if command.is_client:
            counted[client] = run(replace(command, environment={**command.environment, COUNTS: "1"})).facts
    return counted


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> tuple[int, Any]:
    """Wait for the end of a process; return its exit status and what it used."""
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage
        if time.perf_counter() > deadline:
            process.kill()
        time.sleep(0.001)
