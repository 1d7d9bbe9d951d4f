"""Reading of a registry: its packages, their revisions, and the entries of these."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import PurePosixPath
from typing import Final

import pendulum

from airflow_quilt.core.errors import (
    EntryNotFoundError,
    LocationError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PackageNotFoundError,
    QuiltError,
    StorageError,
    quoted,
)
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.diff import Change, compare
from airflow_quilt.core.format.hashes import verify_stream
from airflow_quilt.core.format.hints import did_you_mean, nearest
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.manifest_reader import Manifest
from airflow_quilt.core.format.names import PackageName, TopHash, check_pattern, is_name_part, matches
from airflow_quilt.core.format.quilt_uri import Pin
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.registry.manifests import Manifests
from airflow_quilt.core.registry.pointer_reader import PointerReader
from airflow_quilt.core.registry.resolve import resolve
from airflow_quilt.core.registry.revisions import Latest, PointerListing, Revision
from airflow_quilt.core.runtime.threads import map_concurrently
from airflow_quilt.core.storage.objects import StoredObject
from airflow_quilt.core.storage.stores import Stores

_MOST_NAMES: Final = 1000
"""The most names of packages that are listed for a hint: one page."""
_MOST_KEYS: Final = 10_000


class RegistryReader:
    """The half of :class:`~airflow_quilt.core.registry.registry.Registry` that changes nothing.

    Args:
        location: the bucket or directory.
        stores: the storages for it and for the sources of packages.
    """

    def __init__(self, location: RegistryLocation, stores: Stores) -> None:
        self.location = location
        self.stores = stores
        self._threads = stores.limits.max_concurrency
        self._storage = stores.of(location.root)
        self._manifests = Manifests(self._storage, location, stores.limits)

    def _key(self, path: str) -> PhysicalKey:
        return self.location.root.join(path)

    def _reader(self, package: PackageName | str) -> PointerReader:
        return PointerReader(self._storage, self.location.root, PackageName.parse_existing(package), self._threads)

    def packages(self, pattern: str = "*/*") -> Iterator[PackageName]:
        """List the packages, each once, with one request for each namespace, or 1000 packages of it, and not for each revision.

        These are the packages of quilt3: those that have a pointer of any name.

        Args:
            pattern: a package name in which ``*`` stands for any characters but ``/``; only namespaces that fit are listed.

        Raises:
            PackageNameError: it is no such pattern.
        """
        wanted = check_pattern(pattern)
        return (each for each in self._packages(wanted.partition("/")[0]) if matches(str(each), wanted))

    def _packages(self, namespace_pattern: str) -> Iterator[PackageName]:
        namespaces = (each for each in self._directories(layout.NAMES) if matches(each, namespace_pattern))
        listed = map_concurrently(
            lambda each: (each, list(self._directories(f"{layout.NAMES}{each}/"))), namespaces, self._threads
        )
        for namespace, names in listed:
            yield from (PackageName(namespace, name) for name in names)

    def _directories(self, path: str) -> Iterator[str]:
        """List the names of the directories in another one that can be a part of a package's name."""
        found = (name.removesuffix("/") for name in self._storage.list_names(self._key(path)) if name.endswith("/"))
        return (name for name in found if is_name_part(name))

    def latest(self, package: PackageName | str) -> Latest | None:
        """Return the revision that ``latest`` of a package names, or None where there is no such package.

        Raises:
            ManifestError: the pointer holds something else than a top hash.
        """
        return self._reader(package).latest()

    def revisions(self, package: PackageName | str) -> Iterator[Revision]:
        """Yield the revisions of a package, newest first; a hash that was published twice comes twice."""
        return (pointer.revision for pointer in self._reader(package).all())

    def resolve(self, package: PackageName | str, revision: str | datetime | Pin | None = None) -> TopHash:
        """Return the full top hash of a revision.

        Args:
            package: ``namespace/name``.
            revision: one of: None or ``latest``; a top hash or the beginning of one, 6 digits or more; a time (a datetime,
                or a `str` as ISO 8601 writes it with ``-``; UTC by default) for the newest revision that was there then;
                the 10-digit unix seconds in the name of a revision's pointer; the pin of a Quilt+ URI, which may be the name of
                any pointer. A short hash must be that of a revision of the package; a full one is returned as it is.

        Raises:
            PackageNotFoundError: there is no such package or tag, or none was there at that time.
            TopHashError: no revision, or several, begin with ``revision``; or it is nothing of the above.
        """
        return resolve(self._reader(package), self.location, revision, lambda: self.absent(package))

    def absent(self, package: PackageName | str) -> PackageNotFoundError:
        """Return the error for a package that is not there; it names the nearest one, as :meth:`hint` does."""
        return PackageNotFoundError(f"{self.location}: there is no package {package}{self.hint(package)}")

    def hint(self, package: PackageName | str) -> str:
        """Return the end of a message about a package that is not there: the nearest name, or nothing.

        For that the names in its namespace are listed, at most a thousand; and where there are none, the namespaces.
        """
        namespace = str(package).partition("/")[0]
        try:
            if names := self._some_names(f"{layout.NAMES}{namespace}/"):
                return did_you_mean(str(package), [f"{namespace}/{each}" for each in names])
            other = nearest(namespace, self._some_names(layout.NAMES))
        except StorageError:  # The message stands without it.
            return ""
        return f"; did you mean the namespace {quoted(other)}?" if other else ""

    def hint_of_key(self, package: PackageName | str, revision: TopHash, logical_key: str) -> str:
        """Return the end of a message about a key that a revision does not have: its nearest key or directory, or nothing.

        Where the key is that of a directory, or of a file and written as a directory, it names that.
        """
        known: dict[str, str] = {}
        try:
            for entry in islice(self._manifests.read(package, revision).entries, _MOST_KEYS):
                path = PurePosixPath(entry.logical_key)
                known |= dict.fromkeys((str(above) for above in path.parents if above.name), "directory")
                known[entry.logical_key] = "file"
        except QuiltError:  # It was read a moment ago; the message stands without it.
            return ""
        key = logical_key.removesuffix("/")
        return f"; {quoted(key)} is a {known[key]}" if key in known else did_you_mean(key, known)

    def _some_names(self, path: str) -> list[str]:
        return list(islice(self._directories(path), _MOST_NAMES))

    def pointers_since(self, package: PackageName | str, since: datetime) -> PointerListing:
        """List the pointers of the revisions that were published after a time, and ``latest``."""
        return self._reader(package).listing(int(since.timestamp()) + 1)

    def published_at(
        self, package: PackageName | str, latest: Latest, newer: PointerListing | None = None
    ) -> pendulum.DateTime | None:
        """Return the time at which the latest revision was published last.

        The tag of ``latest`` shows it without a request. Where there is none, other than of a program of this kind, or after a
        rollback, the newest pointers do, as far as they are read.

        Args:
            package: ``namespace/name``.
            latest: the revision.
            newer: of :meth:`pointers_since`, not empty, all of which are read; by default only the newest one is listed and read.

        Returns:
            None where it was not published in that time, or no pointer that is read names it.
        """
        if latest.writer_tag and (stamp := latest.writer_tag.stamp):
            return pendulum.from_timestamp(stamp) if newer is None or stamp >= min(newer.stamps) else None
        pointers = self._reader(package)
        wanted = pointers.listing().stamps[:1] if newer is None else newer.stamps
        revisions = pointers.revisions_at(wanted)
        return next((each.published_at for each in revisions if each.top_hash == latest.top_hash), None)

    def previous(self, package: PackageName | str, revision: Revision) -> TopHash | None:
        """Return the top hash of the revision that was published before another one, or None for the first."""
        earlier = self._reader(package).at(revision.published_at.timestamp() - 1)
        return earlier.revision.top_hash if earlier else None

    def read(self, package: PackageName | str, revision: str | datetime | Pin | None = None) -> Manifest:
        """Read a revision of a package: its header, and its entries as a stream.

        Args:
            package: ``namespace/name``.
            revision: as for :meth:`resolve`.

        Raises:
            PackageNotFoundError: there is no such package or revision.
            TopHashError: no revision, or several, begin with ``revision``.
            ManifestError: the manifest is damaged, or does not have the top hash that is its name; entries raise it while
                they are read, at their end at the latest.
        """
        return self._manifests.read(package, self.resolve(package, revision))

    def message(self, package: PackageName | str, revision: TopHash) -> str | None:
        """Read the message of a revision, without its entries, so nothing is checked against the top hash.

        Raises:
            PackageNotFoundError: its manifest is gone.
            ManifestError: the first line of the manifest is damaged.
        """
        message = self._manifests.header(package, revision).get("message")
        return message if isinstance(message, str) else None

    def read_small(self, package: PackageName | str, revision: TopHash, most: int) -> Manifest | None:
        """Read a revision whose manifest has ``most`` bytes or fewer, as :meth:`read` does; None where it has more."""
        return self._manifests.read_small(package, revision, most)

    def entry(self, package: PackageName | str, logical_key: str, revision: str | datetime | Pin | None = None) -> Entry:
        """Return one entry of a revision.

        Raises:
            EntryNotFoundError: the revision has no such entry.
            QuiltError: as for :meth:`read`.
        """
        top_hash = self.resolve(package, revision)
        found, manifest = None, self._manifests.read(package, top_hash)
        for entry in manifest.entries:  # To the end, where the top hash is checked.
            if entry.logical_key == logical_key:
                found = entry
        if found is None:
            hint = self.hint_of_key(package, top_hash, logical_key)
            raise EntryNotFoundError(f"{manifest.where} has no entry {quoted(logical_key)}{hint}")
        return found

    def origin(self, entry: Entry) -> PhysicalKey:
        """Return the physical key of an entry of this registry.

        Raises:
            LocationError: it is malformed, is a file although the registry is not on this machine, or is in a bucket that
                packages of this registry may not name.
        """
        try:
            key = PhysicalKey.parse(entry.physical_keys[0])
        except LocationError as error:
            raise LocationError(f"entry {quoted(entry.logical_key)}: {error}") from error
        if key.is_local and not self.location.is_local:
            raise LocationError(f"entry {quoted(entry.logical_key)}: {key} is a file of some other machine, out of reach here")
        if self.stores.reach:
            self.stores.reach.check(entry.logical_key, key, self.location)
        return key

    def stream(self, entry: Entry) -> Iterator[bytes]:
        """Read the bytes of an entry in chunks, and check them.

        Raises:
            EntryDamagedError: they do not have the size and hash of the entry; after the last chunk has been handed out.
            HashTypeError: the hash is of an unknown type.
            LocationError: as for :meth:`origin`.
            StorageError: a store refused or failed.
        """
        origin = self.origin(entry)
        chunks = self.stores.of(origin).stream(origin, 0, entry.size)
        return verify_stream(chunks, entry.size, entry.hash, f"entry {quoted(entry.logical_key)} ({origin})")

    def read_bytes(self, entry: Entry, most: int | None = None) -> bytes:
        """Read the bytes of an entry whole, and check them.

        Args:
            entry: the entry.
            most: the most bytes to read; by default any number.

        Raises:
            ObjectTooLargeError: the entry has more; nothing is read.
            QuiltError: as for :meth:`stream`.
        """
        if most is not None and entry.size > most:
            raise ObjectTooLargeError(
                f"entry {quoted(entry.logical_key)} has {entry.size:,} bytes, and no more than {most:,} are read into memory; "
                "install it, or give a larger most=",
                str(self.origin(entry)),
            )
        return b"".join(self.stream(entry))

    def diff(
        self,
        package: PackageName | str,
        from_revision: str | datetime | Pin | None,
        to_revision: str | datetime | Pin | None = None,
    ) -> Iterator[Change]:
        """Yield the changes from one revision of a package to another, in walk order; revisions as for :meth:`resolve`."""
        return compare(self.read(package, from_revision).entries, self.read(package, to_revision).entries)

    def workflows_config(self) -> StoredObject | None:
        """Read the workflows config of the registry, or return None where it has none."""
        try:
            return self.stores.text(self._key(layout.WORKFLOWS))
        except ObjectNotFoundError:
            return None
