"""Records leave memory when there are many, and come back as they were, in walk order."""

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from airflow_quilt.core.errors import DiskError
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import sort_key
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Copy, HashInPlace, Source, Transfer, Upload
from airflow_quilt.core.runtime.spool import Replay, Spool
from airflow_quilt.core.runtime.threads import map_concurrently

ORIGIN = PhysicalKey("bucket", "key", "version")


def sources(count: int) -> list[Source]:
    return [Source(logical_key=LogicalKey(f"{n // 50:04}/{n:07}"), origin=ORIGIN, size=n) for n in range(count)]


def open_files() -> set[str]:
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]  # noqa: PTH208  (its own is gone then)
    return {os.readlink(link) for link in links if os.path.lexists(link)}  # noqa: PTH115


@pytest.mark.parametrize("most", [0, 1, 999, 1000, 2500, 10_000])
@pytest.mark.parametrize("kind", ["in order", "shuffled", "backwards", "two halves"])
def test_spool_iterates_in_walk_order(most: int, kind: str) -> None:
    records = sources(4321)
    put = {
        "in order": records,
        "shuffled": Random(1).sample(records, len(records)),  # noqa: S311
        "backwards": records[::-1],
        "two halves": records[2000:] + records[:2000],
    }[kind]
    with Spool[Source](Source, most) as spool:
        assert spool.extend(put[:1500]) == 1500
        assert spool.extend(iter(put[1500:])) == len(records) - 1500

        assert len(spool) == len(records)
        assert list(spool) == records
        assert list(zip(spool, spool, strict=True)) == list(zip(records, records, strict=True))


def test_spool_bounds_memory() -> None:
    seen = 0
    with Spool[Source](Source, 2000) as spool:
        for start in range(0, 50_000, 5000):
            spool.extend(sources(50_000)[start : start + 5000])
            seen = max(seen, len(spool._fresh))  # noqa: SLF001
        assert seen <= 2000


def test_threads_extend_together() -> None:
    records = sources(20_000)
    parts = [records[start::8] for start in range(8)]
    with Spool[Source](Source, 1500) as spool:
        assert list(map_concurrently(spool.extend, parts, 8)) == [2500] * 8
        assert list(spool) == records


ODD: list[Any] = [
    Source(logical_key=LogicalKey("a"), origin=b"content \xff", size=9, meta={"user_meta": {"x": [1, None, 2.5, "é"]}}),
    Source(logical_key=LogicalKey("b"), origin=PhysicalKey(None, "/dir/\udcff.bin"), size=1, etag="e", movable=False),
    Source(logical_key=LogicalKey("c"), origin=ORIGIN, size=2**62, hash=Hash("SHA256", "ab"), physical_keys=("s3://a/b", "x")),
    Source(logical_key=LogicalKey("d"), origin=ORIGIN, size=0, meta={"n": 2**70, "m": -(2**64)}),
]


@pytest.mark.parametrize("most", [0, 100])
def test_records_round_trip(most: int) -> None:
    entries = [Entry(source.logical_key, ("s3://b/k",), 5, Hash("SHA256", "é"), source.meta) for source in ODD]
    tasks = [
        HashInPlace(ODD[0], ORIGIN),
        Upload(ODD[1], ORIGIN, exact=True),
        Upload(ODD[2], ORIGIN),
        Copy(ODD[3], ORIGIN, ORIGIN),
    ]
    for kind, records in ((Source, ODD), (Entry, entries), (Transfer, tasks)):
        with Spool[Any](kind, most) as spool:
            for record in records:
                spool.extend([record])
            assert list(spool) == records


def test_spill_file_is_anonymous(tmp_path: Path) -> None:
    before = open_files()
    with Spool[Source](Source, 10, tmp_path) as spool:
        spool.extend(sources(100))
        assert [name for name in open_files() - before if name.startswith(str(tmp_path))]
        assert list(tmp_path.iterdir()) == []
    assert open_files() == before


def test_missing_tmpdir_is_reported(tmp_path: Path) -> None:
    with Spool[Source](Source, 10, tmp_path / "gone") as spool, pytest.raises(DiskError, match="gone.*TMPDIR"):
        spool.extend(sources(100))


def test_sort_key_is_walk_order() -> None:
    records = [Source(logical_key=LogicalKey(key), origin=ORIGIN, size=0) for key in ("a/b", "a/b.txt", "a-b", "a.txt")]

    assert sorted([*records[2:], *records[:2]], key=sort_key) == records


def test_stream_is_read_twice(tmp_path: Path) -> None:
    chunks, before = [b"a" * 70_000, b"", b"b" * 3_000_000], open_files()
    replay = Replay(iter(chunks), tmp_path)

    assert b"".join(replay) == b"".join(replay) == b"".join(chunks)
    replay = Replay(iter(chunks), tmp_path)
    assert next(iter(replay)) == chunks[0]  # Abandoned.
    assert open_files() == before
    assert not list(tmp_path.iterdir())
    with pytest.raises(DiskError):
        list(Replay(iter(chunks), tmp_path / "absent"))
