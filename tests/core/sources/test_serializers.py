import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from airflow_quilt.core.errors import SourceError
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.sources.serializers import is_frame, is_json_key, write_frame, write_json

COLUMNS: dict[str, list[Any]] = {
    "n": [1, -2, 2**53 + 1],
    "x": [0.5, 1 / 3, 1e-12],
    "s": ["plain", 'é, "quoted"\n😀', ""],
    "b": [True, False, True],
}
ROWS = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]

FRAMES = [
    pytest.param(lambda: pd.DataFrame(COLUMNS), id="pandas"),
    pytest.param(lambda: pl.DataFrame(COLUMNS), id="polars"),
    pytest.param(lambda: pa.table(COLUMNS), id="pyarrow"),
]


def written(name: str, frame: object) -> io.BytesIO:
    return io.BytesIO(write_frame(LogicalKey(name), frame))


@pytest.mark.parametrize("make", FRAMES)
def test_parquet_round_trips(make: Callable[[], Any]) -> None:
    assert pyarrow.parquet.read_table(written("t.parquet", make())).to_pylist() == ROWS


@pytest.mark.parametrize("make", FRAMES)
def test_json_rows_round_trip(make: Callable[[], Any]) -> None:
    assert json.loads(written("t.json", make()).read()) == ROWS


@pytest.mark.parametrize("make", FRAMES)
def test_csv_round_trips(make: Callable[[], Any]) -> None:
    frame = pd.read_csv(written("t.csv", make()), keep_default_na=False)

    assert frame.to_dict("records") == ROWS


@pytest.mark.parametrize("make", FRAMES)
@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_same_frame_same_bytes(make: Callable[[], Any], suffix: str) -> None:
    assert written(f"t{suffix}", make()).read() == written(f"t{suffix}", make()).read()


@pytest.mark.parametrize("make", FRAMES)
def test_suffix_case_is_ignored(make: Callable[[], Any]) -> None:
    assert written("dir.x/T.CSV", make()).read() == written("t.csv", make()).read()


@pytest.mark.parametrize("make", FRAMES)
@pytest.mark.parametrize("key", ["t", "t.xlsx", "t.csv.gz", "dir.csv/t", ".csv"])
def test_unknown_suffix_is_named(make: Callable[[], Any], key: str) -> None:
    with pytest.raises(SourceError) as caught:
        write_frame(LogicalKey(key), make())

    assert repr(key) in str(caught.value)
    assert ".csv, .json, .parquet" in str(caught.value)


@pytest.mark.parametrize("make", FRAMES)
def test_empty_frame_is_written(make: Callable[[], Any]) -> None:
    frame = make()[:0]

    assert json.loads(written("t.json", frame).read()) == []
    assert pyarrow.parquet.read_table(written("t.parquet", frame)).num_rows == 0


INDEXED = [
    pytest.param(pd.Index(["x", "y"], name="id"), ["x", "y"], id="text"),
    pytest.param(pd.Index([7, 3], name="id"), [7, 3], id="numbers"),
    pytest.param(pd.RangeIndex(5, 7, name="id"), [5, 6], id="a-range-with-a-name"),
]


@pytest.mark.parametrize(("index", "values"), INDEXED)
@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_named_index_is_kept(index: pd.Index, values: list[Any], suffix: str) -> None:
    read: dict[str, Callable[[Any], pd.DataFrame]] = {
        ".csv": pd.read_csv,
        ".json": lambda file: pd.DataFrame(json.load(file)),
        ".parquet": lambda file: pd.read_parquet(file).reset_index(),
    }
    frame = read[suffix](written(f"t{suffix}", pd.DataFrame({"a": [1, 2]}, index=index)))

    assert frame["id"].to_list() == values
    assert frame["a"].to_list() == [1, 2]


