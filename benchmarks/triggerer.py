"""The triggerer of a running Airflow, and the resources it uses."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from testbed.loopback import Request
from testbed.proxy import S3Proxy

_PATIENCE: Final = 600.0
_BLOCKED: Final = re.compile(r"async thread was blocked for")


@dataclass(frozen=True, slots=True)
class Spent:
    """Resources that a triggerer used over some time.

    Attributes:
        seconds: wall clock.
        cpu: CPU seconds of all its processes.
        lag: the longest wait of a trigger for the event loop; other processes, and threads with Python's lock, add to it.
        ran: the longest CPU time of the loop's thread in such a wait.
        blocked: warnings of Airflow's watchdog, which come from a loop blocked for 0.2 s on.
        requests: requests to the store, by kind.
    """

    seconds: float
    cpu: float
    lag: float
    ran: float
    blocked: int
    requests: Mapping[str, int]

    def a_minute(self, number: float) -> float:
        """Return a total as a rate per minute."""
        return number * 60 / self.seconds


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    cpu: float
    log: int
    requests: int


class Triggerer:
    """The triggerer of a running Airflow.

    Args:
        directory: the directory with ``home`` and ``lag``.
        proxy: the proxy between it and the store.
    """

    def __init__(self, directory: Path, proxy: S3Proxy) -> None:
        self._lag, self._log, self._proxy = directory / "lag", directory / "home/standalone.log", proxy
        until("the trigger that measures", lambda: self._lag.exists() and self._lag.stat().st_size)
        self.runner: Final = psutil.Process(self._lags()[0]["process"])
        parent = self.runner.parent()
        if parent is None:
            raise RuntimeError(f"the triggerer has died; see {self._log}")
        self._supervisor: Final = parent

    @property
    def began(self) -> _Reading:
        """The counters at the start of the triggerer."""
        return _Reading(self._supervisor.create_time(), 0.0, 0, 0)

    def read(self) -> _Reading:
        """Return the present counters."""
        processes = [self._supervisor, *self._supervisor.children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        cpu = sum(each.user + each.system for each in times)
        return _Reading(time.time(), cpu, self._log.stat().st_size, len(self._proxy.requests))

    def spent(self, begin: _Reading) -> Spent:
        """Return the resources used since an earlier reading."""
        end = self.read()
        lags = [each for each in self._lags() if begin.at <= each["at"] <= end.at]
        return Spent(
            end.at - begin.at,
            end.cpu - begin.cpu,
            max(each["lag"] for each in lags),
            max(each["ran"] for each in lags),
            len(_BLOCKED.findall(self._log.read_bytes()[begin.log : end.log].decode(errors="replace"))),
            dict(Counter(map(_kind, self._proxy.requests[begin.requests : end.requests]))),
        )

    def _lags(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lag.read_text().splitlines(keepends=True) if line.endswith("\n")]


def until(name: str, condition: Callable[[], Any]) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not hold after ten minutes.
    """
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {name}")
        time.sleep(0.5)


def _kind(request: Request) -> str:
    return "LIST" if "list-type=" in request.path else request.method
