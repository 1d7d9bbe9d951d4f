"""The triggerer of a running Airflow, and what it uses."""

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
    """What a triggerer used over some time.

    Attributes:
        seconds: of the wall's clock.
        cpu: seconds of the processor, of all its processes.
        lag: the longest that the event loop kept a trigger waiting; others who want the processor, or Python's lock, add to it.
        ran: the longest that the loop's thread itself ran meanwhile.
        collected: the longest collection of garbage.
        full: how many collections went through all that the process with the triggers holds.
        blocked: how often Airflow's own watchdog found the loop blocked for more than 0.1 s.
        requests: to the store, by kind.
    """

    seconds: float
    cpu: float
    lag: float
    ran: float
    collected: float
    full: int
    blocked: int
    requests: Mapping[str, int]

    def a_minute(self, number: float) -> float:
        """Return so many in all as so many a minute."""
        return number * 60 / self.seconds


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    cpu: float
    log: int
    requests: int


class Triggerer:
    """The triggerer of a running Airflow, and what can be seen of it.

    Args:
        directory: with ``home`` and ``lag``.
        proxy: what it reaches the store by.
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
        """What was read when the triggerer began."""
        return _Reading(self._supervisor.create_time(), 0.0, 0, 0)

    def read(self) -> _Reading:
        """Return the counters as they are now."""
        processes = [self._supervisor, *self._supervisor.children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        cpu = sum(each.user + each.system for each in times)
        return _Reading(time.time(), cpu, self._log.stat().st_size, len(self._proxy.requests))

    def spent(self, begin: _Reading) -> Spent:
        """Return what was used since the counters were read."""
        end = self.read()
        lags = [each for each in self._lags() if begin.at <= each["at"] <= end.at]
        return Spent(
            end.at - begin.at,
            end.cpu - begin.cpu,
            max(each["lag"] for each in lags),
            max(each["ran"] for each in lags),
            max(each["collected"] for each in lags),
            sum(each["full"] for each in lags),
            len(_BLOCKED.findall(self._log.read_bytes()[begin.log : end.log].decode(errors="replace"))),
            dict(Counter(map(_kind, self._proxy.requests[begin.requests : end.requests]))),
        )

    def _lags(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lag.read_text().splitlines(keepends=True) if line.endswith("\n")]


def until(what: str, look: Callable[[], Any]) -> None:
    """Wait until something can be seen.

    Raises:
        TimeoutError: it cannot.
    """
    deadline = time.monotonic() + _PATIENCE
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.5)


def _kind(request: Request) -> str:
    return "LIST" if "list-type=" in request.path else request.method
