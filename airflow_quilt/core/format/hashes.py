"""Quilt's hashes: algorithms, the grid of parts, and the hashes that S3 checksums prove (docs/format.md, "Hashes").

``sha2-256-chunked`` is the base64 of the SHA-256 of the concatenated SHA-256 digests of the parts. The format fixes the
parts: 8 MiB, doubled until there are at most 10,000. An empty file has no part. ``SHA256``, of older manifests, is the
SHA-256 of the whole file in hex. ``CRC64NVME`` is S3's checksum of that name, of the whole object.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from airflow_quilt.core.errors import EntryDamagedError, HashTypeError, quoted
from airflow_quilt.core.format.arguments import HashType, check_hash_word

try:
    from awscrt.checksums import combine_crc64nvme, crc64nvme
except ImportError:  # There is no awscrt, or one before 0.31.
    combine_crc64nvme = crc64nvme = None

CHUNKED: Final[HashType] = "sha2-256-chunked"
SHA256: Final = "SHA256"
CRC64NVME: Final[HashType] = "CRC64NVME"

StoreAlgorithm = Literal["SHA256", "CRC64NVME"]
"""An S3 checksum algorithm, by its name in the S3 API."""

_MIN_PART_SIZE: Final = 8 * 1024 * 1024
_MAX_PARTS: Final = 10_000
_CRC_BYTES: Final = 8


class Hash(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Hash of an entry, as in a manifest: ``{"type": …, "value": …}``."""

    type: str
    value: str


class Digest(Protocol):
    """Running digest, with the interface of :mod:`hashlib`."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes to the digest."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


class Algorithm(Protocol):
    """Algorithm of one hash type: combines the digests of parts, and derives hashes from S3 checksums."""

    @property
    def store(self) -> StoreAlgorithm:
        """S3 checksum algorithm that gives the digest of a part."""
        ...

    @property
    def by_parts(self) -> bool:
        """Return whether the parts are those of the format's grid (:func:`part_ranges`), not the whole object."""
        ...

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the half-open byte ranges of an object of ``size`` bytes that have a digest each."""
        ...

    def new(self) -> Digest:
        """Start the digest of a part."""
        ...

    def combine(self, digests: Sequence[bytes], size: int) -> Hash:
        """Return the hash of an object of ``size`` bytes from the digests of its :meth:`parts`, in order."""
        ...

    def proven(self, size: int, sha256: str | None, crc64nvme: str | None) -> Hash | None:
        """Return the hash that an object's ``ChecksumSHA256`` and ``ChecksumCRC64NVME`` prove, or None."""
        ...


def part_size(size: int) -> int:
    """Return the format's part size, in bytes, for an object of ``size`` bytes."""
    part = _MIN_PART_SIZE
    while part * _MAX_PARTS < size:
        part *= 2
    return part


