"""Quilt's hashes: algorithm, part grid, and what an S3 checksum is worth.

``sha2-256-chunked`` is the base64 of the SHA-256 of the concatenated SHA-256 digests of the parts. The grid of parts
belongs to the format: 8 MiB, doubled until there are at most 10,000. An empty file has no part. ``SHA256``, of older
manifests, is the SHA-256 of the whole file in hex. ``CRC64NVME`` is S3's checksum of that name, of the whole object.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec
from awscrt.checksums import combine_crc64nvme, crc32, crc32c, crc64nvme

from airflow_quilt.core.errors import EntryDamagedError, HashTypeError

CHUNKED: Final = "sha2-256-chunked"
SHA256: Final = "SHA256"
CRC64NVME: Final = "CRC64NVME"

StoreAlgorithm = Literal["SHA256", "CRC64NVME"]
"""A checksum that S3 knows, by S3's name for it."""

_SMALLEST_PART: Final = 8 * 1024 * 1024
_MOST_PARTS: Final = 10_000
_CRC_BYTES: Final = 8
_CHECKSUMS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "crc32": lambda data: crc32(data).to_bytes(4),
    "crc32c": lambda data: crc32c(data).to_bytes(4),
    "crc64nvme": lambda data: crc64nvme(data).to_bytes(_CRC_BYTES),
    "sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}


