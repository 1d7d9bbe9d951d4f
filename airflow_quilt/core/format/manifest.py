r"""The manifest: a header, metadata of directories, and one line an entry, written as streams.

Two spellings of JSON matter (quilt3's ``Package.dump`` and ``Package.top_hash``): the lines of the file, and the
canonical text whose SHA-256 is the top hash. The canonical text leaves out physical keys and the directories.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as _quoted
from json.encoder import encode_basestring_ascii as _quoted_ascii
from typing import IO, Annotated, Any, Final, TypeVar

import msgspec

from airflow_quilt.core.errors import MetadataError, RecordSizeError
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.metadata import check_json, check_meta
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey, TopHash, walk_order
from airflow_quilt.core.format.ordering import batched

R = TypeVar("R")

MAX_RECORD_SIZE: Final = 1_000_000
"""The most bytes that one line may have, without its newline; Quilt's own services read no longer ones."""
LARGEST: Final = 2**63 - 1
"""The largest size of an entry: Quilt's platform reads sizes as integers of 64 bits, and no store keeps anything larger."""

_line_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
"""Returns the canonical text of a record."""
_MOST_BYTES: Final = 4
"""The most bytes that a character takes in UTF-8."""
_MOST_ESCAPED: Final = 6
"""The most bytes that a character takes in JSON: ``\\u001f``."""
_FRAME: Final = 200
"""More than the bytes of a line that are no text of its entry."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One file of a package.

    ``physical_keys`` are URLs, the first one counts. ``size`` is in bytes. ``meta`` is the whole of the entry's metadata;
    what a user gave lies under ``user_meta``, other keys belong to whoever wrote them.
    """

    logical_key: LogicalKey
    physical_keys: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    size: Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
    hash: Hash
    meta: Mapping[str, Any] = msgspec.field(default_factory=dict)

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
        MetadataError: it holds what is no JSON, or is nested too deeply.
    """
    return _encoded(_entry_text, entry, f"entry {entry.logical_key!r}")


def check_record(entry: Entry) -> None:
    """Check that an entry can be written; without writing it, where it clearly can.

    Raises:
        RecordSizeError: its line is longer than :data:`MAX_RECORD_SIZE`.
        MetadataError: it holds what is no JSON, or is nested too deeply.
    """
    characters = len(entry.logical_key) + len("".join(entry.physical_keys)) + len(entry.hash.type) + len(entry.hash.value)
    if entry.meta or characters * _MOST_ESCAPED + _FRAME + len(entry.physical_keys) * _FRAME > MAX_RECORD_SIZE:
        entry_line(entry)


def canonical_entry(entry: Entry) -> str:
    """Return the canonical text of an entry, which is what of it counts for the top hash."""
    meta = canonical_json(entry.meta) if entry.meta else "{}"
    return (
        f'{{"hash":{{"type":{_quoted_ascii(entry.hash.type)},"value":{_quoted_ascii(entry.hash.value)}}},'
        f'"logical_key":{_quoted_ascii(entry.logical_key)},"meta":{meta},"size":{entry.size}}}'
    )


def canonical_text(entries: Iterable[Entry]) -> bytes:
    """Return the canonical texts of entries, one after the other."""
    return "".join([canonical_entry(entry) for entry in entries]).encode()


def _entry_text(entry: Entry) -> str:
    keys = ", ".join([_quoted(key) for key in entry.physical_keys])
    meta = _line_json(entry.meta) if entry.meta else "{}"
    return (
        f'{{"logical_key": {_quoted(entry.logical_key)}, "physical_keys": [{keys}], "size": {entry.size}, '
        f'"hash": {{"type": {_quoted(entry.hash.type)}, "value": {_quoted(entry.hash.value)}}}, "meta": {meta}}}'
    )


def _line(record: Mapping[str, Any], what: str) -> bytes:
    return _encoded(_line_json, record, what)


def _encoded(spell: Callable[[R], str], record: R, what: str) -> bytes:
    try:
        line = spell(record).encode()
    except (ValueError, RecursionError) as error:  # Only what somebody else wrote: our own metadata has been checked.
        raise MetadataError(f"{what}: it cannot be written: {error}") from error
    if len(line) > MAX_RECORD_SIZE:
        raise RecordSizeError(
            f"{what}: its record in the manifest has {len(line):,} bytes, the most is {MAX_RECORD_SIZE:,}; "
            "move large metadata into a file of the package"
        )
    return line


def _block(entries: Sequence[Entry]) -> bytes:
    """Return the lines of entries, each with its newline."""
    try:
        lines = [_entry_text(entry) for entry in entries]
        if max(map(len, lines)) * _MOST_BYTES <= MAX_RECORD_SIZE:
            return ("\n".join(lines) + "\n").encode()
    except (ValueError, RecursionError):
        pass  # One by one it turns out which entry it is.
    return b"".join(entry_line(entry) + b"\n" for entry in entries)


def write_manifest(
    header: Mapping[str, Any],
    entries: Iterable[Entry],
    out: IO[bytes],
    directories: Mapping[DirectoryKey, Any] | None = None,
) -> Summary:
    """Write a manifest and return its top hash.

    Args:
        header: the header, from :func:`make_header` or from a manifest that was read.
        entries: in walk order (:func:`airflow_quilt.core.format.names.walk_order`).
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
    for batch in batched(entries):
        out.write(_block(batch))
        digest.update(canonical_text(batch))
        count += len(batch)
        size += sum([entry.size for entry in batch])
    return Summary(TopHash(digest.hexdigest()), count, size)
