"""Reads manifests, as streams, from anybody: whatever is wrong in one is told with the number of its line."""

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

_MOST_TO_READ: Final = 16 * 1024 * 1024
"""The most bytes of a line that is read: quilt3's writers can be told to exceed ``MAX_RECORD_SIZE``."""

_PIECE: Final = 256 * 1024
"""Bytes that are looked at together."""

_QUOTES: Final = 22
"""So many quotes are in the line of an entry that has one physical key and no metadata, as nearly all have, if none is in its
texts: more keys of an object, or one given twice, make more."""

_NO_ENTRY: Final = (ValueError, msgspec.DecodeError)
"""What a line raises that is no entry: the errors of msgspec are such values only since its later releases."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that is being read.

    Attributes:
        header: its first line.
        entries: a stream that can be read once.
        directories: the metadata of directories, complete when the first entry has been read.
    """

    header: Mapping[str, Any]
    entries: Iterator[Entry]
    directories: Mapping[DirectoryKey, Any] = field(default_factory=dict)

    @property
    def user_meta(self) -> Any:
        """What a user said of the package; ``{}`` where nobody said anything."""
        return self.header.get("user_meta", {})

    def begun(self) -> Self:
        """Return the manifest, read so far that all directories are known: they come before the first entry."""
        first = next(self.entries, None)
        return replace(self, entries=itertools.chain([first] if first else (), self.entries))


def read_manifest(chunks: Iterable[bytes], top_hash: TopHash | None = None) -> Manifest:
    """Read a manifest from the chunks of its file, which may come from anybody.

    Args:
        chunks: the bytes.
        top_hash: the name of the manifest, which its content must have; whoever reads to the end learns of it.

    Raises:
        ManifestError: a line is not what the format says, or the content has another top hash; entries raise it while
            they are read.
    """
    blocks = _blocks(chunks)
    _, block = next(blocks, (1, b""))
    line, _, rest = block.partition(b"\n")
    _check_length(1, line)
    header = _record(1, line)
    header.pop("top_hash", None)  # Obsolete; quilt3 drops it too.
    directories: dict[DirectoryKey, Any] = {}
    reader = _EntryReader(directories, hashlib.sha256(_canonical(1, line, canonical_json, header)), top_hash)
    return Manifest(header, reader.read(itertools.chain([(2, rest)], blocks)), directories)


class _EntryReader:
    """Reads the entries of one manifest, and checks what they are together: their order and their top hash."""

    def __init__(self, directories: dict[DirectoryKey, Any], digest: "hashlib._Hash", top_hash: TopHash | None) -> None:
        self._directories = directories
        self._digest = digest
        self._top_hash = top_hash
        self._previous: LogicalKey | None = None
        self._with_meta: Sequence[DirectoryKey] = ()

    def read(self, blocks: Iterable[tuple[int, bytes]]) -> Iterator[Entry]:
        """Yield the entries of blocks of lines, which come with the number of their first line."""
        for number, block in blocks:
            yield from self._glance(block) or self._examine(number, block)
        if self._top_hash and (found := self._digest.hexdigest()) != self._top_hash:
            raise ManifestError(f"the manifest {self._top_hash} was changed or damaged: its content has the top hash {found}")

    def _glance(self, block: bytes) -> list[Entry] | None:
        """Read a block that is plain and right in every way, many lines at once; None where a closer look is needed."""
        if not _is_plain(block):
            return None
        try:
            entries = _decoder.decode_lines(block)
        except _NO_ENTRY:
            return None
        keys = [entry.logical_key for entry in entries]
        if not is_walk(keys if self._previous is None else [self._previous, *keys]) or not self._fits(keys):
            return None
        self._digest.update(canonical_text(entries))
        self._previous = keys[-1]
        return entries

    def _fits(self, keys: Sequence[LogicalKey]) -> bool:
        """Whether no key is that of a directory that has metadata."""
        try:
            for key in keys if self._directories else ():
                self._check_file(key)
        except LogicalKeyError:
            return False
        return True

    def _examine(self, number: int, block: bytes) -> Iterator[Entry]:
        """Read a block line by line, to tell what is wrong with which."""
        for at, line in enumerate(block.removesuffix(b"\n").split(b"\n") if block else (), number):
            _check_length(at, line)
            try:
                entry = _spelled_as_ours(line) or self._examined(at, line)
                if entry is None:
                    continue
                self._check_order(entry.logical_key)
            except LogicalKeyError as error:
                raise ManifestError(f"line {at}: {error}") from error
            self._digest.update(_canonical(at, line, canonical_entry, entry))
            self._previous = entry.logical_key
            yield entry

    def _examined(self, number: int, line: bytes) -> Entry | None:
        """Read a line as exactly as it gets: an entry, or the metadata of a directory, which is kept."""
        record = _record(number, line)
        if record.get("physical_keys"):
            return _entry(number, record)
        key = _directory(number, record, self._directories if self._previous is None else None)
        _canonical(number, line, canonical_json, record)
        self._directories[key] = record["meta"]
        return None

    def _check_order(self, key: LogicalKey) -> None:
        if self._previous is not None and walk_order(key) < walk_order(self._previous):
            raise LogicalKeyError(f"{key!r} comes after {self._previous!r}; entries are in walk order")
        self._check_file(key)
        check_next(self._previous, key)

    def _check_file(self, key: LogicalKey) -> None:
        if self._previous is None:  # No directory comes after this.
            self._with_meta = sorted(self._directories)
        check_file(key, self._with_meta)


