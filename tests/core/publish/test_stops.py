"""A stop is heard in every step of a publication, not only between bytes."""

import contextlib
import fcntl
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import CancelledError
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.stop import stoppable
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Before, Call, Recorder
from tests.support import through

THREADS = 4
BATCH = 1000
"""Items between two checks."""


class Endless(MemoryStorage):
    """A bucket with more objects than can be listed; the work is stopped while they are."""

    def __init__(self, stop: threading.Event, after: int) -> None:
        super().__init__(["registry", "source"])
        self.listed = 0
        self._stop = stop
        self._after = after

    def list_versions(self, prefix: PhysicalKey, most: int | None = None) -> Iterator[ObjectInfo]:
        if prefix.bucket != "source":
            yield from super().list_versions(prefix, most)
            return
        for number in itertools.count():
            self.listed += 1
            if self.listed == self._after:
                self._stop.set()
            yield ObjectInfo(PhysicalKey("source", f"{prefix.key}{number:09}", "v1"), 1, "etag")


@pytest.mark.parametrize("publish", [push, build])
@pytest.mark.parametrize(
    "entries", [{"d/": "s3://source/d/"}, {f"{i:04}/": f"s3://source/{i:04}/" for i in range(2000)}], ids=["one", "many"]
)
def test_endless_listing_hears(publish: Callable[..., object], entries: dict[str, str]) -> None:
    stop = threading.Event()
    endless = Endless(stop, after=5 * BATCH)
    stores = Stores(LocalStorage(), endless, limits=Limits(max_concurrency=THREADS))
    registry = Registry(RegistryLocation.parse("s3://registry"), stores)

    with pytest.raises(CancelledError):
        publish(registry, Draft(package="team/data", entries=entries), stop=stop)
    assert endless.listed <= (5 + THREADS) * BATCH


STEPS: dict[str, Callable[[Call], bool]] = {
    "the latest revision": lambda call: call.operation == "get" and call.key.key.endswith("/latest"),
    "the first directories": lambda call: call.operation == "scan" and "/0" in call.key.key,
    "the workflows": lambda call: call.operation == "get" and "workflows" in call.key.key,
    "the objects": lambda call: call.operation == "copy",
    "the manifest": lambda call: call.operation == "put" and "/packages/" in call.key.key,
}


@pytest.mark.parametrize("step", STEPS)
def test_few_calls_follow_a_stop(registry: Registry, memory: MemoryStorage, step: str) -> None:
    for number in range(100):
        memory.store(PhysicalKey("source", f"d/{number:02}/file"), b"x")
    stop, recorder, seen = threading.Event(), Recorder(), []

    def stop_and_count() -> None:
        stop.set()
        seen.append(len(recorder.calls))

    entries = {f"{number:02}/": f"s3://source/d/{number:02}/" for number in range(100)}
    with pytest.raises(CancelledError):
        push(
            through(registry, recorder, Before(STEPS[step], stop_and_count)),
            Draft(package="team/data", entries=entries),
            stop=stop,
        )
    assert len(recorder.calls) - seen[0] <= 2 * registry.stores.limits.max_concurrency
    assert list(registry.packages()) == []


@pytest.mark.parametrize("where", ["in the store", "on the disk"])
def test_waiting_for_a_lock_hears(
    registry: Registry, local_registry: Registry, memory: MemoryStorage, tmp_path: Path, where: str
) -> None:
    here = registry if where == "in the store" else local_registry
    (tmp_path / "file").write_bytes(b"x")
    build(here, Draft(package="team/data", entries={"file": str(tmp_path / "file")}))
    memory.put(PhysicalKey("registry", ".quilt/locks/team/data"), b"another process")
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()

    def work() -> None:
        with stoppable(stop):
            here.delete("team/data")

    with contextlib.ExitStack() as held:
        for path in (tmp_path / "local-registry").rglob("named_packages/team/data") if where == "on the disk" else ():
            descriptor = os.open(path, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(CancelledError):
            work()
