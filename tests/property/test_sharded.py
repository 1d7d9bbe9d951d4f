"""Any number of workers, ending in any order, make the manifest that one process makes."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_quilt.core.build import build, build_planner
from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import (
    ShardingOptions,
    commit_shards,
    discard,
    plan_shards,
    staging_of,
    transfer_shard,
)
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from tests.property.strategies import META
from tests.property.test_streams import FILES, KEYS

STAGING = PhysicalKey("staging", "of/tests/")
Publish = Callable[[Registry, Draft], PublishResult]


@dataclass(frozen=True)
class Sharded:
    """A push or build by workers that end in some order."""

    planner: Callable[..., Any]
    shards: int
    shuffle: Callable[[list[int]], None]

    def __call__(self, registry: Registry, draft: Draft) -> PublishResult:
        attempt = Attempt()
        staging = staging_of(STAGING, attempt, 1.7e9)
        cut = ShardingOptions(shards=self.shards)
        plan = plan_shards(registry, draft, self.planner(registry, draft.package), staging, cut)
        numbers = list(range(plan.shards))
        self.shuffle(numbers)
        done = [transfer_shard(registry, draft.package, plan.location, number) for number in numbers]
        published = commit_shards(registry, draft.package, plan.location, done, attempt=attempt)

        assert plan.shards <= self.shards
        assert (sum(each.entries for each in done), sum(each.bytes for each in done)) == (plan.entries, plan.bytes)
        assert (published.entries, published.bytes) == (plan.entries, plan.bytes)
        assert discard(registry, staging) > plan.shards
        return published


def published(publish: Publish, drafts: list[Draft], source: Mapping[str, bytes], spill: int, *, versioned: bool) -> Any:
    """Publish drafts one after the other; return each result, and the manifests, but for the names of versions."""
    memory = MemoryStorage(["registry", "source", "staging"], versioned=versioned)
    registry = Registry(
        RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory, limits=Limits(spill_entries=spill))
    )
    for key, data in source.items():
        memory.store(PhysicalKey("source", f"data/{key}"), data)
    told: list[Any] = []
    for draft in drafts:
        try:
            one = publish(registry, draft)
        except QuiltError as error:
            told.append(re.sub(r"versionId=v\d+", "versionId=v", str(error)))
        else:
            told.append((one.top_hash, one.entries, one.bytes, one.bytes_copied, one.bytes_reused, one.created, one.previous))
    assert list(memory.list_objects(STAGING)) == []
    stored = {
        stat.key.key: memory.get(stat.key).data for stat in memory.list_objects(PhysicalKey("registry", layout.manifest("")))
    }
    return told, {key: re.sub(rb"versionId=v\d+", b"versionId=v", data) for key, data in stored.items()}


def drafts_of(first: Mapping[str, object], second: Mapping[str, object], removed: list[str], meta: dict[str, Any]) -> list[Draft]:
    """Return a package with metadata of a directory, an update of it, the same again, and another one that holds it."""
    update = Draft(package="a/b", entries=dict(second), mode="update", remove=removed, allow_empty=True)
    other = {"kept/": "quilt+s3://registry#package=a/b", "kept/z/new": second.get("a", "s3://source/data/")}
    return [
        Draft(package="a/b", entries={**first, "a/": {"meta": meta}}, allow_empty=True, meta=meta),
        update,
        replace(update, own_meta={"by": 1}, message="again"),
        Draft(package="a/copy", entries=other, allow_empty=True),
        Draft(package="a/whole", entries="quilt+s3://registry#package=a/copy", allow_empty=True),
    ]


@pytest.mark.parametrize("shards", [1, 2, 7, 64])
@given(FILES, FILES, st.lists(KEYS, max_size=2), META, st.randoms(use_true_random=False), st.booleans())
def test_sharded_push_equals_one(
    shards: int,
    first: dict[str, bytes],
    second: dict[str, bytes],
    removed: list[str],
    meta: dict[str, Any],
    order: random.Random,
    versioned: bool,  # noqa: FBT001
) -> None:
    drafts = drafts_of(first, {**second, "s3/": "s3://source/data/"}, removed, meta)
    whole = published(push, drafts, first, 1000, versioned=versioned)

    assert published(Sharded(push_planner, shards, order.shuffle), drafts, first, 2, versioned=versioned) == whole


@pytest.mark.parametrize("shards", [1, 2, 7, 64])
@given(FILES, st.lists(KEYS, max_size=2), META, st.randoms(use_true_random=False), st.booleans())
def test_sharded_build_equals_one(
    shards: int,
    source: dict[str, bytes],
    removed: list[str],
    meta: dict[str, Any],
    order: random.Random,
    versioned: bool,  # noqa: FBT001
) -> None:
    there = {key: {"path": f"s3://source/data/{key}", "meta": meta} for key in source}
    drafts = drafts_of(there, {"b/": "s3://source/data/", **dict(list(there.items())[:1])}, removed, meta)
    whole = published(build, drafts, source, 1000, versioned=versioned)

    assert published(Sharded(build_planner, shards, order.shuffle), drafts, source, 2, versioned=versioned) == whole
