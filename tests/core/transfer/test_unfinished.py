"""Uploads and files that begin while others are being aborted: none stays."""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_quilt.core.errors import CancelledError, StorageUnavailableError
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Source, Upload
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.retry import NO_RETRY
from airflow_quilt.core.runtime.stop import stoppable
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_path
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.download import Download, Downloader
from airflow_quilt.core.transfer.unfinished import Unfinished
from airflow_quilt.core.transfer.upload import Uploader
from tests.core.faulty import Call, T, tapped
from tests.core.packages import entry_of, put
from tests.support import workers_since

COUNT = 8
DATA = os.urandom(9 * 1024 * 1024)
WAIT = 60
"""Seconds after which a test that hangs is failed."""


class Late:
    """Lets all but one of the uploads begin only when the first abort has; the work fails, or is stopped, by then."""

    def __init__(self, stop: threading.Event | None) -> None:
        self.left: list[threading.Thread] = []
        self._stop = stop
        self._serial = itertools.count()
        self._begun = threading.Barrier(COUNT)
        self._aborting = threading.Event()

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        match call.operation:
            case "begin":
                is_first = next(self._serial) == 0
                self._begun.wait(WAIT)
                if not is_first:
                    self.left.append(threading.current_thread())
                    assert self._aborting.wait(WAIT)
            case "send part" if self._stop:
                self._stop.set()
            case "send part":
                raise StorageUnavailableError("no part today", str(call.key))
            case "abort":
                self._aborting.set()
        return run()


@pytest.mark.parametrize("stops", [False, True], ids=["failed", "stopped"])
def test_late_uploads_are_aborted(memory: MemoryStorage, *, stops: bool) -> None:
    stop = threading.Event()
    late = Late(stop if stops else None)
    stores = tapped(Stores(LocalStorage(), memory, NO_RETRY, Limits(max_concurrency=COUNT)), late)
    uploads = [
        Upload(Source(logical_key=LogicalKey(str(i)), origin=DATA, size=len(DATA)), PhysicalKey("registry", str(i)))
        for i in range(COUNT)
    ]

    error, message = (CancelledError, "stopped") if stops else (StorageUnavailableError, "no part today")
    with pytest.raises(error, match=message), stoppable(stop):
        list(Uploader(stores).run(uploads))
    for thread in late.left:
        thread.join(WAIT)
    assert memory.uploads == []


def test_late_files_are_removed(memory: MemoryStorage, tmp_path: Path) -> None:
    release, begun = threading.Event(), threading.Barrier(COUNT)
    serial = itertools.count()

    class Hanging:
        def __call__(self, call: Call, run: Callable[[], T]) -> T:
            if call.operation != "create":
                return run()
            is_first = next(serial) == 0
            begun.wait(WAIT)
            if is_first:
                raise StorageUnavailableError("the disk is away", str(call.key))
            assert release.wait(WAIT)
            return run()

    target = resolve_path(tmp_path / "out")
    downloads = []
    for i in range(COUNT):
        origin = put(memory, f"s3://source/{i}", DATA)
        downloads.append(Download(entry_of(str(i), DATA, origin), origin, target.join(str(i))))
    stores = tapped(Stores(LocalStorage(), memory, NO_RETRY, Limits(max_concurrency=COUNT)), Hanging())

    before = threading.enumerate()
    with pytest.raises(StorageUnavailableError, match="the disk is away"):
        list(Downloader(stores).run(downloads))
    left = workers_since(before)
    assert len(left) == COUNT - 1
    release.set()
    for thread in left:
        thread.join(WAIT)
    assert list((tmp_path / "out").iterdir()) == []


def test_abort_survives_additions() -> None:
    """Each abort lets another thing begin: a collection that is walked meanwhile would change under its reader."""
    aborted: list[int] = []

    def abort(number: int) -> None:
        aborted.append(number)
        if number < COUNT:
            unfinished.add(number + COUNT)

    unfinished = Unfinished(abort, "Left over", 1)
    for number in range(COUNT):
        unfinished.add(number)
    unfinished.abort(StorageUnavailableError("down", "s3://registry/key"))

    assert sorted(aborted) == list(range(2 * COUNT))


def test_hanging_abort_is_left(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    unfinished = Unfinished[int](lambda _: release.wait(WAIT), "An upload is left", 2)
    for number in range(3):
        unfinished.add(number)
    unfinished.abort(CancelledError("stopped"))
    release.set()

    assert "An upload is left: no end within" in caplog.text
