"""Checksums of S3 in the headers of an answer."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

from awscrt.checksums import crc32, crc32c, crc64nvme

from airflow_quilt.core.format.hashes import from_s3

_HEADER_CHECKSUMS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "crc32": lambda data: crc32(data).to_bytes(4),
    "crc32c": lambda data: crc32c(data).to_bytes(4),
    "crc64nvme": lambda data: crc64nvme(data).to_bytes(8),
    "sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}
"""Checksum functions, by the end of the header ``x-amz-checksum-…`` that holds their value."""


def contradicts_s3(data: bytes, name: str, checksum: str) -> bool:
    """Return whether the header ``x-amz-checksum-<name>`` of an object proves that these are not its bytes.

    A composite checksum and an unknown ``name`` prove nothing.
    """
    expected = from_s3(checksum)
    return expected is not None and name in _HEADER_CHECKSUMS and _HEADER_CHECKSUMS[name](data) != expected
