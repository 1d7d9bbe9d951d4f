"""Reads what a user wrote for ``entries``; looks at no file.

A string is always a location, never content. A key that ends in ``/`` is a directory; the whole package is the
directory ``""``.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import unquote

from airflow_quilt.core.errors import QuiltError, SourceError
from airflow_quilt.core.format.metadata import check_meta
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey, parse_logical_key
from airflow_quilt.core.format.uris import PhysicalKey, QuiltUri
from airflow_quilt.core.sources.serializers import is_frame, is_json_key, write_frame, write_json
from airflow_quilt.core.storage.paths import resolve_location

_SOURCE_KEYS: Final = frozenset({"path", "content", "meta"})


@dataclass(frozen=True, slots=True)
class Located:
    """A source that lies somewhere, and the logical key or directory that it is for; whether it is a file is open.

    ``name`` is what a file is called that lands in a directory by its base name.
    """

    key: str
    location: PhysicalKey | QuiltUri
    meta: Mapping[str, Any]
    name: str

    @property
    def is_for_file(self) -> bool:
        """Whether the user gave a file's key, not a directory's."""
        return not _is_directory(self.key)


@dataclass(frozen=True, slots=True)
class Content:
    """A source that is content, as the bytes of its file."""

    key: LogicalKey
    data: bytes
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DirectoryMeta:
    """Metadata of a directory of the package, by itself."""

    key: DirectoryKey
    meta: Mapping[str, Any]


Request = Located | Content | DirectoryMeta


def parse_entries(entries: object) -> Iterator[Request]:
    """Read ``entries``: a mapping of logical keys to sources, or one source for the whole package.

    Raises:
        SourceError: a source is nothing that can be published; the message names its key.
        LogicalKeyError: a key is not one.
        MetadataError: the metadata of an entry is not a JSON object.
    """
    for key, source in _by_key(entries):
        yield from _parse(_parse_key(key), source, {})


def remote_locations(entries: object) -> Iterator[PhysicalKey | QuiltUri]:
    """Yield the objects, prefixes and packages among the sources of ``entries``; content is not turned into bytes.

    Raises:
        LocationError: an URL is malformed; :func:`parse_entries` says of which key.
        LogicalKeyError: a key is not one.
    """
    for key, source in _by_key(entries):
        for text in _texts(_parse_key(key), source):
            if text.startswith("quilt+"):
                yield QuiltUri.parse(text)
            elif text.startswith("s3:"):
                yield PhysicalKey.parse(text)


def _by_key(entries: object) -> Iterable[tuple[object, object]]:
    return entries.items() if isinstance(entries, Mapping) and not _has_source_keys(entries) else [("", entries)]


def _texts(key: str, source: object) -> Iterator[str]:
    """Yield the paths and URLs of a source that are given as text."""
    match source:
        case str():
            yield source
        case Mapping() if _has_source_keys(source):
            yield from _texts(key, source.get("path"))
        case Sequence() if _is_directory(key) and not isinstance(source, bytes | bytearray | memoryview):
            for item in source:
                yield from _texts(key, item)


def _parse_key(key: object) -> str:
    if not isinstance(key, str):
        raise SourceError(f"entry {key!r}: a logical key is text, not {type(key).__name__}")
    if key in {"", "/"}:
        return ""
    return parse_logical_key(key.removesuffix("/")) + ("/" if key.endswith("/") else "")


def _parse(key: str, source: object, meta: Mapping[str, Any]) -> Iterator[Request]:
    match source:
        case None:
            raise SourceError(f"entry {key!r}: its source is None; does the task that it comes from return a value?")
        case str():
            yield _located(key, source, meta)
        case os.PathLike():
            yield _located(key, _path(key, source), meta)
        case Mapping() if _has_source_keys(source):
            yield from _parse_described(key, source)
        case Mapping() if key.endswith("/") and source.keys() == {"meta"}:
            yield DirectoryMeta(DirectoryKey(key), check_meta(source["meta"], f"entry {key!r}: meta"))
        case Sequence() if _is_directory(key) and not isinstance(source, bytes | bytearray | memoryview):
            for item in source:
                yield from _parse(key, item, meta)
        case _:
            data = _content(LogicalKey(key), source)
            yield Content(_file_key(key), data, meta)


def _has_source_keys(source: Mapping[Any, Any]) -> bool:
    return source.keys() <= _SOURCE_KEYS and bool(source.keys() & {"path", "content"})


def _parse_described(key: str, source: Mapping[str, Any]) -> Iterator[Request]:
    if "path" in source and "content" in source:
        raise SourceError(f"entry {key!r}: give path or content, not both")
    user_meta = source.get("meta")
    meta = {} if user_meta is None else {"user_meta": check_meta(user_meta, f"entry {key!r}: meta")}
    if "path" in source:
        path = source["path"]
        if not isinstance(path, str | os.PathLike):
            raise SourceError(f"entry {key!r}: expected path to be a path or URL, got {_describe(path)}")
        yield from _parse(key, path, meta)
    else:
        yield Content(_file_key(key), _described_content(_file_key(key), source["content"]), meta)


def _described_content(key: LogicalKey, content: object) -> bytes:
    """Return content that was named as such: here a text is content, and None is JSON's null."""
    if isinstance(content, str):
        try:
            return content.encode()
        except UnicodeEncodeError as error:
            raise SourceError(f"entry {key!r}: its content is not valid Unicode text") from error
    return b"null" if content is None and is_json_key(key) else _content(key, content)


def _content(key: LogicalKey, value: object) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if is_frame(value):
        return write_frame(_file_key(key), value)
    if is_json_key(key) and isinstance(value, Mapping | Sequence | int | float):
        return write_json(key, value)
    raise SourceError(
        f"entry {key!r}: {_describe(value)} is no source; expected a path or URL, content as bytes, a data frame, "
        "or a JSON value under a key that ends in .json"
    )


def _located(key: str, text: str, meta: Mapping[str, Any]) -> Located:
    try:
        if text.startswith("quilt+"):
            return Located(key, QuiltUri.parse(text), meta, "")
        location = resolve_location(text)
    except QuiltError as error:
        raise SourceError(f"entry {key!r}: {error}") from error
    # A link to a file lends it its name, although the physical key is that of the file.
    path = unquote(text) if text.startswith("file:") else text
    return Located(key, location, meta, PurePosixPath(path).name if location.is_local else location.name)


def _path(key: str, source: "os.PathLike[Any]") -> str:
    path = os.fspath(source)
    if not isinstance(path, str):
        raise SourceError(f"entry {key!r}: the path {path!r} is bytes, not text")
    return path


def _is_directory(key: str) -> bool:
    return not key or key.endswith("/")


def _file_key(key: str) -> LogicalKey:
    if _is_directory(key):
        why = "this is a directory" if key else "such as {'data.parquet': …}"
        raise SourceError(f"entry {key!r}: content needs the key of a file, {why}")
    return LogicalKey(key)


def _describe(source: object) -> str:
    kind = type(source).__name__
    return f"a list of {len(source)}" if isinstance(source, list) else f"a value of type {kind}"
