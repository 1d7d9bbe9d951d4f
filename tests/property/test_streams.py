"""Streams in walk order agree with dictionaries, and a package is the same however much of it is in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import LogicalKey, walk_order
from airflow_quilt.core.format.ordering import merge_join
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores

KEYS = st.sampled_from(["a", "a-b", "a.txt", "a/b", "a/b/c", "a0", "b", "b/a", "é", "z"])
FILES = st.dictionaries(KEYS, st.binary(max_size=3), max_size=6)


@dataclass(frozen=True)
class Numbered:
    logical_key: LogicalKey
    number: int


def stream(keys: set[str], number: int) -> list[Numbered]:
    return [Numbered(LogicalKey(key), number) for key in sorted(keys, key=walk_order)]


@given(st.sets(KEYS), st.sets(KEYS))
def test_merge_join_meets_at_keys(left: set[str], right: set[str]) -> None:
    found = list(merge_join(stream(left, 1), stream(right, 2)))

    assert [(one or other).logical_key for one, other in found if one or other] == sorted(left | right, key=walk_order)
    assert {one.logical_key for one, _ in found if one} == left
    assert {other.logical_key for _, other in found if other} == right
    assert all(one.logical_key == other.logical_key for one, other in found if one and other)


def published(spill: int, first: Mapping[str, bytes], second: Mapping[str, bytes], removed: list[str]) -> tuple[Any, ...]:
    """Push, and update; return the refusals, and the manifests but for the versions of objects."""
    memory = MemoryStorage(["registry"])
    registry = Registry(
        RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory, limits=Limits(spill_entries=spill))
    )
    refused = []
    for draft in (
        Draft(package="a/b", entries=dict(first), allow_empty=True, meta={"x": 1}),
        Draft(package="a/b", entries=dict(second), mode="update", remove=removed, allow_empty=True),
        Draft(package="a/copy", entries="quilt+s3://registry#package=a/b", allow_empty=True),
    ):
        try:
            push(registry, draft)
        except QuiltError as error:
            refused.append(str(error))
    manifests = {stat.key.key for stat in memory.list_objects(PhysicalKey("registry", layout.manifest("")))}
    return refused, manifests


@settings(max_examples=60, deadline=None)
@given(FILES, FILES, st.lists(KEYS, max_size=2))
def test_spilling_changes_nothing(first: dict[str, bytes], second: dict[str, bytes], removed: list[str]) -> None:
    everything = published(1000, first, second, removed)

    assert published(0, first, second, removed) == everything
    assert published(2, first, second, removed) == everything
