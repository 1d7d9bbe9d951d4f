"""How many calls of its storage each operation of a registry makes, however many revisions and manifests there are."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import PackageNotFoundError, RevisionConflictError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Before, Call, Recorder, T, is_put_of
from tests.support import through

NAME = PackageName("team", "package")
OLD: Final = 1_600_000_000
BY_THREADS: Final = 16

Act = Callable[[Registry], object]


@pytest.fixture(params=[(3, 10), (300, 10_000)], ids=["small", "large"])
def revisions(request: pytest.FixtureRequest, memory: MemoryStorage) -> int:
    """How many revisions a package has, all of another client but the last one, in a registry of few or many manifests."""
    revisions, manifests = request.param
    for number in range(manifests):
        memory.put(PhysicalKey("registry", layout.manifest(TopHash(f"{number:064x}"))), b"")
    for number in range(revisions - 1):
        put_pointer(memory, str(OLD + number), f"{number:064x}")
    put_pointer(memory, layout.LATEST, f"{revisions - 2:064x}")
    return int(revisions)


@pytest.fixture
def package(registry: Registry, revisions: int) -> PublishResult:
    """The last revision of that package."""
    published = publish(registry, "the last")
    assert len(list(registry.revisions(NAME))) == revisions
    return published


def put_pointer(memory: MemoryStorage, name: str, top_hash: str) -> None:
    memory.put(PhysicalKey("registry", layout.pointer(NAME, name)), top_hash.encode())


def publish(registry: Registry, message: str, attempt: Attempt | None = None, **more: Any) -> PublishResult:
    draft = Draft(**{"package": str(NAME), "entries": {}, "message": message, "allow_empty": True, **more})
    return build(registry, draft, attempt=attempt)


def calls(registry: Registry, act: Act) -> Mapping[str, int]:
    """Return how many calls an act makes, but for the reading of manifests, which are never listed."""
    recorder = Recorder()
    act(through(registry, recorder))

    assert all(call.key.key == layout.pointers(NAME) for call in recorder.of("scan"))
    return Counter(call.operation for call in recorder.calls if not is_read_of_manifest(call))


def is_read_of_manifest(call: Call) -> bool:
    return call.key.key.startswith(".quilt/packages/") and call.operation not in {"put", "conditions"}


class Listed:
    """Count the keys that scans found."""

    def __init__(self) -> None:
        self.keys = 0

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        answer = run()
        if call.operation == "scan" and isinstance(answer, list):
            self.keys += len(answer)
        return answer


class Together:
    """Lets the first reads of pointers go on only when so many are under way."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count)
        self._first = iter(range(count))

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        if call.operation == "get" and call.key.name.isdigit() and next(self._first, None) is not None:
            self._barrier.wait(60)
        return run()


def test_first_revision_calls(registry: Registry) -> None:
    # Reads: `latest`, the workflows. Writes: manifest, pointer, `latest`, pointer.
    assert calls(registry, lambda it: publish(it, "first")) == {"get": 2, "scan": 1, "put": 4, "conditions": 1}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("mode", ["replace", "update"])
def test_further_revision_calls(registry: Registry, mode: str) -> None:
    # One read more: the pointer of the latest revision by then.
    expected = {"get": 3, "scan": 1, "put": 4, "conditions": 1}
    assert calls(registry, lambda it: publish(it, "more", mode=mode)) == expected


@pytest.mark.usefixtures("package")
def test_overwrite_reads_latest_once(registry: Registry) -> None:
    expected = {"get": 3, "scan": 1, "put": 4, "conditions": 1}
    assert calls(registry, lambda it: publish(it, "more", conflict="overwrite")) == expected


@pytest.mark.usefixtures("revisions")
def test_foreign_latest_calls(registry: Registry) -> None:
    assert calls(registry, lambda it: publish(it, "more")) == {"get": 3, "scan": 1, "put": 4, "conditions": 1}


