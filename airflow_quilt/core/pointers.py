"""The pointers of a package: one for each revision, named by its time, and ``latest``.

Every write says what it expects to find (:data:`airflow_quilt.core.storage.base.WriteMode`). A write whose answer is lost
may be repeated by the client below and then be refused, so a refusal is a conflict only if the pointer holds something
else than what was to be written.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import pendulum

from airflow_quilt.core import layout
from airflow_quilt.core.errors import (
    ManifestError,
    ObjectNotFoundError,
    PreconditionError,
    RevisionConflictError,
    StorageUnavailableError,
    TopHashError,
)
from airflow_quilt.core.locations import PhysicalKey
from airflow_quilt.core.names import PackageName, TopHash, parse_top_hash
from airflow_quilt.core.storage.base import Replace, Storage, WriteMode
from airflow_quilt.core.threads import map_threads

_TRIES: Final = 1000
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


def is_stamp(text: str) -> bool:
    """Whether a text may name the pointer of a revision: unix seconds of 10 digits."""
    return bool(_STAMP.fullmatch(text))


class Pointers:
    """The pointers of one package.

    Args:
        storage: where the registry is kept.
        root: the registry.
        name: the package.
    """

    def __init__(self, storage: Storage, root: PhysicalKey, name: PackageName) -> None:
        self._storage = storage
        self._root = root
        self._name = name

    def latest(self) -> Latest | None:
        """Return what ``latest`` names, or None where there is none.

        Raises:
            ManifestError: it holds something else than a top hash.
        """
        try:
            blob = self._storage.get(self._key(layout.LATEST))
        except ObjectNotFoundError:
            return None
        return Latest(self._parse(blob.data, layout.LATEST), blob.etag)

    def write_latest(self, top_hash: TopHash, base: Latest | None, conflict: Conflict = "fail") -> None:
        """Let ``latest`` name a revision, on the condition that it is still ``base`` unless told to overwrite.

        Raises:
            RevisionConflictError: it is neither ``base`` nor what was to be written.
        """
        mode: WriteMode = "overwrite"
        if conflict == "fail":
            mode = Replace(base.etag) if base else "create"
        try:
            self._storage.put(self._key(layout.LATEST), top_hash.encode(), mode)
        except PreconditionError as error:
            found = self.latest()
            if found is None or found.top_hash != top_hash:
                raise self._conflict(base, found) from error

    def check_latest(self, base: Latest | None) -> None:
        """Check that ``latest`` is still ``base``.

        Raises:
            RevisionConflictError: it is not.
        """
        found = self.latest()
        if found != base:
            raise self._conflict(base, found)

    def delete_latest(self, base: Latest) -> None:
        """Delete ``latest`` if it is still ``base``; :meth:`restore_latest` mends what comes between the two.

        Raises:
            RevisionConflictError: it is not; nothing was deleted.
        """
        self.check_latest(base)  # Not every store can delete on a condition.
        self._storage.delete([self._key(layout.LATEST)])

    def restore_latest(self) -> None:
        """Give a revision that was published while its package was being deleted its ``latest`` back."""
        if newest := self.newest():
            with contextlib.suppress(PreconditionError):  # Its publisher, or another one, was faster.
                self._storage.put(self._key(layout.LATEST), newest.top_hash.encode(), "create")

    def revisions(self) -> Iterator[Revision]:
        """Yield the revisions, newest first; a hash that was published twice comes twice."""
        found = map_threads(self.read, sorted(self._stamps(), reverse=True))
        return (revision for revision in found if revision)

    def newest(self) -> Revision | None:
        """Return the newest revision of the history; ``latest`` may name another one."""
        stamp = max(self._stamps(), default=None)
        return self.read(stamp) if stamp is not None else None

    def add(self, top_hash: TopHash, stamp: int) -> tuple[Revision, bool]:
        """Write the pointer of a revision under the first second from ``stamp`` on that nobody has.

        Returns:
            The revision, and whether its pointer is surely of this call alone. Where the store says that the pointer was
            there already it may be, but another writer of the same hash may have been faster too.
        """
        for second in range(stamp, stamp + _TRIES):
            revision = Revision(pendulum.from_timestamp(second), top_hash)
            try:
                self._storage.put(self._key(str(second)), top_hash.encode(), "create")
            except PreconditionError:
                if self.read(second) == revision:
                    return revision, False
                continue  # Somebody else's revision has this second.
            return revision, True
        raise StorageUnavailableError(f"every second from {stamp} on has a revision", str(self._key("")))

    def remove(self, revisions: Iterable[Revision]) -> None:
        """Delete the pointers of revisions."""
        self._storage.delete([self._key(str(revision.time.int_timestamp)) for revision in revisions])

    def read(self, stamp: int) -> Revision | None:
        """Read the pointer of a revision; None where it has been deleted since it was listed."""
        try:
            blob = self._storage.get(self._key(str(stamp)))
        except ObjectNotFoundError:
            return None
        return Revision(pendulum.from_timestamp(stamp), self._parse(blob.data, str(stamp)))

    def _stamps(self) -> Iterator[int]:
        """List the seconds of the revisions; anything else in the directory is not ours to read."""
        directory = self._root.join(layout.pointers(self._name))
        for stat in self._storage.scan(directory):
            pointer = stat.key.key.removeprefix(directory.key)
            if is_stamp(pointer):
                yield int(pointer)

    def _key(self, pointer: str) -> PhysicalKey:
        return self._root.join(layout.pointer(self._name, pointer))

    def _parse(self, data: bytes, pointer: str) -> TopHash:
        try:
            return parse_top_hash(data.decode("ascii").strip())
        except (UnicodeDecodeError, TopHashError) as error:
            raise ManifestError(f"the pointer {self._name}:{pointer} holds no top hash: {data[:80]!r}") from error

    def _conflict(self, base: Latest | None, found: Latest | None) -> RevisionConflictError:
        return RevisionConflictError(str(self._name), base.top_hash if base else None, found.top_hash if found else None)
