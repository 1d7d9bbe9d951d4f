"""Decoding of the lines of a manifest, of any writer: an error names its line (docs/format.md, "Manifest").

Blocks of lines are decoded at once where a few cheap checks prove every line valid. All others are decoded line by line, as
strictly as the format demands. The order of the lines is checked elsewhere.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from airflow_quilt.core.errors import LogicalKeyError, ManifestError, QuiltError, plain
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import (
    LARGEST,
    MAX_RECORD_SIZE,
    Entry,
    EntryBlock,
    canonical_entry,
    canonical_json,
    canonical_text,
    entry_line,
    plain_canonical,
    plain_lines,
)
from airflow_quilt.core.format.metadata import is_nested_deeper
from airflow_quilt.core.format.names import are_keys, parse_directory_key, parse_logical_key
from airflow_quilt.core.format.packed import DirectoryMetadata

R = TypeVar("R")

_MAX_LINE_SIZE: Final = 16 * 1024 * 1024
"""Maximum bytes of a line to read: quilt3's writers can be configured to exceed ``MAX_RECORD_SIZE``."""

_MAX_MARKS: Final = MAX_RECORD_SIZE
"""Maximum commas and brackets of a line: as many as the longest line for Quilt's own services can have. A value of two bytes
becomes one of a hundred in memory, so longer lines must not be nothing but values."""

_MAX_NESTING: Final = 256
"""Maximum objects and lists inside of each other: the metadata that is written has 251, below an entry's two."""

_BLOCK_SIZE: Final = 256 * 1024
"""Bytes that are decoded at once."""

_QUOTES: Final = 22
"""Quotes in the line of an entry with one physical key and no metadata, as nearly all have, and no quote in its values. An
unknown or repeated key in an object makes more, and a line without metadata cannot end in an object."""

_END: Final = b', "meta": {}}\n'
"""The end of the line of an entry without metadata, as this provider and quilt3 spell it."""

_DECODE_ERRORS: Final = (ValueError, msgspec.DecodeError, RecursionError)
"""Errors for a line that is not an entry; those of msgspec are a ``ValueError`` only since its later releases."""


class _Keyed(msgspec.Struct, frozen=True, gc=False):
    """The logical key of a line, without the rest of it."""

    logical_key: str


def split_blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks of whole lines; only the last line may lack its newline, and lines that are too long come in pieces."""
    rest = b""
    for chunk in chunks:
        start = 0
        while start < len(chunk):
            if end := chunk.rfind(b"\n", start, start + _BLOCK_SIZE) + 1:
                yield rest + chunk[start:end] if rest else chunk[start:end]
                rest, start = b"", end
                continue
            rest += chunk[start : start + _BLOCK_SIZE]
            start += _BLOCK_SIZE
            if len(rest) > _MAX_LINE_SIZE:
                yield rest
                rest = b""
    if rest:
        yield rest


def check_end(number: int, block: bytes) -> None:
    """Check the last line of a block.

    Raises:
        ManifestError: it is longer than 16 MiB.
    """
    if len(block) > _MAX_LINE_SIZE and not block.endswith(b"\n"):
        last = block.rpartition(b"\n")[2]
        _check_size(number + block.count(b"\n"), last)


def decode_header(line: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header, and its canonical JSON.

    Raises:
        ManifestError: the line is not a JSON object.
    """
    header = _decode_object(1, line)
    header.pop("top_hash", None)  # Obsolete; quilt3 drops it too.
    return header, _canonical(1, line, canonical_json, header)


def decode_keys(block: bytes) -> list[str] | None:
    """Return the logical keys of all lines of a block, as they stand there; None where a line has none, or is damaged."""
    try:
        return [line.logical_key for line in _key_decoder.decode_lines(block)]
    except _DECODE_ERRORS:
        pass  # Python's decoder reads more, such as NaN.
    try:
        keys = [_decode_object(at, line).get("logical_key") for at, line in _numbered(0, block)]
    except ManifestError:
        return None
    texts = [key for key in keys if isinstance(key, str)]
    return texts if len(texts) == len(keys) else None


def decode_block(number: int, block: bytes, directories: DirectoryMetadata) -> Generator[EntryBlock, None, int]:
    """Yield the entries of a block of lines, some at a time; return the count of its lines.

    Args:
        number: the number of the first line.
        block: whole lines.
        directories: takes the metadata of the directories among them.

    Raises:
        ManifestError: a line is neither an entry nor the metadata of a directory, or such metadata is given twice.
    """
    if decoded := _decode_exact_block(block) or _decode_plain_block(block):
        yield decoded
        return len(decoded.entries)
    at = number - 1
    for at, line in _numbered(number, block):
        _check_size(at, line)
        try:
            entry = _decode_plain(line) or _decode_line(at, line, directories)
        except LogicalKeyError as error:
            raise ManifestError(f"line {at}: {error}") from error
        if entry:
            yield EntryBlock([entry], _canonical(at, line, canonical_entry, entry))
    return at - number + 1