@pytest.mark.usefixtures("package")
def test_publish_lists_only_new(registry: Registry) -> None:
    listed = Listed()
    publish(through(registry, listed), "more")

    assert listed.keys == 2  # The pointer of the last revision, and `latest`.


@pytest.mark.usefixtures("package")
def test_unchanged_calls(registry: Registry) -> None:
    assert calls(registry, lambda it: publish(it, "the last")) == {"get": 3, "scan": 1}


def test_foreign_unchanged_calls(registry: Registry, memory: MemoryStorage, package: PublishResult) -> None:
    put_pointer(memory, str(int(time.time()) + 100), package.top_hash)
    put_pointer(memory, layout.LATEST, package.top_hash)

    assert calls(registry, lambda it: publish(it, "the last")) == {"get": 4, "scan": 1}


@pytest.mark.usefixtures("package")
def test_retry_after_rivals_calls(registry: Registry) -> None:
    attempt = Attempt("work")
    publish(registry, "mine", attempt)
    publish(registry, "theirs")
    retry = replace(attempt, since=attempt.began)

    # The pointers of the three revisions since the first try; then the one before it, which its event names.
    assert calls(registry, lambda it: publish(it, "mine", retry)) == {"get": 6, "scan": 2, "put": 1}


@pytest.mark.usefixtures("package")
def test_early_conflict_no_pointer(registry: Registry) -> None:
    recorder = Recorder()
    rival = Before(lambda call: call.operation == "scan", lambda: publish(registry, "theirs"))

    with pytest.raises(RevisionConflictError):
        publish(through(registry, rival, recorder), "mine")
    assert [call.key.key.startswith(".quilt/packages/") for call in recorder.writes] == [True]


class VagueStorage(MemoryStorage):
    """A store whose listings do not distinguish one writing of an object from the next."""

    def list_objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        return (replace(stat, written="") for stat in super().list_objects(prefix, after))


def test_vague_pointer_reread() -> None:
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), VagueStorage(["registry"])))
    publish(registry, "before")
    recorder = Recorder()
    rival = Before(is_put_of("/latest"), lambda: publish(registry, "theirs"))
    publish(through(registry, rival, recorder), "mine", mode="update", conflict="rebase")

    assert sorted(Counter(call.key.name for call in recorder.of("get") if call.key.name.isdigit()).values()) == [1, 1, 2]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("rivals", [1, 4])
def test_rebase_reads_pointers_once(registry: Registry, rivals: int) -> None:
    recorder, left = Recorder(), list(range(rivals))

    def rival(call: Call, run: Callable[[], T]) -> T:
        if left and is_put_of("/latest")(call):
            publish(registry, f"theirs {left.pop()}")
        return run()

    publish(through(registry, rival, recorder), "mine", mode="update", conflict="rebase")

    read = Counter(call.key.name for call in recorder.of("get") if call.key.name.isdigit())
    assert set(read.values()) == {1}
    assert len(read) == 2 * rivals + 1  # Each refused attempt reads its own pointer before it deletes it.
    assert len(recorder.of("scan")) == rivals + 1


def test_history_calls(registry: Registry, revisions: int) -> None:
    assert calls(registry, lambda it: list(it.revisions(NAME))) == {"scan": 1, "get": revisions - 1}


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        pytest.param(None, {"get": 1}, id="latest"),
        pytest.param("0" * 64, {}, id="a full hash"),
        pytest.param(str(OLD), {"get": 1}, id="the name of a pointer"),
        pytest.param(datetime.fromtimestamp(OLD, UTC), {"scan": 1, "get": 1}, id="the time of the oldest"),
        pytest.param(datetime.fromtimestamp(OLD, UTC) + timedelta(days=365), {"scan": 1, "get": 1}, id="a time between"),
        pytest.param("9999-12-31", {"scan": 1, "get": 1}, id="a time to come"),
    ],
)
@pytest.mark.usefixtures("package")
def test_resolve_calls(registry: Registry, revision: Any, expected: Mapping[str, int]) -> None:
    assert calls(registry, lambda it: it.resolve(NAME, revision)) == expected


