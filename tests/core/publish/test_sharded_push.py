"""One push by many workers: each step is run again, dies half-way, meets changes, and leaves nothing behind."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.build import build_planner
from airflow_quilt.core.errors import (
    EmptyPackageError,
    InputError,
    LocationError,
    ObjectNotFoundError,
    QuiltError,
    RevisionConflictError,
    SourceChangedError,
    StorageUnavailableError,
)
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.plan.actions import Source, Transfer, Upload
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.kept import KeptEntries
from airflow_quilt.core.publish.planned import PlannedRevision
from airflow_quilt.core.publish.sharded.run import (
    ShardingOptions,
    ShardPlan,
    ShardResult,
    commit_shards,
    discard,
    plan_shards,
    staging_of,
    sweep,
    transfer_shard,
)
from airflow_quilt.core.publish.sharded.staging import Seal
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_path
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Before, Fault, Recorder
from tests.core.packages import entry_of, files_below, put
from tests.support import read, through

BEGAN = 1_700_000_000.0
ROOT = PhysicalKey("registry", "staging/")
STAGING = staging_of(ROOT, Attempt("work"), BEGAN)
NAME = PackageName("team", "package")
MIB = 1024 * 1024
CONTENT: dict[str, object] = {f"d/{i}.txt": f"content {i}".encode() for i in range(6)}


def attempt(*, retry: bool = False) -> Attempt:
    return Attempt("work", time.time() if retry else None)


def draft(entries: object = CONTENT, **more: Any) -> Draft:
    return Draft(package="team/package", entries=entries, **more)


def plan(
    registry: Registry, given: Draft | None = None, cut: ShardingOptions | None = None, staging: PhysicalKey = STAGING
) -> ShardPlan:
    given = given or draft()
    planner = push_planner(registry, given.package)
    return plan_shards(registry, given, planner, staging, cut or ShardingOptions(shards=3))


def transfer(registry: Registry, planned: ShardPlan, package: str = "team/package") -> list[ShardResult]:
    numbers = range(planned.shards)
    return [transfer_shard(registry, package, planned.location, number, attempt=attempt()) for number in numbers]


def commit(registry: Registry, done: list[ShardResult], *, retry: bool = False, package: str = "team/package") -> PublishResult:
    return commit_shards(registry, package, done[0].plan, done, attempt=attempt(retry=retry))


def sharded(registry: Registry, given: Draft | None = None, cut: ShardingOptions | None = None) -> PublishResult:
    return commit(registry, transfer(registry, plan(registry, given, cut)))


def staged(memory: MemoryStorage) -> list[str]:
    return [stat.key.key.removeprefix(STAGING.key) for stat in memory.list_objects(STAGING)]


def test_steps_return_results(registry: Registry) -> None:
    planned = plan(registry)
    done = transfer(registry, planned)
    published = commit(registry, done[::-1])

    assert planned == ShardPlan(location=planned.location, shards=3, entries=6, bytes=54, bytes_to_copy=54)
    assert [replace(each, plan=STAGING, seal=Seal(0, "")) for each in done] == [
        ShardResult(plan=STAGING, seal=Seal(0, ""), number=number, entries=2, bytes=18, bytes_copied=18, bytes_reused=0)
        for number in range(3)
    ]
    assert [ShardResult.from_xcom(each.to_xcom()) for each in done] == done
    assert (published.entries, published.bytes, published.bytes_copied, published.created) == (6, 54, 54, True)
    assert list(read(registry, published)) == sorted(CONTENT)


def test_steps_may_be_repeated(registry: Registry) -> None:
    planned = plan(registry)
    done = transfer(registry, planned)
    published = commit(registry, done)

    assert plan(registry).entries == planned.entries
    assert commit(registry, done, retry=True).revision == published.revision
    assert commit(registry, transfer(registry, planned), retry=True).top_hash == published.top_hash
    assert len(list(registry.revisions(NAME))) == 1


@pytest.mark.parametrize("mode", ["killed before", "killed after"])
@pytest.mark.parametrize("at", range(1, 5))
def test_killed_plan_is_made_again(registry: Registry, memory: MemoryStorage, mode: Any, at: int) -> None:
    fault = Fault(at, mode, among=lambda call: call.operation == "put")
    with pytest.raises(StorageUnavailableError):
        plan(through(registry, fault))
    planned = plan(registry)

    assert commit(registry, transfer(registry, planned)).entries == 6
    discard(registry, planned.location)
    assert staged(memory) == []


def test_killed_transfer_resumes(registry: Registry) -> None:
    planned = plan(registry, cut=ShardingOptions(shards=1))
    fault = Fault(1, "killed before", among=lambda call: call.operation == "put" and "/done/" in call.key.key)
    with pytest.raises(StorageUnavailableError):
        transfer(through(registry, fault), planned)
    recorder = Recorder()
    done = transfer_shard(through(registry, recorder), NAME, planned.location, 0, attempt=attempt(retry=True))

    assert recorder.of("upload") == []
    assert (done.bytes_copied, done.bytes_reused) == (0, 54)
    published = commit(registry, [done])
    assert (published.bytes_copied, published.bytes_reused) == (0, 54)


@pytest.mark.parametrize("place", ["/latest", ".quilt/packages/"])
@pytest.mark.parametrize("mode", ["killed before", "killed after"])
def test_killed_commit_one_revision(registry: Registry, place: str, mode: Any) -> None:
    done = transfer(registry, plan(registry))
    fault = Fault(1, mode, among=lambda call: call.operation == "put" and place in call.key.key)
    with pytest.raises(StorageUnavailableError):
        commit(through(registry, fault), done)
    published = commit(registry, done, retry=True)

    assert published.created
    assert [revision.top_hash for revision in registry.revisions(NAME)] == [published.top_hash]


def test_attempts_do_not_meet(registry: Registry) -> None:
    """Plan twice at the same time, in other shards; each result belongs to its own plan."""
    other: list[ShardPlan] = []
    meanwhile = Before(lambda call: "/plan/" in call.key.key, lambda: other.append(plan(registry, cut=ShardingOptions(shards=2))))
    planned = plan(through(registry, meanwhile), cut=ShardingOptions(shards=5))
    first, second = transfer(registry, planned), transfer(registry, other[0])

    assert (len(first), len(second)) == (5, 2)
    with pytest.raises(InputError, match="of 5 shards of this plan these have not been transferred: 0, 1, 2, 3, 4"):
        commit_shards(registry, NAME, planned.location, second)
    assert commit_shards(registry, NAME, planned.location, [*second, *first]).entries == 6


def test_commit_names_missing_shards(registry: Registry) -> None:
    planned = plan(registry, cut=ShardingOptions(shards=4))
    done = transfer(registry, planned)

    with pytest.raises(InputError, match=r"of 4 shards of this plan these have not been transferred: 0, 1, 3"):
        commit(registry, done[2:3])
    assert registry.latest(NAME) is None


@pytest.mark.parametrize("number", [-1, 3])
def test_unknown_shard_is_refused(registry: Registry, number: int) -> None:
    planned = plan(registry)
    with pytest.raises(InputError, match=f"shard {number}: the plan has 3"):
        transfer_shard(registry, NAME, planned.location, number)


def test_missing_plan_is_an_error(registry: Registry) -> None:
    done = transfer(registry, plan(registry))
    discard(registry, STAGING)
    for step in (lambda: transfer_shard(registry, NAME, done[0].plan, 0), lambda: commit(registry, done)):
        with pytest.raises(ObjectNotFoundError, match="there is no plan"):
            step()


@pytest.mark.parametrize("data", [b"other", b"longer than before", None])
def test_changed_file_is_named(registry: Registry, write: Callable[..., Path], data: bytes | None) -> None:
    path = write("d/file.txt", b"bytes")
    os.utime(path, (1, 1))
    planned = plan(registry, draft({"file.txt": str(path)}))
    path.unlink() if data is None else path.write_bytes(data)

    with pytest.raises(SourceChangedError, match=r"d/file\.txt"):
        transfer(registry, planned)


class Unlisted(MemoryStorage):
    """A store without versions, whose listings have no ETags."""

    def __init__(self) -> None:
        super().__init__(["registry", "source"], versioned=False)

    def list_versions(self, prefix: PhysicalKey, most: int | None = None) -> Any:
        return iter([replace(stat, etag="") for stat in super().list_versions(prefix, most)])


@pytest.mark.parametrize("entries", [{"a": "s3://source/d/a.txt"}, "s3://source/d/"])
@pytest.mark.parametrize("planner", [push_planner, build_planner])
@pytest.mark.parametrize("data", [b"other", None])
@pytest.mark.parametrize("store", [Unlisted, lambda: MemoryStorage(["registry", "source"], versioned=False)])
def test_changed_object_is_named(
    store: Callable[[], MemoryStorage], planner: Callable[..., Any], entries: object, data: bytes | None
) -> None:
    memory = store()
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    key = put(memory, "s3://source/d/a.txt", b"bytes", "SHA256")
    planned = plan_shards(registry, draft(entries), planner(registry, "team/package"), STAGING, ShardingOptions())
    memory.delete([key]) if data is None else put(memory, "s3://source/d/a.txt", data, "SHA256")

    with pytest.raises(SourceChangedError, match=r"s3://source/d/a\.txt"):
        transfer(registry, planned)


def test_versioned_object_as_planned(registry: Registry, memory: MemoryStorage) -> None:
    put(memory, "s3://source/d/a.txt", b"bytes")
    planned = plan(registry, draft("s3://source/d/"))
    put(memory, "s3://source/d/a.txt", b"other")
    published = commit(registry, transfer(registry, planned))

    assert registry.read_bytes(read(registry, published)["a.txt"]) == b"bytes"


def test_moved_latest_is_conflict(registry: Registry) -> None:
    done = transfer(registry, plan(registry))
    other = push(registry, draft({"other": b"other"}))

    with pytest.raises(RevisionConflictError):
        commit(registry, done)
    assert registry.resolve(NAME) == other.top_hash


def test_overwrite_wins(registry: Registry) -> None:
    done = transfer(registry, plan(registry, draft(conflict="overwrite")))
    other = push(registry, draft({"other": b"other"}))
    published = commit(registry, done)

    assert registry.resolve(NAME) == published.top_hash
    assert published.previous == other.top_hash


def test_unchanged_makes_no_revision(registry: Registry) -> None:
    first = push(registry, draft())
    again = sharded(registry)

    assert (again.revision, again.created, again.bytes_copied, again.bytes_reused) == (first.revision, False, 0, 54)


@pytest.mark.parametrize("conflict", ["fail", "overwrite"])
def test_unchanged_judged_at_commit(registry: Registry, conflict: Any) -> None:
    first = push(registry, draft())
    done = transfer(registry, plan(registry, draft(conflict=conflict)))
    push(registry, draft({"other": b"other"}))

    if conflict == "fail":
        with pytest.raises(RevisionConflictError):
            commit(registry, done)
    else:
        assert commit(registry, done).created
        assert registry.resolve(NAME) == first.top_hash


@pytest.mark.parametrize("conflict", ["fail", "overwrite"])
@pytest.mark.parametrize("mode", ["replace", "update"])
def test_retry_finds_its_revision(registry: Registry, mode: Any, conflict: Any) -> None:
    push(registry, draft())
    update = draft({"new": b"new"}, mode=mode, conflict=conflict)
    done = transfer(registry, plan(registry, update))
    published = commit(registry, done)
    push(registry, draft({"newer": b"newer"}, mode="update"))

    assert commit(registry, done, retry=True).revision == published.revision
    assert len(list(registry.revisions(NAME))) == 3


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (draft({"a": b""}, mode="update", conflict="rebase"), InputError),
        (draft({}), EmptyPackageError),
        (draft({"a": "s3://source/nothing"}), InputError),
        (draft({"a": b"", "a/b": b""}), InputError),
    ],
)
def test_plan_refuses_bad_draft(registry: Registry, memory: MemoryStorage, given: Draft, error: type[QuiltError]) -> None:
    with pytest.raises(error):
        plan(registry, given)
    assert staged(memory) == []


def test_empty_package_has_a_shard(registry: Registry) -> None:
    planned = plan(registry, draft({}, allow_empty=True))
    assert planned.shards == 1
    assert commit(registry, transfer(registry, planned)).entries == 0


def test_other_plan_is_refused(registry: Registry, local_registry: Registry) -> None:
    done = transfer(registry, plan(registry))
    with pytest.raises(InputError, match="the plan is to publish team/package, not team/other"):
        commit(registry, done, package="team/other")
    with pytest.raises(InputError, match="the plan is for s3://registry"):
        commit(local_registry, done)
    with pytest.raises(InputError, match="expected the result of a transfer"):
        ShardResult.from_xcom({"plan": str(STAGING), "number": 0})
    for location in (STAGING, STAGING.join("plan/other"), done[0].plan.at_version("1")):
        with pytest.raises(LocationError):
            transfer_shard(registry, NAME, location, 0)


@pytest.mark.parametrize(
    "staging",
    [
        "s3://registry/",
        "s3://registry/data/",
        f"s3://registry/.quilt/{STAGING.name}/",
        f"s3://registry/a/.quilt/{STAGING.name}/",
        f"s3://registry/{STAGING.name}",
    ],
)
def test_unsafe_staging_is_refused(registry: Registry, staging: str) -> None:
    place = PhysicalKey.parse(staging)
    for step in (lambda: plan(registry, staging=place), lambda: discard(registry, place)):
        with pytest.raises(LocationError):
            step()


def test_staging_may_be_local(registry: Registry, tmp_path: Path) -> None:
    odd = tmp_path / "files" / os.fsdecode(b"not-unicode-\xff")
    odd.parent.mkdir()
    odd.write_bytes(b"odd")
    place = staging_of(resolve_path(tmp_path / "staging"), Attempt("work"), BEGAN)
    entries = {"odd": {"path": os.fspath(odd), "meta": {"big": 2**80, "text": "é"}}, **CONTENT}
    published = commit(registry, transfer(registry, plan(registry, draft(entries), staging=place)))

    assert read(registry, published)["odd"].meta == {"user_meta": {"big": 2**80, "text": "é"}}
    assert registry.read_bytes(read(registry, published)["odd"]) == b"odd"
    assert discard(registry, place) == 7
    assert files_below(tmp_path / "staging") == {}


def test_discard_takes_only_its_own(registry: Registry, memory: MemoryStorage) -> None:
    other = staging_of(ROOT, Attempt("other"), BEGAN)
    plan(registry)
    plan(registry, staging=other)
    count = len(staged(memory))

    assert discard(registry, STAGING) == count == 4
    assert discard(registry, STAGING) == 0
    assert staged(memory) == []
    assert len(list(memory.list_objects(other))) == 4


@pytest.mark.parametrize("root", ["s3://registry/staging/", "s3://registry/staging", "s3://registry/"])
def test_sweep_takes_only_old(registry: Registry, memory: MemoryStorage, root: str) -> None:
    place = PhysicalKey.parse(root)
    old, young = (staging_of(place, Attempt("work"), began) for began in (BEGAN, BEGAN + 100))
    for staging in (old, young):
        plan(registry, staging=staging)
    beside = [put(memory, str(place.join(name)), b"") for name in ("1600000000", "1600000000-data/x", "data.csv")]

    recorder = Recorder()
    assert sweep(through(registry, recorder), place, BEGAN + 200, 100) == 4
    assert [call.key for call in recorder.of("scan")] == [old.join("")]  # Not the young one, which may be large.
    assert (len(list(memory.list_objects(old))), len(list(memory.list_objects(young)))) == (0, 4)
    assert sweep(registry, place, BEGAN + 200, 100) == 0
    assert all(memory.stat(key) for key in beside)


def planned_of(sizes: list[int | None]) -> PlannedRevision:
    """Return a plan of files that are sent, by their sizes; None stands for an entry that is kept."""
    planned = PlannedRevision(KeptEntries(10_000), Spool(Transfer, 10_000))
    for number, size in enumerate(sizes):
        key = LogicalKey(f"{number:05}")
        if size is None:
            planned.add([entry_of(key, b"kept", "s3://registry/kept")])
        else:
            source = Source(logical_key=key, origin=PhysicalKey("source", key), size=size)
            planned.add([Upload(source, PhysicalKey("registry", key))])
    return planned


SIZES: dict[str, list[int | None]] = {
    "alike": [MIB] * 100,
    "small ones, then large ones": [10] * 500 + [100 * MIB] * 20,
    "many kept, few sent": [None] * 1000 + [MIB] * 32 + [None] * 1000,
    "one is most of it": [MIB] * 50 + [1000 * MIB] + [MIB] * 50,
    "few": [1, 2, 3],
}


@pytest.mark.parametrize("shards", [1, 2, 7, 64])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_shards_weigh_alike(sizes: list[int | None], shards: int) -> None:
    lengths = ShardingOptions(shards=shards).lengths(planned_of(sizes))
    weights = [64 if size is None else MIB + size for size in sizes]
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    heaviest = max(sum(weights[end - length : end]) for end, length in zip(ends, lengths, strict=True))

    assert sum(lengths) == len(sizes)
    assert len(lengths) <= shards
    assert min(lengths) >= 1
    assert heaviest <= sum(weights) / shards + max(weights)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_bytes_and_entries_cut(sizes: list[int | None]) -> None:
    by_entries = ShardingOptions(shards=1, entries=3).lengths(planned_of(sizes))
    by_bytes = ShardingOptions(shards=1, bytes=5 * MIB).lengths(planned_of(sizes))

    assert max(by_entries) <= 3
    assert sum(by_entries) == sum(by_bytes) == len(sizes)
    start = 0
    for length in by_bytes:
        moved = [size or 0 for size in sizes[start : start + length]]
        assert sum(moved) <= 5 * MIB or length == 1
        start += length


@pytest.mark.parametrize("bounds", [{"shards": 0}, {"bytes": 0}, {"entries": -1}])
def test_zero_bounds_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(bounds))):
        ShardingOptions(**bounds)


def test_spilled_plan_is_the_same(memory: MemoryStorage, registry: Registry) -> None:
    small = Registry(registry.location, Stores(LocalStorage(), memory, limits=Limits(spill_entries=2)))
    published = []
    for each, name in ((registry, "team/large"), (small, "team/small")):
        given = Draft(package=name, entries={f"{i:04}": f"{i}".encode() for i in range(2500)})
        published.append(commit(each, transfer(each, plan(each, given), name), package=name))

    assert published[0].top_hash == published[1].top_hash
    assert [one.entries for one in published] == [2500, 2500]
