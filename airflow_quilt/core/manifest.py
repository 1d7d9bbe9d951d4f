r"""The manifest: a header, metadata of directories, and one line an entry, written and read as streams.

Two spellings of JSON matter (quilt3's ``Package.dump`` and ``Package.top_hash``): the lines of the file, and the
canonical text whose SHA-256 is the top hash. The canonical text leaves out physical keys and the directories.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from airflow_quilt.core.checksums import Hash
from airflow_quilt.core.errors import ManifestError, MetadataError, RecordSizeError
from airflow_quilt.core.names import LogicalKey, TopHash

MAX_RECORD_SIZE: Final = 1_000_000
"""The most bytes that one line may have, without its newline; Quilt's own services read no longer ones."""

_MOST_DEPTH: Final = 250

_line_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a package.

    ``physical_keys`` are URLs, the first one counts. ``meta`` is the whole of the entry's metadata; what a user gave
    lies under ``user_meta``, other keys belong to whoever wrote them.
    """

    logical_key: LogicalKey
    physical_keys: tuple[str, ...]
    size: int
    hash: Hash
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a manifest that was written adds up to; ``bytes`` counts the files, not the manifest."""

    top_hash: TopHash
    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that is being read: its header, and its entries as a stream that can be read once."""

    header: Mapping[str, Any]
    entries: Iterator[Entry]


def make_header(message: str | None, user_meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the header of a new package; None leaves ``user_meta`` out, as quilt3 does when none was set.

    Raises:
        MetadataError: the message is not text, or the metadata is not a JSON object.
    """
    if message is not None and not isinstance(message, str):
        raise MetadataError(f"message: expected text, got {type(message).__name__}")
    header: dict[str, Any] = {"version": "v0"}
    if user_meta is not None:
        header["user_meta"] = check_meta(user_meta, "meta")
    header["message"] = message
    _check_json(message, "message")
    return header


def check_meta(value: object, where: str) -> Mapping[str, Any]:
    """Check that metadata is a JSON object.

    Raises:
        MetadataError: it is not; the message names the place, such as ``meta.weeks[2]``.
    """
    if not isinstance(value, dict):
        raise MetadataError(f"{where}: expected a mapping, got {type(value).__name__}")
    _check_json(value, where)
    return value


def _check_json(value: object, where: str, depth: int = 0) -> None:  # noqa: C901, PLR0912  (a table of kinds)
    if depth > _MOST_DEPTH:
        raise MetadataError(f"{where[:80]}…: nested too deeply, more than {_MOST_DEPTH} levels")
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise MetadataError(f"{where}: not valid Unicode text") from error
        case None | bool():
            pass
        case int():
            try:
                str(value)
            except ValueError as error:  # Python bounds the digits that it reads and writes.
                raise MetadataError(f"{where}: {error}") from error
        case float():
            if not math.isfinite(value):
                raise MetadataError(f"{where}: {value} is not JSON; leave it out or use null")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise MetadataError(f"{where}: the key {key!r} is {type(key).__name__}, JSON keys are text")
                _check_json(key, where)
                _check_json(item, f"{where}.{key}", depth + 1)
        case list() | tuple():
            for index, item in enumerate(value):
                _check_json(item, f"{where}[{index}]", depth + 1)
        case _:
            raise MetadataError(f"{where}: {type(value).__name__} is not JSON; write it as text or numbers")


def header_line(header: Mapping[str, Any]) -> bytes:
    """Return the first line of a manifest, without its newline.

    Raises:
        RecordSizeError: it is longer than :data:`MAX_RECORD_SIZE`.
    """
    return _checked(_line_json(header).encode(), "the package's metadata")


def entry_line(entry: Entry) -> bytes:
    """Return the line of an entry, without its newline.

    Raises:
        RecordSizeError: it is longer than :data:`MAX_RECORD_SIZE`.
    """
    record = {
        "logical_key": entry.logical_key,
        "physical_keys": entry.physical_keys,
        "size": entry.size,
        "hash": {"type": entry.hash.type, "value": entry.hash.value},
        "meta": entry.meta,
    }
    return _checked(_line_json(record).encode(), f"entry {entry.logical_key!r}")


def _checked(line: bytes, what: str) -> bytes:
    if len(line) > MAX_RECORD_SIZE:
        raise RecordSizeError(
            f"{what}: its record in the manifest has {len(line):,} bytes, the most is {MAX_RECORD_SIZE:,}; "
            "move large metadata into a file of the package"
        )
    return line


def _canonical_entry(entry: Entry) -> bytes:
    record = {
        "hash": {"type": entry.hash.type, "value": entry.hash.value},
        "logical_key": entry.logical_key,
        "meta": entry.meta,
        "size": entry.size,
    }
    return _canonical_json(record).encode()


def write_manifest(header: Mapping[str, Any], entries: Iterable[Entry], out: IO[bytes]) -> Summary:
    """Write a manifest and return its top hash.

    Args:
        header: the header, from :func:`make_header` or from a manifest that was read.
        entries: in walk order (:func:`airflow_quilt.core.names.walk_order`).
        out: a binary file.

    Raises:
        RecordSizeError: a line is too long.
    """
    digest = hashlib.sha256(_canonical_json(header).encode())
    out.write(header_line(header) + b"\n")
    count = size = 0
    for entry in entries:
        digest.update(_canonical_entry(entry))
        out.write(entry_line(entry) + b"\n")
        count += 1
        size += entry.size
    return Summary(TopHash(digest.hexdigest()), count, size)


def read_manifest(chunks: Iterable[bytes], top_hash: TopHash | None = None) -> Manifest:
    """Read a manifest from the chunks of its file.

    Args:
        chunks: the bytes.
        top_hash: the name of the manifest, which its content must have; whoever reads to the end learns of it.

    Raises:
        ManifestError: a line is not what the format says, or the content has another top hash; entries raise it while
            they are read.
    """
    lines = _lines(chunks)
    header = _record(*next(lines, (1, b"")))
    header.pop("top_hash", None)  # Obsolete; quilt3 drops it too.
    return Manifest(header, _entries(header, lines, top_hash))


def _entries(header: Mapping[str, Any], lines: Iterator[tuple[int, bytes]], top_hash: TopHash | None) -> Iterator[Entry]:
    digest = hashlib.sha256(_canonical_json(header).encode())
    for number, line in lines:
        record = _record(number, line)
        if record.get("physical_keys"):  # Others hold the metadata of a directory.
            entry = _entry(number, record)
            digest.update(_canonical_entry(entry))
            yield entry
    if top_hash and digest.hexdigest() != top_hash:
        raise ManifestError(f"the manifest {top_hash} was changed or damaged: its content has the top hash {digest.hexdigest()}")


def _entry(number: int, record: Mapping[str, Any]) -> Entry:
    match record:
        case {
            "logical_key": str(key),
            "physical_keys": [str(), *_] as physical_keys,
            "size": int(size),
            "hash": {"type": str(kind), "value": str(value)},
            "meta": dict() | None as meta,
        } if all(isinstance(physical_key, str) for physical_key in physical_keys) and not isinstance(size, bool):
            return Entry(LogicalKey(key), tuple(physical_keys), size, Hash(kind, value), meta or {})
    raise ManifestError(f"line {number}: not an entry with logical_key, physical_keys, size, hash and meta")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _record(number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"line {number}: {error}") from error
    if not isinstance(record, dict):
        raise ManifestError(f"line {number}: expected a JSON object")
    return record


def _lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    number, rest = 1, b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield number, line
            number += 1
    if rest:
        yield number, rest
