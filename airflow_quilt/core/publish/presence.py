"""Presence of the objects that entries name, checked with few requests however many entries there are.

A few objects are requested one by one, all at once. For more, the current versions below their common prefix are listed; and what
the listing does not show, such as older versions, is requested, many at once.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Final, Self

import msgspec

from airflow_quilt.core.errors import AccessDeniedError, EntryDamagedError, quoted
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import merge_join
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.progress import count
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.runtime.threads import map_concurrently
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.stores import Stores

_log = logging.getLogger(__name__)

_VERSIONS: Final = 4
"""Versions of objects, for each one that is looked for, up to which listing them costs less than a request for each."""
PAGE: Final = 1000
"""Versions that one request lists."""
_FEW: Final = 16
"""Objects that are requested one by one; more are listed first."""
_SHOWN: Final = 10
"""The most entries that a message lists."""


class _Place(msgspec.Struct, frozen=True, gc=False):
    """The location of an entry, or of a listed object; sorted by bucket and key, which stand in ``logical_key``."""

    logical_key: LogicalKey
    key: PhysicalKey
    size: int
    entry: str = ""

    @classmethod
    def of(cls, key: PhysicalKey, size: int, entry: str = "") -> Self:
        return cls(LogicalKey(f"{key.bucket}/{key.key}"), key, size, entry)

    def is_at(self, other: "_Place | ObjectInfo | None") -> bool:
        """Return whether an object is the one that is named here: at its version, or any of its size where it names none."""
        if other is None or other.size != self.size:
            return False
        return self.key == (other.key if self.key.version_id is not None else other.key.at_version(None))


class PresenceCheck:
    """A check that the objects and files of entries are there, with their sizes.

    An object that these credentials may not see counts as present; a warning counts them.

    Args:
        stores: hold the objects and files.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._denied: list[str] = []
        self._prefixes: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def run(self, entries: Iterable[Entry]) -> None:
        """Check entries.

        Raises:
            EntryDamagedError: some objects are gone, or have other sizes; the message names them.
            LocationError: a physical key is malformed.
            CancelledError: the check was stopped.
            StorageError: a store failed.
        """
        limits = self._stores.limits
        with Spool[_Place](_Place, limits.spill_entries) as places, Spool[_Place](_Place, limits.spill_entries) as listed:
            places.extend(self._places(entries))
            if len(places) > min(_FEW, limits.max_concurrency):
                listed.extend(self._listed())
            checked = map_concurrently(self._check, _unlisted(places, listed), limits.max_concurrency)
            missing, first = 0, []
            for place in filter(None, checked):
                missing += 1
                first += [f"{quoted(place.entry)}: {place.key}"] if missing <= _SHOWN else []
        if self._denied:
            _log.warning(
                "Access is denied to %s, so their presence is not checked", count(len(self._denied), "object", "objects")
            )
        if missing:
            raise EntryDamagedError(
                "push the files again, or remove the entries: "
                f"{count(missing, 'entry names an object that is', 'entries name objects that are')} gone or overwritten\n"
                + "\n".join(first)
            )

    def _places(self, entries: Iterable[Entry]) -> Iterator[_Place]:
        """Yield the locations of entries; note the common prefix, and the number, of those in each bucket."""
        for entry in entries:
            key = PhysicalKey.parse(entry.physical_keys[0])
            if key.bucket is not None:
                prefix = self._prefixes.get(key.bucket, key.key)
                while not key.key.startswith(prefix):  # Up to the directory above.
                    prefix = prefix[: prefix.rfind("/", 0, len(prefix) - 1) + 1]
                self._prefixes[key.bucket] = prefix
                self._numbers[key.bucket] = self._numbers.get(key.bucket, 0) + 1
            yield _Place.of(key, entry.size, entry.logical_key)

    def _listed(self) -> Iterator[_Place]:
        for bucket, prefix in self._prefixes.items():
            try:
                for info in list_current(self._stores, PhysicalKey(bucket, prefix), self._numbers[bucket]):
                    yield _Place.of(info.key, info.size)
            except AccessDeniedError as error:  # Then each is requested.
                if error.transient:
                    raise

    def _check(self, place: _Place) -> _Place | None:
        """Return a location that no object is at."""
        try:
            return None if place.is_at(self._stores.find(place.key)) else place
        except AccessDeniedError as error:
            if error.transient:
                raise
            self._denied.append(place.entry)
            return None


def list_current(stores: Stores, prefix: PhysicalKey, objects: int) -> Iterator[ObjectInfo]:
    """List the current versions below a prefix where so many objects are looked for, while it costs less than their requests."""
    return stores.remote.list_versions(prefix, _VERSIONS * objects + PAGE)


def _unlisted(places: Iterable[_Place], listed: Iterable[_Place]) -> Iterator[_Place]:
    """Yield the locations that no listed object is at; several entries may share one."""
    last = None
    for place, found in merge_join(places, listed):
        last = found or last
        if place and not place.is_at(last):
            yield place
