"""Requests for objects, parts and listings of S3 stores, through the AWS Common Runtime (ADR 0010).

One call is one request, without the bookkeeping that makes boto3 slow. A request that does not simply succeed is left to boto3:
it makes the request again, with its retries, its redirects and its renewal of credentials, and raises the error. So the callers
see boto3's errors and no others.
"""

import os
import threading
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow_quilt.core.format.hashes import StoreAlgorithm, to_s3
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.objects import CHUNK, Data
from airflow_quilt.core.storage.s3.answers import MOST_OF_ANSWER
from airflow_quilt.core.storage.s3.crt.exchange import ABSENT, Answer, Request
from airflow_quilt.core.storage.s3.crt.listing import Listing, page_of
from airflow_quilt.core.storage.s3.crt.start import start

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_quilt.core.storage.s3.crt.client import CrtClient

Transport = Literal["auto", "boto3"]
"""The way of the requests for objects and listings: through the common runtime where it can, or all through boto3."""

_PARTIAL: Final = 206
_GOOD: Final = 200
_NO_BYTES: Final = sha256().hexdigest()
_NO_KEY: Final = b"<Code>NoSuchKey</Code>"
_WITH_CHECKSUM: Final = [("x-amz-checksum-mode", "ENABLED")]
_META: Final = "x-amz-meta-"


class CommonRuntime:
    """Makes requests with the settings, credentials and addresses of a boto3 client, where it can.

    Every method returns None where boto3 shall make the request. The threads of the runtime start with the first request; a
    process that was forked starts its own.

    Args:
        client: the boto3 client.
        transport: ``"boto3"`` leaves every request to boto3.
    """

    def __init__(self, client: "S3Client", transport: Transport = "auto") -> None:
        self.client = client
        self._transport = transport
        self._clients: dict[int, CrtClient | None] = {}
        self._locks: dict[int, threading.Lock] = {}

    def put(
        self, key: PhysicalKey, data: Data, digest: bytes, algorithm: StoreAlgorithm, part: Mapping[str, Any] | None = None
    ) -> dict[str, str] | None:
        """Write an object, or the part of one that the query ``part`` names; return the fields of boto3's answer."""
        crt = self._crt()
        if crt is None:
            return None
        headers = [("Content-Length", str(len(data))), (f"x-amz-checksum-{algorithm.lower()}", to_s3(digest))]
        payload_hash = digest.hex() if algorithm == "SHA256" else crt.payload_hash(data)
        operation = "UploadPart" if part else "PutObject"
        answer = crt.make(Request(operation, "PUT", key, part or {}, headers, payload_hash, len(data), data))
        return _fields(answer) if answer and answer.status == _GOOD and "etag" in answer.headers else None

    def get(self, key: PhysicalKey, start: int, stop: int) -> tuple[str, bytes] | None:
        """Read a range of at most one chunk, since an answer is held whole; return the ETag and the bytes."""
        crt = self._crt() if 0 < stop - start <= CHUNK else None
        if crt is None:
            return None
        headers = [("Range", f"bytes={start}-{stop - 1}")]
        answer = crt.make(Request("GetObject", "GET", key, _version(key), headers, _NO_BYTES, stop - start))
        if answer is None or answer.status != _PARTIAL or answer.is_too_long or "etag" not in answer.headers:
            return None
        return answer.headers["etag"], b"".join(answer.chunks)

    def read(self, key: PhysicalKey, most: int) -> tuple[dict[str, Any], bytes] | None:
        """Read a small object whole, and compare the checksum that the store keeps of it.

        Returns:
            Fields of boto3's answer, and the bytes, both empty where there is no object. None also for more than ``most`` bytes.
        """
        crt = self._crt()
        if crt is None:
            return None
        answer = crt.make(Request("GetObject", "GET", key, _version(key), _WITH_CHECKSUM, _NO_BYTES, most, most=most))
        if answer is None:
            return None
        data = b"".join(answer.chunks)
        if answer.status == ABSENT:
            return ({}, b"") if _NO_KEY in data else None
        if answer.status != _GOOD or answer.is_too_long or "etag" not in answer.headers or not crt.is_whole(answer, data):
            return None
        return {**_fields(answer), "Metadata": _metadata(answer)}, data

    def head(self, key: PhysicalKey) -> dict[str, Any] | None:
        """Read the headers of an object; return the fields of boto3's answer, none where there is no object."""
        crt = self._crt()
        if crt is None:
            return None
        answer = crt.make(Request("HeadObject", "HEAD", key, _version(key), _WITH_CHECKSUM, _NO_BYTES, 0))
        if answer and answer.status == ABSENT:
            return {}
        if answer is None or answer.status != _GOOD or not {"etag", "content-length"} <= answer.headers.keys():
            return None
        return {**_fields(answer), "ContentLength": int(answer.headers["content-length"])}

    def page(self, listing: Listing, request: Mapping[str, str]) -> dict[str, Any] | None:
        """List one page, for the parameters of boto3; return the fields of boto3's answer."""
        crt = self._crt()
        if crt is None:
            return None
        bucket, query = PhysicalKey(request["Bucket"], ""), listing.query_of(request)
        answer = crt.make(Request(listing.operation, "GET", bucket, query, [], _NO_BYTES, 0, most=MOST_OF_ANSWER))
        if answer is None or answer.status != _GOOD or answer.is_too_long:
            return None
        page = page_of(b"".join(answer.chunks), listing)
        return page and {**page, "ResponseMetadata": {"HTTPHeaders": answer.headers}}

    def _crt(self) -> "CrtClient | None":
        """Return this process's client of the common runtime, if there is one and it may make requests now."""
        if self._transport == "boto3":
            return None
        process = os.getpid()
        if process not in self._clients:
            with self._locks.setdefault(process, threading.Lock()):
                if process not in self._clients:
                    self._clients[process] = start(self.client)
        crt = self._clients[process]
        return crt if crt and crt.is_ready else None


def _version(key: PhysicalKey) -> dict[str, str]:
    return {"versionId": key.version_id} if key.version_id is not None else {}


def _fields(answer: Answer) -> dict[str, str]:
    """Return the fields of boto3's answer that are used here."""
    named = {
        "ETag": "etag",
        "VersionId": "x-amz-version-id",
        "ChecksumSHA256": "x-amz-checksum-sha256",
        "ChecksumCRC64NVME": "x-amz-checksum-crc64nvme",
    }
    return {field: answer.headers[name] for field, name in named.items() if name in answer.headers}


def _metadata(answer: Answer) -> dict[str, str]:
    return {name.removeprefix(_META): value for name, value in answer.headers.items() if name.startswith(_META)}
