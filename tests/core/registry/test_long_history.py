"""Packages with 20,000 revisions: the requests for them, and how many are made while the lock is held."""

from collections import Counter
from collections.abc import Callable

import pytest

from airflow_quilt.core.delete import delete
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Before, Call, T, Tap, tapped

NAME = PackageName("team", "package")
REVISIONS = 20_000
OLD = 1_500_000_000
LEASE = 0.2


class Locked:
    """Counts the calls that are made while the lock of the package is held, in all and by operation."""

    def __init__(self) -> None:
        self.under_lock: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._is_held = False

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        if layout.lock(NAME) in call.key.key:
            self._is_held = call.operation != "delete"
        else:
            self.calls[call.operation] += 1
            if self._is_held:
                self.under_lock[call.operation] += 1
        return run()


def pointer(name: object) -> PhysicalKey:
    return PhysicalKey("registry", layout.pointer(NAME, str(name)))


@pytest.fixture
def long_history(memory: MemoryStorage) -> Registry:
    """A package with revisions of another client, a lease that ends long before they are read, and a manifest of the oldest."""
    for number in range(REVISIONS):
        memory.put(pointer(OLD + number), f"{number:064x}".encode())
    memory.put(pointer(layout.LATEST), f"{REVISIONS - 1:064x}".encode())
    memory.put(PhysicalKey("registry", layout.manifest(TopHash(f"{0:064x}"))), b"")
    return Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory), lease=LEASE)


def seen(registry: Registry, *taps: Tap) -> Registry:
    """Return the registry as another process sees it."""
    return Registry(registry.location, tapped(registry.stores, *taps), lease=LEASE)


def test_long_history_under_lock(long_history: Registry, memory: MemoryStorage) -> None:
    """Roll back, then delete that revision: its history is read before the lock is taken."""
    locked = Locked()
    assert rollback(seen(long_history, locked), NAME, f"{0:064x}").previous == f"{REVISIONS - 1:064x}"
    assert locked.calls["get"] > REVISIONS
    assert locked.under_lock == {"get": 2, "put": 1}  # `latest` and the one pointer, which may be gone by now.

    # Meanwhile others publish, which takes no lock.
    locked, rival = Locked(), f"{REVISIONS:064x}"
    racing = Before(lambda call: "/locks/" in call.key.key, lambda: memory.put(pointer(OLD + REVISIONS), rival.encode()))
    assert len(delete(seen(long_history, racing, locked), NAME, f"{0:064x}").times) == 1
    assert locked.under_lock == {"scan": 1, "get": 3, "put": 1, "delete": 1}  # One of them is the new pointer.
    latest = long_history.latest(NAME)
    assert latest
    assert latest.top_hash == rival
    assert locked.calls["get"] > REVISIONS


def test_long_history_is_deleted(long_history: Registry) -> None:
    """Delete the package without reading a pointer, in batches; the lock is checked before each of them."""
    locked = Locked()

    assert len(delete(seen(long_history, locked), NAME).times) == REVISIONS
    assert locked.under_lock == locked.calls == {"get": 3, "scan": 2, "delete": REVISIONS + 1}
    assert list(long_history.packages()) == []


def test_packages_cost_no_revisions(long_history: Registry, memory: MemoryStorage) -> None:
    for name in ("team/other", "lab/one", "lab/two", "lab/three"):
        memory.put(PhysicalKey("registry", f"{layout.NAMES}{name}/latest"), b"")
    counted = Locked()

    assert {str(name) for name in seen(long_history, counted).packages()} == {
        "team/package",
        "team/other",
        "lab/one",
        "lab/two",
        "lab/three",
    }
    assert counted.calls == {"names": 3}
