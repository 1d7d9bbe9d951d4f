"""What Airflow runs while watching is measured: DAGs that wait for packages, and a trigger that sees how long others block."""

import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, Final

from airflow.sdk import DAG, Asset, AssetAny, AssetWatcher
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_quilt.assets import quilt_asset

_NAP: Final = 0.01
_ASSETS_OF_A_DAG: Final = 100
_OLDEST: Final = 2
"""The generation of objects whose collection goes through all others too."""


class LagTrigger(BaseEventTrigger):
    """Sleeps 10 ms again and again, and writes a line each second about the nap that ended the latest.

    A line of JSON: ``at``, the time; ``lag``, seconds from when the nap was to end to when the event loop came back to it;
    ``ran``, seconds of the processor that the loop's thread used in that nap, to which nobody else adds; ``collected``, seconds
    that the longest collection of garbage took, which stops all threads; ``full``, how many went through all that the process
    holds; and the ``process``.

    :param path: where it writes.
    """

    def __init__(self, path: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path = path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"path": self.path}

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Measure for ever; there is no event."""
        collections = _Collections()
        while True:
            lag, ran = max([nap async for nap in _naps(1.0)])
            told = {"at": time.time(), "lag": lag, "ran": ran, **collections.told(), "process": os.getpid()}
            with Path(self.path).open("a", encoding="utf-8") as file:  # noqa: ASYNC230  (it takes less than a nap)
                file.write(f"{json.dumps(told)}\n")
        yield TriggerEvent(None)  # type: ignore[unreachable]  # It makes this a generator.


class IdleTrigger(BaseEventTrigger):
    """Does nothing: what so many watchers cost Airflow itself.

    :param number: tells it from others.
    """

    def __init__(self, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = number

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"number": self.number}

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Wait for ever."""
        await asyncio.Event().wait()
        yield TriggerEvent(None)


class _Collections:
    """Collections of garbage in this process."""

    def __init__(self) -> None:
        self._longest = self._began = 0.0
        self._full = 0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._longest = max(self._longest, time.perf_counter() - self._began)
            self._full += info["generation"] == _OLDEST

    def told(self) -> dict[str, float]:
        """Return how long the longest took, and how many were full, since it was asked for last."""
        told = {"collected": self._longest, "full": self._full}
        self._longest, self._full = 0.0, 0
        return told


async def _naps(seconds: float) -> AsyncGenerator[tuple[float, float]]:
    """Nap for so many seconds; yield how late each nap ended, and how long the thread ran meanwhile."""
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        before = time.thread_time()
        await asyncio.sleep(_NAP)
        yield time.perf_counter() - began - _NAP, time.thread_time() - before


def dags(*, lag: str, registry: str, packages: list[str], idle: int, poll_interval: float) -> dict[str, DAG]:
    """Return DAGs that wait for packages, for idle watchers, and one that has the event loop measured."""
    watched = [quilt_asset(package, registry, watch={"poll_interval": poll_interval}) for package in packages]
    watched += [_asset(f"idle-{number}", IdleTrigger(number)) for number in range(idle)]
    measured = DAG("measured", schedule=[_asset("lag", LagTrigger(lag))])
    return {dag.dag_id: dag for dag in (measured, *_waiting(watched))}


def _asset(name: str, trigger: BaseEventTrigger) -> Asset:
    """Return an asset that is watched; its URI has Airflow import what providers know of URIs, as that of a package has."""
    return Asset(name, f"bench://bench/{name}", watchers=[AssetWatcher(name=name, trigger=trigger)])


def _waiting(assets: list[Asset]) -> Iterator[DAG]:
    for start in range(0, len(assets), _ASSETS_OF_A_DAG):
        yield DAG(f"waiting-{start // _ASSETS_OF_A_DAG:03}", schedule=AssetAny(*assets[start : start + _ASSETS_OF_A_DAG]))
