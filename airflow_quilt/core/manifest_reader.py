"""Reads manifests, as streams, from anybody: whatever is wrong in one is told with the number of its line."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from airflow_quilt.core.checksums import Hash
from airflow_quilt.core.errors import LogicalKeyError, ManifestError
from airflow_quilt.core.manifest import Entry, canonical_json, hashed
from airflow_quilt.core.names import (
    DirectoryKey,
    LogicalKey,
    TopHash,
    check_file,
    check_next,
    parse_directory_key,
    parse_logical_key,
    walk_order,
)

_MOST_TO_READ: Final = 16 * 1024 * 1024
"""The most bytes of a line that is read: quilt3's writers can be told to exceed ``MAX_RECORD_SIZE``."""

_LARGEST: Final = 2**63 - 1
"""The largest size of an entry: Quilt's platform reads sizes as integers of 64 bits, and no store keeps anything larger."""


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
    with_meta: Sequence[DirectoryKey] = ()
    for number, line in lines:
        record = _record(number, line)
        try:
            if not record.get("physical_keys"):
                key = _directory(number, record, directories if previous is None else None)
                _canonical(number, line, record)
                directories[key] = record["meta"]
                continue
            entry = _entry(number, record)
            if previous is None:
                with_meta = sorted(directories)
            _check_order(previous, entry.logical_key, with_meta)
        except LogicalKeyError as error:
            raise ManifestError(f"line {number}: {error}") from error
        digest.update(_canonical(number, line, hashed(entry)))
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


def _check_order(previous: LogicalKey | None, key: LogicalKey, directories: Sequence[DirectoryKey]) -> None:
    if previous is not None and walk_order(key) < walk_order(previous):
        raise LogicalKeyError(f"{key!r} comes after {previous!r}; entries are in walk order")
    check_file(key, directories)
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
            and 0 <= size <= _LARGEST
            and not rest
        ):
            return Entry(parse_logical_key(key), tuple(physical_keys), size, Hash(kind, value), meta or {})
    raise ManifestError(
        f"line {number}: not an entry with logical_key, physical_keys, size (from 0 to 2**63 - 1), hash (type and value) and meta"
    )


def _canonical(number: int, line: bytes, record: Mapping[str, Any]) -> bytes:
    try:
        if b"\\ud" in line.lower():  # Half a surrogate pair can be read, and not be written.
            json.dumps(_read_json(line.decode()), ensure_ascii=False).encode()
        return canonical_json(record).encode()
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
