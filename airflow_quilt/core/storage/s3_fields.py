"""What the requests and answers of S3 have in common.

Request and response fields are those of the Amazon S3 API Reference.
"""

from collections.abc import Mapping
from typing import Any

from airflow_quilt.core.checksums import StoreAlgorithm, to_s3
from airflow_quilt.core.errors import StorageError
from airflow_quilt.core.locations import PhysicalKey
from airflow_quilt.core.storage.base import Stat


def bucket_of(key: PhysicalKey) -> str:
    """Return the bucket of an object.

    Raises:
        StorageError: it is a local file.
    """
    if key.bucket is None:
        raise StorageError("this is no object of an S3 store", str(key))
    return key.bucket


def address(key: PhysicalKey) -> Any:
    """Return the fields that name an object, at its version if it has one; also those of ``CopySource``."""
    fields = {"Bucket": bucket_of(key), "Key": key.key}
    return fields | {"VersionId": key.version_id} if key.version_id is not None else fields


def checksum_fields(algorithm: StoreAlgorithm, digest: bytes) -> dict[str, str]:
    """Return the field that tells the digest of the bytes of an object or part."""
    return {f"Checksum{algorithm}": to_s3(digest)}


def stat_of(key: PhysicalKey, size: int, etag: str, checksums: Mapping[str, Any]) -> Stat:
    """Return what is known of an object; ``checksums`` are the fields of an answer, or of the request."""
    return Stat(key, size, etag, checksums.get("ChecksumSHA256"), checksums.get("ChecksumCRC64NVME"))


def version_of(answer: Mapping[str, Any]) -> str | None:
    """Return the version that the store told; buckets without versioning call theirs ``null``."""
    version: str | None = answer.get("VersionId")
    return None if version == "null" else version
