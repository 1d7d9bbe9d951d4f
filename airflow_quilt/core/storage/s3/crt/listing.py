"""Listings of S3 stores, parsed without an object for each XML element.

boto3 makes a tree of each answer first, some ten objects for each key, which outlive a collection of garbage while the page is
read: so every few pages Python's collector goes through all objects of the process, and all of its threads wait meanwhile.

The elements are those of the Amazon S3 API Reference, ListObjectsV2 and ListObjectVersions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote_plus
from xml.parsers.expat import ExpatError, ParserCreate

_ITEM: Final = 2
"""The depth of the elements that are items, or fields of the page; the fields of an item lie one deeper."""

_PARAMETERS: Final[Mapping[str, str]] = {
    "Prefix": "prefix",
    "Delimiter": "delimiter",
    "StartAfter": "start-after",
    "ContinuationToken": "continuation-token",
    "KeyMarker": "key-marker",
    "VersionIdMarker": "version-id-marker",
}
"""The names that boto3's parameters have in the query; the bucket is in the address."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A kind of listing.

    Attributes:
        operation: its name in the S3 API.
        query: the parameters of the URL that select it.
        root: the root element of an answer.
        item: the element of an item.
        field: boto3's name for the items.
        needs: the fields that each item must have.
        markers: boto3's parameters for the next page, and the fields of this page that hold their values.
    """

    operation: str
    query: Mapping[str, str]
    root: str
    item: str
    field: str
    needs: frozenset[str]
    markers: Mapping[str, str]

    def query_of(self, request: Mapping[str, str]) -> dict[str, str]:
        """Return the query for boto3's parameters; keys come URL-encoded, since XML cannot hold all of them."""
        own = {_PARAMETERS[name]: value for name, value in request.items() if name in _PARAMETERS}
        return {**self.query, "encoding-type": "url", **own}

    def next_page(self, page: Mapping[str, Any]) -> dict[str, str]:
        """Return boto3's parameters for the page after this one; none where this one does not name it."""
        return {marker: page[field] for marker, field in self.markers.items() if page.get(field)}


OBJECTS: Final = Listing(
    operation="ListObjectsV2",
    query={"list-type": "2"},
    root="ListBucketResult",
    item="Contents",
    field="Contents",
    needs=frozenset({"Key", "Size", "ETag"}),
    markers={"ContinuationToken": "NextContinuationToken"},
)
VERSIONS: Final = Listing(
    operation="ListObjectVersions",
    query={"versions": ""},
    root="ListVersionsResult",
    item="Version",
    field="Versions",
    needs=frozenset({"Key", "Size", "ETag", "IsLatest"}),
    markers={"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"},
)


def page_of(data: bytes, listing: Listing) -> dict[str, Any] | None:
    """Return the fields of boto3's answer that are used here; None if the bytes are not such a page."""
    reader = _Reader(listing)
    try:
        reader.read(data)
        return reader.page()
    except (ExpatError, ValueError):
        return None


def _is_true(text: str) -> bool:
    return text == "true"


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


_ITEM_FIELDS: Final[Mapping[str, Callable[[str], Any]]] = {
    "Key": str,
    "Prefix": str,
    "VersionId": str,
    "IsLatest": _is_true,
    "LastModified": _time,
    "ETag": str,
    "Size": int,
}
_PAGE_FIELDS: Final[Mapping[str, Callable[[str], Any]]] = {
    "IsTruncated": _is_true,
    "NextContinuationToken": str,
    "NextKeyMarker": str,
    "NextVersionIdMarker": str,
    "EncodingType": str,
}
_ENCODED: Final = frozenset({"Key", "Prefix", "NextKeyMarker"})
_PREFIXES: Final = "CommonPrefixes"
"""The element, and boto3's field, of the prefixes that a listing with a delimiter has instead of the keys below them."""


class _Reader:
    """The handlers of the XML parser, and the page that they build."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._depth, self._text, self._root = 0, "", ""
        self._page: dict[str, Any] = {}
        self._item: dict[str, Any] = {}
        self._items: list[dict[str, Any]] = []
        self._prefixes: list[dict[str, Any]] = []

    def read(self, data: bytes) -> None:
        """Parse an answer."""
        parser = ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._on_start
        parser.CharacterDataHandler = self._on_text
        parser.EndElementHandler = self._on_end
        parser.Parse(data, True)  # noqa: FBT003

    def page(self) -> dict[str, Any]:
        """Return the page.

        Raises:
            ValueError: it is not of this kind, or lacks a field.
        """
        are_whole = all(map(self._is_whole, self._items)) and all("Prefix" in item for item in self._prefixes)
        if self._root != self._listing.root or not are_whole:
            raise ValueError(f"no {self._listing.root}, or one that lacks fields")
        if self._page.get("IsTruncated") and not self._listing.next_page(self._page):
            raise ValueError("it does not name the next page")
        if self._page.pop("EncodingType", None) == "url":
            for fields in (self._page, *self._items, *self._prefixes):
                for name in _ENCODED & fields.keys():
                    fields[name] = unquote_plus(fields[name])
        prefixes = {_PREFIXES: self._prefixes} if self._prefixes else {}
        return {**self._page, self._listing.field: self._items, **prefixes}

    def _is_whole(self, item: Mapping[str, Any]) -> bool:
        return self._listing.needs <= item.keys() and item["Size"] >= 0

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type, which no listing has")

    def _on_start(self, name: str, _: Mapping[str, str]) -> None:
        self._depth += 1
        self._text = ""
        if self._depth == 1:
            self._root = name

    def _on_text(self, text: str) -> None:
        self._text += text

    def _on_end(self, name: str) -> None:
        if self._depth == _ITEM + 1 and name in _ITEM_FIELDS:
            self._item[name] = _ITEM_FIELDS[name](self._text)
        elif self._depth == _ITEM:
            if name == self._listing.item:
                self._items.append(self._item)
            elif name == _PREFIXES:
                self._prefixes.append(self._item)
            elif name in _PAGE_FIELDS:
                self._page[name] = _PAGE_FIELDS[name](self._text)
            self._item = {}
        self._depth -= 1
