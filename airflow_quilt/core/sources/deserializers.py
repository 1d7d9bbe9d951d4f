"""Deserializers of files of packages: JSON values, and data frames of pandas.

The bytes are a stranger's, so no format is read that can hold code, such as a pickle. pandas is imported where a frame is read.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any, Final

from airflow_quilt.core.errors import EntryFormatError, plain, quoted
from airflow_quilt.core.format.manifest import Entry

_COMPRESSED: Final = frozenset({".gz", ".gzip"})
_SEPARATORS: Final = {".csv": ",", ".tsv": "\t", ".ssv": ";"}
_QUILT3_NAMES: Final = {"csv": ".csv", "json": ".json", "parquet": ".parquet", "pyarrow": ".parquet"}
"""Formats by their names in the metadata that quilt3 writes, ``{"format": {"name": …, "opts": …}}``."""


def parse_json(entry: Entry, data: bytes, most: int) -> Any:
    """Return the JSON value of a file, of at most ``most`` bytes.

    Raises:
        EntryFormatError: it is none, or is longer.
    """
    _, data = _decompressed(entry, data, most)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EntryFormatError(f"entry {quoted(entry.logical_key)}: it is not JSON: {plain(error)}") from error


def parse_frame(entry: Entry, data: bytes, most: int) -> Any:
    """Return a file as a data frame of pandas, in the format that its metadata or the ending of its key names.

    Raises:
        EntryFormatError: the format is unknown, the file is not in it or longer than ``most`` bytes, or a library is missing.
    """
    suffix, data = _decompressed(entry, data, most)
    name = _quilt3_format(entry.meta)
    form = _QUILT3_NAMES.get(name, "") if name else suffix
    where = f"entry {quoted(entry.logical_key)}"
    if form not in _READERS:
        found = f"its format is {quoted(name)}" if name else f"its key ends in {quoted(suffix)}"
        raise EntryFormatError(
            f"{where}: {found}; a data frame is read from {', '.join(_READERS)}. For another format, give the bytes (read_bytes) "
            "to the library that reads it"
        )
    try:
        return _READERS[form](import_module("pandas"), data, suffix)
    except ImportError as error:
        raise EntryFormatError(
            f"{where}: data frames need pandas, and Parquet and Feather pyarrow: pip install pandas pyarrow ({plain(error)})"
        ) from error
    except Exception as error:  # Libraries raise anything; the user needs the key.
        raise EntryFormatError(f"{where}: it cannot be read as {form}: {plain(error)}") from error


def _decompressed(entry: Entry, data: bytes, most: int) -> tuple[str, bytes]:
    """Return the ending of a key without that of gzip, and the bytes, decompressed if it had one."""
    path = PurePosixPath(entry.logical_key.lower())
    if path.suffix not in _COMPRESSED:
        return path.suffix, data
    where = f"entry {quoted(entry.logical_key)}"
    try:
        found = gzip.GzipFile(fileobj=io.BytesIO(data)).read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise EntryFormatError(f"{where}: it is not gzip: {plain(error)}") from error
    if len(found) > most:
        raise EntryFormatError(f"{where}: it has more than {most:,} bytes when it is decompressed; give a larger most=")
    return PurePosixPath(path.stem).suffix, found


def _quilt3_format(meta: Any) -> str | None:
    """Return the name of the format in the metadata of an entry; the options beside it quilt3 does not read either."""
    form = meta.get("format") if isinstance(meta, Mapping) else None
    name = form.get("name") if isinstance(form, Mapping) else None
    return name if isinstance(name, str) else None


def _read_csv(pandas: Any, data: bytes, suffix: str) -> Any:
    return pandas.read_csv(io.BytesIO(data), sep=_SEPARATORS.get(suffix, ","))


def _read_json(pandas: Any, data: bytes, _: str) -> Any:
    # Not read_json, which rounds floats, and takes texts for times where the name of a column suggests it.
    return pandas.DataFrame(json.loads(data))


def _read_json_lines(pandas: Any, data: bytes, _: str) -> Any:
    return pandas.DataFrame([json.loads(line) for line in data.splitlines() if line.strip()])


def _read_parquet(pandas: Any, data: bytes, _: str) -> Any:
    return pandas.read_parquet(io.BytesIO(data))


def _read_feather(pandas: Any, data: bytes, _: str) -> Any:
    return pandas.read_feather(io.BytesIO(data))


_READERS: Final[Mapping[str, Callable[[Any, bytes, str], Any]]] = {
    ".parquet": _read_parquet,
    ".feather": _read_feather,
    ".arrow": _read_feather,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".ssv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}
