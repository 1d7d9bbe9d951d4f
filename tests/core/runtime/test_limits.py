"""Every piece of work makes as many calls at a time as its stores allow."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.install import install
from airflow_quilt.core.plan.actions import Source
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.resolve import discover
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.s3.storage import client_config
from airflow_quilt.core.verify import verify
from tests.core.faulty import Call, Recorder, T, tapped
from tests.core.packages import commit, entry_of, put

NAME = PackageName("team", "data")
COUNT = 12
WAIT = 60

Work = Callable[[Registry, Path], object]

WORKS: dict[str, tuple[Work, str, str]] = {
    "check sources": (lambda registry, out: find(registry, files(out)), "stat", "out/"),
    "hash in place": (lambda registry, _: build(registry, Draft(package="a/b", entries="s3://source/d/")), "stat", "d/"),
    "verify": (lambda registry, _: verify(registry, Reference(str(NAME))), "stat", "d/"),
    "install": (lambda registry, out: install(registry, Reference(str(NAME)), str(out)), "create", "out/"),
    "list revisions": (lambda registry, _: list(registry.revisions(NAME)), "get", ".quilt/named_packages/team/data/1"),
}


def find(registry: Registry, entries: object) -> object:
    return discover(registry, Draft(package="a/b", entries=entries), Spool(Source, COUNT))


def files(out: Path) -> dict[str, str]:
    """Write files; return them as entries."""
    out.mkdir()
    for i in range(COUNT):
        (out / str(i)).write_bytes(b"x")
    return {str(i): str(out / str(i)) for i in range(COUNT)}


class Meeting:
    """Lets calls of one kind go on only when so many have met, and records them."""

    def __init__(self, threads: int, operation: str, where: str) -> None:
        self.recorder = Recorder()
        self._barrier = threading.Barrier(threads)
        self._operation = operation
        self._where = where

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        if call.operation != self._operation or self._where not in call.key.key:
            return run()
        return self.recorder(call, lambda: (self._barrier.wait(WAIT), run())[1])


@pytest.mark.parametrize("threads", [1, 3, 6])
@pytest.mark.parametrize("work", WORKS)
def test_concurrency_equals_limit(registry: Registry, memory: MemoryStorage, tmp_path: Path, work: str, threads: int) -> None:
    entries = [entry_of(f"{i:02}", b"x", put(memory, f"s3://source/d/{i:02}", b"x")) for i in range(COUNT)]
    for i in range(COUNT):
        commit(registry, NAME, entries, {"version": "v0", "message": str(i)})
    do, operation, where = WORKS[work]
    meeting = Meeting(threads, operation, where)
    limited = replace(tapped(registry.stores, meeting), limits=Limits(max_concurrency=threads))
    do(Registry(registry.location, limited), tmp_path / "out")

    assert meeting.recorder.most_at_once == threads
    assert len(meeting.recorder.calls) == COUNT


@pytest.mark.parametrize("threads", [1, 16, 100])
def test_pool_fits_concurrency(threads: int) -> None:
    assert client_config(None, Limits(max_concurrency=threads)).max_pool_connections >= threads


def test_taps_keep_store_limits(registry: Registry) -> None:
    limits = Limits(max_concurrency=2, max_bytes_in_flight=3, spill_entries=4)

    assert tapped(replace(registry.stores, limits=limits), Recorder()).limits == limits
