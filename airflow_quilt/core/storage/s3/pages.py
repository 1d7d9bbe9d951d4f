"""Pages of listings: they end, also those of a hostile store."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from airflow_quilt.core.errors import StorageError, quoted
from airflow_quilt.core.format.uris import MAX_S3_KEY, PhysicalKey
from airflow_quilt.core.storage.s3.fields import LONGEST_FIELD, MOST_BYTES

_MOST_EMPTY: Final = 10_000
"""Pages without an item in a row; S3 sends some where there are many delete markers, 1000 to a page."""


class Pages:
    """The pages of one listing.

    Args:
        location: of the listing, for messages.
        most: the most pages; None for any number.
    """

    def __init__(self, location: PhysicalKey, most: int | None = None) -> None:
        self._location = location
        self._most = most
        self._seen = set[bytes]()
        self._count = self._empty = 0

    def check(self, following: Mapping[str, Any], items: Sequence[Any]) -> None:
        """Check a page that has another one after it.

        Args:
            following: the parameters that name the next page.
            items: the items of this one.

        Raises:
            StorageError: the listing repeats a page, goes on without an item, or is longer than any.
        """
        self._count += 1
        self._empty = 0 if items else self._empty + 1
        marks = {_digest("next", sorted(following.items()))}
        if items:
            marks.add(_digest("items", (len(items), _name(items[0]), _name(items[-1]))))
        is_repeated = bool(marks & self._seen)
        self._seen |= marks
        if not following or is_repeated or self._empty > _MOST_EMPTY or (self._most is not None and self._count > self._most):
            raise StorageError("a listing breaks off, or repeats itself, and does not name its next page", str(self._location))


def check_items(prefix: PhysicalKey, items: Sequence[Any], directories: Sequence[str]) -> None:
    """Check the items of a page of a listing; for all at once, as it is done for each key of a bucket.

    Args:
        prefix: the prefix that is listed.
        items: the objects or versions.
        directories: the prefixes that stand for the keys below them.

    Raises:
        StorageError: a key is not below the prefix, or an item is none that a store can have.
    """
    if not (keys := [*(item["Key"] for item in items), *directories]):
        return
    # The first and the last of all in order: whatever lies between them has their common prefix.
    if (odd := next((key for key in (min(keys), max(keys)) if not key.startswith(prefix.key)), None)) is not None:
        raise StorageError(f"a listing of the store names {quoted(odd)}, which is not below this prefix", str(prefix))
    if len(longest := max(keys, key=len)) > MAX_S3_KEY:
        raise StorageError(f"a listing of the store names {quoted(longest)}, longer than any key", str(prefix))
    sizes, etags = [item["Size"] for item in items], [item["ETag"] for item in items]
    if items and not (min(sizes) >= 0 and max(sizes) < MOST_BYTES and max(map(len, etags)) <= LONGEST_FIELD):
        raise StorageError("a listing of the store has an item without a true size or ETag", str(prefix))


def _name(item: Any) -> object:
    """Return the fields that identify an item, of any kind of listing."""
    return [item.get(field) for field in ("Key", "VersionId", "Prefix", "UploadId", "PartNumber")]


def _digest(kind: str, value: object) -> bytes:
    return blake2b(f"{kind} {value!r}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
