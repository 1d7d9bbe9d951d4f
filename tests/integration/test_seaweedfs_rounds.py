"""How many round trips pieces of work take on a real S3 store, with the requests that its storage makes by itself."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.condition import RevisionCondition
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.watch import LatestWatcher
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.objects import CHUNK
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.loopback import LoopbackServer
from testbed.proxy import S3Proxy
from testbed.rounds import Rounds
from testbed.server import S3Server

PACKAGE = "team/data"


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


@pytest.fixture
def open_counted(s3: S3Server, bucket: str, rounds: Rounds) -> Iterator[Callable[[], Registry]]:
    """A function that opens a registry on the real store, as a process does that knows nothing of it; its rounds are counted."""
    server = LoopbackServer()
    proxy = S3Proxy(server.url, s3)
    location = RegistryLocation.parse(f"s3://{bucket}")
    with server.serving(lambda exchange: rounds.respond(exchange, proxy.respond)):
        yield lambda: Registry(location, Stores(LocalStorage(), S3Storage(proxy.store.client())))


def test_rounds_on_a_real_store(open_counted: Callable[[], Registry], rounds: Rounds, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    draft = Draft(package=PACKAGE, entries={"file": str(tmp_path / "file")})
    yesterday, tomorrow = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))

    def poll(**condition: object) -> Callable[[Registry], object]:
        return RevisionCondition(package=PACKAGE, **condition).find  # type: ignore[arg-type]

    works: list[tuple[str, int, Callable[[Registry], object]]] = [
        ("a new package", 6, lambda registry: push(registry, draft)),
        ("the same again", 3, lambda registry: push(registry, draft)),
        ("a sensor that finds", 1, poll()),
        ("a sensor that waits for a time", 1, poll(newer_than=tomorrow)),
        ("a sensor that finds a time", 2, poll(newer_than=yesterday)),
        ("a watcher", 1, lambda registry: LatestWatcher(registry).poll([PACKAGE, "team/other"])),
        ("a list", 2, lambda registry: list(registry.revisions(PACKAGE))),
    ]
    for name, number, work in works:
        rounds.clear()
        work(open_counted())
        assert rounds.count == number, f"{name}:\n{rounds}"


def test_conditions_are_known_by_process(open_counted: Callable[[], Registry], rounds: Rounds) -> None:
    made = []
    for package in ("team/first", "team/second"):
        rounds.clear()
        push(open_counted(), Draft(package=package, entries={"file": b"content"}))
        made.append(len(rounds.made))

    assert made[1] == made[0] - 2, str(rounds)


def test_large_bodies_ask_first(proxy: S3Proxy, bucket: str) -> None:
    storage = S3Storage(proxy.store.client())
    for size in (1, CHUNK, CHUNK + 1):
        storage.put(PhysicalKey(bucket, "object"), bytes(size))

    assert [bool(each.headers.get("Expect")) for each in proxy.requests] == [False, False, True]
