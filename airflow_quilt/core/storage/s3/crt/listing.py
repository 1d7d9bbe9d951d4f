"""Listings of S3 stores, read from the bytes of an answer without an object for each of its elements.

boto3 makes a tree of each answer first, some ten objects for each key, which outlive a collection of garbage while the page is
read: so every few pages Python goes through all that a process holds, and everything in it stands still meanwhile.

The elements are those of the Amazon S3 API Reference, ListObjectsV2 and ListObjectVersions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote_plus
from xml.parsers.expat import ExpatError, ParserCreate

_ITEM: Final = 2
"""How deep the elements of a listing lie that are its items, or tell of the page; those of an item lie one deeper."""

_PARAMETERS: Final[Mapping[str, str]] = {
    "Prefix": "prefix",
    "StartAfter": "start-after",
    "ContinuationToken": "continuation-token",
    "KeyMarker": "key-marker",
    "VersionIdMarker": "version-id-marker",
}
"""What boto3's parameters are called in the query; the bucket stands in the address."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A kind of listing.

    Attributes:
        operation: its name.
        query: what asks for it.
        root: the element that is an answer.
        item: that of an item.
        field: what boto3 calls the items.
        needs: what each item must have.
        markers: what asks for the page that follows, and the field that tells it.
    """

    operation: str
    query: Mapping[str, str]
    root: str
    item: str
    field: str
    needs: frozenset[str]
    markers: Mapping[str, str]

    def asking(self, request: Mapping[str, str]) -> dict[str, str]:
        """Return the query for what boto3's parameters ask for; names come encoded, since XML cannot have all of them."""
        own = {_PARAMETERS[name]: value for name, value in request.items() if name in _PARAMETERS}
        return {**self.query, "encoding-type": "url", **own}

    def onward(self, page: Mapping[str, Any]) -> dict[str, str]:
        """Return boto3's parameters for the page that follows; none where the page does not tell."""
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
    """Return the fields of boto3's answer, those that somebody looks at; None if the bytes are not such a page."""
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


_OF_ITEMS: Final[Mapping[str, Callable[[str], Any]]] = {
    "Key": str,
    "VersionId": str,
    "IsLatest": _is_true,
    "LastModified": _time,
    "ETag": str,
    "Size": int,
}
_OF_PAGES: Final[Mapping[str, Callable[[str], Any]]] = {
    "IsTruncated": _is_true,
    "NextContinuationToken": str,
    "NextKeyMarker": str,
    "NextVersionIdMarker": str,
    "EncodingType": str,
}
_ENCODED: Final = frozenset({"Key", "NextKeyMarker"})


class _Reader:
    """Takes what the parser meets."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._depth, self._text, self._root = 0, "", ""
        self._page: dict[str, Any] = {}
        self._item: dict[str, Any] = {}
        self._items: list[dict[str, Any]] = []

    def read(self, data: bytes) -> None:
        parser = ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.CharacterDataHandler = self._take
        parser.EndElementHandler = self._end
        parser.Parse(data, True)  # noqa: FBT003

    def page(self) -> dict[str, Any]:
        """Return the page.

        Raises:
            ValueError: it is none, or something is missing in it.
        """
        if self._root != self._listing.root or not all(map(self._is_whole, self._items)):
            raise ValueError(f"no {self._listing.root}, or one that lacks something")
        if self._page.get("IsTruncated") and not self._listing.onward(self._page):
            raise ValueError("it does not say where it goes on")
        if self._page.pop("EncodingType", None) == "url":
            for fields in (self._page, *self._items):
                for name in _ENCODED & fields.keys():
                    fields[name] = unquote_plus(fields[name])
        return {**self._page, self._listing.field: self._items}

    def _is_whole(self, item: Mapping[str, Any]) -> bool:
        return self._listing.needs <= item.keys() and item["Size"] >= 0

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type, which no listing has")

    def _start(self, name: str, _: Mapping[str, str]) -> None:
        self._depth += 1
        self._text = ""
        if self._depth == 1:
            self._root = name

    def _take(self, text: str) -> None:
        self._text += text

    def _end(self, name: str) -> None:
        if self._depth == _ITEM + 1 and name in _OF_ITEMS:
            self._item[name] = _OF_ITEMS[name](self._text)
        elif self._depth == _ITEM:
            if name == self._listing.item:
                self._items.append(self._item)
            elif name in _OF_PAGES:
                self._page[name] = _OF_PAGES[name](self._text)
            self._item = {}
        self._depth -= 1