def test_multi_index_is_kept() -> None:
    index = pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["letter", "digit"])
    frame = pd.DataFrame({"a": [1.5, 2.5]}, index=index)
    rows = [{"letter": "x", "digit": 1, "a": 1.5}, {"letter": "y", "digit": 2, "a": 2.5}]

    assert json.loads(written("t.json", frame).read()) == rows
    assert pd.read_csv(written("t.csv", frame)).to_dict("records") == rows
    assert pd.read_parquet(written("t.parquet", frame)).equals(frame)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_row_numbers_are_no_column(suffix: str) -> None:
    assert written(f"t{suffix}", pd.DataFrame({"a": [1]})).read() == {".csv": b"a\n1\n", ".json": b'[{"a":1}]'}[suffix]


def test_frame_is_not_changed() -> None:
    frame = pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="id"))
    before = frame.copy(deep=True)
    for suffix in (".csv", ".json", ".parquet"):
        written(f"t{suffix}", frame)

    assert frame.equals(before)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda when: pd.DataFrame({"t": [when]}), id="pandas"),
        pytest.param(lambda when: pl.DataFrame({"t": [when]}), id="polars"),
        pytest.param(lambda when: pa.table({"t": [when]}), id="pyarrow"),
    ],
)
def test_time_can_be_read(make: Callable[[datetime], Any]) -> None:
    when = datetime(2024, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
    ((row),) = json.loads(written("t.json", make(when)).read())

    assert pd.Timestamp(row["t"]) in {pd.Timestamp(when), pd.Timestamp(when).tz_localize(None)}


@pytest.mark.parametrize(
    ("key", "frame"),
    [
        pytest.param("t.parquet", pd.DataFrame([[1, 2]], columns=["a", "a"]), id="pandas-two-equal-columns"),
        pytest.param("t.csv", pl.DataFrame({"a": [[1, 2]]}), id="polars-nested-in-csv"),
        pytest.param("t.csv", pa.table({"a": [{"x": 1}]}), id="pyarrow-nested-in-csv"),
        pytest.param("t.json", pa.table({"a": [float("nan")]}), id="pyarrow-nan-in-json"),
    ],
)
def test_library_error_names_key(key: str, frame: object) -> None:
    with pytest.raises(SourceError, match=f"{key}.*cannot be written") as caught:
        write_frame(LogicalKey(key), frame)

    assert caught.value.__cause__ is not None


class Frame(pd.DataFrame):
    """A user's own subclass of frames."""


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        pytest.param(pd.DataFrame(), True, id="pandas"),
        pytest.param(pl.DataFrame(), True, id="polars"),
        pytest.param(pa.table({}), True, id="pyarrow"),
        pytest.param(pd.Series([1]), False, id="series"),
        pytest.param(pl.LazyFrame(), False, id="lazy"),
        pytest.param(Frame(), False, id="subclass"),
        pytest.param([], False, id="list"),
        pytest.param(None, False, id="none"),
    ],
)
def test_frames_are_recognised(value: object, answer: bool) -> None:  # noqa: FBT001
    assert is_frame(value) is answer


@pytest.mark.parametrize(
    ("key", "answer"),
    [("a.json", True), ("a/b.JSON", True), ("a.jsonl", False), ("json", False), ("a.json/b", False), ("a.json/", False)],
)
def test_json_key_ends_in_json(key: str, answer: bool) -> None:  # noqa: FBT001
    assert is_json_key(key) is answer


class Lazy(Sequence[Any]):
    """A sequence that json does not know."""

    def __init__(self, *items: Any) -> None:
        self._items = items

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        pytest.param({"é": "ü😀"}, '{"é": "ü😀"}', id="unicode"),
        pytest.param([1.5, 1e16, None, True], "[1.5, 1e+16, null, true]", id="scalars"),
        pytest.param(Lazy(1, Lazy()), "[1, []]", id="sequence"),
        pytest.param("text", '"text"', id="text"),
    ],
)
def test_json_is_written_in_utf8(value: object, data: str) -> None:
    assert write_json(LogicalKey("a.json"), value) == data.encode()


def itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"x": object()}, id="object"),
        pytest.param({"x": b"bytes"}, id="bytes"),
        pytest.param({"x": datetime(2024, 1, 1, tzinfo=UTC)}, id="datetime"),
        pytest.param({"x": {1, 2}}, id="set"),
        pytest.param([float("nan")], id="nan"),
        pytest.param([float("inf")], id="inf"),
        pytest.param(["\ud800"], id="lone-surrogate"),
        pytest.param({(1,): 2}, id="tuple-as-key"),
        pytest.param(10**5000, id="integer-too-long"),
        pytest.param(itself(), id="holds-itself"),
        pytest.param(nested(), id="nested-too-deeply"),
    ],
)
def test_non_json_names_key(value: object) -> None:
    with pytest.raises(SourceError, match=r"'sub/a\.json': its content is not JSON"):
        write_json(LogicalKey("sub/a.json"), value)


# Columns that JSON cannot tell apart.

TWICE = {
    "pandas-twice": lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "pandas-number-and-text": lambda: pd.DataFrame([[1, 2]], columns=[1, "1"]),
    "pandas-bool-and-text": lambda: pd.DataFrame([[1, 2]], columns=[True, "true"]),
    "pandas-float-and-text": lambda: pd.DataFrame([[1, 2]], columns=["1.5", 1.5]),
    "pandas-none-and-text": lambda: pd.DataFrame([[1, 2]], columns=pd.Index([None, "null"], dtype=object)),
    "pandas-index-and-column": lambda: pd.DataFrame({1: [1]}, index=pd.Index([2], name="1")),
    "arrow-twice": lambda: pa.table([[1], [2]], names=["a", "a"]),
    "arrow-twice-in-a-struct": lambda: pa.table([pa.StructArray.from_arrays([[1], [2]], names=["a", "a"])], names=["s"]),
    "pandas-cell": lambda: pd.DataFrame({"x": [{1: "a", "1": "b"}]}),
    "pandas-cell-deep-inside": lambda: pd.DataFrame({"x": [[{"y": ({1: "a", "1": "b"},)}]]}),
}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in TWICE.items()])
def test_lossy_json_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(
        SourceError, match=r"entry 't\.json': its (DataFrame|Table) cannot be written: .*('a'|1|rue|ull|duplicate)"
    ):
        write_frame(LogicalKey("t.json"), make())


@pytest.mark.parametrize("name", ["pandas-twice", "pandas-number-and-text", "pandas-index-and-column", "arrow-twice"])
def test_unreadable_parquet_is_refused(name: str) -> None:
    with pytest.raises(SourceError, match=r"entry 't\.parquet': .*have one label in Parquet, '(a|1)'"):
        write_frame(LogicalKey("t.parquet"), TWICE[name]())


def test_csv_keeps_both_columns() -> None:
    for name in ("pandas-twice", "pandas-number-and-text", "arrow-twice"):
        assert pd.read_csv(written("t.csv", TWICE[name]())).iloc[0].to_list() == [1, 2]


@pytest.mark.parametrize("value", [{1: "a", "1": "b"}, [[{"x": {None: 1, "null": 2}}]], {"x": ({True: 1, "true": 2},)}], ids=repr)
def test_lossy_json_value_is_refused(value: object) -> None:
    with pytest.raises(SourceError, match=r"entry 't\.json': .*have one label in JSON"):
        write_json(LogicalKey("t.json"), value)


def test_other_labels_are_written() -> None:
    frame = pd.DataFrame([[1, 2, 3]], columns=[1, "2", None])

    assert json.loads(written("t.json", frame).read()) == [{"1": 1, "2": 2, "null": 3}]
    assert json.loads(write_json(LogicalKey("t.json"), {1: {"1": 2}, "x": [{"1": 1}, {1: 1}]})) == {
        "1": {"1": 2},
        "x": [{"1": 1}, {"1": 1}],
    }
