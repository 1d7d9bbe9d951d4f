"""An update that meets another one is merged again with what is the latest by then."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import CancelledError, InputError, RevisionConflictError, WorkflowError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.pipeline import PublishResult
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.core.faulty import Call, Recorder, T, is_put_of
from tests.core.packages import PART, put
from tests.support import read, through

NAME = PackageName("team", "package")


def draft(entries: object = None, **more: Any) -> Draft:
    return Draft(**{"package": str(NAME), "entries": entries, "mode": "update", "conflict": "rebase", **more})


def contents(registry: Registry) -> dict[str, bytes]:
    """Return what the latest revision holds."""
    return {entry.logical_key: registry.read_bytes(entry) for entry in registry.read(NAME).entries}


class Rivals:
    """Before each of the first few writes of ``latest``, somebody else publishes an update."""

    def __init__(self, registry: Registry, times: int, publish: Callable[[int], object] | None = None) -> None:
        self.left = times
        self._publish = publish or (
            lambda number: push(registry, draft({f"theirs-{number}.txt": b"theirs"}, message=str(number)))
        )

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        if self.left and is_put_of("/latest")(call):
            self.left -= 1
            self._publish(self.left)
        return run()


def test_what_others_added_meanwhile_stays(registry: Registry) -> None:
    push(registry, draft({"old.txt": b"old"}))
    published = push(through(registry, Rivals(registry, 3)), draft({"mine.txt": b"mine"}, message="mine"))

    assert contents(registry) == {
        "mine.txt": b"mine",
        "old.txt": b"old",
        **{f"theirs-{number}.txt": b"theirs" for number in range(3)},
    }
    assert published.created
    assert registry.read(NAME).header["message"] == "mine"
    assert len(list(registry.revisions(NAME))) == 5


def test_what_others_removed_meanwhile_stays_away_and_what_both_changed_is_mine(registry: Registry) -> None:
    push(registry, draft({"a.txt": b"a", "b.txt": b"b", "c.txt": b"c"}))
    rivals = Rivals(registry, 1, lambda _: push(registry, draft({"b.txt": b"theirs"}, remove=["a.txt"])))
    push(through(registry, rivals), draft({"b.txt": b"mine"}, remove=["c.txt"]))

    assert contents(registry) == {"b.txt": b"mine"}


def test_what_was_sent_is_not_sent_again(registry: Registry, memory: MemoryStorage) -> None:
    put(memory, "s3://source/object.bin", b"o" * 10)
    recorder = Recorder()
    mine = {"small.txt": b"small", "large.bin": b"x" * (PART + 1), "object.bin": "s3://source/object.bin"}
    published = push(through(registry, Rivals(registry, 3), recorder), draft(mine))

    sent = [call.key.name for call in recorder.of("upload", "copy", "complete") if not call.key.name.startswith("theirs")]
    assert sorted(sent) == ["large.bin", "object.bin", "small.txt"]
    assert (published.bytes_copied, published.bytes_reused) == (5 + PART + 1 + 10, 0)
    assert len(contents(registry)) == 6


def test_a_function_that_places_files_is_asked_anew(registry: Registry) -> None:
    published = push(
        through(registry, Rivals(registry, 2)),
        draft({"a.txt": b"a"}),
        lambda key, _candidate: f"s3://registry/mine/{key}",
        copy="all",
    )

    assert read(registry, published)["a.txt"].physical_keys[0].startswith("s3://registry/mine/a.txt")


def test_the_sources_are_looked_at_once(registry: Registry, memory: MemoryStorage) -> None:
    put(memory, "s3://source/raw/a.bin", b"a")
    recorder = Recorder()
    push(through(registry, Rivals(registry, 2), recorder), draft("s3://source/raw/"))

    assert len([call for call in recorder.of("scan") if call.key.bucket == "source"]) == 1


def test_a_package_that_appears_meanwhile_is_merged_with(registry: Registry) -> None:
    push(through(registry, Rivals(registry, 1)), draft({"mine.txt": b"mine"}))

    assert sorted(contents(registry)) == ["mine.txt", "theirs-0.txt"]


def test_a_package_that_is_deleted_meanwhile_begins_anew(registry: Registry) -> None:
    push(registry, draft({"old.txt": b"old"}))
    push(through(registry, Rivals(registry, 1, lambda _: delete(registry, str(NAME)))), draft({"mine.txt": b"mine"}))

    assert contents(registry) == {"mine.txt": b"mine"}
    assert len(list(registry.revisions(NAME))) == 1


def test_a_build_is_merged_again_too(local_registry: Registry, memory: MemoryStorage) -> None:
    for key in ("a", "b"):
        put(memory, f"s3://source/{key}.txt", key.encode())
    rivals = Rivals(local_registry, 1, lambda _: build(local_registry, draft({"a.txt": "s3://source/a.txt"})))
    build(through(local_registry, rivals), draft({"b.txt": "s3://source/b.txt"}))

    assert contents(local_registry) == {"a.txt": b"a", "b.txt": b"b"}


def test_the_workflow_judges_each_merger(registry: Registry, memory: MemoryStorage) -> None:
    config = b"""{version: "1", default_workflow: few, workflows: {few: {name: Few, entries_schema: few}},
                  schemas: {few: {url: "s3://registry/few.json"}}}"""
    memory.put(PhysicalKey("registry", ".quilt/workflows/config.yml"), config)
    memory.put(PhysicalKey("registry", "few.json"), b'{"type": "array", "maxItems": 2}')
    rivals = Rivals(registry, 1, lambda _: push(registry, draft({"1.txt": b"1", "2.txt": b"2"})))

    with pytest.raises(WorkflowError):
        push(through(registry, rivals), draft({"mine.txt": b"mine"}))
    assert sorted(contents(registry)) == ["1.txt", "2.txt"]
    assert len(list(registry.revisions(NAME))) == 1


def test_updates_of_many_at_once_lose_nothing(registry: Registry) -> None:
    def work(writer: int) -> list[PublishResult]:
        return [push(registry, draft({f"{writer}-{i}.txt": b"x"}, message=f"{writer} {i}")) for i in range(5)]

    with ThreadPoolExecutor(8) as pool:
        published = [each for made in pool.map(work, range(8)) for each in made]

    assert sorted(contents(registry)) == sorted(f"{writer}-{i}.txt" for writer in range(8) for i in range(5))
    assert {each.revision for each in published} == set(registry.revisions(NAME))
    assert len(published) == 40


def test_a_stop_ends_the_tries(registry: Registry) -> None:
    stop = threading.Event()

    def rival(number: int) -> None:
        push(registry, draft({f"{number}.txt": b"theirs"}))
        stop.set()

    with pytest.raises((RevisionConflictError, CancelledError)):
        push(through(registry, Rivals(registry, 100, rival)), draft({"mine.txt": b"mine"}), stop=stop)
    assert "mine.txt" not in contents(registry)


@pytest.mark.parametrize("more", [{"mode": "replace"}, {"base": "latest"}], ids=["replace", "an update of a chosen revision"])
def test_only_an_update_of_the_latest_revision_can_be_merged_again(registry: Registry, more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="rebase"):
        push(registry, draft({"a.txt": b"a"}, **more))


def test_what_is_published_says_which_bytes_are_where(registry: Registry) -> None:
    published = push(through(registry, Rivals(registry, 2)), draft({"mine.txt": b"mine"}))

    assert read(registry, published)["mine.txt"].physical_keys[0].startswith("s3://registry/team/package/mine.txt?versionId=")
    assert published.entries == 3
