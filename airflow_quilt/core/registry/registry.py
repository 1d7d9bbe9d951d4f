"""A registry: the revisions of packages, and the order in which they become visible.

The order of writing is objects, manifest, timestamp pointer, ``latest``. So a pointer never names a manifest that is
not there, and ``latest`` is always one of the revisions in the history.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Final, Literal

import pendulum

from airflow_quilt.core.errors import (
    EntryNotFoundError,
    LocationError,
    ObjectNotFoundError,
    PackageNotFoundError,
    PreconditionError,
    TopHashError,
)
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.diff import Change, compare
from airflow_quilt.core.format.hashes import verify_stream
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.manifest_reader import Manifest, read_manifest
from airflow_quilt.core.format.names import PackageName, TopHash, match_hash, parse_hash_prefix, parse_top_hash
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.history import History
from airflow_quilt.core.registry.lock import StoredLock
from airflow_quilt.core.registry.pointers import Pointers
from airflow_quilt.core.registry.revisions import DeleteResult, Latest, Pointer, Revision, is_stamp
from airflow_quilt.core.runtime.stop import check_stop, unhurried
from airflow_quilt.core.storage.base import MOST_WHOLE, Storage, StoredObject, Stores
from airflow_quilt.core.storage.conditional import ConditionalWriter

_PUBLISHING: Final = 2.0
"""Seconds that work which is stopped still has to complete a change of several requests."""
_PACKAGES: Final = 16
"""Packages whose pointers are remembered from one publication to the next."""


class Registry:
    """A registry on S3 or on the local disk; :func:`~airflow_quilt.core.open_registry` opens one.

    Every method that takes a package takes its name as a ``str`` or as a :class:`PackageName`, and raises
    ``PackageNameError`` where it is none. Which revision is meant is always called ``revision``; see :meth:`resolve`.

    Args:
        location: the bucket or directory.
        stores: the storages for it and for the sources of packages.
        clock: unix seconds.
        lease: seconds after which a deletion or rollback that does not go on loses its lock to the next one.
    """

    def __init__(
        self, location: RegistryLocation, stores: Stores, *, clock: Callable[[], float] = time.time, lease: float = 30.0
    ) -> None:
        self.location = location
        self.stores = stores
        self._clock = clock
        self._lease = lease
        self._storage: Storage = stores.of(location.root)
        self._writer = ConditionalWriter(self._storage, stores.without_conditions)
        self._known = lru_cache(_PACKAGES)(self._pointers)

    def _key(self, path: str) -> PhysicalKey:
        return self.location.root.join(path)

    def _pointers(self, package: PackageName | str) -> Pointers:
        name = PackageName.parse_existing(package)
        return Pointers(self._storage, self._writer, self.location.root, name, self.stores.limits.max_concurrency)

    def _history(self, pointers: Pointers) -> History:
        lock = StoredLock(self._storage, self._writer, self._key(layout.lock(pointers.name)), self._lease)
        return History(pointers, lock, self._clock)

    # Reading

    def packages(self) -> Iterator[PackageName]:
        """List the packages, each once."""
        seen = set()
        names = self._key(layout.NAMES)
        for info in self._storage.list_objects(names):
            namespace, _, rest = info.key.key.removeprefix(names.key).partition("/")
            name, _, pointer = rest.partition("/")
            if pointer and (namespace, name) not in seen:
                seen.add((namespace, name))
                yield PackageName(namespace, name)

    def latest(self, package: PackageName | str) -> Latest | None:
        """Return the revision that ``latest`` of a package names, or None where there is no such package.

        Raises:
            ManifestError: the pointer holds something else than a top hash.
        """
        return self._pointers(package).latest()

    def revisions(self, package: PackageName | str) -> Iterator[Revision]:
        """Yield the revisions of a package, newest first; a hash that was published twice comes twice."""
        return (pointer.revision for pointer in self._pointers(package).all())

    def resolve(self, package: PackageName | str, revision: str | datetime | None = None) -> TopHash:
        """Return the full top hash of a revision.

        Args:
            package: ``namespace/name``.
            revision: one of: None or ``latest``; a top hash or the beginning of one, 6 digits or more; a time (a datetime,
                or a `str` as ISO 8601 writes it with ``-``; UTC by default) for the newest revision that was there then;
                the 10-digit unix seconds in the name of a revision's pointer. A short hash must be that of a revision of
                the package; a full one is returned as it is.

        Raises:
            PackageNotFoundError: there is no such package, or none was there at that time.
            TopHashError: no revision, or several, begin with ``revision``; or it is nothing of the above.
        """
        pointers = self._pointers(package)
        if revision is None or revision == layout.LATEST:
            if latest := pointers.latest():
                return latest.top_hash
            raise PackageNotFoundError(f"{self.location}: there is no package {package}")
        if moment := parse_time(revision):
            if found := pointers.at(moment.timestamp()):
                return found.revision.top_hash
            raise PackageNotFoundError(f"{self.location}: there was no package {package} at {moment.isoformat()}")
        if isinstance(revision, str) and is_stamp(revision) and (found := pointers.read(int(revision))):
            return found.revision.top_hash
        try:
            return parse_top_hash(revision)
        except TopHashError:
            return match_hash(revision, (pointer.revision.top_hash for pointer in pointers.all()))

    def published_at(
        self, package: PackageName | str, revision: TopHash, since: datetime | None = None
    ) -> pendulum.DateTime | None:
        """Return the time at which a revision was published last, as far as the newest pointers show it.

        Args:
            package: ``namespace/name``.
            revision: a full top hash.
            since: all pointers after this time are read; by default only the newest one.

        Returns:
            None where none of them names the revision.
        """
        pointers = self._pointers(package)
        stamps = pointers.listing().stamps
        wanted = stamps[:1] if since is None else [stamp for stamp in stamps if stamp > since.timestamp()]
        found = (pointer.revision for pointer in map(pointers.read, wanted) if pointer)
        return next((each.published_at for each in found if each.top_hash == revision), None)

    def previous(self, package: PackageName | str, revision: Revision) -> TopHash | None:
        """Return the top hash of the revision that was published before another one, or None for the first."""
        earlier = self._pointers(package).at(revision.published_at.timestamp() - 1)
        return earlier.revision.top_hash if earlier else None

    def read(self, package: PackageName | str, revision: str | datetime | None = None) -> Manifest:
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
        top_hash = self.resolve(package, revision)
        return self._read(package, top_hash, self._size(package, top_hash))

    def read_small(self, package: PackageName | str, revision: TopHash, most: int) -> Manifest | None:
        """Read a revision whose manifest has ``most`` bytes or fewer, as :meth:`read` does; None where it has more."""
        size = self._size(package, revision)
        return self._read(package, revision, size) if size <= most else None

    def _size(self, package: PackageName | str, top_hash: TopHash) -> int:
        with self._not_found(package, top_hash):
            return self._storage.stat(self._key(layout.manifest(top_hash))).size

    def _read(self, package: PackageName | str, top_hash: TopHash, size: int) -> Manifest:
        key = self._key(layout.manifest(top_hash))
        if size > MOST_WHOLE:
            return read_manifest(self._storage.stream(key, 0, size), top_hash)
        # Whole, the store's checksum is compared: the top hash does not cover everything.
        with self._not_found(package, top_hash):
            return read_manifest([self._storage.get(key).data], top_hash)

    @contextlib.contextmanager
    def _not_found(self, package: PackageName | str, top_hash: TopHash) -> Iterator[None]:
        try:
            yield
        except ObjectNotFoundError as error:
            raise PackageNotFoundError(f"{self.location}: there is no revision {top_hash} of {package}") from error

    def entry(self, package: PackageName | str, logical_key: str, revision: str | datetime | None = None) -> Entry:
        """Return one entry of a revision.

        Raises:
            EntryNotFoundError: the revision has no such entry.
            QuiltError: as for :meth:`read`.
        """
        found = None
        for entry in self.read(package, revision).entries:  # To the end, where the top hash is checked.
            if entry.logical_key == logical_key:
                found = entry
        if found is None:
            raise EntryNotFoundError(f"{self.location}: package {package} has no entry {logical_key!r}")
        return found

    def origin(self, entry: Entry) -> PhysicalKey:
        """Return the physical key of an entry of this registry.

        Raises:
            LocationError: it is malformed, or is a file although the registry is not on this machine.
        """
        try:
            key = PhysicalKey.parse(entry.physical_keys[0])
        except LocationError as error:
            raise LocationError(f"entry {entry.logical_key!r}: {error}") from error
        if key.is_local and not self.location.is_local:
            raise LocationError(f"entry {entry.logical_key!r}: {key} is a file of some other machine, out of reach here")
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
        return verify_stream(chunks, entry.size, entry.hash, f"entry {entry.logical_key!r} ({origin})")

    def read_bytes(self, entry: Entry) -> bytes:
        """Read the bytes of an entry whole, and check them; raises as :meth:`stream`."""
        return b"".join(self.stream(entry))

    def diff(
        self,
        package: PackageName | str,
        from_revision: str | datetime | None,
        to_revision: str | datetime | None = None,
    ) -> Iterator[Change]:
        """Yield the changes from one revision of a package to another, in walk order; revisions as for :meth:`resolve`."""
        return compare(self.read(package, from_revision).entries, self.read(package, to_revision).entries)

    def workflows_config(self) -> StoredObject | None:
        """Read the workflows config of the registry, or return None where it has none."""
        try:
            return self._storage.get(self._key(layout.WORKFLOWS))
        except ObjectNotFoundError:
            return None

    # Writing

    def check_writable(self) -> None:
        """Check that manifests can be written, by a multipart upload that is begun and aborted.

        Raises:
            StorageError: they cannot.
        """
        if not self.location.is_local:
            with unhurried(_PUBLISHING):
                self.stores.remote.begin(self._key(layout.WRITE_CHECK)).abort()

    def published_by(self, package: PackageName, latest: Latest | None, attempt: Attempt) -> Revision | None:
        """Return the revision that an attempt of the same work published before ``latest`` was read, if any."""
        return self._history(self._known(package)).made(latest, attempt)

    def unchanged(self, package: PackageName, latest: Latest, attempt: Attempt) -> tuple[Revision, bool] | None:
        """Return the revision that ``latest`` names, and whether an attempt of the same work published it."""
        return self._history(self._known(package)).unchanged(latest, attempt)

    def commit(  # noqa: PLR0913  (the parts of a revision)
        self,
        package: PackageName,
        top_hash: TopHash,
        manifest: IO[bytes],
        base: Latest | None,
        *,
        overwrite: bool = False,
        manifest_mode: Literal["create", "overwrite"] = "overwrite",
        attempt: Attempt | None = None,
    ) -> tuple[Revision, bool]:
        """Make a revision visible: manifest, timestamp pointer, ``latest``.

        Args:
            package: its name.
            top_hash: the hash of the manifest.
            manifest: the manifest, a seekable file at its beginning.
            base: ``latest`` as it was read when the work on this revision began.
            overwrite: publish also where ``latest`` has moved since.
            manifest_mode: ``"create"`` keeps a manifest with this top hash that is there already, of this package or
                another: it names the same content, maybe at other places.
            attempt: identifies the attempts of one piece of work; by default it has one.

        Returns:
            The revision; and whether an attempt of this work made it. False: another writer published the same meanwhile.

        Raises:
            RevisionConflictError: ``latest`` has moved; nothing is visible.
        """
        attempt, history = attempt or Attempt(), self._history(self._known(package))
        if not overwrite:
            history.check(top_hash, base, attempt)
        key = self._key(layout.manifest(top_hash))
        # A store that ignores conditions is known as one only after the first pointer, so one that is there is not left to them.
        if manifest_mode == "overwrite" or not self.stores.find(key):
            with contextlib.suppress(PreconditionError):  # It is there by now, and is to stay.
                self._writer.put(key, manifest, manifest_mode)
        check_stop()
        with unhurried(_PUBLISHING):  # Stopped half-way, it would be for the next attempt to find out whether it is published.
            return history.publish(top_hash, base, attempt, overwrite=overwrite)

    def delete(self, package: PackageName | str, revision: str | None = None) -> DeleteResult:
        """Delete the pointers of a package, or of one of its revisions; manifests and data stay.

        When the deleted revision was the latest one, the newest remaining one becomes ``latest`` first, so that no
        reader sees a package without it.

        Args:
            package: ``namespace/name``.
            revision: a top hash or the beginning of one (6 digits or more), the only name that means the same revision
                when the deletion is run again; None is the whole package.

        Raises:
            PackageNotFoundError: there is no such package or revision.
            TopHashError: several revisions begin with ``revision``.
            RevisionConflictError: the package was to go, and ``latest`` moved meanwhile; nothing was deleted.
            StorageError: a store refused or failed; the next attempt deletes the rest.
        """
        history, absent = self._history(self._pointers(package)), f"{self.location}: there is no package {package}"
        if revision is None:
            if deleted := history.delete_all():
                return deleted
            raise PackageNotFoundError(absent)

        def find(latest: Latest | None, pointers: Sequence[Pointer]) -> TopHash:
            if latest is None and not pointers:
                raise PackageNotFoundError(absent)
            return self._match(package, revision, pointers, latest)

        return history.delete(find)

    def rollback(self, package: PackageName | str, revision: str) -> tuple[Revision, TopHash]:
        """Make a revision of the history the latest one again; the history stays as it is.

        Args:
            package: ``namespace/name``.
            revision: as for :meth:`delete`.

        Returns:
            The revision, and the top hash that ``latest`` named before.

        Raises:
            PackageNotFoundError: there is no such package or revision, or its manifest is gone.
            TopHashError: ``revision`` is malformed, or several revisions begin with it.
            RevisionConflictError: ``latest`` moved meanwhile; it was left alone.
        """

        def find(latest: Latest | None, pointers: Sequence[Pointer]) -> TopHash:
            if latest is None:
                raise PackageNotFoundError(f"{self.location}: there is no package {package}")
            top_hash = self._match(package, revision, pointers, None)
            try:
                self._storage.stat(self._key(layout.manifest(top_hash)))
            except ObjectNotFoundError as error:
                raise PackageNotFoundError(f"{self.location}: the manifest of {package}@{top_hash} is gone") from error
            return top_hash

        return self._history(self._pointers(package)).roll_back(find)

    def _match(self, package: PackageName | str, revision: str, pointers: Sequence[Pointer], latest: Latest | None) -> TopHash:
        prefix = parse_hash_prefix(revision)
        hashes = {pointer.revision.top_hash for pointer in pointers} | ({latest.top_hash} if latest else set())
        if not any(known.startswith(prefix) for known in hashes):
            raise PackageNotFoundError(f"{self.location}: package {package} has no revision {prefix}")
        return match_hash(prefix, hashes)


def parse_time(revision: object) -> datetime | None:
    """Return the time that names a revision, or None for a revision that is named otherwise; hashes have no ``-``.

    Raises:
        TopHashError: ``revision`` has a ``-`` and is no time of ISO 8601.
    """
    if isinstance(revision, str) and "-" in revision:
        try:
            revision = datetime.fromisoformat(revision)
        except ValueError as error:
            raise TopHashError(f"revision {revision!r}: neither a top hash nor a time: {error}") from error
    if not isinstance(revision, datetime):
        return None
    return revision if revision.tzinfo else revision.replace(tzinfo=UTC)
