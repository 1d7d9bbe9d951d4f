"""The seam between the core and the stores: the disk, memory and S3.

:class:`Storage` has the methods of every store, :class:`FileStore` those that an install needs of its target, and
:class:`ObjectStore` those that a push needs.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Protocol

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.hashes import StoreAlgorithm
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.objects import Data, ObjectInfo, StoredObject, WriteMode


class Storage(Protocol):
    """A store of files or objects. Safe to use from several threads.

    Every method may raise, besides its own errors:

    - :class:`~airflow_quilt.core.errors.AccessDeniedError`: the credentials are missing, wrong or not sufficient; its subclass
      ``CredentialsExpiredError`` is transient;
    - :class:`~airflow_quilt.core.errors.BucketNotFoundError`: there is no such bucket;
    - :class:`~airflow_quilt.core.errors.StorageUnavailableError` (transient): the store cannot be reached, failed, or asks for
      fewer requests (``ThrottledError``); the disk is full or fails (``DiskError``);
    - :class:`~airflow_quilt.core.errors.StorageError`: the store refused for another reason.

    An iterator raises them, and its own, while it is read.
    """

    def get(self, key: PhysicalKey, most: int | None = None) -> StoredObject:
        """Read a small object whole; of the version that ``key`` names, or else the current one.

        Args:
            key: the object.
            most: its bytes, at most; by default, and not more than, the bound of the storage, :data:`MOST_WHOLE`.

        Raises:
            ObjectNotFoundError: there is no such object or version.
            ObjectTooLargeError: it is larger.
        """
        ...

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read the bytes from offset ``start`` up to ``stop``, which is not included, in chunks of at most :data:`CHUNK` bytes.

        Fewer bytes come only where the object is shorter. An interrupted read goes on in the same state of the object only.

        Raises:
            ObjectNotFoundError: there is no such object or version.
            PreconditionError: the object changed before an interrupted read could go on.
        """
        ...

    def put(
        self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", writer_tag: str | None = None
    ) -> ObjectInfo:
        """Write an object in one piece; readers see the old one or the new one, never a part.

        Args:
            key: its key; a version in it is ignored.
            body: the bytes, or a seekable file, which is written from its beginning.
            mode: the condition.
            writer_tag: a short `str` in ASCII to keep beside the object, no part of its bytes; a store that cannot keep it
                drops it.

        Returns:
            Key, size and ETag of the new object, without checksums.

        Raises:
            PreconditionError: the condition of ``mode`` does not hold; the object is unchanged.
            UnsupportedError: the store does not know conditional writes.
        """
        ...

    def supports_conditional_writes(self, key: PhysicalKey, data: bytes) -> bool:
        """Return whether the conditions of :meth:`put` hold here.

        Args:
            key: an object to check with; a store that ignores conditions writes it again.
            data: the bytes that it has, and keeps.
        """
        ...

    def stat(self, key: PhysicalKey) -> ObjectInfo:
        """Return size, version, ETag and checksums of an object.

        Raises:
            ObjectNotFoundError: there is no such object or version.
        """
        ...

    def list_objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        """List the objects below a prefix or directory, recursively, in any order, without versions and checksums.

        Args:
            prefix: the prefix, or the directory; one that does not exist holds no object.
            after: only keys that sort after the prefix followed by this; empty for all.
        """
        ...

    def list_names(self, prefix: PhysicalKey) -> Iterator[str]:
        """List the names one level below a prefix or directory, in any order, each once.

        The requests are in proportion to the names, not to the objects below them.

        Args:
            prefix: the prefix or directory, with its ``/``; one that does not exist holds no name.

        Returns:
            The names of objects; and, with a ``/`` at its end, the name of each directory that has an object below it. The empty
            name, of an object that stands for the directory itself, is left out.
        """
        ...

    def remove_directory(self, prefix: PhysicalKey) -> bool:
        """Remove a directory in which no object is left; return whether there was one.

        On a disk empty directories, and temporary files of dead writers, are left when the last file is gone. A store of objects
        has no directories.
        """
        ...

    def delete(self, keys: Sequence[PhysicalKey]) -> None:
        """Delete objects, not versions: where the store has versions the old ones stay. An object that is gone is no error.

        Raises:
            StorageError: some could not be deleted; the others are, and the message states how many are left.
        """
        ...


class PartialFile(Protocol):
    """A file of known size, written in parts from several threads, that appears when it is complete."""

    def write(self, start: int, chunks: Iterable[bytes]) -> None:
        """Write bytes at the offset ``start``."""
        ...

    def complete(self) -> None:
        """Give the file its name; a file that had it is replaced.

        Raises:
            PreconditionError: at once another program replaced it.
        """
        ...

    def abort(self) -> None:
        """Remove the bytes that were written."""
        ...


