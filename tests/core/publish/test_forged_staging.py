"""Others write to the staging area too: their changes there move no byte and make no revision."""

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as with_fields

from airflow_quilt.core.build import build_planner
from airflow_quilt.core.errors import InputError, LocationError, StorageError
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.plan.actions import Action, Content, Copy, HashInPlace, Source, Upload
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.area import Area
from airflow_quilt.core.publish.sharded.bounds import Bounds
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
from airflow_quilt.core.publish.sharded.staging import ActionBlock, Seal, StagedShard, Staging
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.codec import encode
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_path
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Recorder
from tests.core.packages import entry_of, files_below, put
from tests.support import read, through

NAME = "team/package"
STAGING = staging_of(PhysicalKey("registry", ".airflow-quilt/staging/"), Attempt("known to all"), 1.7e9)
LATEST = PhysicalKey("registry", ".quilt/named_packages/team/other/latest")
KEY = LogicalKey("a.txt")


def plan(registry: Registry, entries: object, **more: Any) -> ShardPlan:
    given = Draft(package=NAME, entries=entries, **more)
    return plan_shards(registry, given, push_planner(registry, NAME), STAGING, ShardingOptions(shards=1))


def publish(registry: Registry, planned: ShardPlan, meanwhile: Callable[[], object] = lambda: None) -> Any:
    done = [transfer_shard(registry, NAME, planned.location, number) for number in range(planned.shards)]
    meanwhile()
    return commit_shards(registry, NAME, planned.location, done)


def elsewhere(memory: MemoryStorage) -> dict[str, str]:
    """Return the ETags of all objects that are not staged."""
    places = [PhysicalKey(bucket, "") for bucket in ("registry", "source")]
    found = [info for place in places for info in memory.list_objects(place)]
    return {str(info.key): info.etag for info in found if not info.key.key.startswith(".airflow-quilt/")}


def staged(memory: MemoryStorage, kind: str) -> Iterator[PhysicalKey]:
    return (info.key for info in memory.list_objects(STAGING.join(f"{kind}/")))


def forged(*records: object) -> bytes:
    return b"".join(struct.pack(">Q", len(data)) + data for data in map(encode, records))


def upload(path: Path, destination: PhysicalKey) -> Upload:
    return Upload(Source(logical_key=KEY, origin=PhysicalKey(None, str(path)), size=path.stat().st_size), destination)


