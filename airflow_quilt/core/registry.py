"""A registry: the revisions of packages, and the order in which they become visible.

The order of writing is objects, manifest, timestamp pointer, ``latest``. So a pointer never names a manifest that is
not there, and ``latest`` is always one of the revisions in the history.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final, Literal

import pendulum

from airflow_quilt.core import layout
from airflow_quilt.core.errors import (
    ManifestError,
    ObjectNotFoundError,
    PackageNotFoundError,
    PreconditionError,
    RevisionConflictError,
    TopHashError,
)
from airflow_quilt.core.locations import PhysicalKey, RegistryLocation
from airflow_quilt.core.manifest import Manifest, read_manifest
from airflow_quilt.core.names import PackageName, TopHash, match_hash, parse_hash_prefix, parse_top_hash
from airflow_quilt.core.storage.base import Replace, Storage, Stores, WriteMode
from airflow_quilt.core.threads import map_threads

_POINTER_TRIES: Final = 1000
_STAMP: Final = re.compile(r"[0-9]{10}")

Conflict = Literal["fail", "overwrite"]


@dataclass(frozen=True, slots=True)
class Revision:
    """A published revision: the time in its pointer, in whole seconds UTC, and its top hash."""

    time: pendulum.DateTime
    top_hash: TopHash


@dataclass(frozen=True, slots=True)
class Latest:
    """What ``latest`` named when it was read, and the ETag that proves it unchanged."""

    top_hash: TopHash
    etag: str


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
        try:
            blob = self._storage.get(self._key(layout.pointer(name, layout.LATEST)))
        except ObjectNotFoundError:
            return None
        return Latest(_pointed(blob.data, f"{name}:latest"), blob.etag)

    def revisions(self, name: PackageName) -> Iterator[Revision]:
        """Yield the revisions of a package, newest first; a hash that was published twice comes twice."""
        stamps = sorted(self._stamps(name), reverse=True)
        found = map_threads(lambda stamp: self._revision(name, stamp), stamps)
        return (revision for revision in found if revision)

    def resolve(self, name: PackageName, top_hash: str | None = None) -> TopHash:
        """Return the full top hash of a revision: the latest one, or the one that begins with ``top_hash``.

        A short hash is looked for among the revisions of the package, a full one is taken at its word.

        Raises:
            PackageNotFoundError: there is no such package.
            TopHashError: no revision, or several, begin with ``top_hash``.
        """
        if top_hash is None:
            if latest := self.latest(name):
                return latest.top_hash
            raise PackageNotFoundError(f"{self.location}: there is no package {name}")
        try:
            return parse_top_hash(top_hash)
        except TopHashError:
            return match_hash(top_hash, (revision.top_hash for revision in self.revisions(name)))

    def read(self, name: PackageName, top_hash: str | None = None) -> Manifest:
        """Read a revision of a package: its header, and its entries as a stream.

        Raises:
            PackageNotFoundError: there is no such package or revision.
            TopHashError: no revision, or several, begin with ``top_hash``.
            ManifestError: the manifest is damaged.
        """
        full = self.resolve(name, top_hash)
        key = self._key(layout.manifest(full))
        try:
            size = self._storage.stat(key).size
        except ObjectNotFoundError as error:
            raise PackageNotFoundError(f"{self.location}: there is no revision {full} of {name}") from error
        return read_manifest(self._storage.stream(key, 0, size))

    def find_revision(self, name: PackageName, top_hash: TopHash) -> Revision | None:
        """Return the newest revision of a package that has a top hash."""
        return next((revision for revision in self.revisions(name) if revision.top_hash == top_hash), None)

    def commit(
        self, name: PackageName, top_hash: TopHash, manifest: IO[bytes], base: Latest | None, conflict: Conflict
    ) -> Revision:
        """Make a revision visible: manifest, timestamp pointer, ``latest``.

        Args:
            name: the package.
            top_hash: the hash of the manifest.
            manifest: the manifest, a seekable file at its beginning.
            base: what ``latest`` named when this revision was begun.
            conflict: ``"fail"`` refuses when ``latest`` has moved since, ``"overwrite"`` does not look.

        Raises:
            RevisionConflictError: ``latest`` has moved; nothing is visible.
        """
        if conflict == "fail" and self.latest(name) != base:  # Early, and without a trace.
            raise self._conflict(name, base)
        self._storage.put(self._key(layout.manifest(top_hash)), manifest)
        unfinished = self._unfinished(name, top_hash, base)
        revision, is_ours = self._write_pointer(name, top_hash)
        try:
            self._write_latest(name, top_hash, base, conflict)
        except PreconditionError as error:
            if is_ours:
                self._delete_pointers(name, [revision])
            raise self._conflict(name, base) from error
        if unfinished:
            self._delete_pointers(name, [unfinished])
        return revision

    def _unfinished(self, name: PackageName, top_hash: TopHash, base: Latest | None) -> Revision | None:
        """Return the newest revision where it has this hash and ``latest`` has another: a try that stopped half-way.

        Its pointer is replaced, not used: whoever wrote it may be alive, lose against somebody, and take it away.
        """
        newest = max(self._stamps(name), default=None)
        if newest is None or (base and base.top_hash == top_hash):
            return None
        revision = self._revision(name, newest)
        return revision if revision and revision.top_hash == top_hash else None

    def _write_pointer(self, name: PackageName, top_hash: TopHash) -> tuple[Revision, bool]:
        """Write a timestamp pointer under a second that nobody has, not before the newest one.

        Returns:
            The revision, and whether its pointer is surely of this call alone. It is not where the store says that the
            pointer was there already: the answer to this very write may have been lost, and the write been repeated.
        """
        first = max(int(self._clock()), max(self._stamps(name), default=0) + 1)
        for stamp in range(first, first + _POINTER_TRIES):
            revision = Revision(pendulum.from_timestamp(stamp), top_hash)
            try:
                self._storage.put(self._key(layout.pointer(name, str(stamp))), top_hash.encode(), "create")
            except PreconditionError:
                if self._revision(name, stamp) == revision:
                    return revision, False
                continue  # Somebody else's revision has this second.
            return revision, True
        raise RevisionConflictError(str(name), None, None)

    def _write_latest(self, name: PackageName, top_hash: TopHash, base: Latest | None, conflict: Conflict) -> None:
        """Write ``latest``, on the condition that it is what was read unless told to overwrite.

        Raises:
            PreconditionError: it is something else, and not what was to be written.
        """
        mode: WriteMode = "overwrite"
        if conflict == "fail":
            mode = Replace(base.etag) if base else "create"
        try:
            self._storage.put(self._key(layout.pointer(name, layout.LATEST)), top_hash.encode(), mode)
        except PreconditionError:
            # The answer to this very write may have been lost, and the write been repeated.
            found = self.latest(name)
            if found is None or found.top_hash != top_hash:
                raise

    def _conflict(self, name: PackageName, base: Latest | None) -> RevisionConflictError:
        found = self.latest(name)
        return RevisionConflictError(str(name), base.top_hash if base else None, found.top_hash if found else None)

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
        latest = self.latest(name)
        revisions = list(self.revisions(name))
        if latest is None and not revisions:
            raise PackageNotFoundError(f"{self.location}: there is no package {name}")
        full = self._find(name, top_hash, revisions, latest) if top_hash is not None else None
        kept = [revision for revision in revisions if full and revision.top_hash != full]
        doomed = [revision for revision in revisions if full is None or revision.top_hash == full]
        if latest and (not kept or latest.top_hash == full):
            self._move_latest(name, latest, kept[0] if kept else None)
        self._delete_pointers(name, doomed)
        if not kept:
            self._restore_latest(name)
        return doomed

    def _find(self, name: PackageName, top_hash: str, revisions: list[Revision], latest: Latest | None) -> TopHash:
        prefix = parse_hash_prefix(top_hash)
        hashes = {revision.top_hash for revision in revisions} | ({latest.top_hash} if latest else set())
        if not any(known.startswith(prefix) for known in hashes):
            raise PackageNotFoundError(f"{self.location}: package {name} has no revision {prefix}")
        return match_hash(prefix, hashes)

    def _move_latest(self, name: PackageName, latest: Latest, revision: Revision | None) -> None:
        """Let ``latest`` name another revision, or nothing.

        Raises:
            RevisionConflictError: it is not what was read.
        """
        key = self._key(layout.pointer(name, layout.LATEST))
        if revision is None:
            # Not every store can delete on a condition; what comes between is found by _restore_latest.
            if self.latest(name) != latest:
                raise self._conflict(name, latest)
            self._storage.delete([key])
            return
        try:
            self._storage.put(key, revision.top_hash.encode(), Replace(latest.etag))
        except PreconditionError as error:
            raise self._conflict(name, latest) from error

    def _restore_latest(self, name: PackageName) -> None:
        """Give a revision that was published while its package was being deleted its ``latest`` back."""
        if newest := next(self.revisions(name), None):
            with contextlib.suppress(PreconditionError):  # Its publisher, or another one, was faster.
                self._storage.put(self._key(layout.pointer(name, layout.LATEST)), newest.top_hash.encode(), "create")

    def _delete_pointers(self, name: PackageName, revisions: list[Revision]) -> None:
        stamps = [str(revision.time.int_timestamp) for revision in revisions]
        self._storage.delete([self._key(layout.pointer(name, stamp)) for stamp in stamps])

    def _revision(self, name: PackageName, stamp: int) -> Revision | None:
        """Read a timestamp pointer; None where it has been deleted since it was listed."""
        try:
            blob = self._storage.get(self._key(layout.pointer(name, str(stamp))))
        except ObjectNotFoundError:
            return None
        return Revision(pendulum.from_timestamp(stamp), _pointed(blob.data, f"{name}:{stamp}"))

    def _stamps(self, name: PackageName) -> Iterator[int]:
        """List the names of the timestamp pointers; anything else in the directory is not ours to read."""
        directory = self._key(layout.pointers(name))
        for stat in self._storage.scan(directory):
            pointer = stat.key.key.removeprefix(directory.key)
            if _STAMP.fullmatch(pointer):
                yield int(pointer)


def _pointed(data: bytes, pointer: str) -> TopHash:
    try:
        return parse_top_hash(data.decode("ascii").strip())
    except (UnicodeDecodeError, TopHashError) as error:
        raise ManifestError(f"the pointer {pointer} holds no top hash: {data[:80]!r}") from error
