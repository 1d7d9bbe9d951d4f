"""A registry: the revisions of packages, and the order in which they become visible.

The order of writing is objects, manifest, timestamp pointer, ``latest``. So a pointer never names a manifest that is
not there, and ``latest`` is always one of the revisions in the history.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import IO, Literal

from airflow_quilt.core import layout
from airflow_quilt.core.checksums import checked
from airflow_quilt.core.diff import Change, compare
from airflow_quilt.core.errors import (
    EntryNotFoundError,
    LocationError,
    ObjectNotFoundError,
    PackageNotFoundError,
    PreconditionError,
    RevisionConflictError,
    TopHashError,
)
from airflow_quilt.core.locations import PhysicalKey, RegistryLocation
from airflow_quilt.core.manifest import Entry
from airflow_quilt.core.manifest_reader import Manifest, read_manifest
from airflow_quilt.core.names import PackageName, TopHash, match_hash, parse_hash_prefix, parse_top_hash
from airflow_quilt.core.pointers import Conflict, Latest, Pointers, Revision, is_stamp
from airflow_quilt.core.storage.base import Blob, Storage, Stores


class Registry:
    """A registry on S3 or on the local disk.

    Args:
        location: where it is.
        stores: the storages for it and for the sources of packages.
        clock: unix seconds.
    """

    def __init__(self, location: RegistryLocation, stores: Stores, *, clock: Callable[[], float] = time.time) -> None:
        self.location = location
        self.stores = stores
        self._clock = clock

    @property
    def _storage(self) -> Storage:
        return self.stores.of(self.location.root)

    def _key(self, path: str) -> PhysicalKey:
        return self.location.root.join(path)

    def _pointers(self, name: PackageName) -> Pointers:
        return Pointers(self._storage, self.location.root, name)

    def packages(self) -> Iterator[PackageName]:
        """List the packages, each once."""
        seen = set()
        names = self._key(layout.NAMES)
        for stat in self._storage.scan(names):
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
        return self._pointers(name).revisions()

    def find_revision(self, name: PackageName, top_hash: TopHash) -> Revision | None:
        """Return the newest revision of a package that has a top hash."""
        return next((revision for revision in self.revisions(name) if revision.top_hash == top_hash), None)

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
        if moment := _moment(revision):
            return self._as_of(name, moment)
        if isinstance(revision, str) and is_stamp(revision) and (found := self._pointers(name).read(int(revision))):
            return found.top_hash
        try:
            return parse_top_hash(revision)
        except TopHashError:
            return match_hash(revision, (known.top_hash for known in self.revisions(name)))

    def _as_of(self, name: PackageName, moment: datetime) -> TopHash:
        for revision in self.revisions(name):
            if revision.time <= moment:
                return revision.top_hash
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
        key = self._key(layout.manifest(full))
        try:
            size = self._storage.stat(key).size
        except ObjectNotFoundError as error:
            raise PackageNotFoundError(f"{self.location}: there is no revision {full} of {name}") from error
        return read_manifest(self._storage.stream(key, 0, size), full)

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
        key = PhysicalKey.parse(entry.physical_keys[0])
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
        return checked(chunks, entry.size, entry.hash, f"entry {entry.logical_key!r} ({origin})")

    def read_bytes(self, entry: Entry) -> bytes:
        """Read the bytes of an entry whole, and check them; raises what :meth:`stream` raises."""
        return b"".join(self.stream(entry))

    def diff(self, name: PackageName, old: str | datetime | None, new: str | datetime | None = None) -> Iterator[Change]:
        """Yield what changed from one revision of a package to another, in walk order; revisions as for :meth:`resolve`."""
        return compare(self.read(name, old).entries, self.read(name, new).entries)

    def workflows_config(self) -> Blob | None:
        """Read the file that says what packages must satisfy here, or None where there is none."""
        try:
            return self._storage.get(self._key(layout.WORKFLOWS))
        except ObjectNotFoundError:
            return None

    def commit(
        self,
        name: PackageName,
        top_hash: TopHash,
        manifest: IO[bytes],
        base: Latest | None,
        conflict: Conflict,
        manifest_mode: Literal["create", "overwrite"] = "overwrite",
    ) -> Revision:
        """Make a revision visible: manifest, timestamp pointer, ``latest``.

        A pointer that a try with the same hash left behind without reaching ``latest`` is replaced, not used: whoever
        wrote it may be alive, lose against somebody, and take it away (``docs/adr/0003``).

        Args:
            name: the package.
            top_hash: the hash of the manifest.
            manifest: the manifest, a seekable file at its beginning.
            base: what ``latest`` named when this revision was begun.
            conflict: ``"fail"`` refuses when ``latest`` has moved since, ``"overwrite"`` does not look.
            manifest_mode: ``"create"`` keeps a manifest with this top hash that is there already, of this package or
                another: it names the same content, maybe at other places.

        Raises:
            RevisionConflictError: ``latest`` has moved; nothing is visible.
        """
        pointers = self._pointers(name)
        if conflict == "fail":
            pointers.check_latest(base)  # Early, and without a trace.
        with contextlib.suppress(PreconditionError):  # It is there already, and is to stay.
            self._storage.put(self._key(layout.manifest(top_hash)), manifest, manifest_mode)
        newest = pointers.newest()
        now = int(self._clock())
        revision, is_ours = pointers.add(top_hash, max(now, newest.time.int_timestamp + 1) if newest else now)
        try:
            pointers.write_latest(top_hash, base, conflict)
        except RevisionConflictError:
            if is_ours:
                pointers.remove([revision])
            raise
        if newest and newest.top_hash == top_hash and not (base and base.top_hash == top_hash):
            pointers.remove([newest])
        return revision

    def delete(self, name: PackageName, top_hash: str | None = None) -> list[Revision]:
        """Delete the pointers of a package, or of one of its revisions; manifests and data stay.

        When the deleted revision was the latest one, the newest remaining one becomes ``latest`` first, so that no
        reader sees a package without it.

        Returns:
            The revisions that were deleted, newest first.

        Raises:
            PackageNotFoundError: there is no such package or revision.
            TopHashError: several revisions begin with ``top_hash``.
            RevisionConflictError: ``latest`` moved meanwhile; nothing was deleted.
        """
        pointers = self._pointers(name)
        latest = pointers.latest()
        revisions = list(pointers.revisions())
        if latest is None and not revisions:
            raise PackageNotFoundError(f"{self.location}: there is no package {name}")
        full = self._find(name, top_hash, revisions, latest) if top_hash is not None else None
        kept = [revision for revision in revisions if full and revision.top_hash != full]
        doomed = [revision for revision in revisions if full is None or revision.top_hash == full]
        if latest and not kept:
            pointers.delete_latest(latest)
        elif latest and latest.top_hash == full:
            pointers.write_latest(kept[0].top_hash, latest)
        pointers.remove(doomed)
        if not kept:
            pointers.restore_latest()
        return doomed

    def rollback(self, name: PackageName, top_hash: str) -> tuple[Revision, TopHash]:
        """Let ``latest`` name a revision of the history again; the history stays as it is.

        Returns:
            The revision, and the top hash that ``latest`` named before.

        Raises:
            PackageNotFoundError: there is no such package or revision, or its manifest is gone.
            TopHashError: ``top_hash`` is malformed, or several revisions begin with it.
            RevisionConflictError: ``latest`` moved meanwhile; it was left alone.
        """
        pointers = self._pointers(name)
        latest = pointers.latest()
        revisions = list(pointers.revisions())
        if latest is None:
            raise PackageNotFoundError(f"{self.location}: there is no package {name}")
        full = self._find(name, top_hash, revisions, None)
        try:
            self._storage.stat(self._key(layout.manifest(full)))
        except ObjectNotFoundError as error:
            raise PackageNotFoundError(f"{self.location}: the manifest of {name}@{full} is gone") from error
        if latest.top_hash != full:
            pointers.write_latest(full, latest)
        return next(revision for revision in revisions if revision.top_hash == full), latest.top_hash

    def _find(self, name: PackageName, top_hash: str, revisions: list[Revision], latest: Latest | None) -> TopHash:
        prefix = parse_hash_prefix(top_hash)
        hashes = {revision.top_hash for revision in revisions} | ({latest.top_hash} if latest else set())
        if not any(known.startswith(prefix) for known in hashes):
            raise PackageNotFoundError(f"{self.location}: package {name} has no revision {prefix}")
        return match_hash(prefix, hashes)


def _moment(revision: object) -> datetime | None:
    """Return the time that a revision is named by, if it is one; hashes have no ``-``."""
    if isinstance(revision, str) and "-" in revision:
        try:
            revision = datetime.fromisoformat(revision)
        except ValueError as error:
            raise TopHashError(f"revision {revision!r}: neither a top hash nor a time: {error}") from error
    if not isinstance(revision, datetime):
        return None
    return revision if revision.tzinfo else revision.replace(tzinfo=UTC)
