"""Reading of manifests as streams, of any writer: an error names its line (docs/format.md, "Manifest").

Blocks of lines are decoded at once where a few cheap checks prove every line valid. All others are decoded line by line, as
strictly as the format demands.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeVar

import msgspec

from airflow_quilt.core.errors import LogicalKeyError, ManifestError, QuiltError
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import LARGEST, Entry, canonical_entry, canonical_json, canonical_text, entry_line
from airflow_quilt.core.format.names import (
    DirectoryKey,
    LogicalKey,
    TopHash,
    check_file,
    check_next,
    is_walk,
    parse_directory_key,
    parse_logical_key,
    walk_order,
)

R = TypeVar("R")

_MAX_LINE_SIZE: Final = 16 * 1024 * 1024
"""Maximum bytes of a line to read: quilt3's writers can be configured to exceed ``MAX_RECORD_SIZE``."""

_BLOCK_SIZE: Final = 256 * 1024
"""Bytes that are decoded at once."""

_QUOTES: Final = 22
"""Quotes in the line of an entry with one physical key and no metadata, as nearly all have, and no quote in its values. An
unknown or repeated key in an object makes more."""

_DECODE_ERRORS: Final = (ValueError, msgspec.DecodeError)
"""Errors for a line that is not an entry; those of msgspec are a ``ValueError`` only since its later releases."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that is being read.

    Attributes:
        header: the first line.
        entries: a stream that can be read once.
        directories: the metadata of directories, complete once the first entry has been read.
        where: the registry, the package and the top hash, for errors about entries; empty where they are not known.
    """

    header: Mapping[str, Any]
    entries: Iterator[Entry]
    directories: Mapping[DirectoryKey, Any] = field(default_factory=dict)
    where: str = ""

    @property
    def user_meta(self) -> Any:
        """User metadata of the package; ``{}`` if there is none."""
        return self.header.get("user_meta", {})

    def begun(self) -> Self:
        """Return the manifest after reading its first entry, so that ``directories`` is complete."""
        first = next(self.entries, None)
        return replace(self, entries=itertools.chain([first] if first else (), self.entries))


def read_manifest(chunks: Iterable[bytes], top_hash: TopHash | None = None) -> Manifest:
    """Read a manifest from the chunks of its file; its writer is not trusted.

    Args:
        chunks: the bytes.
        top_hash: the expected top hash, which is the name of the manifest; it is checked after the last entry.

    Raises:
        ManifestError: a line does not follow the format, or the content has another top hash; ``entries`` raises it while
            it is read.
    """
    blocks = _blocks(chunks)
    _, block = next(blocks, (1, b""))
    line, _, rest = block.partition(b"\n")
    _check_size(1, line)
    header = _decode_object(1, line)
    header.pop("top_hash", None)  # Obsolete; quilt3 drops it too.
    directories: dict[DirectoryKey, Any] = {}
    reader = _EntryReader(directories, hashlib.sha256(_canonical(1, line, canonical_json, header)), top_hash)
    return Manifest(header, reader.read(itertools.chain([(2, rest)], blocks)), directories)


class _EntryReader:
    """Reader of the entries of one manifest, which checks their order and their top hash."""

    def __init__(self, directories: dict[DirectoryKey, Any], digest: "hashlib._Hash", top_hash: TopHash | None) -> None:
        self._directories = directories
        self._digest = digest
        self._top_hash = top_hash
        self._previous: LogicalKey | None = None
        self._sorted_directories: Sequence[DirectoryKey] = ()

    def read(self, blocks: Iterable[tuple[int, bytes]]) -> Iterator[Entry]:
        """Yield the entries of blocks of lines, each given with the number of its first line."""
        for number, block in blocks:
            yield from self._decode_block(block) or self._decode_lines(number, block)
        if self._top_hash and (found := self._digest.hexdigest()) != self._top_hash:
            raise ManifestError(f"the manifest {self._top_hash} was changed or damaged: its content has the top hash {found}")

    def _decode_block(self, block: bytes) -> list[Entry] | None:
        """Decode all lines of a block at once; None unless cheap checks prove every one of them valid."""
        if not _is_plain(block):
            return None
        try:
            entries = _decoder.decode_lines(block)
        except _DECODE_ERRORS:
            return None
        keys = [entry.logical_key for entry in entries]
        if not is_walk(keys if self._previous is None else [self._previous, *keys]) or not self._are_files(keys):
            return None
        self._digest.update(canonical_text(entries))
        self._previous = keys[-1]
        return entries

    def _are_files(self, keys: Sequence[LogicalKey]) -> bool:
        """Return whether no key is also a directory that has metadata."""
        try:
            for key in keys if self._directories else ():
                self._check_file(key)
        except LogicalKeyError:
            return False
        return True

    def _decode_lines(self, first: int, block: bytes) -> Iterator[Entry]:
        """Decode a block line by line, so that an error names its line."""
        for number, line in enumerate(block.removesuffix(b"\n").split(b"\n") if block else (), first):
            _check_size(number, line)
            try:
                entry = _decode_plain(line) or self._decode_line(number, line)
                if entry is None:
                    continue
                self._check_order(entry.logical_key)
            except LogicalKeyError as error:
                raise ManifestError(f"line {number}: {error}") from error
            self._digest.update(_canonical(number, line, canonical_entry, entry))
            self._previous = entry.logical_key
            yield entry

    def _decode_line(self, number: int, line: bytes) -> Entry | None:
        """Decode a line of any spelling: return an entry, or keep the metadata of a directory and return None."""
        record = _decode_object(number, line)
        if record.get("physical_keys"):
            return _parse_entry(number, record)
        key = _parse_directory(number, record, self._directories if self._previous is None else None)
        _canonical(number, line, canonical_json, record)
        self._directories[key] = record["meta"]
        return None

    def _check_order(self, key: LogicalKey) -> None:
        if self._previous is not None and walk_order(key) < walk_order(self._previous):
            raise LogicalKeyError(f"{key!r} comes after {self._previous!r}; entries are in walk order")
        self._check_file(key)
        check_next(self._previous, key)

    def _check_file(self, key: LogicalKey) -> None:
        if self._previous is None:  # Directories come before the first entry, so there are no more.
            self._sorted_directories = sorted(self._directories)
        check_file(key, self._sorted_directories)


