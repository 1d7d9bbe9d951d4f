r"""Manifests as streams: a header, metadata of directories, and one line an entry (docs/format.md, "Manifest").

There are two spellings of JSON: the lines of the file (quilt3's ``Package.dump``), and the canonical JSON whose SHA-256 is
the top hash (quilt3's ``Package.top_hash``). The canonical JSON omits physical keys and directories.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from json.encoder import encode_basestring as _json_text
from json.encoder import encode_basestring_ascii as _ascii_json_text
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec

from airflow_quilt.core.errors import MetadataError, RecordSizeError, plain, quoted
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, SHA256, Hash
from airflow_quilt.core.format.metadata import check_json, check_meta, user_meta_of
from airflow_quilt.core.format.names import MAX_LOGICAL_KEY, MAX_UTF8_SIZE, DirectoryKey, LogicalKey

R = TypeVar("R")

MAX_RECORD_SIZE: Final = 1_000_000
"""Maximum bytes of a line without its newline; Quilt's own services read no longer lines."""
LARGEST: Final = 2**63 - 1
"""Maximum size of an entry in bytes: Quilt's platform reads sizes as 64-bit integers, and no store holds larger objects."""

_line_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""Returns the canonical JSON of a record, with the ``NaN`` and ``Infinity`` of old manifests as quilt3 hashes them."""
_MAX_JSON_SIZE: Final = 6
"""Maximum bytes of a character in JSON: ``\\u001f``."""
_TYPES: Final = {kind: _ascii_json_text(kind) for kind in (CHUNKED, SHA256, CRC64NVME)}
"""The hash types of nearly all entries, as they are in the canonical JSON."""
_FRAME_SIZE: Final = 200
"""Upper bound on the bytes of a line around the values of its entry."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One file of a package.

    ``physical_keys`` are URLs; only the first one is used. ``size`` is in bytes. ``meta`` is all metadata of the entry: the
    user's under ``user_meta``, and that of other writers under keys of theirs. Some writers made it a text or a list.
    """

    logical_key: Annotated[LogicalKey, msgspec.Meta(max_length=MAX_LOGICAL_KEY)]
    physical_keys: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    size: Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
    hash: Hash
    meta: Any = msgspec.field(default_factory=dict)

    @property
    def user_meta(self) -> Any:
        """User metadata of the entry; ``{}`` if there is none."""
        return user_meta_of(self.meta)


class EntryBlock(NamedTuple):
    """Some entries that follow each other in walk order, with their text, which is made once.

    Attributes:
        entries: the entries.
        canonical: their canonical JSON, concatenated.
        lines: for plain entries (:func:`plain_lines`) their lines, each with its newline; None for others.
    """

    entries: Sequence[Entry]
    canonical: bytes
    lines: bytes | None = None


def count_checksums(entries: Iterable[Entry]) -> int:
    """Return the count of entries whose hash is a CRC64NVME: it finds damage, but is easily made to fit other bytes."""
    return sum([entry.hash.type == CRC64NVME for entry in entries])


def make_header(
    message: str | None,
    user_meta: Mapping[str, Any] | None,
    workflow: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
    *,
    null_meta: bool = False,
) -> dict[str, Any]:
    """Return the header of a new revision.

    Args:
        message: the message of this revision.
        user_meta: the package's metadata; None keeps that of ``base``, and without one omits the key, as quilt3 does.
        workflow: the record of the workflow that this revision was checked against.
        base: the header of the revision that this one is derived from; its other keys stay.
        null_meta: where there is no metadata, give the key the value null, as quilt3's ``set_dir`` does.

    Raises:
        MetadataError: the message is not a ``str``, or the metadata is not a JSON object.
    """
    if message is not None and not isinstance(message, str):
        raise MetadataError(f"message: expected str, got {type(message).__name__}")
    header: dict[str, Any] = {"version": "v0"} if base is None else dict(base)
    if user_meta is not None:
        header["user_meta"] = check_meta(user_meta, "meta")
    elif null_meta:
        header.setdefault("user_meta", None)
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
        RecordSizeError: the line is longer than :data:`MAX_RECORD_SIZE`.
        MetadataError: a value is not JSON, or is nested too deeply.
    """
    return _encode(_line_json, header, "the package's metadata")


def directory_line(key: DirectoryKey, meta: object) -> bytes:
    """Return the line of the metadata of a directory, without its newline.

    Raises:
        RecordSizeError: the line is longer than :data:`MAX_RECORD_SIZE`.
        MetadataError: a value is not JSON, or is nested too deeply.
    """
    return _encode(_line_json, {"logical_key": key, "meta": meta}, f"directory {quoted(key)}")


