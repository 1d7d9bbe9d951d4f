"""A registry: the revisions of packages, and the order in which they become visible.

The order of writing is objects, manifest, timestamp pointer, ``latest``. So a pointer never names a manifest that is
not there, and ``latest`` is always one of the revisions in the history.
"""

import contextlib
import os
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import IO, Final, Literal

from airflow_quilt.core.errors import PackageNameError, PreconditionError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.history import History
from airflow_quilt.core.registry.lock import StoredLock
from airflow_quilt.core.registry.locked import LockedChanges
from airflow_quilt.core.registry.pointers import Pointers
from airflow_quilt.core.registry.reader import RegistryReader
from airflow_quilt.core.registry.resolve import match
from airflow_quilt.core.registry.revisions import DeleteResult, Latest, PackageState, Revision
from airflow_quilt.core.runtime.stop import check_stop, unhurried
from airflow_quilt.core.runtime.together import at_once, begun
from airflow_quilt.core.storage.conditional import ConditionalWriter
from airflow_quilt.core.storage.stores import Stores

_PUBLISHING: Final = 2.0
"""Seconds that work which is stopped still has to complete a change of several requests."""
_SMALL: Final = 512 * 1024
"""The most bytes of a manifest that is sent before it is known whether ``latest`` has moved: then it was sent in vain."""
_PACKAGES: Final = 16
"""Packages whose pointers are remembered from one publication to the next."""


class Registry(RegistryReader):
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
        super().__init__(location, stores)
        self._clock = clock
        self._lease = lease
        self._writer = ConditionalWriter(self._storage, stores.without_conditions)
        self._known = lru_cache(_PACKAGES)(self._pointers)

    def _pointers(self, package: PackageName | str) -> Pointers:
        name = PackageName.parse_existing(package)
        return Pointers(self._storage, self._writer, self.location.root, name, self._threads)

    def _history(self, package: PackageName) -> History:
        return History(self._known(package), self._clock)

    def _changes(self, package: PackageName | str) -> LockedChanges:
        pointers = self._pointers(package)
        lock = StoredLock(self._storage, self._writer, self._key(layout.lock(pointers.name)), self._lease)
        return LockedChanges(pointers, lock, self._clock)

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
        return self._history(package).made(latest, attempt)

    def unchanged(self, package: PackageName, latest: Latest, attempt: Attempt) -> tuple[Revision, bool] | None:
        """Return the revision that ``latest`` names, and whether an attempt of the same work published it."""
        return self._history(package).unchanged(latest, attempt)

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
            manifest: the manifest, a seekable file.
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
        work, history = attempt or Attempt(), self._history(package)
        key = self._key(layout.manifest(top_hash))

        def write() -> None:
            # A store that ignores conditions is known as one only after the first pointer: one that is there is not left to them.
            if manifest_mode == "overwrite" or not self.stores.find(key):
                with contextlib.suppress(PreconditionError):  # It is there by now, and is to stay.
                    self._writer.put(key, manifest, manifest_mode)

        # Whether ``latest`` has moved is asked before a large manifest is sent, and beside a small one.
        is_small = manifest.seek(0, os.SEEK_END) <= _SMALL
        if not is_small and not overwrite:
            history.check(top_hash, base, work)
        with contextlib.ExitStack() as beside:
            probe = None
            # The store may be tried with it, since a write that is not refused does no harm. A retry may have nothing to write.
            if is_small and manifest_mode == "overwrite" and work.since is None:
                manifest.seek(0)
                probe = beside.enter_context(begun(partial(self._probe, key, manifest.read()), threads=self._threads))
            _, listing = at_once(write, lambda: history.list_recent(work, base), threads=self._threads if is_small else 1)
            check_stop()
            # Stopped half-way, it would be for the next attempt to find out whether it is published.
            with unhurried(_PUBLISHING):
                return history.publish(top_hash, base, listing, work, overwrite=overwrite, probe=probe)

    def _probe(self, key: PhysicalKey, data: bytes) -> None:
        with unhurried(_PUBLISHING):
            self._writer.probe(key, data)

    def delete(self, package: PackageName | str, revision: str | None = None) -> DeleteResult:
        """Delete the pointers of a package, tags and all, or those of one of its revisions; manifests and data stay.

        When the deleted revision was the latest one, the newest remaining one becomes ``latest`` first, so that no
        reader sees a package without it.

        Args:
            package: ``namespace/name``: any that :meth:`packages` lists, also with letters that no client should have taken.
            revision: a top hash or the beginning of one (6 digits or more), the only name that means the same revision
                when the deletion is run again; None is the whole package.

        Raises:
            PackageNameError: no package can have this name, or none that is there has it.
            PackageNotFoundError: there is no such package or revision.
            TopHashError: several revisions begin with ``revision``.
            RevisionConflictError: the package was to go, and ``latest`` moved meanwhile; nothing was deleted.
            StorageError: a store refused or failed; the next attempt deletes the rest.
        """
        name = PackageName.parse_listed(package)
        self._check_deletable(name)
        changes = self._changes(name)
        if revision is None:
            if deleted := changes.delete_all():
                return deleted
            raise self.absent(name)

        def find(state: PackageState) -> TopHash:
            if state.is_empty:
                raise self.absent(name)
            return match(self.location, name, revision, state.hashes)

        return changes.delete(find)

    def _check_deletable(self, name: PackageName) -> None:
        """Check that a name is one of quilt3's, or else that of a package that is there: it may be a mistake otherwise."""
        try:
            PackageName.parse_existing(str(name))
        except PackageNameError:
            if not any(True for _ in self._storage.list_objects(self._key(layout.pointers(name)))):
                raise

    def rollback(self, package: PackageName | str, revision: str, attempt: Attempt | None = None) -> tuple[Revision, TopHash]:
        """Make a revision of the history the latest one again; the history stays as it is.

        Args:
            package: ``namespace/name``.
            revision: as for :meth:`delete`.
            attempt: identifies the attempts of one piece of work; by default it has one.

        Returns:
            The revision, and the top hash that ``latest`` named before.

        Raises:
            PackageNotFoundError: there is no such package or revision, or its manifest is gone.
            TopHashError: ``revision`` is malformed, or several revisions begin with it.
            RevisionConflictError: ``latest`` moved meanwhile; it was left alone.
        """

        def find(state: PackageState) -> TopHash:
            if state.latest is None:
                raise self.absent(package)
            top_hash = match(self.location, package, revision, state.history)
            self._manifests.check(package, top_hash)
            return top_hash

        return self._changes(package).roll_back(find, attempt or Attempt())
