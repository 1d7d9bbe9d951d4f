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
from airflow_quilt.core.errors import LogicalKeyError, ManifestError, MetadataError, RecordSizeError
from airflow_quilt.core.names import (
    DirectoryKey,
    LogicalKey,
    TopHash,
    check_next,
    parse_directory_key,
    parse_logical_key,
    walk_order,
)

MAX_RECORD_SIZE: Final = 1_000_000
"""The most bytes that one line may have, without its newline; Quilt's own services read no longer ones."""

_MOST_TO_READ: Final = 16 * 1024 * 1024
"""The most bytes of a line that is read: quilt3's writers can be told to exceed :data:`MAX_RECORD_SIZE`."""

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

    @property
    def user_meta(self) -> Any:
        """What a user said of the entry; ``{}`` where nobody said anything."""
        return self.meta.get("user_meta", {})


@dataclass(frozen=True, slots=True)
class Summary:
    """What a manifest that was written adds up to; ``bytes`` counts the files, not the manifest."""

    top_hash: TopHash
    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that is being read.

    Attributes:
        header: its first line.
        entries: a stream that can be read once.
        directories: the metadata of directories, complete when the entries have been read.
    """

    header: Mapping[str, Any]
    entries: Iterator[Entry]
    directories: Mapping[DirectoryKey, Any] = field(default_factory=dict)

    @property
    def user_meta(self) -> Any:
        """What a user said of the package; ``{}`` where nobody said anything."""
        return self.header.get("user_meta", {})


def make_header(
    message: str | None,
    user_meta: Mapping[str, Any] | None,
    workflow: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the header of a new revision.

    Args:
        message: the message of this revision.
        user_meta: the package's metadata; None leaves it as it is in ``base``, or out, as quilt3 does when none was set.
        workflow: what is recorded of the workflow that this revision was checked against.
        base: the header of the revision that this one is derived from; what others wrote there stays.

    Raises:
        MetadataError: the message is not text, or the metadata is not a JSON object.
    """
    if message is not None and not isinstance(message, str):
        raise MetadataError(f"message: expected text, got {type(message).__name__}")
    header: dict[str, Any] = {"version": "v0"} if base is None else dict(base)
    if user_meta is not None:
        header["user_meta"] = check_meta(user_meta, "meta")
    if workflow is None:
        header.pop("workflow", None)
    else:
        header["workflow"] = workflow
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
    plain: dict[str, Any] = json.loads(_line_json(value))  # Tuples are lists from here on, as in the manifest.
    return plain


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
        MetadataError: it holds what is no JSON, or is nested too deeply.
    """
    return _line(header, "the package's metadata")


def directory_line(key: DirectoryKey, meta: object) -> bytes:
    """Return the line that holds the metadata of a directory, without its newline.

    Raises:
        RecordSizeError: it is longer than :data:`MAX_RECORD_SIZE`.
    """
    return _line({"logical_key": key, "meta": meta}, f"directory {key!r}")


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
    return _line(record, f"entry {entry.logical_key!r}")


def _line(record: Mapping[str, Any], what: str) -> bytes:
    try:
        line = _line_json(record).encode()
    except (ValueError, RecursionError) as error:  # Only what somebody else wrote: our own metadata has been checked.
        raise MetadataError(f"{what}: it cannot be written: {error}") from error
    if len(line) > MAX_RECORD_SIZE:
        raise RecordSizeError(
            f"{what}: its record in the manifest has {len(line):,} bytes, the most is {MAX_RECORD_SIZE:,}; "
            "move large metadata into a file of the package"
        )
    return line


def _hashed(entry: Entry) -> dict[str, Any]:
    """Return what of an entry counts for the top hash."""
    return {
        "hash": {"type": entry.hash.type, "value": entry.hash.value},
        "logical_key": entry.logical_key,
        "meta": entry.meta,
        "size": entry.size,
    }


def write_manifest(
    header: Mapping[str, Any],
    entries: Iterable[Entry],
    out: IO[bytes],
    directories: Mapping[DirectoryKey, Any] | None = None,
) -> Summary:
    """Write a manifest and return its top hash.

    Args:
        header: the header, from :func:`make_header` or from a manifest that was read.
        entries: in walk order (:func:`airflow_quilt.core.names.walk_order`).
        out: a binary file.
        directories: the metadata of directories, in any order; it does not count for the top hash.

    Raises:
        RecordSizeError: a line is too long.
    """
    out.write(header_line(header) + b"\n")
    digest = hashlib.sha256(_canonical_json(header).encode())
    for key, meta in sorted((directories or {}).items(), key=lambda item: walk_order(item[0])):
        out.write(directory_line(key, meta) + b"\n")
    count = size = 0
    for entry in entries:
        out.write(entry_line(entry) + b"\n")
        digest.update(_canonical_json(_hashed(entry)).encode())
        count += 1
        size += entry.size
    return Summary(TopHash(digest.hexdigest()), count, size)


def read_manifest(chunks: Iterable[bytes], top_hash: TopHash | None = None) -> Manifest:
    """Read a manifest from the chunks of its file, which may come from anybody.

    Args:
        chunks: the bytes.
        top_hash: the name of the manifest, which its content must have; whoever reads to the end learns of it.

    Raises:
        ManifestError: a line is not what the format says, or the content has another top hash; entries raise it while
            they are read.
    """
    lines = _lines(chunks)
    number, line = next(lines, (1, b""))
    header = _record(number, line)
    header.pop("top_hash", None)  # Obsolete; quilt3 drops it too.
    digest = hashlib.sha256(_canonical(number, line, header))
    directories: dict[DirectoryKey, Any] = {}
    return Manifest(header, _entries(lines, directories, digest, top_hash), directories)


def _entries(
    lines: Iterator[tuple[int, bytes]], directories: dict[DirectoryKey, Any], digest: "hashlib._Hash", top_hash: TopHash | None
) -> Iterator[Entry]:
    previous: LogicalKey | None = None
    above: set[str] = set()
    for number, line in lines:
        record = _record(number, line)
        try:
            if not record.get("physical_keys"):
                key = _directory(number, record, directories if previous is None else None)
                _canonical(number, line, record)
                directories[key] = record["meta"]
                above.update(key[:at] for at, letter in enumerate(key) if letter == "/")
                continue
            entry = _entry(number, record)
            _check_order(previous, entry.logical_key, above)
        except LogicalKeyError as error:
            raise ManifestError(f"line {number}: {error}") from error
        digest.update(_canonical(number, line, _hashed(entry)))
        previous = entry.logical_key
        yield entry
    if top_hash and digest.hexdigest() != top_hash:
        raise ManifestError(f"the manifest {top_hash} was changed or damaged: its content has the top hash {digest.hexdigest()}")


def _directory(number: int, record: Mapping[str, Any], known: Mapping[DirectoryKey, Any] | None) -> DirectoryKey:
    """Return the key of a directory whose metadata a record holds; ``known`` is None where entries have come already."""
    key = parse_directory_key(record.get("logical_key"))
    if known is None or key in known:
        raise LogicalKeyError(f"metadata of {key!r}: it is given once, before all entries")
    if "meta" not in record:
        raise ManifestError(f"line {number}: neither an entry nor the metadata of a directory")
    return key


def _check_order(previous: LogicalKey | None, key: LogicalKey, directories: set[str]) -> None:
    if previous is not None and walk_order(key) < walk_order(previous):
        raise LogicalKeyError(f"{key!r} comes after {previous!r}; entries are in walk order")
    if key in directories:
        raise LogicalKeyError(f"logical key {key!r} is a file, and a directory that has metadata")
    check_next(previous, key)


def _entry(number: int, record: Mapping[str, Any]) -> Entry:
    match record:
        case {
            "logical_key": str(key),
            "physical_keys": [str(), *_] as physical_keys,
            "size": int(size),
            "hash": {"type": str(kind), "value": str(value), **rest},
            "meta": dict() | None as meta,
        } if (
            all(isinstance(physical_key, str) for physical_key in physical_keys)
            and not isinstance(size, bool)
            and size >= 0
            and not rest
        ):
            return Entry(parse_logical_key(key), tuple(physical_keys), size, Hash(kind, value), meta or {})
    raise ManifestError(f"line {number}: not an entry with logical_key, physical_keys, size, hash (type and value) and meta")


def _canonical(number: int, line: bytes, record: Mapping[str, Any]) -> bytes:
    try:
        if b"\\ud" in line.lower():  # Half a surrogate pair can be read, and not be written.
            json.dumps(_read_json(line.decode()), ensure_ascii=False).encode()
        return _canonical_json(record).encode()
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"line {number}: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return record


_read_json = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse).decode


def _record(number: int, line: bytes) -> dict[str, Any]:
    try:
        record = _read_json(line.decode())
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
            _check_length(number, line)
            yield number, line
            number += 1
        _check_length(number, rest)
    if rest:
        yield number, rest


def _check_length(number: int, line: bytes) -> None:
    if len(line) > _MOST_TO_READ:
        raise ManifestError(f"line {number}: longer than {_MOST_TO_READ:,} bytes")
