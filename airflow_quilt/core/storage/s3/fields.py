"""The fields of requests and answers of S3, as the Amazon S3 API Reference names them."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from airflow_quilt.core.errors import StorageError, quoted
from airflow_quilt.core.format.hashes import StoreAlgorithm, to_s3
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.objects import ObjectInfo

MOST_BYTES: Final = 1 << 63
"""More than any object has."""
LONGEST_FIELD: Final = 1024
"""The most characters of an ETag or a version, as of S3's own versions."""
_SECOND: Final = timedelta(seconds=3)
"""An object written so long before a listing is written again only in a later second, by any of the store's clocks."""


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
    """Return the field that holds the digest of an object or part."""
    return {f"Checksum{algorithm}": to_s3(digest)}


def stat_of(key: PhysicalKey, size: int, etag: str, checksums: Mapping[str, Any]) -> ObjectInfo:
    """Return the metadata of an object; ``checksums`` are the fields of an answer, or of the request.

    Raises:
        StorageError: no object has such a size.
    """
    if not 0 <= size < MOST_BYTES:
        raise StorageError(f"the store states a size of {quoted(size)} bytes", str(key))
    return ObjectInfo(key, size, etag, checksums.get("ChecksumSHA256"), checksums.get("ChecksumCRC64NVME"))


def stats_of(bucket: str | None, page: Mapping[str, Any]) -> Iterator[ObjectInfo]:
    """Yield the metadata of the objects on a page of a listing.

    An ETag depends on the bytes alone, and times are of whole seconds: together they identify only writings some seconds old.
    """
    certain = _certain(page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""))
    for item in page.get("Contents", ()):
        modified = item.get("LastModified")
        written = f"{modified.timestamp()} {item['ETag']}" if modified and modified <= certain else ""
        yield ObjectInfo(PhysicalKey(bucket, item["Key"]), item["Size"], item["ETag"], written=written)


def _certain(date: str) -> datetime:
    """Return the time up to which a listing of some date identifies the last writing of an object."""
    try:
        return parsedate_to_datetime(date).astimezone(UTC) - _SECOND
    except (ValueError, OverflowError):
        return datetime.min.replace(tzinfo=UTC)


def version_of(answer: Mapping[str, Any]) -> str | None:
    """Return the version that an answer names, ``null`` included; None where it names none.

    Raises:
        StorageError: it is longer than any.
    """
    version: str | None = answer.get("VersionId") or None
    if version is not None and len(version) > LONGEST_FIELD:
        raise StorageError(f"the store states a version of {len(version):,} characters", quoted(version))
    return version
