"""The seam between the engine and where bytes are kept.

A storage speaks physical keys and raises only the engine's own errors. :class:`Storage` is what every store can do;
:class:`ObjectStore` adds what a push needs of its target.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Final, Literal, Protocol

from airflow_quilt.core.errors import HashTypeError, ObjectNotFoundError, QuiltError, StorageError
from airflow_quilt.core.format.hashes import Hash, StoreAlgorithm, algorithm, composite_hash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.retry import RetryPolicy

CHUNK: Final = 1024 * 1024
"""Bytes that are read at a time."""

MOST_WHOLE: Final = 64 * 1024 * 1024
"""The most bytes of an object that is read whole."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Write only if the object still has this ETag."""

    etag: str


WriteMode = Literal["create", "overwrite"] | IfMatch
"""``"create"`` writes only if there is nothing yet, ``"overwrite"`` always."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A small object, whole.

    Attributes:
        data: its bytes.
        etag: what :class:`IfMatch` takes.
        key: where it is, at the version that was read.
        writer_tag: what its writer noted beside it, where the store keeps notes.
    """

    data: bytes
    etag: str
    key: PhysicalKey
    writer_tag: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store tells of an object.

    Attributes:
        key: where it is, at its version where the store has versions and told one.
        size: bytes.
        etag: changes when the bytes do; empty where a listing does not tell it reliably.
        sha256: S3's ``ChecksumSHA256`` as it stands, where the object has one and it was asked for.
        crc64nvme: S3's ``ChecksumCRC64NVME``, likewise.
        written: in a listing, tells this writing of the object from every other, also from one of the same bytes; empty where
            that is not certain.
    """

    key: PhysicalKey
    size: int
    etag: str
    sha256: str | None = None
    crc64nvme: str | None = None
    written: str = field(default="", compare=False)

    def proven(self, hash_type: str) -> Hash | None:
        """Return the hash of a type that the store's checksums prove, or None, as for a type that nobody here knows."""
        try:
            return algorithm(hash_type).proven(self.size, self.sha256, self.crc64nvme)
        except HashTypeError:
            return None

    def proves(self, expected: Hash) -> bool:
        """Whether the store's checksums prove that the object has a hash."""
        return self.proven(expected.type) == expected or composite_hash(self.sha256, self.size) == expected

    def contradicts(self, expected: Hash) -> bool:
        """Whether the store's checksums prove that the object does not have a hash."""
        return self.proven(expected.type) not in {None, expected}


