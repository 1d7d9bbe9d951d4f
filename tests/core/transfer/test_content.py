"""Content waits for its upload on the disk, one piece of it at a time in memory."""

import tracemalloc

import pandas as pd
import pytest

from airflow_quilt.core.errors import DiskError
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Action, Content, Source, Upload
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.resolve import discover
from airflow_quilt.core.publish.sharded.run import ShardingOptions, plan_shards, transfer_shard
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.transfer.content import ContentFile, read_content, with_content
from tests.core.packages import PART
from tests.core.runtime.test_spool import open_files


def test_content_is_read_from_the_disk() -> None:
    pieces = [bytes([number]) * (2000 + number) for number in range(5)]
    before = open_files()
    with ContentFile() as contents:
        assert contents.put(b"small") == b"small"
        origins = [contents.put(piece) for piece in pieces]

        assert all(isinstance(origin, Content) for origin in origins)
        assert [read_content(origin, 10, 1990) for origin in origins] == [piece[10:1990] for piece in pieces]
        assert read_content(b"small", 1, 3) == b"ma"
        uploads: list[Action] = [
            Upload(Source(logical_key=LogicalKey(str(number)), origin=origin, size=2000 + number), PhysicalKey("b", "k"))
            for number, origin in enumerate(origins)
        ]
        (loaded,) = with_content(uploads)
        assert [each.source.origin for each in loaded if isinstance(each, Upload)] == pieces
        taken = [contents.take(each) for each in loaded]
        assert (
            [read_content(each.source.origin, 0, 9) for each in taken if isinstance(each, Upload)]
            == [  # type: ignore[arg-type]
                piece[:9] for piece in pieces
            ]
        )
    with pytest.raises(DiskError):  # A late thread must not read another file by the same number.
        read_content(origins[0], 0, 5)
    assert open_files() == before


def test_one_frame_at_a_time(registry: Registry) -> None:
    """Serialize frames one after the other: the memory does not grow with their number."""
    size, count = 512 * 1024, 12
    frame = pd.DataFrame({"c": ["x" * 63] * (size // 64)})
    draft = Draft(package="team/frames", entries={f"{number}.csv": frame for number in range(count)})
    tracemalloc.start()
    try:
        with ContentFile() as contents, Spool[Source](Source, 1000) as found:
            discover(registry, draft, found, contents.put)
            _, peak = tracemalloc.get_traced_memory()
            assert sum(source.size for source in found) > count * size
    finally:
        tracemalloc.stop()

    assert peak < 5 * size


def test_content_of_many_parts(registry: Registry) -> None:
    data = bytearray(b"0123456789abcdef" * (PART // 16 + 1))
    staging = PhysicalKey("source", f"staging/1700000000-{'0' * 32}/")
    draft = Draft(package="team/large", entries={"a": {"content": data}, "b": {"content": "small"}})
    push(registry, draft)
    plan = plan_shards(registry, draft, push_planner(registry, "team/large"), staging, ShardingOptions(shards=1))
    assert transfer_shard(registry, "team/large", plan.location, 0).entries == 2

    found = {entry.logical_key: registry.read_bytes(entry) for entry in registry.read("team/large").entries}
    assert found == {"a": bytes(data), "b": b"small"}