def test_rewritten_orders_are_refused(registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
    """Refuse to send a file of the worker to another bucket, to write a pointer, and to reserve the memory that a block claims."""
    secret = write("environ", b"SECRET=1")
    copied = put(memory, "s3://source/pointer", b"0" * 64)
    source = Source(logical_key=KEY, origin=copied, size=64)
    orders = {
        "file of the worker": forged(ActionBlock([], [upload(secret, PhysicalKey("source", "loot"))])),
        "registry's own area": forged(ActionBlock([], [Copy(source, copied, LATEST)])),
        "size of a block": struct.pack(">Q", 2**60) + bytes(MIB),
        "another decoder": b"\x00" * 8,
        "nothing": b"",
    }
    for forgery in orders.values():
        planned = plan(registry, {"a.txt": b"content"})
        for kind in ("plan", "shards"):
            [key] = staged(memory, kind)
            honest, before = memory.get(key).data, elsewhere(memory)
            memory.put(key, forgery)
            recorder = Recorder()
            with pytest.raises(StorageError, match="damaged, or was changed"):
                publish(through(registry, recorder), planned)
            assert elsewhere(memory) == before
            assert recorder.writes == []
            assert recorder.bytes_read <= planned_size(planned) + 1000
            memory.put(key, honest)
        assert publish(registry, planned).entries == 1
        discard(registry, planned.location)


def planned_size(planned: ShardPlan) -> int:
    return Seal.parse(planned.location.name).size


MIB = 1024 * 1024


def test_rewritten_results_are_refused(registry: Registry, memory: MemoryStorage) -> None:
    """Publish neither another object, nor a file of the worker, that stands in the place of a result."""
    planned = plan(registry, {"a.txt": b"content"}, mode="update")
    for kind in ("done", "added"):
        for data in (forged([entry_of("a.txt", b"theirs", "file:///etc/hostname")]), forged(["a.txt"]), bytes(MIB)):

            def replaced(kind: str = kind, data: bytes = data) -> None:
                for key in staged(memory, kind):
                    memory.put(key, data)

            with pytest.raises(StorageError, match="damaged, or was changed"):
                publish(registry, planned, replaced)
            assert registry.latest(NAME) is None
            planned = plan(registry, {"a.txt": b"content"}, mode="update")
    assert read(registry, publish(registry, planned))["a.txt"].physical_keys[0].startswith("s3://registry/team/package/a.txt")


def test_plan_left_beforehand_is_unread(registry: Registry, memory: MemoryStorage) -> None:
    """Publish the draft, also where a whole plan of others, with its results, lies in the area already."""
    theirs = plan(registry, {"a.txt": b"theirs"})
    left = transfer_shard(registry, NAME, theirs.location, 0)
    for name in ("plan", "plan/0", "shards/0", f"done/{theirs.location.name}"):
        memory.put(STAGING.join(name), forged("theirs"))
    ours = plan(registry, {"a.txt": b"ours"})

    with pytest.raises(InputError, match="have not been transferred: 0"):
        commit_shards(registry, NAME, ours.location, [left])
    with pytest.raises(InputError, match=f"to publish {NAME}, not team/other"):
        commit_shards(registry, "team/other", theirs.location, [left])
    published = publish(registry, ours)
    assert registry.read_bytes(read(registry, published)["a.txt"]) == b"ours"


class Endless(MemoryStorage):
    """A store whose answers do not end, for staged objects."""

    chunks = 0

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        while ".airflow-quilt" in key.key:
            self.chunks += 1
            yield bytes(MIB)
        yield from super().stream(key, start, stop)


def test_endless_record_is_left() -> None:
    memory = Endless(["registry", "source"])
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    planned = plan(registry, {"a.txt": b"content"})

    with pytest.raises(StorageError, match="damaged"):
        publish(registry, planned)
    assert memory.chunks == 1


@given(st.data())
def test_no_change_of_staging_is_followed(data: st.DataObject) -> None:
    """Publish the draft or refuse, for any changes in the area before each step; read no more than was staged."""
    memory = MemoryStorage(["registry", "source"])
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    expected = push(registry, Draft(package="team/alone", entries={"a": b"content", "b": b"more"})).top_hash
    given = Draft(package=NAME, entries={"a": b"content", "b": b"more"})
    planned = plan_shards(registry, given, push_planner(registry, NAME), STAGING, ShardingOptions(shards=2))

    def change() -> None:
        for info in list(memory.list_objects(STAGING)):
            old = memory.get(info.key).data
            at = data.draw(st.integers(0, max(len(old) - 1, 0)))
            new = data.draw(st.sampled_from([old] * 3 + [old[:at], old + b"\0", old[:at] + b"?" + old[at + 1 :], old[::-1]]))
            memory.put(info.key, new)

    recorder, before = Recorder(), elsewhere(memory)
    tapped = through(registry, recorder)
    published = None
    with contextlib.suppress(StorageError):
        change()
        done = [transfer_shard(tapped, NAME, planned.location, number) for number in range(2)]
        change()
        published = commit_shards(tapped, NAME, planned.location, done)
    latest = registry.latest(NAME)
    assert (latest and latest.top_hash) == (published and published.top_hash)
    assert published is None or published.top_hash == expected
    allowed = ("s3://registry/team/package/", "s3://registry/.quilt/")
    assert all(key in before or key.startswith(allowed) for key in elsewhere(memory))
    reads = [call for call in recorder.of("stream") if call.key.key.startswith(STAGING.key)]
    assert all(call.size == Seal.parse(call.key.name).size for call in reads)
    assert recorder.bytes_read <= sum(call.size for call in recorder.of("stream"))


DRAFT = Draft(package=NAME, entries={"a.txt": "/data/a.txt", "d/": "/data/d", "o": "s3://source/o", "p/": "s3://source/p/"})
LANDED = PhysicalKey("registry", "team/package/a.txt")
INPUT = PhysicalKey(None, "/data/a.txt")
OBJECT = PhysicalKey("source", "o", "v1")
OF_INPUT = Source(logical_key=KEY, origin=INPUT, size=1)
OF_OBJECT = Source(logical_key=KEY, origin=OBJECT, size=1)


def at(origin: Any, source: Source = OF_INPUT) -> Source:
    return with_fields(source, origin=origin)


REFUSED: dict[str, Action] = {
    "another file": Upload(at(PhysicalKey(None, "/proc/self/environ")), LANDED),
    "a file beside": Upload(at(PhysicalKey(None, "/data/a.txt.key")), LANDED),
    "a file beside the directory": Upload(at(PhysicalKey(None, "/data/dd/x")), LANDED),
    "out of the directory": Upload(at(PhysicalKey(None, "/data/d/../../etc/passwd")), LANDED),
    "a hash of another file": HashInPlace(at(PhysicalKey(None, "/etc/shadow")), PhysicalKey(None, "/etc/shadow")),
    "another object": Copy(at(PhysicalKey("source", "o2")), PhysicalKey("source", "o2"), LANDED),
    "another bucket": Copy(at(PhysicalKey("secret", "o")), PhysicalKey("secret", "o"), LANDED),
    "an object beside the prefix": Copy(at(PhysicalKey("source", "pp/x")), PhysicalKey("source", "pp/x"), LANDED),
    "the bytes of another": Copy(OF_OBJECT, PhysicalKey("secret", "o"), LANDED),
    "a hash of another": HashInPlace(OF_OBJECT, PhysicalKey("secret", "o")),
    "a copy of a file": Copy(OF_INPUT, INPUT, LANDED),
    "an upload of an object": Upload(OF_OBJECT, LANDED),
    "content of this process": Upload(at(Content(0, 0)), LANDED),
    "content of another size": Upload(at(b"more"), LANDED),
    "into the registry's area": Upload(OF_INPUT, LATEST),
    "into that of another": Upload(OF_INPUT, PhysicalKey("other", ".quilt/packages/x")),
    "into another package": Upload(OF_INPUT, PhysicalKey("registry", "team/package2/a.txt")),
    "under another key": Upload(OF_INPUT, PhysicalKey("registry", "team/package/b.txt")),
    "into another bucket": Upload(OF_INPUT, PhysicalKey("other", "team/package/a.txt")),
    "to a version": Upload(OF_INPUT, LANDED.at_version("v")),
    "to a file": Upload(OF_INPUT, PhysicalKey(None, "/etc/cron.d/x")),
    "another object for it": Upload(OF_INPUT, LANDED, previous=entry_of("a.txt", b"x", "s3://secret/x?versionId=1")),
}
ALLOWED: dict[str, Action] = {
    "a file": Upload(OF_INPUT, LANDED),
    "a file below": Upload(at(PhysicalKey(None, "/data/d/x/y")), LANDED),
    "an object": Copy(OF_OBJECT, OBJECT, LANDED),
    "an object below": HashInPlace(at(PhysicalKey("source", "p/x")), PhysicalKey("source", "p/x")),
    "content": Upload(at(b"x"), LANDED),
    "an entry": entry_of("a.txt", b"x", "s3://anywhere/x"),
    "the object of before": Upload(OF_INPUT, LANDED, previous=entry_of("a.txt", b"x", f"{LANDED}?versionId=1")),
}


def test_orders_are_derived_again(registry: Registry, memory: MemoryStorage) -> None:
    """Refuse an order outside of the bounds of the plan, even where it is sealed, before anything is read or written."""
    bounds = Bounds.of(registry, DRAFT, push_planner(registry, NAME))
    assert [name for name, action in REFUSED.items() if not bounds.fault(action)] == []
    assert {name: fault for name, action in ALLOWED.items() if (fault := bounds.fault(action))} == {}

    staging, seal = Staging.of_plan(registry.stores, plan(registry, {"a.txt": b"content"}).location)
    sealed = with_fields(staging.plan(seal), bounds=bounds)
    for action in REFUSED.values():
        if isinstance(action, Upload) and isinstance(action.source.origin, Content):
            continue  # It is never staged.
        location = staging.write_plan(with_fields(sealed, shards=[StagedShard(1, staging.write_shard([action]))]))
        recorder = Recorder()
        with pytest.raises(StorageError, match="this is no order of the plan"):
            transfer_shard(through(registry, recorder), NAME, location, 0)
        assert {call.operation for call in recorder.calls} == {"stream"}


def test_bounds_follow_the_draft(registry: Registry, local_registry: Registry) -> None:
    """Allow any object where a package is the source, any file where links lead out, and no writing for a build."""
    package = Draft(package=NAME, entries={"p/": "quilt+s3://other#package=a/b"})
    local = Draft(package=NAME, entries="quilt+file:///shared#package=a/b")
    update = Draft(package=NAME, mode="update")
    follow = replace(DRAFT, follow_symlinks=True)
    elsewhere, copied = Upload(at(PhysicalKey(None, "/x")), LANDED), Copy(OF_OBJECT, OBJECT, LANDED)
    by_function = push_planner(registry, NAME, dest=lambda key, _: f"s3://elsewhere/{key}")
    for each, planner, allowed in (
        (package, push_planner(registry, NAME), [copied]),
        (local, push_planner(registry, NAME), [copied, elsewhere]),
        (update, push_planner(registry, NAME), [copied]),
        (follow, push_planner(registry, NAME), [copied, elsewhere]),
        (follow, build_planner(registry, NAME), []),
    ):
        bounds = Bounds.of(registry, each, planner)
        assert [action for action in (copied, elsewhere) if not bounds.fault(action)] == allowed
    assert not Bounds.of(local_registry, update, build_planner(local_registry, NAME)).fault(HashInPlace(OF_INPUT, INPUT))
    anywhere = Bounds.of(registry, DRAFT, by_function)
    assert not anywhere.fault(Upload(OF_INPUT, PhysicalKey("elsewhere", "a.txt")))
    assert anywhere.fault(Upload(OF_INPUT, PhysicalKey("elsewhere", ".quilt/packages/x")))


PARTS = st.lists(st.sampled_from(["a", "b", "a-", "a.b", "é"]), min_size=1, max_size=4)


@given(st.lists(PARTS, max_size=5), PARTS)
def test_bounds_hold_below_sources(sources: list[list[str]], origin: list[str]) -> None:
    memory = MemoryStorage(["registry"])
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    entries = {f"d{number}/": f"s3://source/{'/'.join(each)}" for number, each in enumerate(sources)}
    bounds = Bounds.of(registry, Draft(package=NAME, entries=entries), push_planner(registry, NAME))
    key = PhysicalKey("source", "/".join(origin))

    is_below = any(origin[: len(each)] == each for each in sources)
    assert (bounds.fault(Copy(at(key), key, LANDED)) is None) is is_below


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory where others may write, beside one whose files are not to be touched."""
    (tmp_path / "victim" / "shards").mkdir(parents=True)
    (tmp_path / "victim" / "shards" / "kept").write_text("kept")
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def test_links_in_staging_lead_nowhere(registry: Registry, shared: Path) -> None:
    """Write and delete nothing behind links in a shared directory, whichever part of an area they stand for."""
    victim, before = shared.parent / "victim", files_below(shared.parent)
    area = staging_of(resolve_path(shared).join(""), Attempt("work"), 1.7e9)
    given = Draft(package=NAME, entries={"a": b"a"})
    for link in (Path(area.key), Path(area.key) / "shards"):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(victim if link.parent == shared else victim / "shards")
        with pytest.raises(StorageError, match="in the way"):
            plan_shards(registry, given, push_planner(registry, NAME), area, ShardingOptions())
        assert sweep(registry, resolve_path(shared), 1.8e9, 1.0) == 0  # A link is no directory.
        discard(registry, area)
        assert files_below(shared.parent) == before
        assert not os.path.lexists(link)
    planned = plan_shards(registry, given, push_planner(registry, NAME), area, ShardingOptions())
    (Path(area.key) / "victim").symlink_to(victim)
    (Path(area.key) / "plan" / "kept").symlink_to(victim / "shards" / "kept")
    assert publish(registry, planned).entries == 1
    assert sweep(registry, resolve_path(shared), 1.8e9, 1.0) == 4
    assert files_below(shared.parent) == before
    assert discard(registry, area) == 0


def test_deletion_is_bounded(registry: Registry, memory: MemoryStorage) -> None:
    for number in range(5):
        memory.put(STAGING.join(f"litter/{number}"), b"")
    beside = memory.put(PhysicalKey("registry", f"{STAGING.key.rstrip('/')}0/x"), b"").key
    planned = plan(registry, {"a.txt": b"content"})

    assert Area(registry.stores, STAGING).discard(most=2) == 2
    assert discard(registry, planned.location) == 5
    assert memory.stat(beside)
    for location in (planned.location.join("x"), PhysicalKey("registry", "plan/" + planned.location.name), LATEST):
        with pytest.raises(LocationError):
            discard(registry, location)


def test_damaged_xcom_is_an_input_error(registry: Registry) -> None:
    result = transfer_shard(registry, NAME, plan(registry, {"a": b"a"}).location, 0).to_xcom()
    for change in ({"plan": None}, {"seal": "x"}, {"seal": f"{9**99}-{'0' * 64}"}, {"number": "x"}, {"plan": "x" * 9999}):
        with pytest.raises(InputError) as caught:
            ShardResult.from_xcom({**result, **change})
        assert len(str(caught.value)) < 300
    assert isinstance(entry_of("a", b"a", "s3://b/a"), Entry)
