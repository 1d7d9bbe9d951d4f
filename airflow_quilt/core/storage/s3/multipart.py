"""Uploads in parts to S3 stores."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from airflow_quilt.core.errors import StorageUnavailableError, UploadVanishedError
from airflow_quilt.core.format.hashes import StoreAlgorithm, from_s3, to_s3
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.objects import Data, ObjectInfo
from airflow_quilt.core.storage.s3.body import boto_body
from airflow_quilt.core.storage.s3.crt.requests import CommonRuntime
from airflow_quilt.core.storage.s3.errors import translated
from airflow_quilt.core.storage.s3.fields import address, bucket_of, checksum_fields, stat_of
from airflow_quilt.core.storage.s3.pages import Pages
from airflow_quilt.core.storage.s3.versioning import Versioning

_UPLOADS: Final = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
_PARTS: Final = {"PartNumberMarker": "NextPartNumberMarker"}
"""The parameters for the next page, and the fields of a page that hold their values."""
_PAGE: Final = 1000
"""The most parts that a page lists."""
_MOST_PAGES: Final = 100
"""The most pages of uploads to a key, and of parts, of which there are 10,000 at most: a store may list fewer at once."""


class S3Upload:
    """An upload in parts to an S3 store; several threads may send parts.

    Args:
        runtime: makes the requests, or leaves them to its boto3 client.
        versioning: decides on the version of the object where the store states none.
        key: the object.
        upload_id: of the upload, in the store.
        algorithm: of the digests.
        arrived: the parts that arrived before, by number, as ListParts lists them.
    """

    def __init__(
        self,
        runtime: CommonRuntime,
        versioning: Versioning,
        key: PhysicalKey,
        upload_id: str,
        algorithm: StoreAlgorithm,
        arrived: Mapping[int, Any] | None = None,
    ) -> None:
        self._runtime = runtime
        self._client = runtime.client
        self._versioning = versioning
        self._key = key
        self._algorithm: StoreAlgorithm = algorithm
        self._target: Any = {**address(key.at_version(None)), "UploadId": upload_id}
        self._parts: dict[int, tuple[int, dict[str, Any]]] = {}
        self._arrived = arrived or {}

    def has(self, number: int, data: Data, digest: bytes) -> bool:
        """Return whether a part arrived, by its checksum, or by the MD5 in its ETag where the store lists no checksum."""
        part = self._arrived.get(number)
        if part is None or part["Size"] != len(data):
            return False
        if checksum := part.get(f"Checksum{self._algorithm}"):
            arrived: bool = checksum == to_s3(digest)
        else:
            arrived = part["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
        if arrived:
            self._keep(number, len(data), part["ETag"], checksum_fields(self._algorithm, digest))
        return arrived

    def arrived(self, number: int, size: int) -> bytes | None:
        """Return the digest of a part that arrived, if it has this size and the store lists it."""
        part = self._arrived.get(number, {})
        digest = from_s3(part.get(f"Checksum{self._algorithm}"))
        if part.get("Size") != size or digest is None:
            return None
        self._keep(number, size, part["ETag"], checksum_fields(self._algorithm, digest))
        return digest

    def send(self, number: int, data: Data, digest: bytes) -> None:
        """Send a part; the store refuses bytes that do not have the digest."""
        checksum: Any = checksum_fields(self._algorithm, digest)
        part = {"partNumber": number, "uploadId": self._target["UploadId"]}
        with translated(self._key):
            answer: Any = self._runtime.put(self._key, data, digest, self._algorithm, part)
            if answer is None:
                answer = self._client.upload_part(**self._target, PartNumber=number, Body=boto_body(data), **checksum)
        self._keep(number, len(data), answer["ETag"], checksum)

    def copy(self, number: int, source: ObjectInfo, start: int, stop: int) -> bytes | None:
        """Let the store copy a range of another object as a part."""
        with translated(source.key):
            answer = self._client.upload_part_copy(
                **self._target,
                PartNumber=number,
                CopySource=address(source.key),
                CopySourceIfMatch=source.etag,
                CopySourceRange=f"bytes={start}-{stop - 1}",
            )
        result: Any = answer["CopyPartResult"]
        checksum = result.get(f"Checksum{self._algorithm}")
        digest = from_s3(checksum)
        if checksum and digest is None:
            raise StorageUnavailableError("the checksum in the answer was damaged on its way", str(self._key))
        self._keep(number, stop - start, result["ETag"], checksum_fields(self._algorithm, digest) if digest else {})
        return digest

    def complete(self) -> ObjectInfo:
        """Make the object of the parts."""
        parts: Any = [part for _, (_, part) in sorted(self._parts.items())]
        with translated(self._key):
            answer = self._client.complete_multipart_upload(**self._target, MultipartUpload={"Parts": parts})
        size = sum(size for size, _ in self._parts.values())
        return stat_of(self._versioning.of_written(self._key, answer), size, answer["ETag"], answer)

    def abort(self) -> None:
        """Drop the parts."""
        with translated(self._key):
            self._client.abort_multipart_upload(**self._target)

    def _keep(self, number: int, size: int, etag: str, checksum: Mapping[str, str]) -> None:
        """Keep the fields of a part for :meth:`complete`; a part that is sent again replaces its first one."""
        self._parts[number] = size, {"PartNumber": number, "ETag": etag, **checksum}


def unfinished_uploads(
    runtime: CommonRuntime, versioning: Versioning, key: PhysicalKey, since: float, algorithm: StoreAlgorithm
) -> list[S3Upload]:
    """Return the open uploads to a key, with their parts, newest first; boto's errors as they are."""
    found = [
        upload
        for upload in _listed(runtime.client, key)
        if upload["Initiated"].timestamp() >= since and upload.get("ChecksumAlgorithm", algorithm) == algorithm
    ]
    found.sort(key=lambda upload: upload["Initiated"], reverse=True)
    uploads = []
    for upload in found:
        with contextlib.suppress(UploadVanishedError), translated(key):  # Another process ended it since it was listed.
            parts = _parts(runtime.client, key, upload["UploadId"])
            uploads.append(S3Upload(runtime, versioning, key, upload["UploadId"], algorithm, parts))
    return uploads