def _decode_exact_block(block: bytes) -> EntryBlock | None:
    """Decode a block of lines that are all spelled exactly as this provider and quilt3 spell plain entries.

    Equal bytes exclude all that msgspec's decoder overlooks, as in :func:`_decode_plain`; here for all lines at once.
    """
    if block[-len(_END) :] != _END or len(block) > _MAX_LINE_SIZE or b"\\" in block:
        return None
    try:
        entries = _decoder.decode_lines(block)
    except _DECODE_ERRORS:
        return None
    if plain_lines(entries).encode() != block or not are_keys([entry.logical_key for entry in entries]):
        return None
    is_same = block.isascii() and b"\x7f" not in block  # In the canonical JSON, which escapes more than the lines.
    return EntryBlock(entries, plain_canonical(entries).encode() if is_same else canonical_text(entries), block)


def _decode_plain_block(block: bytes) -> EntryBlock | None:
    """Decode all lines of a block at once; None unless cheap checks prove every one of them the valid line of an entry.

    The lines are one object each, and all keys of an entry are there once: with any other, a line has more quotes. No line has
    metadata: each ends in an empty object, which no other field may be. No object goes on in the next line.
    """
    lines, more = divmod(block.count(b'"'), _QUOTES)
    if more or not (block[:1] == b"{" and block[-4:] == b"{}}\n") or len(block) > _MAX_LINE_SIZE:
        return None
    between = block.split(b"{}}\n{")
    if len(between) != lines or b"".join(between).find(b"\n", 0, -1) >= 0:  # Faster than to count them.
        return None
    try:
        entries = _decoder.decode_lines(block)
    except _DECODE_ERRORS:
        return None
    if len(entries) != lines or not are_keys([entry.logical_key for entry in entries]):
        return None
    return EntryBlock(entries, canonical_text(entries))


def _decode_plain(line: bytes) -> Entry | None:
    """Decode the line of an entry spelled exactly as this provider and quilt3 do, or return None.

    Equal bytes exclude all that msgspec's decoder overlooks, such as repeated or unknown keys.
    """
    if _count_openings(line) > _MAX_NESTING:
        return None
    try:
        entry = _decoder.decode(line)
        return entry if entry_line(entry) == line and parse_logical_key(entry.logical_key) else None
    except (*_DECODE_ERRORS, QuiltError):
        return None


def _decode_line(number: int, line: bytes, directories: DirectoryMetadata) -> Entry | None:
    """Decode a line of any spelling: return an entry, or keep the metadata of a directory and return None."""
    record = _decode_object(number, line)
    if record.get("physical_keys"):
        return _parse_entry(number, record)
    key = parse_directory_key(record.get("logical_key"))
    if "meta" not in record:
        raise ManifestError(f"line {number}: neither an entry nor the metadata of a directory")
    _canonical(number, line, canonical_json, record)
    directories.add(key, record["meta"])
    return None


def _parse_entry(number: int, record: Mapping[str, Any]) -> Entry:
    match record:
        case {
            "logical_key": str(key),
            "physical_keys": [str(), *_] as physical_keys,
            "size": int(size),
            "hash": {"type": str(kind), "value": str(value), **rest},
        } if (
            all(isinstance(physical_key, str) for physical_key in physical_keys)
            and not isinstance(size, bool)
            and 0 <= size <= LARGEST
            and not rest
        ):
            # Metadata that is missing, null or otherwise empty is none, as in quilt3; any other is kept.
            meta = record.get("meta") or {}
            return Entry(parse_logical_key(key), tuple(physical_keys), size, Hash(kind, value), meta)
    raise ManifestError(
        f"line {number}: not an entry with logical_key, physical_keys, size (from 0 to 2**63 - 1) and hash (type and value)"
    )


def _canonical(number: int, line: bytes, to_json: Callable[[R], str], record: R) -> bytes:
    """Return the canonical JSON of a record, after checking that its text is valid Unicode."""
    try:
        if b"\\ud" in line.lower():  # JSON can spell half a surrogate pair, which UTF-8 cannot hold.
            json.dumps(_read_json(line.decode()), ensure_ascii=False).encode()
        return to_json(record).encode()
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"line {number}: {plain(error)}") from error


def _reject_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return record


_decoder = msgspec.json.Decoder(Entry)
_key_decoder = msgspec.json.Decoder(_Keyed)
_read_json = json.JSONDecoder(object_pairs_hook=_reject_repeated_keys).decode
"""Reads JSON, and the NaN and infinite numbers that quilt3 wrote until 6.3.1."""


def _decode_object(number: int, line: bytes) -> dict[str, Any]:
    _check_size(number, line)
    try:
        record = _read_json(line.decode())
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"line {number}: {plain(error)}") from error
    if not isinstance(record, dict):
        raise ManifestError(f"line {number}: expected a JSON object")
    if _count_openings(line) > _MAX_NESTING and is_nested_deeper(record, _MAX_NESTING):
        raise ManifestError(f"line {number}: nested too deeply, more than {_MAX_NESTING} levels")
    return record


def _numbered(number: int, block: bytes) -> Iterable[tuple[int, bytes]]:
    """Return the lines of a block, each with its number."""
    return enumerate(block.removesuffix(b"\n").split(b"\n") if block else (), number)


def _check_size(number: int, line: bytes) -> None:
    if len(line) > _MAX_LINE_SIZE:
        raise ManifestError(f"line {number}: longer than {_MAX_LINE_SIZE:,} bytes")
    if len(line) > _MAX_MARKS and line.count(b",") + _count_openings(line) > _MAX_MARKS:
        raise ManifestError(f"line {number}: more than {_MAX_MARKS:,} commas and brackets")


def _count_openings(line: bytes) -> int:
    return line.count(b"{") + line.count(b"[")
