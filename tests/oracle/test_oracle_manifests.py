"""quilt3 reads each manifest that the core writes, with the same content, and writes the same bytes again."""

import io
import itertools
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_quilt.core.errors import ManifestError
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import Entry, make_header
from airflow_quilt.core.format.manifest_reader import read_manifest
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import LogicalKey, walk_order
from airflow_quilt.core.format.uris import PhysicalKey
from tests.oracle.quilt3_client import Quilt3, Quilt3Error
from tests.property.strategies import HEADERS, META, ODD_LETTERS, TEXT, PackageTree, trees

OBJECTS = st.builds(
    PhysicalKey,
    st.just("bucket"),
    st.text(ODD_LETTERS, min_size=1, max_size=10) | TEXT.filter(bool),
    st.none() | st.text(ODD_LETTERS, min_size=1, max_size=6),
)
TREES = trees(places=OBJECTS.map(lambda key: (str(key),)), directory_meta=META.filter(bool))
"""Trees that quilt3 does not change: it keeps the first physical key only, and no empty metadata of a directory."""


def written(header: dict[str, Any], tree: PackageTree) -> dict[str, str]:
    """Return the core's manifest in the form of the client of quilt3."""
    out = io.BytesIO()
    summary = write_manifest(header, tree.entries, out, tree.directories)
    return {"manifest": out.getvalue().decode(), "top_hash": summary.top_hash}


def relayed(text: str) -> dict[str, str]:
    """Read a manifest and write it again with the core, in the form of the client of quilt3."""
    manifest = read_manifest([text.encode()])
    return written(dict(manifest.header), PackageTree(list(manifest.entries), dict(manifest.directories)))


@settings(max_examples=100, deadline=None)
@given(header=HEADERS, tree=TREES)
def test_quilt3_rewrites_manifest(header: dict[str, Any], tree: PackageTree, quilt3: Quilt3) -> None:
    ours = written(header, tree)

    assert quilt3.relay(ours["manifest"]) == ours


@settings(max_examples=100, deadline=None)
@given(header=HEADERS, tree=TREES, random=st.randoms(use_true_random=False))
def test_line_order_is_quilt3s(header: dict[str, Any], tree: PackageTree, random: Random, quilt3: Quilt3) -> None:
    ours = written(header, tree)
    first, *lines = ours["manifest"].rstrip("\n").split("\n")

    assert quilt3.relay("\n".join([first, *random.sample(lines, len(lines))])) == ours


@settings(max_examples=100, deadline=None)
@given(
    header=HEADERS, tree=TREES, separators=st.sampled_from([(",", ":"), (" ,\t", " :  ")]), end=st.sampled_from(["\n", "\r\n"])
)
def test_other_spelling_reads_equal(
    header: dict[str, Any], tree: PackageTree, separators: tuple[str, str], end: str, quilt3: Quilt3
) -> None:
    ours = written(header, tree)
    lines = [json.dumps(json.loads(line), separators=separators) for line in ours["manifest"].rstrip("\n").split("\n")]
    text = end.join(lines) + end

    assert relayed(text) == quilt3.relay(text) == ours


@pytest.mark.parametrize(
    "value",
    [
        "1E3",
        "1e+16",
        "1e16",
        "100000000000000000000.0",
        "100000000000000000000",
        "-0",
        "-0.0",
        "0e5",
        "1.0000000000000000001",
        "0.1000000000000000055511151231257827",
        "5e-324",
        "1e-400",
        "9" * 4300,
        r'"\u00e9\/\b\u0000"',
        r'"\ud83d\udc27"',
        '"\u2028\ufeff\x7f"',
        '{"b": 1, "a": {}, "": []}',
        "null",
    ],
)
def test_values_are_spelled_alike(value: str, quilt3: Quilt3) -> None:
    header = f'{{"version": "v0", "user_meta": {{"x": {value}}}, "message": null}}'
    entry = (
        '{"logical_key": "a/b", "physical_keys": ["s3://b/k"], "size": 5, "hash": {"type": "SHA256", "value": "x"}, '
        f'"meta": {{"user_meta": [{value}], "more": {value}}}}}'
    )
    text = f'{header}\n{{"logical_key": "a/", "meta": {{"x": {value}}}}}\n{entry}\n'

    assert relayed(text) == quilt3.relay(text)


NAMES = ["a", "a b", "a!", "a-", "a.b", "a0", "aa", "a\x01", "a\x7f", "\ufb01", "\uff5e", "\U0001f427", "\u00e9", "e\u0301"]


def test_all_names_sort_equally(quilt3: Quilt3) -> None:
    keys = [f"{one}/{other}" for one, other in itertools.product(NAMES[::2], NAMES)] + NAMES[1::2]
    hashed = Hash("SHA256", "x")
    entries = [Entry(LogicalKey(key), ("s3://b/k",), 5, hashed) for key in sorted(keys, key=walk_order)]
    ours = written(make_header(None, None), PackageTree(entries, {}))

    assert quilt3.relay(ours["manifest"]) == ours


ENTRY = '{"logical_key": "a", "physical_keys": ["s3://b/k"], "size": 5, "hash": {"type": "SHA256", "value": "x"}, "meta": {}}'


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([ENTRY, ENTRY], id="entry-given-twice"),
        pytest.param(['{"logical_key": "a/", "meta": {"x": 1}}', ENTRY], id="directory-that-is-a-file"),
    ],
)
def test_both_refuse_duplicate_keys(lines: list[str], quilt3: Quilt3) -> None:
    text = "\n".join(['{"version": "v0"}', *lines])

    with pytest.raises(Quilt3Error, match="Duplicate logical key"):
        quilt3.relay(text)
    with pytest.raises(ManifestError, match="^line 3: "):
        list(read_manifest([text.encode()]).entries)
