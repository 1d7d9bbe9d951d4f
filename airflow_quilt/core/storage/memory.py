"""An object store in memory with the behaviour of S3: versions, also ``null``, ETags, conditional writes, uploads in parts."""

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final, Literal

from airflow_quilt.core.errors import (
    BucketNotFoundError,
    ChecksumMismatchError,
    ObjectNotFoundError,
    PreconditionError,
    UploadVanishedError,
)
from airflow_quilt.core.format.hashes import StoreAlgorithm, digest_of, to_s3
from airflow_quilt.core.format.hashes import algorithm as algorithm_of
from airflow_quilt.core.format.uris import NULL_VERSION, PhysicalKey
from airflow_quilt.core.storage.objects import CHUNK, MOST_WHOLE, Data, IfMatch, ObjectInfo, StoredObject, WriteMode, check_whole

_NONE: Final[Mapping[StoreAlgorithm, str]] = {}


@dataclass(frozen=True, slots=True)
class _Version:
    data: bytes | None  # None is a delete marker.
    version_id: str | None  # None is the version ``null``.
    etag: str
    checksums: Mapping[StoreAlgorithm, str]
    writer_tag: str | None = None


class MemoryStorage:
    """An object store in memory, safe to use from several threads.

    Args:
        buckets: the buckets that exist.
        versioned: whether they keep versions; :meth:`set_versioning` changes that.
        most: the most bytes of an object that is read whole.
    """

    def __init__(self, buckets: Iterable[str], *, versioned: bool = True, most: int = MOST_WHOLE) -> None:
        self._buckets: dict[str, dict[str, list[_Version]]] = {name: defaultdict(list) for name in buckets}
        self._versioning: Literal["Enabled", "Suspended"] | None = "Enabled" if versioned else None
        self._most = most
        self._serial = itertools.count(1)
        self._lock = threading.RLock()
        self.sizes: dict[str, list[int]] = {}
        """The bytes of each part of the objects that were sent in parts, by ETag."""
        self.uploads: list[MemoryUpload] = []
        """The uploads that are neither complete nor aborted."""

    def set_versioning(self, status: Literal["Enabled", "Suspended"]) -> None:
        """Keep versions from now on, or suspend that; objects from before have the version ``null``."""
        self._versioning = status

    def destroy(self, key: PhysicalKey) -> None:
        """Delete the version that a key names for good, as a lifecycle rule does."""
        with self._lock:
            versions = self._bucket(key)[key.key]
            versions[:] = [version for version in versions if self._name(version) != key.version_id]

    @property
    def is_tls(self) -> bool:
        """Return True: no byte changes on its way from memory."""
        return True

    def get(self, key: PhysicalKey, most: int | None = None) -> StoredObject:
        """Read an object whole."""
        version = self._find(key)
        check_whole(key, len(version.data or b""), self._most if most is None else min(most, self._most))
        return StoredObject(version.data or b"", version.etag, self._named(key, version), version.writer_tag)

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read a range of an object in chunks."""
        data = (self._find(key).data or b"")[start:stop]
        return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))

    def put(
        self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", writer_tag: str | None = None
    ) -> ObjectInfo:
        """Write an object, if the condition of ``mode`` holds."""
        if not isinstance(body, bytes):
            body.seek(0)
            body = body.read()
        return self.store(key, body, mode, writer_tag=writer_tag)

    def supports_conditional_writes(self, key: PhysicalKey, data: bytes) -> bool:  # noqa: ARG002
        """Return True: conditions hold."""
        return True

    def upload(self, key: PhysicalKey, data: Data, digest: bytes, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        """Write an object whose digest is known."""
        if _digest(data, algorithm) != digest:
            raise ChecksumMismatchError(f"{key}: the bytes do not have their {algorithm}")
        return self.store(key, bytes(data), "overwrite", {algorithm: to_s3(digest)})

    def store(
        self,
        key: PhysicalKey,
        data: bytes,
        mode: WriteMode = "overwrite",
        checksums: Mapping[StoreAlgorithm, str] = _NONE,
        writer_tag: str | None = None,
    ) -> ObjectInfo:
        """Write an object, and the checksums, base64, that the store shall state for it."""
        with self._lock:
            versions = self._bucket(key)[key.key]
            current = versions[-1] if versions and versions[-1].data is not None else None
            if mode == "create" and current:
                raise PreconditionError("there is an object already", str(key))
            if isinstance(mode, IfMatch) and (current is None or current.etag != mode.etag):
                raise PreconditionError("another object is there than the one to replace", str(key))
            serial = next(self._serial)
            version = _Version(data, self._new_version(serial), f"e{serial}", checksums, writer_tag)
            self._append(versions, version)
        return _stat(key.at_version(self._name(version)), version)

    def stat(self, key: PhysicalKey) -> ObjectInfo:
        """Return size, version, ETag and checksums of an object."""
        version = self._find(key)
        return _stat(self._named(key, version), version)

    def part_sizes(self, stat: ObjectInfo) -> list[int]:
        """Return the bytes of each part that an object was sent in."""
        return self.sizes.get(stat.etag, [])

    def list_objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        """List the current objects below a prefix, without versions; no ETag comes twice."""
        for stat in self.list_versions(prefix):
            if not after or stat.key.key > prefix.key + after:
                yield ObjectInfo(stat.key.at_version(None), stat.size, stat.etag, written=stat.etag)

    def list_names(self, prefix: PhysicalKey) -> Iterator[str]:
        """List the names one level below a prefix."""
        below = (stat.key.key.removeprefix(prefix.key).partition("/") for stat in self.list_versions(prefix))
        return iter(dict.fromkeys(name + slash for name, slash, _ in below if name or slash))

    def remove_directory(self, prefix: PhysicalKey) -> bool:  # noqa: ARG002
        """Return False: there are no directories."""
        return False

    def list_versions(self, prefix: PhysicalKey, most: int | None = None) -> Iterator[ObjectInfo]:
        """List the current objects below a prefix, at their versions; ``most`` of them."""
        with self._lock:
            found = [
                _stat(PhysicalKey(prefix.bucket, key, self._name(versions[-1])), versions[-1])
                for key, versions in self._bucket(prefix).items()
                if key.startswith(prefix.key) and versions and versions[-1].data is not None
            ]
        return iter(sorted(found, key=lambda stat: stat.key.key)[:most])

    def keeps_versions(self, key: PhysicalKey) -> bool:
        """Return whether the buckets keep versions."""
        self._bucket(key)
        return self._versioning == "Enabled"

    def delete(self, keys: Sequence[PhysicalKey]) -> None:
        """Delete objects; with versions, a delete marker covers them."""
        with self._lock:
            for key in keys:
                versions = self._bucket(key)[key.key]
                self._append(versions, _Version(None, self._new_version(next(self._serial)), "", _NONE))

    def copy(self, source: ObjectInfo, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        """Copy an object in the state of ``source``."""
        data = self.read(source)
        return self.store(key, data, "overwrite", {algorithm: to_s3(_digest(data, algorithm))})

    def read(self, source: ObjectInfo) -> bytes:
        """Read an object in the state of ``source``.

        Raises:
            PreconditionError: it is not in that state any more.
        """
        version = self._find(source.key)
        if version.etag != source.etag:
            raise PreconditionError("the object changed while it was being copied", str(source.key))
        return version.data or b""

    def begin(self, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> "MemoryUpload":
        """Begin an upload in parts."""
        self._bucket(key)
        upload = MemoryUpload(self, key, algorithm)
        self.uploads.append(upload)
        return upload

    def unfinished(self, key: PhysicalKey, since: float, algorithm: StoreAlgorithm = "SHA256") -> "list[MemoryUpload]":
        """Return the open uploads to a key that began at ``since`` or later, newest first."""
        return [upload for upload in reversed(self.uploads) if upload.matches(key, since, algorithm)]

    def _bucket(self, key: PhysicalKey) -> dict[str, list[_Version]]:
        try:
            return self._buckets[key.bucket or ""]
        except KeyError:
            raise BucketNotFoundError("there is no such bucket", f"s3://{key.bucket}") from None

    def _find(self, key: PhysicalKey) -> _Version:
        with self._lock:
            versions = self._bucket(key).get(key.key, [])
            if key.version_id is not None:
                versions = [version for version in versions if (version.version_id or NULL_VERSION) == key.version_id]
        if not versions or versions[-1].data is None:
            raise ObjectNotFoundError("there is no such object", str(key))
        return versions[-1]

    def _append(self, versions: "list[_Version]", version: _Version) -> None:
        if version.version_id is None:  # There is one of each key at most.
            versions[:] = [other for other in versions if other.version_id is not None]
        versions.append(version)

    def _new_version(self, serial: int) -> str | None:
        return f"v{serial}" if self._versioning == "Enabled" else None

    def _named(self, key: PhysicalKey, version: _Version) -> PhysicalKey:
        return key.at_version(self._name(version)) if key.version_id is None else key

    def _name(self, version: _Version) -> str | None:
        """Return the version as requests and answers name it; None in a bucket that never had versioning."""
        return version.version_id or (NULL_VERSION if self._versioning else None)


class MemoryUpload:
    """An upload in parts to a :class:`MemoryStorage`."""

    def __init__(self, storage: MemoryStorage, key: PhysicalKey, algorithm: StoreAlgorithm) -> None:
        self._storage = storage
        self._key = key
        self._algorithm: StoreAlgorithm = algorithm
        self._parts: dict[int, bytes] = {}
        self._begun = time.time()

    def matches(self, key: PhysicalKey, since: float, algorithm: StoreAlgorithm) -> bool:
        """Return whether it goes to a key, with digests of one algorithm, and began at ``since`` or later."""
        return (self._key, self._algorithm) == (key, algorithm) and self._begun >= since

    def has(self, number: int, data: Data, digest: bytes) -> bool:  # noqa: ARG002
        """Return whether a part arrived already."""
        return self._parts.get(number) == data

    def arrived(self, number: int, size: int) -> bytes | None:
        """Return the digest of a part that arrived already, if it has this size."""
        part = self._parts.get(number)
        return _digest(part, self._algorithm) if part is not None and len(part) == size else None

    def send(self, number: int, data: Data, digest: bytes) -> None:
        """Keep a part."""
        self._check_open()
        if _digest(data, self._algorithm) != digest:
            raise ChecksumMismatchError(f"{self._key}: part {number} does not have its {self._algorithm}")
        self._parts[number] = bytes(data)

    def copy(self, number: int, source: ObjectInfo, start: int, stop: int) -> bytes | None:
        """Keep a range of another object as a part."""
        self._check_open()
        self._parts[number] = self._storage.read(source)[start:stop]
        return _digest(self._parts[number], self._algorithm)

    def complete(self) -> ObjectInfo:
        """Put the parts together."""
        parts = [self._parts[number] for number in sorted(self._parts)]
        whole = b"".join(parts)
        if self._algorithm == "SHA256":
            checksum = f"{to_s3(_digest(b''.join(_digest(part, 'SHA256') for part in parts), 'SHA256'))}-{len(parts)}"
        else:
            checksum = to_s3(_digest(whole, self._algorithm))
        self._end()
        stat = self._storage.store(self._key, whole, "overwrite", {self._algorithm: checksum})
        self._storage.sizes[stat.etag] = [len(part) for part in parts]
        return stat

    def abort(self) -> None:
        """Drop the parts."""
        self._end()

    def _end(self) -> None:
        self._check_open()
        self._storage.uploads.remove(self)

    def _check_open(self) -> None:
        if self not in self._storage.uploads:
            raise UploadVanishedError("this upload was completed or aborted", str(self._key))


def _stat(key: PhysicalKey, version: _Version) -> ObjectInfo:
    size, checksums = len(version.data or b""), version.checksums
    return ObjectInfo(key, size, version.etag, checksums.get("SHA256"), checksums.get("CRC64NVME"))


def _digest(data: Data, algorithm: StoreAlgorithm) -> bytes:
    return digest_of([data], algorithm_of(algorithm).new())
