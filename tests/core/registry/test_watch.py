"""Polls of many packages: their results, and the number of their requests."""

from collections import Counter

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import StorageUnavailableError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.watch import LatestWatcher
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.core.faulty import Call, Recorder
from tests.support import through


def publish(registry: Registry, package: str, message: str = "first", task: str = "") -> str:
    draft = Draft(package=package, entries={}, message=message, allow_empty=True)
    return build(registry, draft, attempt=Attempt(task=task)).top_hash


def calls(recorder: Recorder) -> Counter[str]:
    counted = Counter(call.operation for call in recorder.calls)
    recorder.calls.clear()
    return counted


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def watch(registry: Registry, recorder: Recorder) -> LatestWatcher:
    return LatestWatcher(through(registry, recorder))


def test_absent_package_left_out(watch: LatestWatcher, registry: Registry) -> None:
    assert watch.poll(["team/data"]) == {}

    top_hash = publish(registry, "team/data")

    assert watch.poll(["team/data"]) == {"team/data": top_hash}


def test_poll_returns_latest(watch: LatestWatcher, registry: Registry) -> None:
    first = publish(registry, "team/data")
    assert watch.poll(["team/data"]) == {"team/data": first}

    second = publish(registry, "team/data", "second")
    assert watch.poll(["team/data"]) == {"team/data": second}

    delete(registry, "team/data")
    assert watch.poll(["team/data"]) == {}


def test_pattern_matches_packages(watch: LatestWatcher, registry: Registry) -> None:
    hashes = {name: publish(registry, name) for name in ("team/a", "team/b", "teams/a", "other/a")}

    assert watch.poll(["team/*"]) == {name: hashes[name] for name in ("team/a", "team/b")}
    assert watch.poll(["*/a", "team/b"]) == {name: hashes[name] for name in ("team/a", "team/b", "teams/a", "other/a")}
    assert watch.poll(["none/*"]) == {}


def test_unchanged_costs_one_request(watch: LatestWatcher, registry: Registry, recorder: Recorder) -> None:
    publish(registry, "team/data")
    for _ in range(3):
        watch.poll(["team/data"])
        assert calls(recorder) == {"get": 1}


def test_writer_costs_no_request(watch: LatestWatcher, registry: Registry, recorder: Recorder) -> None:
    for number, task in enumerate(("", "dag/run/task/-1", "dag/run/task/2", "")):
        publish(registry, "team/data", str(number), task)
        for _ in range(2):
            watch.poll(["team/data"])
            assert calls(recorder) == {"get": 1}
            assert {name: tag.task for name, tag in watch.writers.items()} == ({"team/data": task} if task else {})


def test_many_cost_one_listing(watch: LatestWatcher, registry: Registry, recorder: Recorder) -> None:
    names = [f"team/data-{number:03}" for number in range(100)]
    hashes = {name: publish(registry, name) for name in names}
    assert watch.poll(names) == hashes
    assert calls(recorder) == {"scan": 1, "get": 100}

    hashes[names[7]] = publish(registry, names[7], "second")
    assert watch.poll(names) == hashes
    assert calls(recorder) == {"scan": 1, "get": 1}


def test_long_histories_one_by_one(watch: LatestWatcher, registry: Registry, memory: MemoryStorage, recorder: Recorder) -> None:
    names = [f"team/data-{number}" for number in range(17)]
    hashes = {name: publish(registry, name) for name in names}
    for number in range(17_000):  # 18 pages of a listing.
        memory.put(PhysicalKey("registry", f"{layout.NAMES}team/data-0/{1_500_000_000 + number}"), b"")

    assert watch.poll(names) == hashes
    assert calls(recorder)["scan"] == 1
    assert watch.poll(names) == hashes
    assert calls(recorder) == {"get": 17}


def test_long_histories_of_patterns(watch: LatestWatcher, registry: Registry, memory: MemoryStorage, recorder: Recorder) -> None:
    """List names, not pointers, once the pointers have needed more requests than there are packages."""
    hashes = {f"team/data-{number}": publish(registry, f"team/data-{number}") for number in range(3)}
    publish(registry, "other/data")
    for number in range(17_000):
        memory.put(PhysicalKey("registry", f"{layout.NAMES}team/data-0/{1_500_000_000 + number}"), b"")
    memory.put(PhysicalKey("registry", f"{layout.NAMES}team/odd name/latest"), b"")

    for patterns, names in ((["team/*"], 1), (["te*/data-*", "team/data-0"], 2)):
        calls(recorder)
        assert watch.poll(patterns) == hashes
        if names == 1:
            assert calls(recorder)["scan"] == 1
            assert watch.poll(patterns) == hashes
        assert calls(recorder) == {"names": names, "get": 3}


def test_bad_latest_is_skipped(
    watch: LatestWatcher, registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    top_hash = publish(registry, "team/good")
    memory.put(PhysicalKey("registry", f"{layout.NAMES}team/bad/{layout.LATEST}"), b"\xff\xfe no hash")
    memory.put(PhysicalKey("registry", f"{layout.NAMES}team/large/{layout.LATEST}"), top_hash.encode() + b" " * 1000)

    assert watch.poll(["team/bad", "team/good", "team/large"]) == {"team/good": top_hash}
    assert "'latest' of team/bad is no top hash" in caplog.text
    assert (
        "team/large:latest holds no top hash: s3://registry/.quilt/named_packages/team/large/latest: it has 1,064 bytes"
        in caplog.text
    )


def test_failed_poll_keeps_state(registry: Registry) -> None:
    top_hash = publish(registry, "team/data")
    fail = True

    def tap(call: Call, run: object) -> object:
        if fail:
            raise StorageUnavailableError("busy", str(call.key))
        return run()  # type: ignore[operator]

    watch = LatestWatcher(through(registry, tap))  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailableError):
        watch.poll(["team/data"])
    fail = False
    assert watch.poll(["team/data"]) == {"team/data": top_hash}
