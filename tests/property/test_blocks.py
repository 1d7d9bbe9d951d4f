"""Blocks of entries pass through a publication as their entries do, wherever the blocks begin and end."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from airflow_quilt.core.errors import LogicalKeyError
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import Entry, EntryBlock, entry_line
from airflow_quilt.core.format.manifest_lines import decode_block
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey
from airflow_quilt.core.format.ordering import Block, merge_blocks, merge_join, records_of, sort_key, validate_order
from airflow_quilt.core.format.packed import DirectoryMetadata
from airflow_quilt.core.plan.actions import KnownBlock, Source
from airflow_quilt.core.plan.tree import Additions, Removal, SourceTree, updated
from airflow_quilt.core.publish.kept import KeptEntries

PARTS = st.sampled_from(["a", "a b", "a-b", "a.b", "a\x01", "b", "ü"])
KEYS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
PLACES = st.sampled_from(
    ["s3://b/k?versionId=1", "s3://b/k"] * 9 + ["s3://other/k", "s3://b/%20", "s3://b/%00%", "s3://b/k#", "file:///k", "x"]
)


def entry_of(key: str, place: str, size: int, meta: Any = None) -> Entry:
    return Entry(LogicalKey(key), (place,), size, Hash("SHA256", "0" * 64), meta or {})


ENTRIES = st.lists(
    st.builds(entry_of, KEYS, PLACES, st.integers(0, 9), st.sampled_from([{}] * 9 + [{"x": 1}])),
    unique_by=lambda entry: entry.logical_key,
    max_size=9,
).map(lambda entries: sorted(entries, key=sort_key))


TREES = ENTRIES.map(
    lambda entries: [
        entry for entry in entries if not any(other.logical_key.startswith(f"{entry.logical_key}/") for other in entries)
    ]
)


@dataclass(frozen=True)
class Run(Block[Source]):
    """Some sources."""

    sources: Sequence[Source]

    @property
    def first(self) -> Source:
        return self.sources[0]

    @property
    def last(self) -> Source:
        return self.sources[-1]

    def records(self) -> Iterator[Source]:
        return iter(self.sources)


def cut(draw: st.DataObject, records: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield records in pieces of any sizes."""
    rest = list(records)
    while rest:
        size = draw.draw(st.integers(1, len(rest)))
        yield rest[:size]
        rest = rest[size:]


def in_runs(draw: st.DataObject, sources: Sequence[Source]) -> list[Source | Block[Source]]:
    return [piece[0] if len(piece) == 1 else Run(piece) for piece in cut(draw, sources)]


def outcome(sources: Iterable[Source | Block[Source]], directories: Iterable[DirectoryKey]) -> list[str] | str:
    try:
        return [source.logical_key for source in records_of(validate_order(sources, directories))]
    except LogicalKeyError as error:
        return str(error)


def sources_of(entries: Iterable[Entry]) -> list[Source]:
    return [Source.of_entry(replace(entry, physical_keys=("s3://b/k",))) for entry in entries]


@settings(max_examples=60)
@given(TREES, ENTRIES, st.lists(KEYS, max_size=2), st.lists(KEYS, max_size=3), st.data())
def test_blocks_are_their_records(
    left: list[Entry], right: list[Entry], directories: list[str], removed: list[str], data: st.DataObject
) -> None:
    one_by_one, added = sources_of(left), sources_of(right)
    items = in_runs(data, one_by_one)
    within = [DirectoryKey(f"{key}/") for key in directories]

    pairs = [
        pair
        for first, second in merge_blocks(items, added)
        for pair in ([(each, None) for each in first.records()] if isinstance(first, Block) else [(first, second)])
    ]
    assert pairs == list(merge_join(one_by_one, added))
    assert outcome(items, within) == outcome(one_by_one, within)

    changes: dict[str, list[Any]] = {"items": [], "one by one": []}
    results = []
    for name, base in (("items", items), ("one by one", one_by_one)):
        removal = Removal(removed)
        note = lambda *pair, to=changes[name]: to.append(pair)  # noqa: E731
        tree = updated(SourceTree(base), removal, Additions(SourceTree(added)), note)
        checked = updated(SourceTree(base), Removal(removed), Additions(SourceTree(added)))
        results.append((list(records_of(tree.sources)), removal.absent, changes[name], outcome(checked.sources, within)))
    assert results[0] == results[1]


@settings(max_examples=60)
@given(ENTRIES, st.sampled_from([0, 100]), st.data())
def test_kept_blocks_make_same_manifest(entries: list[Entry], most: int, data: st.DataObject) -> None:
    expected, found = io.BytesIO(), io.BytesIO()
    with KeptEntries(most) as kept:
        size = 0
        for piece in cut(data, entries):
            for block in blocks_of(piece):
                known = KnownBlock.of(block, "SHA256")
                if known:
                    assert list(known.records()) == [Source.of_entry(entry, hash_type="SHA256") for entry in block.entries]
                    size += kept.add_block(block)
                else:
                    size += sum(entry.size for entry in block.entries)
                    kept.extend(block.entries)

        assert (list(kept), len(kept), size) == (entries, len(entries), sum(entry.size for entry in entries))
        assert write_manifest({}, kept, found) == write_manifest({}, entries, expected)
    assert found.getvalue() == expected.getvalue()


def blocks_of(entries: Iterable[Entry]) -> Iterator[EntryBlock]:
    """Yield entries as the blocks that are read from their lines."""
    yield from decode_block(2, b"".join(entry_line(entry) + b"\n" for entry in entries), DirectoryMetadata())
