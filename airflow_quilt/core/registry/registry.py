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
from airflow_quilt.core.registry.pointers import DeleteResult, Latest, Pointer, Pointers, Revision, is_stamp
from airflow_quilt.core.storage.base import MOST_WHOLE, Storage, StoredObject, Stores
from airflow_quilt.core.storage.conditional import ConditionalWriter

_PACKAGES: Final = 16
"""Of so many packages it is remembered which pointers were read when they were published to."""


class Registry:
    """A registry on S3 or on the local disk.

    Args:
        location: where it is.
        stores: the storages for it and for the sources of packages.
        clock: unix seconds.
        lease: the seconds after which somebody who deletes or rolls back, and does not go on, is taken for dead.
    """

    def __init__(
        self, location: RegistryLocation, stores: Stores, *, clock: Callable[[], float] = time.time, lease: float = 30.0
    ) -> None:
        self.location = location
        self.stores = stores
        self._clock = clock
        self._lease = lease
        self._writer = ConditionalWriter(self._storage)
        self._known = lru_cache(_PACKAGES)(self._pointers)

    @property
    def _storage(self) -> Storage:
        return self.stores.of(self.location.root)

    def _key(self, path: str) -> PhysicalKey:
        return self.location.root.join(path)

    def _pointers(self, name: PackageName) -> Pointers:
        return Pointers(self._storage, self._writer, self.location.root, name, self.stores.limits.max_concurrency)

    def _history(self, pointers: Pointers) -> History:
        lease = StoredLock(self._storage, self._writer, self._key(layout.lock(pointers.name)), self._lease)
        return History(pointers, lease, self._clock)

    def packages(self) -> Iterator[PackageName]:
        """List the packages, each once."""
        seen = set()
        names = self._key(layout.NAMES)
        for stat in self._storage.list_objects(names):
            namespace, _, rest = stat.key.key.removeprefix(names.key).partition("/")
            name, _, pointer = rest.partition("/")
            if pointer and (namespace, name) not in seen:
                seen.add((namespace, name))
                yield PackageName(namespace, name)

    def latest(self, name: PackageName) -> Latest | None:
        """Return what ``latest`` of a package names, or None where there is no such package.

        Raises:
            ManifestError: the pointer holds something else than a top hash.
        """
        return self._pointers(name).latest()

    def revisions(self, name: PackageName) -> Iterator[Revision]:
        """Yield the revisions of a package, newest first; a hash that was published twice comes twice."""
        return (pointer.revision for pointer in self._pointers(name).all())

    def resolve(self, name: PackageName, revision: str | datetime | None = None) -> TopHash:
        """Return the full top hash of a revision.

        Args:
            name: the package.
            revision: one of: None or ``latest``; a top hash or the beginning of one, 6 digits or more; a time (a datetime, or
                text as ISO 8601 writes it with ``-``; UTC unless it says otherwise) for the newest revision that was there
                then; the 10-digit unix seconds in the name of a revision's pointer. A short hash is looked for among the
                revisions of the package, a full one is taken at its word.

        Raises:
            PackageNotFoundError: there is no such package, or none was there at that time.
            TopHashError: no revision, or several, begin with ``revision``; or it is nothing of the above.
        """
        if revision is None or revision == layout.LATEST:
            if latest := self.latest(name):
                return latest.top_hash
            raise PackageNotFoundError(f"{self.location}: there is no package {name}")
        if moment := moment_of(revision):
            return self._as_of(name, moment)
        if isinstance(revision, str) and is_stamp(revision) and (found := self._pointers(name).read(int(revision))):
            return found.revision.top_hash
        try:
            return parse_top_hash(revision)
        except TopHashError:
            return match_hash(revision, (known.top_hash for known in self.revisions(name)))

    def published(self, name: PackageName, top_hash: TopHash, since: datetime | None = None) -> pendulum.DateTime | None:
        """Return when a revision was published last, looking at the newest pointer; or at all of those after ``since``, if given.

        Returns:
            None where none of them is of the revision.
        """
        pointers = self._pointers(name)
        stamps = pointers.listing().stamps
        wanted = stamps[:1] if since is None else [stamp for stamp in stamps if stamp > since.timestamp()]
        times = (found.revision.time for found in map(pointers.read, wanted) if found and found.revision.top_hash == top_hash)
        return next(times, None)

    def before(self, name: PackageName, revision: Revision) -> TopHash | None:
        """Return the top hash of the revision of a package that was published before another one, or None for the first."""
        earlier = self._pointers(name).at(revision.time.timestamp() - 1)
        return earlier.revision.top_hash if earlier else None

    def _as_of(self, name: PackageName, moment: datetime) -> TopHash:
        if found := self._pointers(name).at(moment.timestamp()):
            return found.revision.top_hash
        raise PackageNotFoundError(f"{self.location}: there was no package {name} at {moment.isoformat()}")

    def read(self, name: PackageName, revision: str | datetime | None = None) -> Manifest:
        """Read a revision of a package: its header, and its entries as a stream.

        Args:
            name: the package.
            revision: as for :meth:`resolve`.

        Raises:
            PackageNotFoundError: there is no such package or revision.
            TopHashError: no revision, or several, begin with ``revision``.
            ManifestError: the manifest is damaged, or does not have the top hash that is its name; entries raise it while
                they are read, at their end at the latest.
        """
        full = self.resolve(name, revision)
        return self._read(name, full, self._size(name, full))

    def read_small(self, name: PackageName, top_hash: TopHash, most: int) -> Manifest | None:
        """Read a revision whose manifest has ``most`` bytes or fewer, as :meth:`read` does; None where it has more."""
        size = self._size(name, top_hash)
        return self._read(name, top_hash, size) if size <= most else None

    def _size(self, name: PackageName, top_hash: TopHash) -> int:
        with self._named(name, top_hash):
            return self._storage.stat(self._key(layout.manifest(top_hash))).size

    def _read(self, name: PackageName, top_hash: TopHash, size: int) -> Manifest:
        key = self._key(layout.manifest(top_hash))
        if size > MOST_WHOLE:
            return read_manifest(self._storage.stream(key, 0, size), top_hash)
        with self._named(name, top_hash):  # Whole, the store's checksum is compared: the top hash does not cover everything.
            return read_manifest([self._storage.get(key).data], top_hash)

    @contextlib.contextmanager
    def _named(self, name: PackageName, top_hash: TopHash) -> Iterator[None]:
        try:
            yield
        except ObjectNotFoundError as error:
            raise PackageNotFoundError(f"{self.location}: there is no revision {top_hash} of {name}") from error

    def entry(self, name: PackageName, logical_key: str, revision: str | datetime | None = None) -> Entry:
        """Find one entry of a revision.

        Raises:
            EntryNotFoundError: the revision has no such entry.
            QuiltError: as for :meth:`read`.
        """
        found = None
        for entry in self.read(name, revision).entries:  # To the end, where the top hash is checked.
            if entry.logical_key == logical_key:
                found = entry
        if found is None:
            raise EntryNotFoundError(f"{self.location}: package {name} has no entry {logical_key!r}")
        return found

    def origin(self, entry: Entry) -> PhysicalKey:
        """Return where the bytes of an entry of this registry are.

        Raises:
            LocationError: its physical key is not one, or is a file although the registry is not on this machine.
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
        """Read the bytes of an entry whole, and check them; raises what :meth:`stream` raises."""
        return b"".join(self.stream(entry))

    def diff(self, name: PackageName, old: str | datetime | None, new: str | datetime | None = None) -> Iterator[Change]:
        """Yield what changed from one revision of a package to another, in walk order; revisions as for :meth:`resolve`."""
        return compare(self.read(name, old).entries, self.read(name, new).entries)

    def check_writable(self) -> None:
        """Check that manifests can be written, by a multipart upload that is begun and aborted.

        Raises:
            StorageError: they cannot.
        """
        if not self.location.is_local:
            self.stores.remote.begin(self._key(layout.WRITE_CHECK)).abort()

    def workflows_config(self) -> StoredObject | None:
        """Read the file that says what packages must satisfy here, or None where there is none."""
        try:
            return self._storage.get(self._key(layout.WORKFLOWS))
        except ObjectNotFoundError:
            return None

    def made(self, name: PackageName, latest: Latest | None, attempt: Attempt) -> Revision | None:
        """Return the revision that a try of this piece of work published, if one did before ``latest`` was read."""
        return self._history(self._known(name)).made(latest, attempt)

    def unchanged(self, name: PackageName, latest: Latest, attempt: Attempt) -> tuple[Revision, bool] | None:
        """Return the revision that ``latest`` names, and whether a try of this piece of work published it."""
        return self._history(self._known(name)).unchanged(latest, attempt)

    def commit(  # noqa: PLR0913  (what a revision is made of)
        self,
        name: PackageName,
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
            name: the package.
            top_hash: the hash of the manifest.
            manifest: the manifest, a seekable file at its beginning.
            base: what ``latest`` named when this revision was begun.
            overwrite: win when ``latest`` has moved since.
            manifest_mode: ``"create"`` keeps a manifest with this top hash that is there already, of this package or
                another: it names the same content, maybe at other places.
            attempt: tells the tries of one piece of work from other work; by default it has one try.

        Returns:
            The revision; and whether a try of this piece of work made it, or somebody else the same at the same moment.

        Raises:
            RevisionConflictError: ``latest`` has moved; nothing is visible.
        """
        attempt, history = attempt or Attempt(), self._history(self._known(name))
        if not overwrite:
            history.check(top_hash, base, attempt)
        with contextlib.suppress(PreconditionError):  # It is there already, and is to stay.
            self._storage.put(self._key(layout.manifest(top_hash)), manifest, manifest_mode)
        return history.publish(top_hash, base, attempt, overwrite=overwrite)

    def delete(self, name: PackageName, top_hash: str | None = None) -> DeleteResult:
        """Delete the pointers of a package, or of one of its revisions; manifests and data stay.

        When the deleted revision was the latest one, the newest remaining one becomes ``latest`` first, so that no
        reader sees a package without it.

        Raises:
            PackageNotFoundError: there is no such package or revision.
            TopHashError: several revisions begin with ``top_hash``.
            RevisionConflictError: the package was to go, and ``latest`` moved meanwhile; nothing was deleted.
            StorageError: a store refused or failed; what is left is deleted by the next try.
        """
        history, absent = self._history(self._pointers(name)), f"{self.location}: there is no package {name}"
        if top_hash is None:
            if deleted := history.delete_all():
                return deleted
            raise PackageNotFoundError(absent)

        def find(latest: Latest | None, pointers: Sequence[Pointer]) -> TopHash:
            if latest is None and not pointers:
                raise PackageNotFoundError(absent)
            return self._find(name, top_hash, pointers, latest)

        return history.delete(find)

    def rollback(self, name: PackageName, top_hash: str) -> tuple[Revision, TopHash]:
        """Let ``latest`` name a revision of the history again; the history stays as it is.

        Returns:
            The revision, and the top hash that ``latest`` named before.

        Raises:
            PackageNotFoundError: there is no such package or revision, or its manifest is gone.
            TopHashError: ``top_hash`` is malformed, or several revisions begin with it.
            RevisionConflictError: ``latest`` moved meanwhile; it was left alone.
        """

        def find(latest: Latest | None, pointers: Sequence[Pointer]) -> TopHash:
            if latest is None:
                raise PackageNotFoundError(f"{self.location}: there is no package {name}")
            full = self._find(name, top_hash, pointers, None)
            try:
                self._storage.stat(self._key(layout.manifest(full)))
            except ObjectNotFoundError as error:
                raise PackageNotFoundError(f"{self.location}: the manifest of {name}@{full} is gone") from error
            return full

        return self._history(self._pointers(name)).roll_back(find)

    def _find(self, name: PackageName, top_hash: str, pointers: Sequence[Pointer], latest: Latest | None) -> TopHash:
        prefix = parse_hash_prefix(top_hash)
        hashes = {pointer.revision.top_hash for pointer in pointers} | ({latest.top_hash} if latest else set())
        if not any(known.startswith(prefix) for known in hashes):
            raise PackageNotFoundError(f"{self.location}: package {name} has no revision {prefix}")
        return match_hash(prefix, hashes)


def moment_of(revision: object) -> datetime | None:
    """Return the time that a revision is named by, if it is one; hashes have no ``-``."""
    if isinstance(revision, str) and "-" in revision:
        try:
            revision = datetime.fromisoformat(revision)
        except ValueError as error:
            raise TopHashError(f"revision {revision!r}: neither a top hash nor a time: {error}") from error
    if not isinstance(revision, datetime):
        return None
    return revision if revision.tzinfo else revision.replace(tzinfo=UTC)
