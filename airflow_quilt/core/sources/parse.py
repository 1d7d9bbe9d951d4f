"""Parses ``entries`` into logical keys and their sources; serializes no content.

A string is always a location, never content. A key that ends in ``/`` is a directory; the whole package is the
directory ``/``. In the key of a list, ``{index}`` stands for the number of each source.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, TypeGuard
from urllib.parse import unquote

import msgspec

from airflow_quilt.core.errors import QuiltError, SourceError, quoted
from airflow_quilt.core.format.arguments import check_location
from airflow_quilt.core.format.metadata import check_meta
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey, is_quilt_uri, parse_logical_key
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.sources.serializers import is_frame, is_json_key

if TYPE_CHECKING:
    from airflow_quilt.core.format.quilt_uri import QuiltUri

_SOURCE_KEYS: Final = frozenset({"path", "content", "meta"})
_END: Final = object()
_NOTHING: Final = ": a task may have returned nothing, or was skipped"
_WEB: Final = ("http:", "https:", "ftp:")
_MOST_KNOWN: Final = 1000
INDEX: Final = "{index}"
"""Stands in the key of a list for the number of each source in it, counted from 0."""


class LocationSource(msgspec.Struct, frozen=True):
    """A source at a location, which may turn out to be a file or a directory.

    Attributes:
        key: the logical key of a file, or the directory that receives it.
        location: an object or prefix on S3, a local path, or a package.
        meta: the metadata of the entry, as in a manifest.
        name: the base name under which a file lands in a directory.
        given: the location as the user wrote it, for messages.
    """

    key: str
    location: "PhysicalKey | QuiltUri"
    meta: Mapping[str, Any]
    name: str
    given: str

    @property
    def is_for_file(self) -> bool:
        """Whether the user gave a file's key, not a directory's."""
        return not _is_directory(self.key)


class ContentSource(msgspec.Struct, frozen=True):
    """A source that is content, for :func:`airflow_quilt.core.sources.serializers.serialize`."""

    key: LogicalKey
    content: object
    meta: Mapping[str, Any]


class DirectoryMeta(msgspec.Struct, frozen=True):
    """Metadata of a directory of the package, by itself."""

    key: DirectoryKey
    meta: Mapping[str, Any]


ParsedSource = LocationSource | ContentSource | DirectoryMeta


def parse_entries(entries: object) -> Iterator[ParsedSource]:
    """Parse ``entries``: a mapping of logical keys to sources, or one source for the whole package.

    Raises:
        SourceError: a source cannot be published; the message names its key.
        LogicalKeyError: a key is malformed.
        MetadataError: the metadata of an entry is not a JSON object.
    """
    # Only here: a DAG file is checked without the room of the stores.
    from airflow_quilt.core.storage.paths import resolve_location  # noqa: PLC0415

    return (_parse(key, source, resolve_location) for key, source in _flatten(entries))


def parse_known(entries: object, is_known: Callable[[object], bool]) -> Iterator[ParsedSource]:
    """Parse ``entries`` as far as they are known before a task runs, at most the first thousand keys.

    Reads no disk: a path stays as it is written. Checks no content.

    Args:
        entries: as for :func:`parse_entries`, in lists and dicts.
        is_known: whether a value is known already; of a described source, both path and metadata are.

    Raises:
        SourceError: as for :func:`parse_entries`.
        LogicalKeyError: a key is malformed.
        MetadataError: the metadata of an entry is not a JSON object.
    """
    by_key = entries if _is_by_key(entries) else {"/": entries}
    for key, source in itertools.islice(by_key.items(), _MOST_KNOWN):
        if is_known(key):
            own_key = _parse_key(key).replace(INDEX, "0")
            takes_list = INDEX in key or _is_directory(own_key)
            for each in _given(source) if takes_list else [source]:
                if is_known(each):
                    yield _parse(own_key, each, _checked_location)
        elif source is None:
            yield _parse(key, source, _checked_location)


def _given(source: object) -> Iterator[object]:
    """Yield the sources of lists in lists, as they stand in a DAG file; any other sequence is read when the task runs."""
    if isinstance(source, list | tuple):
        for each in source:
            yield from _given(each)
    else:
        yield source


def _checked_location(text: str) -> PhysicalKey:
    return check_location(text) or PhysicalKey.of_path(f"/{text}")


def remote_locations(entries: object) -> "Iterator[PhysicalKey | QuiltUri]":
    """Yield the objects, prefixes and packages among the sources of ``entries``, for lineage.

    Reads no disk. Skips sources that publishing refuses.

    Raises:
        SourceError: a key is not a ``str``.
        LogicalKeyError: a key is malformed.
    """
    for key, source in _flatten(entries):
        try:
            parsed = _parse(key, source, PhysicalKey.parse)  # It refuses relative paths, which are not remote.
        except QuiltError:
            continue
        if isinstance(parsed, LocationSource) and not (isinstance(parsed.location, PhysicalKey) and parsed.location.is_local):
            yield parsed.location


def _flatten(entries: object) -> Iterator[tuple[str, object]]:
    """Yield each source with its key; a list under a directory, or under a key with ``{index}``, is a list of sources."""
    by_key = entries if _is_by_key(entries) else {"/": entries}
    for given, source in by_key.items():
        key = _parse_key(given)
        for own_key, each in _numbered(key, source) if INDEX in key and _is_list(source) else [(key, source)]:
            for item in _items(each) if _is_directory(key) else (each,):
                yield own_key, item


def _is_by_key(entries: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(entries, Mapping) and not has_source_keys(entries)


def _numbered(key: str, sources: Sequence[object]) -> Iterator[tuple[str, object]]:
    for index, source in enumerate(sources):
        yield key.replace(INDEX, str(index)), source


def _is_list(source: object) -> TypeGuard[Sequence[object]]:
    return isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray | memoryview | os.PathLike)


def _items(source: object) -> Iterator[object]:
    """Yield the sources of lists in lists; without recursion, as results of other tasks may be nested to any depth."""
    rest = [iter([source])]
    while rest:
        item = next(rest[-1], _END)
        if item is _END:
            rest.pop()
        elif _is_list(item):
            rest.append(iter(item))
        else:
            yield item


def _parse_key(key: object) -> str:
    if not isinstance(key, str):
        raise SourceError(f"{where_of(key)}: give the logical key as a str; it is {type(key).__name__}")
    if key == "/":
        return ""
    if not key:
        raise SourceError("entry '': a logical key is empty; name a file or directory, or write '/' for the package as a whole")
    return parse_logical_key(key.removesuffix("/")) + ("/" if key.endswith("/") else "")


def _parse(key: str, source: object, resolve: Callable[[str], PhysicalKey]) -> ParsedSource:
    match source:
        case None:
            raise SourceError(f"{where_of(key)}: give a source; it is None{_NOTHING}")
        case str() | os.PathLike():
            return _parse_location(key, source, {}, resolve)
        case Mapping() if has_source_keys(source):
            return _parse_described(key, source, resolve)
        case Mapping() if key.endswith("/") and source.keys() == {"meta"}:
            return DirectoryMeta(DirectoryKey(key), check_meta(source["meta"], f"{where_of(key)}: meta"))
    return _parse_content(key, source, {})


def where_of(key: object) -> str:
    """Return the name of a source in messages: its entry, or the argument where it is the source of the whole package."""
    return "entries" if key == "" else f"entry {quoted(key)}"


def has_source_keys(source: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a source with metadata, and not the value of a JSON file."""
    return source.keys() <= _SOURCE_KEYS and bool(source.keys() & {"path", "content"})


