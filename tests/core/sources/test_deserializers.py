"""Deserializers: JSON values and data frames from the bytes of entries."""

import gzip
import io
import json
import pickle
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from airflow_quilt.core.errors import EntryFormatError
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.sources.deserializers import parse_frame, parse_json
from airflow_quilt.core.sources.serializers import write_frame

MOST = 100_000
FRAME = pd.DataFrame({"n": [1, 2**53 + 1], "x": [0.1, 0.30000000000000004], "date": ["2026-01-01", "é;\t,"]})


def an_entry(key: str, meta: Any = None) -> Entry:
    return Entry(LogicalKey(key), ("s3://bucket/key",), 1, Hash("SHA256", "00"), meta or {})


def feather(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_feather(out)
    return out.getvalue()


def lines(frame: pd.DataFrame) -> bytes:
    return b"\n".join(json.dumps(record).encode() for record in frame.to_dict(orient="records")) + b"\n\n"


WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    **{
        suffix: lambda frame, suffix=suffix: write_frame(LogicalKey(f"a{suffix}"), frame)
        for suffix in (".csv", ".json", ".parquet")
    },
    ".tsv": lambda frame: frame.to_csv(sep="\t", index=False).encode(),
    ".ssv": lambda frame: frame.to_csv(sep=";", index=False).encode(),
    ".jsonl": lines,
    ".ndjson": lines,
    ".feather": feather,
    ".arrow": feather,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_frames_come_back(suffix: str) -> None:
    data = WRITERS[suffix](FRAME)

    for key, given in ((f"d/A{suffix.upper()}", data), (f"a{suffix}.gz", gzip.compress(data[:9]) + gzip.compress(data[9:]))):
        pd.testing.assert_frame_equal(parse_frame(an_entry(key), given, MOST), FRAME, check_exact=True)
    for name in ("csv", "json", "parquet"):
        if suffix == f".{name}":  # The format as quilt3 writes it, under a key without an ending.
            found = parse_frame(an_entry("a", {"format": {"name": name, "opts": {}}}), data, MOST)
            pd.testing.assert_frame_equal(found, FRAME, check_exact=True)


@pytest.mark.parametrize(
    ("key", "data", "meta", "says"),
    [
        ("a.pkl", pickle.dumps(FRAME), {}, "its key ends in '.pkl'; a data frame is read from .parquet, "),
        ("a.xlsx", b"", {}, "For another format, give the bytes"),
        ("a.csv", b"", {"format": {"name": "h5ad"}}, "its format is 'h5ad'"),
        ("a", b"", {"format": "csv"}, "its key ends in ''"),
        ("a.parquet", b"PAR1", {}, "cannot be read as .parquet"),
        ("a.json", b"5", {}, "cannot be read as .json"),
        ("a.csv.gz", b"1", {}, "is not gzip"),
        ("a.csv.gz", gzip.compress(b"1", mtime=0)[:-4], {}, "is not gzip"),
        ("a.csv.gz", gzip.compress(b"0" * (MOST + 1), mtime=0), {}, "more than 100,000 bytes when it is decompressed"),
    ],
)
def test_others_are_named(key: str, data: bytes, meta: Any, says: str) -> None:
    with pytest.raises(EntryFormatError, match=f"^entry '{key}': .*{says}"):
        parse_frame(an_entry(key, meta), data, MOST)


def test_json_is_read_or_named() -> None:
    assert parse_json(an_entry("a.json"), b"\xef\xbb\xbf[1, null]", MOST) == [1, None]
    assert parse_json(an_entry("a.json.gz"), gzip.compress(b"{}"), MOST) == {}
    for broken in (b"", b"{", b"\xff", b"[" * 100_000, b"1" * 10_000):
        with pytest.raises(EntryFormatError, match="^entry 'a.json': it is not JSON"):
            parse_json(an_entry("a.json"), broken, MOST)