@pytest.mark.usefixtures("package")
def test_time_before_oldest_calls(registry: Registry) -> None:
    def resolve(it: Registry) -> None:
        with pytest.raises(PackageNotFoundError):
            it.resolve(NAME, datetime.fromtimestamp(OLD - 1, UTC))

    assert calls(registry, resolve) == {"scan": 1}


def test_short_hash_calls(registry: Registry, revisions: int, package: PublishResult) -> None:
    assert calls(registry, lambda it: it.resolve(NAME, package.top_hash[:8])) == {"scan": 1, "get": revisions}


@pytest.mark.usefixtures("package")
def test_delete_reads_no_pointers(registry: Registry, revisions: int) -> None:
    # Reads: `latest`, before the listing, before it goes, and when all is gone. Deleted besides: `latest` and the lock.
    expected = {"put": 1, "conditions": 1, "get": 3, "scan": 2, "delete": revisions + 2}
    assert calls(registry, lambda it: delete(it, str(NAME))) == expected


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("pointer", [str(OLD), layout.LATEST])
def test_delete_damaged_pointers(registry: Registry, memory: MemoryStorage, revisions: int, pointer: str) -> None:
    put_pointer(memory, pointer, "damaged")

    assert len(delete(registry, str(NAME)).times) == revisions
    assert list(registry.packages()) == []


def test_delete_reads_pointers_once(registry: Registry, revisions: int, package: PublishResult) -> None:
    # Once, before the lock is taken. `latest` is read and the pointers are listed before and under it, `latest` afterwards too.
    older, newest = f"{0:064x}", package.top_hash
    common = {"conditions": 1, "get": revisions + 3, "scan": 2, "delete": 2}
    assert calls(registry, lambda it: delete(it, str(NAME), older)) == {"put": 1, **common}
    assert calls(registry, lambda it: delete(it, str(NAME), newest)) == {"put": 2, **common, "get": revisions + 2}


def test_delete_restart_no_reread(registry: Registry, revisions: int, package: PublishResult) -> None:
    recorder = Recorder()
    rival = Before(is_put_of("/latest"), lambda: publish(registry, "theirs"))
    delete(through(registry, rival, recorder), str(NAME), package.top_hash)

    read = Counter(call.key.name for call in recorder.of("get") if call.key.name.isdigit())
    assert rival.done
    assert set(read.values()) == {1}
    assert len(read) == revisions + 1


@pytest.mark.usefixtures("package")
def test_rollback_reads_once(registry: Registry, revisions: int) -> None:
    # Under the lock `latest` and the one pointer once more.
    expected = {"put": 2, "conditions": 1, "get": revisions + 3, "scan": 1, "delete": 1}
    assert calls(registry, lambda it: rollback(it, str(NAME), f"{0:064x}")) == expected


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda registry: list(registry.revisions(NAME)), id="list"),
        pytest.param(lambda registry: registry.resolve(NAME, "0" * 63), id="resolve"),
        pytest.param(lambda registry: delete(registry, str(NAME), f"{0:064x}"), id="delete"),
        pytest.param(lambda registry: rollback(registry, str(NAME), f"{0:064x}"), id="roll back"),
    ],
)
def test_pointers_read_concurrently(registry: Registry, memory: MemoryStorage, act: Act) -> None:
    for number in range(BY_THREADS):
        put_pointer(memory, str(OLD + number), f"{number << 8:064x}")
    put_pointer(memory, layout.LATEST, f"{1 << 8:064x}")
    memory.put(PhysicalKey("registry", layout.manifest(TopHash(f"{0:064x}"))), b"")

    act(through(registry, Together(BY_THREADS)))