def _parse_described(key: str, source: Mapping[str, Any], resolve: Callable[[str], PhysicalKey]) -> ParsedSource:
    if "path" in source and "content" in source:
        raise SourceError(f"{where_of(key)}: give path or content, not both")
    user_meta = source.get("meta")
    meta = {} if user_meta is None else {"user_meta": check_meta(user_meta, f"{where_of(key)}: meta")}
    if "content" in source:
        return _parse_content(_file_key(key), source["content"], meta)
    path = source["path"]
    if not isinstance(path, str | os.PathLike):
        raise SourceError(
            f"{where_of(key)}: give a path or URL as path; it is {_describe(path)}{_NOTHING if path is None else ''}"
        )
    return _parse_location(key, path, meta, resolve)


def _parse_location(
    key: str, source: "str | os.PathLike[Any]", meta: Mapping[str, Any], resolve: Callable[[str], PhysicalKey]
) -> LocationSource:
    text = os.fspath(source)
    if not isinstance(text, str):
        raise SourceError(f"{where_of(key)}: give the path {quoted(text)} as a str; it is bytes")
    try:
        if is_quilt_uri(text):
            from airflow_quilt.core.format.quilt_uri import QuiltUri  # noqa: PLC0415  (few entries need it)

            return LocationSource(key, QuiltUri.parse(text), meta, "", text)
        location = resolve(text)
    except QuiltError as error:
        cure = "; download it first, to a file or an object" if text.lower().startswith(_WEB) else ""
        raise SourceError(f"{where_of(key)}: {error}{cure}") from error
    # A link to a file lends it its name, although the physical key is that of the file.
    path = unquote(text) if text.startswith("file:") else text
    name = PurePosixPath(path).name if location.is_local else location.name
    return LocationSource(key, location, meta, name, text)


def _parse_content(key: str, value: object, meta: Mapping[str, Any]) -> ContentSource:
    """Check the type of content; ``str`` and None get here only if they were described as content."""
    is_json = is_json_key(key) and (value is None or isinstance(value, Mapping | Sequence | int | float))
    if is_json or isinstance(value, str | bytes | bytearray | memoryview) or is_frame(value):
        return ContentSource(_file_key(key), value, meta)
    raise SourceError(
        f"{where_of(key)}: give a path or URL, content as bytes, a data frame, or a JSON value under a key that ends in "
        f".json{_meant(value)}; {_describe(value)} is no source"
    )


def _meant(value: object) -> str:
    """Return the forms that may have been meant by a value that is no source, for its message."""
    if isinstance(value, AbstractSet):
        return ", or a list, which has an order"
    if isinstance(value, Mapping):
        others = [key for key in value if key not in _SOURCE_KEYS]
        wrong = f", without {quoted(others[0])}" if others and len(others) < len(value) else ""
        return f", or a dict of path or content, and meta{wrong}"
    return ", or end the key in '/', or number its sources, as in 'part-{index}.csv'" if _is_list(value) else ""


def _is_directory(key: str) -> bool:
    return not key or key.endswith("/")


def _file_key(key: str) -> LogicalKey:
    if _is_directory(key):
        why = f"this is a directory; for a list of content give a key such as '{key}{INDEX}.csv'" if key else "as in {'a.csv': …}"
        raise SourceError(f"{where_of(key)}: content needs the key of a file, {why}")
    return LogicalKey(key)


def _describe(source: object) -> str:
    kind = type(source).__name__
    return f"a list of {len(source)}" if isinstance(source, list) else f"a value of type {kind}"