def part_ranges(size: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open byte ranges of the parts of an object of ``size`` bytes."""
    step = part_size(size)
    for start in range(0, size, step):
        yield start, min(start + step, size)


def to_s3(digest: bytes) -> str:
    """Return a digest in the form of an S3 checksum: base64."""
    return base64.b64encode(digest).decode()


def from_s3(checksum: str | None) -> bytes | None:
    """Return the digest in an S3 checksum of a whole object or part, or None.

    None stands for no checksum, one damaged in transit, and a composite one: its ``-N`` at the end is not base64.
    """
    try:
        return base64.b64decode(checksum, validate=True) if checksum else None
    except ValueError:
        return None


class _Chunked:
    store: StoreAlgorithm = "SHA256"
    by_parts = True

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        return part_ranges(size)

    def new(self) -> Digest:
        return hashlib.sha256()

    def combine(self, digests: Sequence[bytes], size: int) -> Hash:  # noqa: ARG002
        return Hash(CHUNKED, to_s3(hashlib.sha256(b"".join(digests)).digest()))

    def proven(self, size: int, sha256: str | None, crc64nvme: str | None) -> Hash | None:  # noqa: ARG002
        # S3's SHA-256 of a whole object is the digest of its only part, unless the format cuts the object into more parts.
        digest = from_s3(sha256)
        if digest is None or size > part_size(size):
            return None
        return self.combine([digest] if size else [], size)


class _Sha256:
    store: StoreAlgorithm = "SHA256"
    by_parts = False

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        yield 0, size

    def new(self) -> Digest:
        return hashlib.sha256()

    def combine(self, digests: Sequence[bytes], size: int) -> Hash:  # noqa: ARG002
        return Hash(SHA256, digests[0].hex())

    def proven(self, size: int, sha256: str | None, crc64nvme: str | None) -> Hash | None:  # noqa: ARG002
        digest = from_s3(sha256)
        return None if digest is None else self.combine([digest], size)


class _Crc64Nvme:
    store: StoreAlgorithm = "CRC64NVME"
    by_parts = True

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        return part_ranges(size)

    def new(self) -> Digest:
        return _Crc64NvmeDigest()

    def combine(self, digests: Sequence[bytes], size: int) -> Hash:
        whole = 0
        for digest, (start, stop) in zip(digests, self.parts(size), strict=True):
            whole = combine_crc64nvme(whole, int.from_bytes(digest), stop - start)
        return Hash(CRC64NVME, to_s3(whole.to_bytes(_CRC_BYTES)))

    def proven(self, size: int, sha256: str | None, crc64nvme: str | None) -> Hash | None:  # noqa: ARG002
        return Hash(CRC64NVME, crc64nvme) if crc64nvme and from_s3(crc64nvme) else None


class _Crc64NvmeDigest:
    def __init__(self) -> None:
        _check_crc64nvme()
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = crc64nvme(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(_CRC_BYTES)


def _check_crc64nvme() -> None:
    if crc64nvme is None:
        cure = "pip install --upgrade 'awscrt>=0.38'"
        raise HashTypeError(f"hash type {CRC64NVME!r} is computed by awscrt, which is missing or too old here; {cure}")


_ALGORITHMS: Final[Mapping[str, Algorithm]] = {CHUNKED: _Chunked(), SHA256: _Sha256(), CRC64NVME: _Crc64Nvme()}


def algorithm(hash_type: str) -> Algorithm:
    """Return the algorithm of a hash type.

    Raises:
        HashTypeError: no algorithm has that name.
    """
    try:
        return _ALGORITHMS[hash_type]
    except (KeyError, TypeError):
        raise HashTypeError(f"hash type {quoted(hash_type)}: expected one of {', '.join(_ALGORITHMS)}") from None


def composite_hash(checksum: str | None, size: int) -> Hash | None:
    """Return S3's composite SHA-256 of an object as a chunked hash, or None if its number of parts is not the format's.

    S3 computes it as Quilt computes ``sha2-256-chunked``, from the digests of the uploaded parts, and appends their number.
    A known hash that equals it proves the object, for any part sizes. To take it as the hash of the object, the part
    sizes must be known to be the format's.
    """
    value, dash, count = (checksum or "").partition("-")
    has_format_count = dash and count == str(sum(1 for _ in part_ranges(size)))
    return Hash(CHUNKED, value) if has_format_count and from_s3(value) else None


def check_new_hash_type(hash_type: str) -> None:
    """Check the hash type for new entries; ``SHA256``, of older manifests, is read and verified but not written.

    Raises:
        HashTypeError: the type is neither ``sha2-256-chunked`` nor ``CRC64NVME``, or nothing here computes it.
    """
    check_hash_word(hash_type)
    if hash_type == CRC64NVME:
        _check_crc64nvme()


def check_hash_type(logical_key: str, given: Hash) -> None:
    """Check that the hash of an entry can be compared with its bytes, before any of them moves.

    Raises:
        HashTypeError: its type is unknown.
    """
    if given.type not in _ALGORITHMS:
        unknown = f"entry {quoted(logical_key)}: its hash has the unknown type {quoted(given.type)}"
        cure = "leave the entry out, or let its package be published again"
        raise HashTypeError(f"{unknown}, so its bytes cannot be checked: expected one of {', '.join(_ALGORITHMS)}; {cure}")


def digest_of(chunks: Iterable[bytes | memoryview], digest: Digest) -> bytes:
    """Return the digest of bytes that arrive in chunks."""
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def hash_of(data: bytes | memoryview, hash_type: str = CHUNKED) -> Hash:
    """Return the hash of bytes in memory."""
    hashing = algorithm(hash_type)
    digests = [digest_of([data[start:stop]], hashing.new()) for start, stop in hashing.parts(len(data))]
    return hashing.combine(digests, len(data))


class RunningHash:
    """Hash of an object whose bytes come in order, cut where the parts of the algorithm end.

    Args:
        hash_type: the type of the hash.
        size: bytes of the object.

    Raises:
        HashTypeError: the type is unknown.
    """

    def __init__(self, hash_type: str, size: int) -> None:
        self._algorithm = algorithm(hash_type)
        self._size = size
        self._stops = [stop for _, stop in self._algorithm.parts(size)]
        self._digests: list[bytes] = []
        self._digest = self._algorithm.new()
        self.length = 0
        """Bytes so far."""

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        digests, stops = self._digests, self._stops
        while len(digests) < len(stops) - 1 and self.length + len(data) > (stop := stops[len(digests)]):
            self._digest.update(data[: stop - self.length])
            digests.append(self._digest.digest())
            data, self.length, self._digest = data[stop - self.length :], stop, self._algorithm.new()
        self._digest.update(data)
        self.length += len(data)

    def hash(self) -> Hash:
        """Return the hash, once all bytes have been added."""
        return self._algorithm.combine([*self._digests, self._digest.digest()] if self._stops else [], self._size)


def verify_stream(chunks: Iterable[bytes], size: int, expected: Hash, where: str) -> Iterator[bytes]:
    """Yield the chunks of an object as they come, and verify their size and hash at the end.

    Args:
        chunks: the bytes, in order.
        size: the expected number of bytes.
        expected: the expected hash.
        where: the location of the object, for the message.

    Raises:
        EntryDamagedError: size or hash differ; the caller has all chunks by then, and no more bytes than ``size``.
        HashTypeError: the hash is of an unknown type.
    """
    running = RunningHash(expected.type, size)
    for chunk in chunks:
        if running.length + len(chunk) > size:
            raise EntryDamagedError(f"{where}: more bytes came than the {size:,} of the manifest")
        yield chunk
        running.update(chunk)
    if running.length != size or running.hash() != expected:
        raise EntryDamagedError(
            f"{where}: the bytes differ from those in the manifest; {running.length:,} bytes of {size:,} came"
        )
