"""The counts of changes of a result are those of the two manifests, whichever way the work went."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Call, T, is_put_of
from tests.property.test_sharded import Sharded
from tests.property.test_streams import KEYS
from tests.support import through

OBJECTS = ["s3://source/data/a", "s3://source/data/b", "s3://registry/elsewhere/a"]
CONTENT: list[Any] = [b"x", b"y", {"content": b"x", "meta": {"n": 1}}, {"content": b"x", "meta": {"n": 2}}]
DRAFTS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["replace", "update", "update"]),
        "entries": st.dictionaries(KEYS, st.sampled_from([*CONTENT, *OBJECTS]), max_size=4),
        "hash_type": st.sampled_from([CHUNKED, CHUNKED, CRC64NVME]),
        "dedupe": st.booleans(),
        "message": st.sampled_from([None, "m"]),
    }
)
WORKS = st.fixed_dictionaries(
    {
        "draft": DRAFTS,
        "remove": st.lists(KEYS, max_size=2),
        "of_first": st.booleans(),
        "how": st.sampled_from(["push", "push", "move", "build", "shards"]),
        "is_met": st.booleans(),
        "is_retried": st.booleans(),
    }
)


def rival(registry: Registry) -> Callable[[Call, Callable[[], T]], T]:
    """Return a rival that updates the package once, before ``latest`` is written."""
    left = ["z/rival"]

    def tap(call: Call, run: Callable[[], T]) -> T:
        if left and is_put_of("/latest")(call):
            push(registry, Draft(package="a/b", mode="update", entries={left.pop(): b"theirs"}))
        return run()

    return tap


def publish(registry: Registry, work: Mapping[str, Any], first: str | None, attempt: Attempt) -> PublishResult:
    draft = Draft(package="a/b", allow_empty=True, **work["draft"])
    if draft.mode == "update":
        draft = replace(draft, remove=work["remove"], revision=first if work["of_first"] else None)
    if work["is_met"]:
        registry = through(registry, rival(registry))
    if work["how"] == "build":
        objects = {key: source for key, source in work["draft"]["entries"].items() if isinstance(source, str)}
        return build(registry, replace(draft, entries=objects), attempt=attempt)
    if work["how"] == "shards":
        return Sharded(push_planner, 3, lambda _: None)(registry, draft)
    return push(registry, draft, "s3://registry/moved" if work["how"] == "move" else None, copy="all", attempt=attempt)


def changes(registry: Registry, result: PublishResult) -> tuple[int, int, int]:
    """Return the counts that the manifests of a revision and of the one before show."""

    def files(top_hash: str | None) -> dict[str, Any]:
        def content(entry: Entry) -> tuple[Any, ...]:
            return entry.size, entry.hash.type, entry.hash.value, entry.meta

        return {entry.logical_key: content(entry) for entry in registry.read("a/b", top_hash).entries} if top_hash else {}

    old, new = files(result.previous), files(result.top_hash)
    return len(new.keys() - old), sum(old[key] != new[key] for key in new.keys() & old), len(old.keys() - new)


@settings(max_examples=60)
@given(st.lists(WORKS, min_size=1, max_size=4), st.sampled_from([0, 2, 1000]))
def test_counts_are_the_manifests(works: list[dict[str, Any]], spill: int) -> None:
    memory = MemoryStorage(["registry", "source", "staging"])
    registry = Registry(
        RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory, limits=Limits(spill_entries=spill))
    )
    for place in OBJECTS:
        memory.store(PhysicalKey.parse(place), place.encode())
    first = None
    for work in works:
        attempt = Attempt()
        try:
            result = publish(registry, work, first, attempt)
        except QuiltError:
            continue
        expected = changes(registry, result) if result.created else (0, 0, 0)
        assert (result.added, result.modified, result.removed) == expected
        if work["is_retried"] and work["how"] != "shards":
            again = publish(registry, {**work, "is_met": False}, first, replace(attempt, since=attempt.began))
            assert again.created is result.created
            assert not again.created or (again.added, again.modified, again.removed) == expected
        first = first or result.top_hash