def _is_plain(block: bytes) -> bool:
    """Return whether a block is whole lines of one object each, with every key once if they have all keys of an entry."""
    lines = block.count(b"\n")
    is_lines = block[:1] == b"{" and block[-2:] == b"}\n" and block.count(b"}\n{") == lines - 1
    return is_lines and block.count(b'"') == _QUOTES * lines and len(block) <= _MAX_LINE_SIZE


def _decode_plain(line: bytes) -> Entry | None:
    """Decode the line of an entry spelled exactly as this provider and quilt3 do, or return None.

    Equal bytes exclude all that msgspec's decoder overlooks, such as repeated or unknown keys.
    """
    try:
        entry = _decoder.decode(line)
        return entry if entry_line(entry) == line and parse_logical_key(entry.logical_key) else None
    except (*_DECODE_ERRORS, RecursionError, QuiltError):
        return None


def _parse_directory(number: int, record: Mapping[str, Any], known: Mapping[DirectoryKey, Any] | None) -> DirectoryKey:
    """Return the key of the directory of a record; ``known`` is None after the first entry, where directories are errors."""
    key = parse_directory_key(record.get("logical_key"))
    if known is None or key in known:
        raise LogicalKeyError(f"metadata of {key!r}: it is given once, before all entries")
    if "meta" not in record:
        raise ManifestError(f"line {number}: neither an entry nor the metadata of a directory")
    return key


def _parse_entry(number: int, record: Mapping[str, Any]) -> Entry:
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
            and 0 <= size <= LARGEST
            and not rest
        ):
            return Entry(parse_logical_key(key), tuple(physical_keys), size, Hash(kind, value), meta or {})
    raise ManifestError(
        f"line {number}: not an entry with logical_key, physical_keys, size (from 0 to 2**63 - 1), hash (type and value) and meta"
    )


def _canonical(number: int, line: bytes, to_json: Callable[[R], str], record: R) -> bytes:
    """Return the canonical JSON of a record, after checking that its line can be written again."""
    try:
        if b"\\ud" in line.lower():  # JSON can spell half a surrogate pair, which UTF-8 cannot hold.
            json.dumps(_read_json(line.decode()), ensure_ascii=False).encode()
        return to_json(record).encode()
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"line {number}: {error}") from error


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _reject_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return record


_decoder = msgspec.json.Decoder(Entry)
_read_json = json.JSONDecoder(object_pairs_hook=_reject_repeated_keys, parse_constant=_reject_constant).decode


def _decode_object(number: int, line: bytes) -> dict[str, Any]:
    try:
        record = _read_json(line.decode())
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"line {number}: {error}") from error
    if not isinstance(record, dict):
        raise ManifestError(f"line {number}: expected a JSON object")
    return record


def _blocks(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of whole lines with the number of their first line; only the last line may lack its newline."""
    number, rest = 1, b""
    for chunk in chunks:
        for start in range(0, len(chunk), _BLOCK_SIZE):
            rest += chunk[start : start + _BLOCK_SIZE]
            if end := rest.rfind(b"\n") + 1:
                yield number, rest[:end]
                number, rest = number + rest.count(b"\n"), rest[end:]
            _check_size(number, rest)
    if rest:
        yield number, rest


def _check_size(number: int, line: bytes) -> None:
    if len(line) > _MAX_LINE_SIZE:
        raise ManifestError(f"line {number}: longer than {_MAX_LINE_SIZE:,} bytes")