def _is_plain(block: bytes) -> bool:
    """Whether a block is whole lines, each of one record that has the keys of an entry, once, if it has them all."""
    lines = block.count(b"\n")
    is_lines = block[:1] == b"{" and block[-2:] == b"}\n" and block.count(b"}\n{") == lines - 1
    return is_lines and block.count(b'"') == _QUOTES * lines and len(block) <= _MOST_TO_READ


def _spelled_as_ours(line: bytes) -> Entry | None:
    """Read the line of an entry that is spelled as we and quilt3 spell it, which leaves no doubt of what it says."""
    try:
        entry = _decoder.decode(line)
        return entry if entry_line(entry) == line and parse_logical_key(entry.logical_key) else None
    except (*_NO_ENTRY, RecursionError, QuiltError):
        return None


def _directory(number: int, record: Mapping[str, Any], known: Mapping[DirectoryKey, Any] | None) -> DirectoryKey:
    """Return the key of a directory whose metadata a record holds; ``known`` is None where entries have come already."""
    key = parse_directory_key(record.get("logical_key"))
    if known is None or key in known:
        raise LogicalKeyError(f"metadata of {key!r}: it is given once, before all entries")
    if "meta" not in record:
        raise ManifestError(f"line {number}: neither an entry nor the metadata of a directory")
    return key


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
            and 0 <= size <= LARGEST
            and not rest
        ):
            return Entry(parse_logical_key(key), tuple(physical_keys), size, Hash(kind, value), meta or {})
    raise ManifestError(
        f"line {number}: not an entry with logical_key, physical_keys, size (from 0 to 2**63 - 1), hash (type and value) and meta"
    )


def _canonical(number: int, line: bytes, spell: Callable[[R], str], record: R) -> bytes:
    try:
        if b"\\ud" in line.lower():  # Half a surrogate pair can be read, and not be written.
            json.dumps(_read_json(line.decode()), ensure_ascii=False).encode()
        return spell(record).encode()
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"line {number}: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return record


_decoder = msgspec.json.Decoder(Entry)
_read_json = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse).decode


def _record(number: int, line: bytes) -> dict[str, Any]:
    try:
        record = _read_json(line.decode())
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"line {number}: {error}") from error
    if not isinstance(record, dict):
        raise ManifestError(f"line {number}: expected a JSON object")
    return record


def _blocks(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, many at a time, and the number of the first one; only the last line may lack its newline."""
    number, rest = 1, b""
    for chunk in chunks:
        for start in range(0, len(chunk), _PIECE):
            rest += chunk[start : start + _PIECE]
            if end := rest.rfind(b"\n") + 1:
                yield number, rest[:end]
                number, rest = number + rest.count(b"\n"), rest[end:]
            _check_length(number, rest)
    if rest:
        yield number, rest


def _check_length(number: int, line: bytes) -> None:
    if len(line) > _MOST_TO_READ:
        raise ManifestError(f"line {number}: longer than {_MOST_TO_READ:,} bytes")