class FileStore(Storage, Protocol):
    """The files of a machine: sources, and the target of an install."""

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read a range as in :class:`Storage`; at a version, which is the ETag of a file, of exactly that file in one state.

        Raises:
            PreconditionError: another file is there, or it has other bytes.
            StorageUnavailableError: it was touched while it was read; another attempt may find it at rest.
        """
        ...

    def stat(self, key: PhysicalKey, *, follow: bool = True) -> ObjectInfo:
        """Return size and ETag of a file; without ``follow``, only of one that no link leads to.

        Raises:
            ObjectNotFoundError: there is no such file.
        """
        ...

    def list_items(self, prefix: PhysicalKey) -> Iterator[str]:
        """List the relative paths of all items below a directory that are no directories: links, pipes, temporary files too.

        Links that lead nowhere are left out, as by quilt3.
        """
        ...

    def create(self, key: PhysicalKey, size: int) -> PartialFile:
        """Begin a file of ``size`` bytes, and the directories above it; the caller completes or aborts it.

        The links in ``key`` are resolved: one on the way came later, and is an error.
        It is not synced to the disk: an installed file is checked before it is used again.

        Raises:
            StorageError: no file can be that large here, or a file or a link is in the way of a directory.
        """
        ...

    def forget_directories(self) -> None:
        """Close the directories that :meth:`create` and :meth:`stat` keep open for the next files."""
        ...


class MultipartUpload(Protocol):
    """An upload in parts, from several threads, whose object appears when it is complete.

    Every method that makes a request raises :class:`~airflow_quilt.core.errors.UploadVanishedError` where the upload was
    completed or aborted, by this process or by another one.
    """

    def has(self, number: int, data: Data, digest: bytes) -> bool:
        """Return whether part ``number`` with these bytes arrived before this process resumed the upload; then it counts as sent.

        ``digest`` is that of ``data``.
        """
        ...

    def arrived(self, number: int, size: int) -> bytes | None:
        """Return the digest of part ``number`` if one of ``size`` bytes arrived before this process resumed the upload.

        Then it counts as sent. None also where the store does not state the digest.
        """
        ...

    def send(self, number: int, data: Data, digest: bytes) -> None:
        """Send part ``number``, counted from 1, with the digest of its bytes; a part that is sent again is replaced.

        Raises:
            ChecksumMismatchError: other bytes arrived.
        """
        ...

    def copy(self, number: int, source: ObjectInfo, start: int, stop: int) -> bytes | None:
        """Let the store copy the bytes from ``start`` up to ``stop`` of an object as part ``number``.

        Returns:
            The digest of the part; None where the store does not state it.

        Raises:
            PreconditionError: the source is not in the state of ``source`` any more.
        """
        ...

    def complete(self) -> ObjectInfo:
        """Make the object of the parts, in the order of their numbers.

        Raises:
            ChecksumMismatchError: a part does not have its digest.
        """
        ...

    def abort(self) -> None:
        """Drop the parts."""
        ...


class ObjectStore(Storage, Protocol):
    """The target of a push.

    Digests are raw bytes, of the whole object or of one part, by the algorithm that the call or the upload names.
    """

    @property
    def is_tls(self) -> bool:
        """Whether bytes that change on their way from the store are noticed in any case, as by TLS."""
        ...

    def part_sizes(self, stat: ObjectInfo) -> Sequence[int]:
        """Return the bytes of each part of an object, in order, while it is in the state of ``stat``.

        Empty where the object was not sent in parts, or the store does not state them.
        """
        ...

    def list_versions(self, prefix: PhysicalKey, most: int | None = None) -> Iterator[ObjectInfo]:
        """List the objects below a prefix at their current versions, also ``null``; without where the bucket never kept any.

        Args:
            prefix: the prefix.
            most: end after about so many versions, older ones included; None for all.
        """
        ...

    def keeps_versions(self, key: PhysicalKey) -> bool:
        """Return whether the bucket of a key keeps versions."""
        ...

    def upload(self, key: PhysicalKey, data: Data, digest: bytes, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        """Write an object in one piece, with the digest of its bytes, which the store checks and keeps.

        Returns:
            Its metadata, with the checksum of ``algorithm``.

        Raises:
            ChecksumMismatchError: other bytes arrived.
        """
        ...

    def copy(self, source: ObjectInfo, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        """Let the store copy an object of at most 5 GiB, and compute the checksum of ``algorithm``.

        Returns:
            The metadata of the copy; without a checksum where the store states none.

        Raises:
            ObjectNotFoundError: the source is gone.
            PreconditionError: the source is not in the state of ``source`` any more.
        """
        ...

    def begin(self, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> MultipartUpload:
        """Begin an upload in parts with digests of ``algorithm``; the caller completes or aborts it."""
        ...

    def unfinished(self, key: PhysicalKey, since: float, algorithm: StoreAlgorithm = "SHA256") -> Sequence[MultipartUpload]:
        """Return the open uploads to a key with digests of ``algorithm`` that began at ``since`` (unix seconds) or later.

        The newest is first. Empty where the store does not list them.
        """
        ...


def raise_first(failed: Sequence[QuiltError], of: int) -> None:
    """Raise the first of the errors of a batch of ``of`` deletions, if any; its message states how many there are."""
    if failed:
        first = failed[0]
        if of > 1:
            first.args = (f"{first} ({len(failed):,} of {of:,} could not be deleted; run again to finish)",)
        raise first