def _listed(client: Any, key: PhysicalKey) -> Iterator[Any]:
    """Yield the open uploads to a key; a prefix lists those to longer keys too."""
    pages = _pages(client.list_multipart_uploads, _UPLOADS, key, Bucket=bucket_of(key), Prefix=key.key)
    return (upload for page in pages for upload in page.get("Uploads", ()) if upload["Key"] == key.key)


def _parts(client: Any, key: PhysicalKey, upload_id: str) -> dict[int, Any]:
    pages = _pages(client.list_parts, _PARTS, key, **address(key.at_version(None)), UploadId=upload_id)
    return {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}


def listed_part_sizes(client: Any, stat: ObjectInfo) -> Iterator[int]:
    """Yield the bytes of the parts of an object, while it is in the state of ``stat``; boto's errors as they are."""
    request = {**address(stat.key), "ObjectAttributes": ["ETag", "ObjectParts"], "MaxParts": _PAGE}
    pages = Pages(stat.key, _MOST_PAGES)
    while True:
        answer = client.get_object_attributes(**request)
        parts = answer.get("ObjectParts", {})
        if answer.get("ETag", stat.etag).strip('"') != stat.etag.strip('"'):
            return  # Another object by now, which the next step of the caller will notice.
        yield from (part["Size"] for part in parts.get("Parts", ()))
        if not parts.get("IsTruncated"):
            return
        request["PartNumberMarker"] = parts["NextPartNumberMarker"]
        pages.check({"PartNumberMarker": parts["NextPartNumberMarker"]}, parts.get("Parts", ()))


def _pages(call: Callable[..., Any], markers: Mapping[str, str], key: PhysicalKey, **request: Any) -> Iterator[Any]:
    """List page by page, each with a request that a stop does not have to wait for, unlike one of boto's paginators."""
    pages = Pages(key, _MOST_PAGES)
    while True:
        page = call(**request)
        yield page
        if not page.get("IsTruncated"):
            return
        following = {name: page[field] for name, field in markers.items() if page.get(field)}
        pages.check(following, page.get("Uploads") or page.get("Parts") or ())
        request |= following
