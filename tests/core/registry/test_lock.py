"""A lock that a dead owner cannot keep."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_quilt.core.errors import ObjectNotFoundError, PreconditionError, StorageUnavailableError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.lock import StoredLock
from airflow_quilt.core.storage.base import Storage
from airflow_quilt.core.storage.conditional import ConditionalWriter
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import IfMatch
from airflow_quilt.core.storage.paths import resolve_path
from tests.core.faulty import Before, Fault, FaultMode, TappedStorage
from tests.support import Clock

LEASE = 0.4


@pytest.fixture(params=["memory", "local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, PhysicalKey]:
    """A storage, and the key of a lock there."""
    if request.param == "memory":
        return MemoryStorage(["registry"]), PhysicalKey("registry", ".quilt/locks/team/package")
    return LocalStorage(), resolve_path(tmp_path / ".quilt/locks/team/package")


def lease(place: tuple[Storage, PhysicalKey], seconds: float = 30.0, clock: Clock | None = None) -> StoredLock:
    storage, key = place
    writer = ConditionalWriter(storage)
    return StoredLock(storage, writer, key, seconds, clock) if clock else StoredLock(storage, writer, key, seconds)


def is_held(place: tuple[Storage, PhysicalKey]) -> bool:
    storage, key = place
    try:
        storage.stat(key)
    except ObjectNotFoundError:
        return False
    return True


class Ticking(Clock):
    """A clock that advances at each reading."""

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def test_lock_exists_while_held(place: tuple[Storage, PhysicalKey]) -> None:
    with lease(place).hold():
        assert is_held(place)
    assert not is_held(place)


def test_failed_work_releases_lock(place: tuple[Storage, PhysicalKey]) -> None:
    with pytest.raises(ValueError, match="mistake"), lease(place).hold():
        raise ValueError("a mistake")
    assert not is_held(place)


def test_lock_is_exclusive(place: tuple[Storage, PhysicalKey]) -> None:
    counted, inside, start = 0, threading.Semaphore(1), threading.Barrier(8)

    def work(_: int) -> None:
        nonlocal counted
        start.wait(60)
        for _ in range(3):
            with lease(place).hold():
                assert inside.acquire(blocking=False), "two hold the lock"
                counted += 1
                inside.release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert counted == 24
    assert not is_held(place)


@pytest.fixture
def dead(place: tuple[Storage, PhysicalKey]) -> Iterator[None]:
    """An owner that does not go on."""
    with ExitStack() as stack:
        stack.enter_context(lease(place).hold())
        yield
        stack.pop_all()  # Never let go.


@pytest.mark.usefixtures("dead")
def test_dead_owner_is_replaced(place: tuple[Storage, PhysicalKey]) -> None:
    clock = Ticking(0.0)

    with lease(place, 30.0, clock).hold():
        assert 30.0 < clock.now < 400.0
    assert not is_held(place)


@pytest.mark.usefixtures("dead")
def test_live_owner_is_kept(place: tuple[Storage, PhysicalKey]) -> None:
    storage, key = place
    owner = storage.get(key).data
    waiting = lease(place, 30.0)

    def wait() -> None:
        with waiting.hold():
            pass

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert storage.get(key).data == owner
    storage.delete([key])
    thread.join(30)
    assert not thread.is_alive()


def test_waiting_ends_in_time(place: tuple[Storage, PhysicalKey]) -> None:
    storage, key = place

    class Busy(Ticking):
        """Another owner has the lock at each reading."""

        def __call__(self) -> float:
            storage.put(key, f"owner {self.now}".encode())
            return super().__call__()

    busy = Busy(0.0)
    with pytest.raises(StorageUnavailableError, match="other processes hold this lock"), lease(place, 30.0, busy).hold():
        pass
    assert busy.now < 400.0


def test_lost_answer_still_locks(place: tuple[Storage, PhysicalKey]) -> None:
    storage, key = place
    repeated = TappedStorage(storage, Fault(1, "repeated", among=lambda call: call.operation == "put"))

    with StoredLock(repeated, ConditionalWriter(repeated), key, 30.0).hold():
        assert is_held(place)
    assert not is_held(place)


def test_live_owner_renews(place: tuple[Storage, PhysicalKey]) -> None:
    """Hold the lock for longer than the lease time: a waiter sees it renewed, and does not get in."""
    storage, key = place
    entered = threading.Event()

    def wait() -> None:
        with lease(place, LEASE).hold():
            entered.set()

    thread = threading.Thread(target=wait, daemon=True)
    held = lease(place, LEASE)
    with held.hold():
        thread.start()
        seen = {storage.get(key).etag}
        while len(seen) < 8:  # Two lease times.
            time.sleep(0.01)
            seen.add(storage.get(key).etag)
        held.check()
        assert not entered.is_set()
    thread.join(60)
    assert entered.is_set()
    assert not is_held(place)


def test_overdue_lock_is_renewed(place: tuple[Storage, PhysicalKey]) -> None:
    clock, (storage, key) = Clock(0.0), place
    held = lease(place, 30.0, clock)

    with held.hold():
        first = storage.get(key).etag
        clock.now = 14.0
        held.check()
        assert storage.get(key).etag == first
        for clock.now in (16.0, 200.0):
            held.check()
        assert storage.get(key).etag != first
    assert not is_held(place)


@pytest.mark.parametrize("thief", [b"the next one", None], ids=["replaced", "deleted"])
def test_lost_lock_is_an_error(place: tuple[Storage, PhysicalKey], thief: bytes | None) -> None:
    clock, (storage, key) = Clock(0.0), place
    held = lease(place, 30.0, clock)

    with held.hold():
        clock.now = 40.0
        storage.delete([key])
        if thief:
            storage.put(key, thief)
        for clock.now in (40.0, 41.0):
            with pytest.raises(StorageUnavailableError, match="another process took this lock"):
                held.check()
    assert is_held(place) == bool(thief)


@pytest.mark.parametrize("mode", ["after", "repeated", "before"])
def test_lost_renewal_is_repeated(place: tuple[Storage, PhysicalKey], mode: FaultMode) -> None:
    storage, key = place
    clock = Clock(0.0)
    faulty = TappedStorage(storage, Fault(2, mode, among=lambda call: call.operation == "put"))
    held = StoredLock(faulty, ConditionalWriter(faulty), key, 30.0, clock)

    with held.hold():
        clock.now = 20.0
        if mode != "repeated":
            with pytest.raises(StorageUnavailableError, match="fault at call"):
                held.check()
        held.check()
    assert not is_held(place)


def test_late_owner_takes_none_along(place: tuple[Storage, PhysicalKey]) -> None:
    """Release a lock so that no waiter, which found it expired, is deleted in the same moment."""
    storage, key = place
    clock, seen = Clock(0.0), []

    def replace() -> None:
        with contextlib.suppress(PreconditionError):
            seen.append(storage.put(key, b"the next one", IfMatch(first)))

    racing = TappedStorage(storage, Before(lambda call: call.operation == "delete", replace))
    with StoredLock(racing, ConditionalWriter(racing), key, 30.0, clock).hold():
        first = storage.get(key).etag
        clock.now = 100.0
    assert is_held(place) == bool(seen)


def test_unreleased_lock_is_logged(place: tuple[Storage, PhysicalKey], caplog: pytest.LogCaptureFixture) -> None:
    """Work that is done stays done: its lock expires."""
    storage, key = place
    dead = TappedStorage(storage, Fault(1, "killed before", among=lambda call: call.operation == "delete"))

    with StoredLock(dead, ConditionalWriter(dead), key, 30.0).hold():
        pass
    assert is_held(place)
    assert "The lock was not released, and expires in 30 s" in caplog.text


def test_stale_owner_spares_lock(place: tuple[Storage, PhysicalKey]) -> None:
    """Leave the lock of the next owner alone, after the own one expired."""
    clock = Clock(0.0)

    with lease(place, 30.0, clock).hold():
        clock.now = 100.0
        storage, key = place
        storage.put(key, b"the next one")
    assert storage.get(key).data == b"the next one"
