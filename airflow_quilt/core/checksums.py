"""Quilt's hashes: algorithm, part grid, and what an S3 checksum is worth.

``sha2-256-chunked`` is the base64 of the SHA-256 of the concatenated SHA-256 digests of the parts. The grid of parts
belongs to the format: 8 MiB, doubled until there are at most 10,000. An empty file has no part.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

CHUNKED: Final = "sha2-256-chunked"
_SMALLEST_PART: Final = 8 * 1024 * 1024
_MOST_PARTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Hash:
    """A hash as a manifest writes it: ``{"type": …, "value": …}``."""

    type: str
    value: str


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


def digest_part(chunks: Iterable[bytes]) -> bytes:
    """Return the 32-byte digest of one part that arrives in chunks."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def to_s3(digest: bytes) -> str:
    """Return a digest as S3 writes it: base64."""
    return base64.b64encode(digest).decode()


def combine(digests: Iterable[bytes]) -> Hash:
    """Return the chunked hash of an object from the digests of its parts, in order."""
    return Hash(CHUNKED, to_s3(digest_part(digests)))


def from_s3_sha256(checksum: str | None, size: int) -> Hash | None:
    """Return the chunked hash that S3's ``ChecksumSHA256`` of an object proves, or None where it proves nothing.

    The checksum of an object sent in one piece is the digest of its bytes, and so of its only part when the object is
    not larger than one part. A composite checksum (``…-N``) says nothing about the sizes of its parts.
    """
    if not checksum or "-" in checksum or size > part_size(size):
        return None
    return combine([base64.b64decode(checksum)] if size else [])
