r"""The manifest: a header, metadata of directories, and one line an entry, written as streams.

Two spellings of JSON matter (quilt3's ``Package.dump`` and ``Package.top_hash``): the lines of the file, and the
canonical text whose SHA-256 is the top hash. The canonical text leaves out physical keys and the directories.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from airflow_quilt.core.checksums import Hash
from airflow_quilt.core.errors import MetadataError, RecordSizeError
from airflow_quilt.core.metadata import check_json, check_meta
from airflow_quilt.core.names import DirectoryKey, LogicalKey, TopHash, walk_order

MAX_RECORD_SIZE: Final = 1_000_000
"""The most bytes that one line may have, without its newline; Quilt's own services read no longer ones."""

_line_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
"""Returns the canonical text of a record."""


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
    check_json(message, "message")
    return header


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


def hashed(entry: Entry) -> dict[str, Any]:
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
    digest = hashlib.sha256(canonical_json(header).encode())
    for key, meta in sorted((directories or {}).items(), key=lambda item: walk_order(item[0])):
        out.write(directory_line(key, meta) + b"\n")
    count = size = 0
    for entry in entries:
        out.write(entry_line(entry) + b"\n")
        digest.update(canonical_json(hashed(entry)).encode())
        count += 1
        size += entry.size
    return Summary(TopHash(digest.hexdigest()), count, size)