def entry_line(entry: Entry) -> bytes:
    """Return the line of an entry, without its newline.

    Raises:
        RecordSizeError: the line is longer than :data:`MAX_RECORD_SIZE`.
        MetadataError: a value is not JSON, or is nested too deeply.
    """
    return _encode(_entry_json, entry, f"entry {quoted(entry.logical_key)}")


def check_record(entry: Entry) -> None:
    """Check that an entry can be written, without encoding it where an upper bound of its size suffices.

    Raises:
        RecordSizeError: the line is longer than :data:`MAX_RECORD_SIZE`.
        MetadataError: a value is not JSON, or is nested too deeply.
    """
    characters = len(entry.logical_key) + len("".join(entry.physical_keys)) + len(entry.hash.type) + len(entry.hash.value)
    if entry.meta or characters * _MAX_JSON_SIZE + _FRAME_SIZE * (1 + len(entry.physical_keys)) > MAX_RECORD_SIZE:
        entry_line(entry)


def canonical_entry(entry: Entry) -> str:
    """Return the canonical JSON of an entry, the part of it that the top hash covers."""
    digest, meta = entry.hash, canonical_json(entry.meta) if entry.meta else "{}"
    kind = _TYPES.get(digest.type) or _ascii_json_text(digest.type)
    return (
        f'{{"hash":{{"type":{kind},"value":{_ascii_json_text(digest.value)}}},'
        f'"logical_key":{_ascii_json_text(entry.logical_key)},"meta":{meta},"size":{entry.size}}}'
    )


def canonical_text(entries: Iterable[Entry]) -> bytes:
    """Return the concatenated canonical JSON of entries."""
    return "".join([canonical_entry(entry) for entry in entries]).encode()


def entry_lines(entries: Sequence[Entry]) -> bytes:
    """Return the lines of entries, each with its newline; raises as :func:`entry_line`."""
    try:
        lines = [_entry_json(entry) for entry in entries]
        if max(map(len, lines)) * MAX_UTF8_SIZE <= MAX_RECORD_SIZE:
            return ("\n".join(lines) + "\n").encode()
    except (ValueError, RecursionError):
        pass  # The error must name its entry: encode one by one.
    return b"".join(entry_line(entry) + b"\n" for entry in entries)


def plain_lines(entries: Iterable[Entry]) -> str:
    """Return the lines of plain entries, as :func:`entry_line` returns each, with their newlines.

    A plain entry has one physical key, no metadata, and no character that JSON escapes. For any other one the result is no line
    of a manifest.
    """
    return "".join(
        [
            f'{{"logical_key": "{entry.logical_key}", "physical_keys": ["{entry.physical_keys[0]}"], "size": {entry.size}, '
            f'"hash": {{"type": "{entry.hash.type}", "value": "{entry.hash.value}"}}, "meta": {{}}}}\n'
            for entry in entries
        ]
    )


def plain_canonical(entries: Iterable[Entry]) -> str:
    """Return the concatenated canonical JSON of plain entries that are printable ASCII, as :func:`canonical_text` returns it."""
    return "".join(
        [
            f'{{"hash":{{"type":"{entry.hash.type}","value":"{entry.hash.value}"}},'
            f'"logical_key":"{entry.logical_key}","meta":{{}},"size":{entry.size}}}'
            for entry in entries
        ]
    )


def _entry_json(entry: Entry) -> str:
    keys = ", ".join([_json_text(key) for key in entry.physical_keys])
    meta = _line_json(entry.meta) if entry.meta else "{}"
    return (
        f'{{"logical_key": {_json_text(entry.logical_key)}, "physical_keys": [{keys}], "size": {entry.size}, '
        f'"hash": {{"type": {_json_text(entry.hash.type)}, "value": {_json_text(entry.hash.value)}}}, "meta": {meta}}}'
    )


def _encode(to_json: Callable[[R], str], record: R, subject: str) -> bytes:
    try:
        line = to_json(record).encode()
    except (ValueError, RecursionError) as error:  # Only for metadata of other writers: the user's has been checked.
        raise MetadataError(f"{subject}: its metadata cannot be written: {plain(error)}; give it other metadata") from error
    if len(line) > MAX_RECORD_SIZE:
        raise RecordSizeError(
            f"{subject}: its record in the manifest has {len(line):,} bytes, the most is {MAX_RECORD_SIZE:,}; "
            "move large metadata into a file of the package"
        )
    return line