class Hash(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A hash as a manifest writes it: ``{"type": …, "value": …}``."""

    type: str
    value: str


class Digest(Protocol):
    """Takes bytes in, as those of :mod:`hashlib` do."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


class Algorithm(Protocol):
    """How the hash of one type is made of the digests of parts, and what a store's checksums say of it."""

    @property
    def store(self) -> StoreAlgorithm:
        """The checksum of S3 that the digest of a part is."""
        ...

    @property
    def by_parts(self) -> bool:
        """Whether the parts are those of the format's grid (:func:`part_ranges`), and not the whole object."""
        ...

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the half-open byte ranges that are digested apart, of an object of ``size`` bytes."""
        ...

    def new(self) -> Digest:
        """Begin the digest of a part."""
        ...

    def combine(self, digests: Sequence[bytes], size: int) -> Hash:
        """Return the hash of an object of ``size`` bytes from the digests of its :meth:`parts`, in order."""
        ...

    def proven(self, size: int, sha256: str | None, crc64nvme: str | None) -> Hash | None:
        """Return the hash that S3's ``ChecksumSHA256`` and ``ChecksumCRC64NVME`` of an object prove, or None."""
        ...


def part_size(size: int) -> int:
    """Return the format's part size, in bytes, for an object of ``size`` bytes."""
    part = _SMALLEST_PART
    while part * _MOST_PARTS < size:
        part *= 2
    return part


def part_ranges(size: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open byte ranges of the parts of an object of ``size`` bytes."""
    step = part_size(size)
    for start in range(0, size, step):
        yield start, min(start + step, size)


def to_s3(digest: bytes) -> str:
    """Return a digest as S3 writes it: base64."""
    return base64.b64encode(digest).decode()


def from_s3(checksum: str | None) -> bytes | None:
    """Return the digest in a checksum of S3; None where there is none, or it was damaged on its way."""
    try:
        return base64.b64decode(checksum, validate=True) if checksum else None
    except ValueError:
        return None


def contradicts_s3(data: bytes, name: str, checksum: str) -> bool:
    """Whether a checksum of S3, by its name in headers, shows that these bytes are others; a composite one shows nothing."""
    expected = _whole(checksum)
    return expected is not None and name in _CHECKSUMS and _CHECKSUMS[name](data) != expected


def _whole(checksum: str | None) -> bytes | None:
    """Return the digest in a checksum of S3; a composite one (``…-N``) says nothing about the sizes of its parts."""
    return from_s3(checksum) if checksum and "-" not in checksum else None


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
        # The checksum of an object sent in one piece is the digest of its only part, if it is not larger than one.
        digest = _whole(sha256)
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
        digest = _whole(sha256)
        return None if digest is None else self.combine([digest], size)


class _Crc64Nvme:
    store: StoreAlgorithm = "CRC64NVME"
    by_parts = True

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        return part_ranges(size)

    def new(self) -> Digest:
        return _Crc()

    def combine(self, digests: Sequence[bytes], size: int) -> Hash:
        whole = 0
        for digest, (start, stop) in zip(digests, self.parts(size), strict=True):
            whole = combine_crc64nvme(whole, int.from_bytes(digest), stop - start)
        return Hash(CRC64NVME, to_s3(whole.to_bytes(_CRC_BYTES)))

    def proven(self, size: int, sha256: str | None, crc64nvme: str | None) -> Hash | None:  # noqa: ARG002
        return Hash(CRC64NVME, crc64nvme) if crc64nvme and _whole(crc64nvme) else None


class _Crc:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = crc64nvme(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(_CRC_BYTES)


_ALGORITHMS: Final[Mapping[str, Algorithm]] = {CHUNKED: _Chunked(), SHA256: _Sha256(), CRC64NVME: _Crc64Nvme()}


def algorithm(hash_type: str) -> Algorithm:
    """Return the algorithm of a type of hash.

    Raises:
        HashTypeError: there is none of that name.
    """
    try:
        return _ALGORITHMS[hash_type]
    except (KeyError, TypeError):
        raise HashTypeError(f"hash type {hash_type!r}: expected one of {', '.join(_ALGORITHMS)}") from None


def composite_hash(checksum: str | None, size: int) -> Hash | None:
    """Return the chunked hash that S3's composite SHA-256 of an object is, if its parts are those of the format; or None.

    S3 makes it as Quilt makes ``sha2-256-chunked``, of the digests of the parts that were sent, and tells how many there were. So
    where a hash has this value the parts were the same, of whatever size. The other way round their sizes have to be known.
    """
    value, dash, count = (checksum or "").partition("-")
    is_count = dash and count == str(sum(1 for _ in part_ranges(size)))
    return Hash(CHUNKED, value) if is_count and from_s3(value) else None


def check_new_hash_type(hash_type: str) -> None:
    """Check the type of hash that new entries are to get; the older ``SHA256`` is read, not written.

    Raises:
        HashTypeError: it is neither ``sha2-256-chunked`` nor ``CRC64NVME``.
    """
    if hash_type not in (CHUNKED, CRC64NVME):
        raise HashTypeError(f"hash type {hash_type!r}: new entries get {CHUNKED!r} or {CRC64NVME!r}")


def digest_of(chunks: Iterable[bytes], digest: Digest) -> bytes:
    """Return the digest of bytes that arrive in chunks."""
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def hash_of(data: bytes, hash_type: str = CHUNKED) -> Hash:
    """Return the hash of bytes that are in memory."""
    kind = algorithm(hash_type)
    return kind.combine([digest_of([data[start:stop]], kind.new()) for start, stop in kind.parts(len(data))], len(data))


def verify_stream(chunks: Iterable[bytes], size: int, expected: Hash, where: str) -> Iterator[bytes]:
    """Pass on the chunks of an object as they come, and raise at the end if they were not the ones expected.

    Args:
        chunks: the bytes, in order.
        size: how many there must be.
        expected: the hash that they must have.
        where: what they are, for the message.

    Raises:
        EntryDamagedError: they were others; they have been passed on by then.
        HashTypeError: the hash is of an unknown type.
    """
    kind = algorithm(expected.type)
    stops = [stop for _, stop in kind.parts(size)]
    digest, digests, at = kind.new(), list[bytes](), 0
    for chunk in chunks:
        yield chunk
        rest = chunk
        while len(digests) < len(stops) - 1 and at + len(rest) > (stop := stops[len(digests)]):
            digest.update(rest[: stop - at])
            digests.append(digest.digest())
            rest, at, digest = rest[stop - at :], stop, kind.new()
        digest.update(rest)
        at += len(rest)
    if stops:
        digests.append(digest.digest())
    if at != size or kind.combine(digests, size) != expected:
        raise EntryDamagedError(f"{where}: these are not the bytes that the package names: {at:,} bytes of {size:,} came")
