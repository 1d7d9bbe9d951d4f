"""Looks at many packages: what they find, and how many requests they make."""

from collections import Counter

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import StorageUnavailableError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.watch import Watch
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.core.faulty import Call, Recorder
from tests.support import through


def publish(registry: Registry, package: str, message: str = "first") -> str:
    return build(registry, Draft(package=package, entries={}, message=message, allow_empty=True)).top_hash


def calls(recorder: Recorder) -> Counter[str]:
    counted = Counter(call.operation for call in recorder.calls)
    recorder.calls.clear()
    return counted


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def watch(registry: Registry, recorder: Recorder) -> Watch:
    return Watch(through(registry, recorder))


def test_a_package_that_is_not_there_is_left_out(watch: Watch, registry: Registry) -> None:
    assert watch.look(["team/data"]) == {}

    top_hash = publish(registry, "team/data")

    assert watch.look(["team/data"]) == {"team/data": top_hash}


def test_each_look_says_what_latest_names_then(watch: Watch, registry: Registry) -> None:
    first = publish(registry, "team/data")
    assert watch.look(["team/data"]) == {"team/data": first}

    second = publish(registry, "team/data", "second")
    assert watch.look(["team/data"]) == {"team/data": second}

    delete(registry, "team/data")
    assert watch.look(["team/data"]) == {}


def test_a_pattern_finds_the_packages_that_match_and_no_others(watch: Watch, registry: Registry) -> None:
    hashes = {name: publish(registry, name) for name in ("team/a", "team/b", "teams/a", "other/a")}

    assert watch.look(["team/*"]) == {name: hashes[name] for name in ("team/a", "team/b")}
    assert watch.look(["*/a", "team/b"]) == {name: hashes[name] for name in ("team/a", "team/b", "teams/a", "other/a")}
    assert watch.look(["none/*"]) == {}


def test_one_package_costs_one_request_while_nothing_changes(watch: Watch, registry: Registry, recorder: Recorder) -> None:
    publish(registry, "team/data")
    watch.look(["team/data"])
    assert calls(recorder) == {"stat": 1, "get": 1}

    for _ in range(3):
        watch.look(["team/data"])
        assert calls(recorder) == {"stat": 1}


def test_many_packages_cost_one_listing_and_a_read_for_each_change(watch: Watch, registry: Registry, recorder: Recorder) -> None:
    names = [f"team/data-{number:03}" for number in range(100)]
    hashes = {name: publish(registry, name) for name in names}
    assert watch.look(names) == hashes
    assert calls(recorder) == {"scan": 1, "get": 100}

    hashes[names[7]] = publish(registry, names[7], "second")
    assert watch.look(names) == hashes
    assert calls(recorder) == {"scan": 1, "get": 1}


def test_where_histories_are_long_packages_are_looked_at_one_by_one(
    watch: Watch, registry: Registry, memory: MemoryStorage, recorder: Recorder
) -> None:
    names = [f"team/data-{number}" for number in range(17)]
    hashes = {name: publish(registry, name) for name in names}
    for number in range(17_000):  # 18 pages of a listing.
        memory.put(PhysicalKey("registry", f"{layout.NAMES}team/data-0/{1_500_000_000 + number}"), b"")

    assert watch.look(names) == hashes
    assert calls(recorder)["scan"] == 1
    assert watch.look(names) == hashes
    assert calls(recorder) == {"stat": 17}


def test_what_is_no_top_hash_is_passed_over(
    watch: Watch, registry: Registry, memory: MemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    top_hash = publish(registry, "team/good")
    memory.put(PhysicalKey("registry", f"{layout.NAMES}team/bad/{layout.LATEST}"), b"\xff\xfe no hash")

    assert watch.look(["team/bad", "team/good"]) == {"team/good": top_hash}
    assert "'latest' of team/bad is no top hash" in caplog.text


def test_a_look_that_fails_leaves_the_next_one_whole(registry: Registry) -> None:
    top_hash = publish(registry, "team/data")
    fail = True

    def tap(call: Call, run: object) -> object:
        if fail:
            raise StorageUnavailableError("busy", str(call.key))
        return run()  # type: ignore[operator]

    watch = Watch(through(registry, tap))  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailableError):
        watch.look(["team/data"])
    fail = False
    assert watch.look(["team/data"]) == {"team/data": top_hash}