class Storage(Protocol):
    """Where files or objects are kept."""

    def get(self, key: PhysicalKey) -> StoredObject:
        """Read a small object whole.

        Raises:
            ObjectNotFoundError: there is none.
            StorageError: it is larger than :data:`MOST_WHOLE`, or than the bound that the storage was given.
        """
        ...

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read the bytes from ``start`` up to ``stop`` in chunks; fewer come only where the object is shorter.

        Raises:
            ObjectNotFoundError: there is none.
        """
        ...

    def put(
        self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", writer_tag: str | None = None
    ) -> ObjectInfo:
        """Write an object in one piece; readers see the old one or the new one, never a part.

        Args:
            key: where; a version is not looked at.
            body: the bytes, or a seekable file, which is written from its beginning.
            mode: the condition.
            writer_tag: a short note in ASCII that stays beside the object, where the store can keep one, and is no part of it.

        Raises:
            PreconditionError: the condition of ``mode`` does not hold.
        """
        ...

    def supports_conditional_writes(self, key: PhysicalKey, data: bytes) -> bool:
        """Tell whether the conditions of :meth:`put` hold here.

        Args:
            key: an object that may be written again with the bytes that it has: a store that ignores conditions does so.
            data: its bytes.
        """
        ...

    def stat(self, key: PhysicalKey) -> ObjectInfo:
        """Tell size, version and checksum of an object.

        Raises:
            ObjectNotFoundError: there is none.
        """
        ...

    def list_objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        """List the objects below a prefix or directory, recursively, in any order, without versions.

        Args:
            prefix: where.
            after: leaves out what does not sort after the prefix with this at its end.
        """
        ...

    def delete(self, keys: Sequence[PhysicalKey]) -> None:
        """Delete objects; one that is not there is no error.

        Raises:
            StorageError: some could not be deleted; all others are, and the message says how many are left.
        """
        ...


class PartialFile(Protocol):
    """A file of known size that is written in parts, from several threads, and appears when it is complete."""

    def write(self, start: int, chunks: Iterable[bytes]) -> None:
        """Write bytes from the offset ``start`` on."""
        ...

    def complete(self) -> None:
        """Give the file its name; what had the name before is replaced."""
        ...

    def abort(self) -> None:
        """Drop what was written."""
        ...


class FileStore(Storage, Protocol):
    """A store that packages are installed to."""

    def create(self, key: PhysicalKey, size: int) -> PartialFile:
        """Begin a file of ``size`` bytes, and the directories above it, to be completed or aborted.

        It is not forced to the disk: what is installed is checked before it is used again.
        """
        ...


class MultipartUpload(Protocol):
    """An object that arrives in parts and appears when it is complete.

    All calls raise :class:`~airflow_quilt.core.errors.UploadVanishedError` where it was completed or aborted meanwhile.
    """

    def has(self, number: int, data: bytes, digest: bytes) -> bool:
        """Tell whether part ``number`` arrived before this process took the upload up; if so it counts as sent."""
        ...

    def arrived(self, number: int, size: int) -> bytes | None:
        """Return the digest of part ``number`` if one of this size arrived before this process took the upload up.

        None too where the store does not tell it; otherwise the part counts as sent.
        """
        ...

    def send(self, number: int, data: bytes, digest: bytes) -> None:
        """Send part ``number``, counted from 1; ``digest`` is that of its bytes."""
        ...

    def copy(self, number: int, source: ObjectInfo, start: int, stop: int) -> bytes | None:
        """Let the store copy a range of another object as part ``number``; return its digest where the store tells it."""
        ...

    def complete(self) -> ObjectInfo:
        """Put the parts together."""
        ...

    def abort(self) -> None:
        """Drop the parts."""
        ...


class ObjectStore(Storage, Protocol):
    """A store that packages are pushed to."""

    @property
    def is_tls(self) -> bool:
        """Whether bytes that change on their way from the store are noticed in any case."""
        ...

    def part_sizes(self, stat: ObjectInfo) -> Sequence[int]:
        """Tell the bytes of each part that an object was sent in, in the state that was seen; none where the store is silent."""
        ...

    def list_versions(self, prefix: PhysicalKey, most: int | None = None) -> Iterator[ObjectInfo]:
        """List the objects below a prefix at their current versions, where the store has versions.

        Ends early when about ``most`` versions, older ones too, have been looked at.
        """
        ...

    def keeps_versions(self, key: PhysicalKey) -> bool:
        """Tell whether the bucket of a key keeps versions."""
        ...

    def upload(self, key: PhysicalKey, data: bytes, digest: bytes, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        """Write an object in one piece; ``digest`` is that of its bytes, which the store checks and keeps.

        Raises:
            ChecksumMismatchError: other bytes arrived.
        """
        ...

    def copy(self, source: ObjectInfo, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        """Let the store copy an object of at most 5 GiB, in the state that was seen, and compute its checksum.

        Raises:
            PreconditionError: the source has changed since.
        """
        ...

    def begin(self, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> MultipartUpload:
        """Begin an upload in parts with digests of one kind, to be completed or aborted."""
        ...

    def unfinished(self, key: PhysicalKey, since: float, algorithm: StoreAlgorithm = "SHA256") -> Sequence[MultipartUpload]:
        """Find the uploads to a key that were begun after ``since``, in unix seconds, and are still open; newest first.

        Where the store does not tell, there are none.
        """
        ...


@dataclass(frozen=True, slots=True)
class Stores:
    """The storages of one piece of work, by kind of location, the patience with their failures, and the bounds of the work."""

    local: FileStore
    remote: ObjectStore
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    limits: Limits = field(default_factory=Limits)

    def of(self, key: PhysicalKey) -> Storage:
        """Return the storage that holds ``key``."""
        return self.local if key.is_local else self.remote

    def find(self, key: PhysicalKey) -> ObjectInfo | None:
        """Look at a file or object that may not be there."""
        try:
            return self.of(key).stat(key)
        except ObjectNotFoundError:
            return None


def check_whole(key: PhysicalKey, size: int, most: int) -> None:
    """Check that an object is small enough to be read whole.

    Raises:
        StorageError: it is not.
    """
    if size > most:
        raise StorageError(
            f"it has {size:,} bytes, and no more than {most:,} are read at once; look at what it is and who wrote it", str(key)
        )


def raise_first(failed: Sequence[QuiltError], of: int) -> None:
    """Raise the first of the errors of a batch, if any, and say how many there are."""
    if failed:
        first = failed[0]
        if of > 1:
            first.args = (f"{first} ({len(failed):,} of {of:,} could not be deleted; run again to finish)",)
        raise first
