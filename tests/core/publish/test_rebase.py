"""An update that meets another one is merged again, with the latest revision by then."""

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
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.pipeline import Workspace
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.core.faulty import Call, Recorder, T, is_put_of
from tests.core.packages import PART, put
from tests.support import Clock, read, through

NAME = PackageName("team", "package")


def draft(entries: object = None, **more: Any) -> Draft:
    return Draft(**{"package": str(NAME), "entries": entries, "mode": "update", **more})


def contents(registry: Registry) -> dict[str, bytes]:
    """Return the bytes of each entry of the latest revision."""
    return {entry.logical_key: registry.read_bytes(entry) for entry in registry.read(NAME).entries}


class Rivals:
    """Before each of the first few writes of ``latest``, another writer publishes an update."""

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


def test_rival_additions_stay(registry: Registry) -> None:
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


def test_rival_removals_stay(registry: Registry) -> None:
    """Keep a rival's removals; of entries that both changed, the own one wins."""
    push(registry, draft({"a.txt": b"a", "b.txt": b"b", "c.txt": b"c"}))
    rivals = Rivals(registry, 1, lambda _: push(registry, draft({"b.txt": b"theirs"}, remove=["a.txt"])))
    push(through(registry, rivals), draft({"b.txt": b"mine"}, remove=["c.txt"]))

    assert contents(registry) == {"b.txt": b"mine"}


def test_sent_bytes_are_not_resent(registry: Registry, memory: MemoryStorage) -> None:
    put(memory, "s3://source/object.bin", b"o" * 10)
    recorder = Recorder()
    mine = {"small.txt": b"small", "large.bin": b"x" * (PART + 1), "object.bin": "s3://source/object.bin"}
    published = push(through(registry, Rivals(registry, 3), recorder), draft(mine))

    sent = [call.key.name for call in recorder.of("upload", "copy", "complete") if not call.key.name.startswith("theirs")]
    assert sorted(sent) == ["large.bin", "object.bin", "small.txt"]
    assert (published.bytes_copied, published.bytes_reused) == (5 + PART + 1 + 10, 0)
    assert len(contents(registry)) == 6


def test_dest_function_runs_again(registry: Registry) -> None:
    published = push(
        through(registry, Rivals(registry, 2)),
        draft({"a.txt": b"a"}),
        lambda key, _candidate: f"s3://registry/mine/{key}",
        copy="all",
    )

    assert read(registry, published)["a.txt"].physical_keys[0].startswith("s3://registry/mine/a.txt")


def test_sources_are_listed_once(registry: Registry, memory: MemoryStorage) -> None:
    put(memory, "s3://source/raw/a.bin", b"a")
    recorder = Recorder()
    push(through(registry, Rivals(registry, 2), recorder), draft("s3://source/raw/"))

    assert len([call for call in recorder.of("scan") if call.key.bucket == "source"]) == 1


def test_new_package_is_merged(registry: Registry) -> None:
    push(through(registry, Rivals(registry, 1)), draft({"mine.txt": b"mine"}))

    assert sorted(contents(registry)) == ["mine.txt", "theirs-0.txt"]


def test_deleted_package_restarts(registry: Registry) -> None:
    push(registry, draft({"old.txt": b"old"}))
    push(through(registry, Rivals(registry, 1, lambda _: delete(registry, str(NAME)))), draft({"mine.txt": b"mine"}))

    assert contents(registry) == {"mine.txt": b"mine"}
    assert len(list(registry.revisions(NAME))) == 1


def test_build_rebases_too(local_registry: Registry, memory: MemoryStorage) -> None:
    for key in ("a", "b"):
        put(memory, f"s3://source/{key}.txt", key.encode())
    rivals = Rivals(local_registry, 1, lambda _: build(local_registry, draft({"a.txt": "s3://source/a.txt"})))
    build(through(local_registry, rivals), draft({"b.txt": "s3://source/b.txt"}))

    assert contents(local_registry) == {"a.txt": b"a", "b.txt": b"b"}


def test_workflow_judges_each_merge(registry: Registry, memory: MemoryStorage) -> None:
    config = b"""{version: "1", default_workflow: few, workflows: {few: {name: Few, entries_schema: few}},
                  schemas: {few: {url: "s3://registry/few.json"}}}"""
    memory.put(PhysicalKey("registry", ".quilt/workflows/config.yml"), config)
    memory.put(PhysicalKey("registry", "few.json"), b'{"type": "array", "maxItems": 2}')
    rivals = Rivals(registry, 1, lambda _: push(registry, draft({"1.txt": b"1", "2.txt": b"2"})))

    with pytest.raises(WorkflowError):
        push(through(registry, rivals), draft({"mine.txt": b"mine"}))
    assert sorted(contents(registry)) == ["1.txt", "2.txt"]
    assert len(list(registry.revisions(NAME))) == 1


