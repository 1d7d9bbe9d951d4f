"""DAGs that wait for packages, and a trigger that measures the delays of the event loop; run by ``make bench-watch``."""

import asyncio
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


class LagTrigger(BaseEventTrigger):
    """Naps for 10 ms again and again, and writes a line each second about the nap that ended the latest.

    A line of JSON: ``at``, the time; ``lag``, seconds from the due end of the nap until the event loop resumed it; ``ran``,
    seconds of CPU that the loop's thread used in that nap, to which no other thread adds; and the ``process``.

    :param path: the file that it appends to.
    """

    def __init__(self, path: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path = path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"path": self.path}

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Measure for ever; there is no event."""
        while True:
            lag, ran = max([nap async for nap in _naps(1.0)])
            line = {"at": time.time(), "lag": lag, "ran": ran, "process": os.getpid()}
            with Path(self.path).open("a", encoding="utf-8") as file:  # noqa: ASYNC230  (it takes less than a nap)
                file.write(f"{json.dumps(line)}\n")
        yield TriggerEvent(None)  # type: ignore[unreachable]  # It makes this a generator.


class IdleTrigger(BaseEventTrigger):
    """Does nothing: the cost of a watcher to Airflow itself.

    :param number: makes its arguments unique.
    """

    def __init__(self, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = number

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"number": self.number}

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Wait for ever."""
        await asyncio.Event().wait()
        yield TriggerEvent(None)


async def _naps(seconds: float) -> AsyncGenerator[tuple[float, float]]:
    """Nap for so many seconds; yield the delay of each nap's end, and the CPU seconds of the thread in that nap."""
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        before = time.thread_time()
        await asyncio.sleep(_NAP)
        yield time.perf_counter() - began - _NAP, time.thread_time() - before


def dags(*, lag: str, registry: str, packages: list[str], idle: int, poll_interval: float) -> dict[str, DAG]:
    """Return DAGs that wait for packages, DAGs with idle watchers, and one whose trigger measures the event loop."""
    watched = [quilt_asset(package, registry, watch={"poll_interval": poll_interval}) for package in packages]
    watched += [_asset(f"idle-{number}", IdleTrigger(number)) for number in range(idle)]
    measured = DAG("measured", schedule=[_asset("lag", LagTrigger(lag))])
    return {dag.dag_id: dag for dag in (measured, *_waiting(watched))}


def _asset(name: str, trigger: BaseEventTrigger) -> Asset:
    """Return a watched asset; its URI makes Airflow import the URI handlers of all providers, as that of a package does."""
    return Asset(name, f"bench://bench/{name}", watchers=[AssetWatcher(name=name, trigger=trigger)])


def _waiting(assets: list[Asset]) -> Iterator[DAG]:
    for start in range(0, len(assets), _ASSETS_OF_A_DAG):
        yield DAG(f"waiting-{start // _ASSETS_OF_A_DAG:03}", schedule=AssetAny(*assets[start : start + _ASSETS_OF_A_DAG]))
