"""Serializers for content: JSON values and data frames, in the format that the logical key's suffix names.

Each data frame is written by the library that owns it; none is imported here.
"""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from airflow_quilt.core.errors import SourceError, plain, quoted
from airflow_quilt.core.format.names import LogicalKey

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def is_frame(value: object) -> bool:
    """Whether a value is a data frame of pandas or polars, or an Arrow table."""
    return _kind(value) in _WRITERS


def is_json_key(key: str) -> bool:
    """Whether a logical key asks for JSON."""
    return key.lower().endswith(".json")


def serialize(key: LogicalKey, content: object) -> bytes:
    """Return content as the bytes of a file.

    Raises:
        SourceError: the content cannot be written; as :func:`write_json` and :func:`write_frame`.
    """
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    if isinstance(content, str):
        try:
            return content.encode()
        except UnicodeEncodeError as error:
            raise SourceError(f"entry {quoted(key)}: its content is not valid Unicode") from error
    return write_frame(key, content) if is_frame(content) else write_json(key, content)


def write_json(key: LogicalKey, value: object) -> bytes:
    """Return a JSON value as the bytes of a file; sequences of any kind become lists.

    Raises:
        SourceError: the value is not JSON, or would lose a part: two keys of a mapping are one key there.
    """
    try:
        _check_keys(value)
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_json).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SourceError(f"entry {quoted(key)}: its content is not JSON: {plain(error)}") from error


def write_frame(key: LogicalKey, frame: object) -> bytes:
    """Return a data frame as the bytes of a file.

    Raises:
        SourceError: this kind of frame cannot be written in the format of the key's suffix, or would lose a column there; or the
            library that writes it is missing or fails.
    """
    formats = _WRITERS[_kind(frame)]
    write = formats.get(_suffix(key))
    if write is None:
        raise SourceError(
            f"entry {quoted(key)}: a {type(frame).__name__} needs a key that ends in one of {', '.join(sorted(formats))}"
        )
    try:
        return write(frame)
    except Exception as error:  # Libraries raise anything; the user needs the key.
        raise SourceError(f"entry {quoted(key)}: its {type(frame).__name__} cannot be written: {plain(error)}") from error


def _suffix(key: str) -> str:
    return PurePosixPath(key).suffix.lower()


def _kind(value: object) -> tuple[str, str]:
    return type(value).__module__.partition(".")[0], type(value).__name__


def _as_json(value: object) -> Any:
    """Return a list or dict for a sequence or mapping that json does not know, such as the output of mapped tasks."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _check_labels(labels: Iterable[object], kind: str, spell: Callable[[object], str], form: str = "JSON") -> None:
    """Refuse labels, of columns or keys, that are one in a file: readers lose one of them, or refuse the file.

    Args:
        labels: the labels.
        kind: their name in the message.
        spell: returns a label as it is in the file.
        form: the format of the file.

    Raises:
        ValueError: there are such labels; the message names them.
        TypeError: a label is none that the format can hold.
    """
    seen: dict[str, object] = {}
    for label in labels:
        key = spell(label)
        if key in seen:
            raise ValueError(
                f"the {kind} {quoted(seen[key])} and {quoted(label)} have one label in {form}, {quoted(key)}; "
                "rename or drop one of them"
            )
        seen[key] = label


def _json_key(label: object) -> str:
    """Return a label as a key of a JSON object: ``1`` becomes ``"1"``, None ``"null"``."""
    key: str = label if isinstance(label, str) else next(iter(json.loads(json.dumps({label: None}))))
    return key


def _check_keys(value: object) -> None:
    """Check the keys of all mappings in a value, as :func:`_check_labels` does."""
    if isinstance(value, Mapping):
        _check_labels(value, "keys", _json_key)
        value = value.values()
    elif not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray | memoryview):
        return
    for item in value:
        if type(item) not in _SCALARS:
            _check_keys(item)


def _compact_json(records: list[Any]) -> bytes:
    for record in records:
        for cell in record.values():
            if type(cell) not in _SCALARS:
                _check_keys(cell)
    return json.dumps(records, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_text).encode()


def _as_text(value: Any) -> str:
    """Return a time in ISO 8601, any other value of a cell as it prints."""
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _has_names(frame: Any) -> bool:
    """Whether the index of a pandas frame holds more than the numbers of its rows."""
    index = frame.index
    return type(index).__name__ != "RangeIndex" or index.name is not None or (index.start, index.step) != (0, 1)


def _pandas_json(frame: Any) -> bytes:
    plain = frame.reset_index() if _has_names(frame) else frame
    # Not to_json, which rounds floats to 15 digits at best.
    _check_labels(plain.columns, "columns", _json_key)
    records = plain.astype(object).where(plain.notna(), None).to_dict(orient="records")
    return _compact_json(records)


def _pandas_csv(frame: Any) -> bytes:
    text: str = frame.to_csv(index=_has_names(frame))
    return text.encode()


def _pandas_parquet(frame: Any) -> bytes:
    indices = [name for name in frame.index.names if name is not None] if _has_names(frame) else []
    _check_labels([*frame.columns, *indices], "columns", str, "Parquet")
    return _to_buffer(frame.to_parquet)


def _polars_csv(frame: Any) -> bytes:
    return _to_buffer(frame.write_csv)


def _polars_json(frame: Any) -> bytes:
    return _to_buffer(frame.write_json)


def _polars_parquet(frame: Any) -> bytes:
    return _to_buffer(frame.write_parquet)


def _arrow_csv(table: Any) -> bytes:
    from pyarrow.csv import write_csv  # noqa: PLC0415  (a table brings pyarrow)

    return _to_buffer(lambda out: write_csv(table, out))


def _arrow_json(table: Any) -> bytes:
    _check_labels(table.column_names, "columns", _json_key)
    return _compact_json(table.to_pylist())


def _arrow_parquet(table: Any) -> bytes:
    from pyarrow.parquet import write_table  # noqa: PLC0415  (a table brings pyarrow)

    _check_labels(table.column_names, "columns", str, "Parquet")
    return _to_buffer(lambda out: write_table(table, out))


def _to_buffer(write: Callable[[io.BytesIO], object]) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


_WRITERS: Final[Mapping[tuple[str, str], Mapping[str, Callable[[Any], bytes]]]] = {
    ("pandas", "DataFrame"): {".csv": _pandas_csv, ".json": _pandas_json, ".parquet": _pandas_parquet},
    ("polars", "DataFrame"): {".csv": _polars_csv, ".json": _polars_json, ".parquet": _polars_parquet},
    ("pyarrow", "Table"): {".csv": _arrow_csv, ".json": _arrow_json, ".parquet": _arrow_parquet},
}
