"""The seam between the engine and where bytes are kept.

A storage speaks physical keys and raises only the engine's own errors. :class:`Storage` is what every store can do;
:class:`ObjectStore` adds what a push needs of its target.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final, Literal, Protocol

from airflow_quilt.core.locations import PhysicalKey

CHUNK: Final = 1024 * 1024
"""Bytes that are read at a time."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Write only if the object still has this ETag."""

    etag: str


WriteMode = Literal["create", "overwrite"] | Replace
"""``"create"`` writes only if there is nothing yet, ``"overwrite"`` always."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A small object, whole: its bytes, the ETag that :class:`Replace` takes, and its key at the version that was read."""

    data: bytes
    etag: str
    key: PhysicalKey


@dataclass(frozen=True, slots=True)
class Stat:
    """What a store tells of an object.

    Attributes:
        key: where it is, at its version where the store has versions and told one.
        size: bytes.
        etag: changes when the bytes do; empty where a listing does not tell it reliably.
        sha256: S3's ``ChecksumSHA256`` as it stands, where the object has one and it was asked for.
    """

    key: PhysicalKey
    size: int
    etag: str
    sha256: str | None = None


class Storage(Protocol):
    """Where files or objects are kept."""

    def get(self, key: PhysicalKey) -> Blob:
        """Read a small object whole.

        Raises:
            ObjectNotFoundError: there is none.
        """
        ...

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read the bytes from ``start`` up to ``stop`` in chunks; fewer come only where the object is shorter.

        Raises:
            ObjectNotFoundError: there is none.
        """
        ...

    def put(self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite") -> Stat:
        """Write an object in one piece; readers see the old one or the new one, never a part.

        Args:
            key: where; a version is not looked at.
            body: the bytes, or a seekable file.
            mode: the condition.

        Raises:
            PreconditionError: the condition of ``mode`` does not hold.
        """
        ...

    def stat(self, key: PhysicalKey) -> Stat:
        """Tell size, version and checksum of an object.

        Raises:
            ObjectNotFoundError: there is none.
        """
        ...

    def scan(self, prefix: PhysicalKey) -> Iterator[Stat]:
        """List the objects below a prefix or directory, recursively, in any order, without versions."""
        ...

    def delete(self, keys: Sequence[PhysicalKey]) -> None:
        """Delete objects; one that is not there is no error."""
        ...


class MultipartUpload(Protocol):
    """An object that arrives in parts and appears when it is complete."""

    def send(self, number: int, data: bytes, digest: bytes) -> None:
        """Send part ``number``, counted from 1; ``digest`` is the SHA-256 of its bytes."""
        ...

    def copy(self, number: int, source: Stat, start: int, stop: int) -> bytes | None:
        """Let the store copy a range of another object as part ``number``; return its digest where the store tells it."""
        ...

    def complete(self) -> Stat:
        """Put the parts together."""
        ...

    def abort(self) -> None:
        """Drop the parts."""
        ...


class ObjectStore(Storage, Protocol):
    """A store that packages are pushed to."""

    def scan_current(self, prefix: PhysicalKey) -> Iterator[Stat]:
        """List the objects below a prefix at their current versions, where the store has versions."""
        ...

    def upload(self, key: PhysicalKey, data: bytes, digest: bytes) -> Stat:
        """Write an object in one piece; ``digest`` is the SHA-256 of its bytes, which the store checks and keeps.

        Raises:
            ChecksumMismatchError: other bytes arrived.
        """
        ...

    def copy(self, source: Stat, key: PhysicalKey) -> Stat:
        """Let the store copy an object of at most 5 GiB, in the state that was seen.

        Raises:
            PreconditionError: the source has changed since.
        """
        ...

    def begin(self, key: PhysicalKey) -> MultipartUpload:
        """Begin an upload in parts, to be completed or aborted."""
        ...


@dataclass(frozen=True, slots=True)
class Stores:
    """The storages of one piece of work, by kind of location."""

    local: Storage
    remote: ObjectStore

    def of(self, key: PhysicalKey) -> Storage:
        """Return the storage that holds ``key``."""
        return self.local if key.is_local else self.remote