def test_concurrent_updates_merge(registry: Registry) -> None:
    def work(writer: int) -> list[PublishResult]:
        return [push(registry, draft({f"{writer}-{i}.txt": b"x"}, message=f"{writer} {i}")) for i in range(5)]

    with ThreadPoolExecutor(8) as pool:
        published = [each for made in pool.map(work, range(8)) for each in made]

    assert sorted(contents(registry)) == sorted(f"{writer}-{i}.txt" for writer in range(8) for i in range(5))
    assert {each.revision for each in published} == set(registry.revisions(NAME))
    assert len(published) == 40


def test_stop_ends_the_attempts(registry: Registry) -> None:
    stop = threading.Event()

    def rival(number: int) -> None:
        push(registry, draft({f"{number}.txt": b"theirs"}))
        stop.set()

    with pytest.raises((RevisionConflictError, CancelledError)):
        push(through(registry, Rivals(registry, 100, rival)), draft({"mine.txt": b"mine"}), stop=stop)
    assert "mine.txt" not in contents(registry)


@pytest.mark.parametrize("more", [{"mode": "replace"}, {"revision": "latest"}], ids=["replace", "an update of a chosen revision"])
def test_only_latest_is_rebased(registry: Registry, more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="rebase"):
        push(registry, draft({"a.txt": b"a"}, conflict="rebase", **more))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        pytest.param({}, "rebase", id="update"),
        pytest.param({"remove": ["a"], "message": "m", "own_meta": {"airflow": 1}}, "rebase", id="removal-with-provenance"),
        pytest.param({"meta": {"n": 1}, "meta_mode": "merge"}, "rebase", id="metadata-added"),
        pytest.param({"meta": {"n": 1}}, "fail", id="metadata-replaced"),
        pytest.param({"revision": "latest"}, "fail", id="chosen-revision"),
        pytest.param({"mode": "replace"}, "fail", id="replacement"),
        pytest.param({"conflict": "fail"}, "fail", id="given"),
        pytest.param({"mode": "replace", "conflict": "overwrite"}, "overwrite", id="given-for-a-replacement"),
    ],
)
def test_default_conflict_by_mode(more: dict[str, Any], expected: str) -> None:
    given = draft(**more)
    given.check()

    assert given.on_conflict == expected


@pytest.mark.parametrize("work", ["add", "add and remove"])
def test_catch_up_loses_no_run(registry: Registry, work: str) -> None:
    """Eleven runs at four at a time, with the defaults of an update: none fails, and each leaves its day."""
    push(registry, draft({f"old/{day}.txt": b"old" for day in range(11)}))

    def run(day: int) -> PublishResult:
        remove = [f"old/{day}.txt"] if work == "add and remove" else []
        own = {"airflow": {"run": day}} if remove else {}
        return push(registry, draft({f"days/{day}.txt": b"%d" % day}, remove=remove, own_meta=own, message=str(day)))

    with ThreadPoolExecutor(4) as pool:
        published = list(pool.map(run, range(11)))

    kept = {f"old/{day}.txt": b"old" for day in range(11)} if work == "add" else {}
    assert contents(registry) == kept | {f"days/{day}.txt": b"%d" % day for day in range(11)}
    assert all(each.created for each in published)
    assert len(list(registry.revisions(NAME))) == 12


def test_rebase_counts_from_conflict(registry: Registry) -> None:
    """Work whose transfers took an hour is rebased as long as any other."""
    clock = Clock(0.0)
    policy = RetryPolicy(seconds=600.0, shortest=0.0, clock=clock)
    conflict = RevisionConflictError("s3://registry", None, None)
    with Workspace(registry, NAME, Attempt(), rebasing=policy) as work:
        clock.now = 3600.0
        work.rebase(draft(), conflict)
        clock.now += 601.0
        with pytest.raises(RevisionConflictError):
            work.rebase(draft(), conflict)


def test_result_counts_all_entries(registry: Registry) -> None:
    published = push(through(registry, Rivals(registry, 2)), draft({"mine.txt": b"mine"}))

    assert read(registry, published)["mine.txt"].physical_keys[0].startswith("s3://registry/team/package/mine.txt?versionId=")
    assert published.entries == 3
