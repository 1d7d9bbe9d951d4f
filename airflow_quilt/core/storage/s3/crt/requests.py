"""The bytes of objects and parts, to and from S3 stores, looks at objects, and listings, through the AWS Common Runtime.

One call is one request, without the bookkeeping that makes boto3 slow. Whatever does not simply succeed is left to boto3: it
makes the request again, with its retries, its redirects and its renewal of credentials, and says what is wrong. So whoever
uses this has boto3's errors and no others.
"""

import os
import threading
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from airflow_quilt.core.format.hashes import StoreAlgorithm, to_s3
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import CHUNK
from airflow_quilt.core.storage.s3.crt.client import ABSENT, Answer, CrtClient, Request, start
from airflow_quilt.core.storage.s3.crt.listing import Listing, page_of
from airflow_quilt.core.storage.s3.fields import contradicts_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PARTIAL: Final = 206
_GOOD: Final = 200
_NO_BYTES: Final = sha256().hexdigest()
_PAGE: Final = 8 * CHUNK
"""Bytes of a page: 1000 keys of 1024 bytes, each of them encoded, and what else is told of them."""
_NO_KEY: Final = b"<Code>NoSuchKey</Code>"
_WITH_CHECKSUM: Final = [("x-amz-checksum-mode", "ENABLED")]
_META: Final = "x-amz-meta-"
_CHECKSUM: Final = "x-amz-checksum-"


class CommonRuntime:
    """Makes the requests of a boto3 client for the bytes of objects, where it can; else says so.

    Nothing is started before the first of them. A process that was forked starts anew.

    Args:
        client: whose settings, credentials and addresses count.
        use: whether to make any request at all.
    """

    def __init__(self, client: "S3Client", *, use: bool = True) -> None:
        self.client = client
        self._use = use
        self._engines: dict[int, CrtClient | None] = {}
        self._locks: dict[int, threading.Lock] = {}

    def put(
        self, key: PhysicalKey, data: bytes, digest: bytes, algorithm: StoreAlgorithm, part: Mapping[str, Any] | None = None
    ) -> dict[str, str] | None:
        """Write an object, or a part of one; return the fields of boto3's answer, or None if it is for boto3 to do."""
        engine = self._engine()
        if engine is None:
            return None
        headers = [("Content-Length", str(len(data))), (f"x-amz-checksum-{algorithm.lower()}", to_s3(digest))]
        hashed = digest.hex() if algorithm == "SHA256" else engine.value_of(data)
        operation = "UploadPart" if part else "PutObject"
        answer = engine.make(Request(operation, "PUT", key, part or {}, headers, hashed, len(data), data))
        return _fields(answer) if answer and answer.status == _GOOD and "etag" in answer.headers else None

    def get(self, key: PhysicalKey, start: int, stop: int) -> tuple[str, bytes] | None:
        """Read a range of one chunk at most; return the ETag and the bytes, or None if it is for boto3 to do."""
        if not 0 < stop - start <= CHUNK:  # An answer is held whole.
            return None
        headers = [("Range", f"bytes={start}-{stop - 1}")]
        answer = self._make(Request("GetObject", "GET", key, _version(key), headers, _NO_BYTES, stop - start))
        if answer is None or answer.status != _PARTIAL or "etag" not in answer.headers:
            return None
        return answer.headers["etag"], b"".join(answer.chunks)

    def read(self, key: PhysicalKey, most: int) -> tuple[dict[str, Any], bytes] | None:
        """Read a small object whole, and compare the checksum that the store keeps of it.

        Returns:
            The fields of boto3's answer, none where there is no object, and the bytes; None if it is for boto3 to do, which it is
            if there are more than ``most`` bytes.
        """
        answer = self._make(Request("GetObject", "GET", key, _version(key), _WITH_CHECKSUM, _NO_BYTES, most, most=most))
        data = b"".join(answer.chunks) if answer else b""
        if answer and answer.status == ABSENT:
            return ({}, b"") if _NO_KEY in data else None
        if answer is None or answer.status != _GOOD or answer.is_too_long or "etag" not in answer.headers:
            return None
        return ({**_fields(answer), "Metadata": _metadata(answer)}, data) if _is_whole(answer, data) else None

    def head(self, key: PhysicalKey) -> dict[str, Any] | None:
        """Look at an object; return the fields of boto3's answer, no field where there is no object, None if it is for boto3."""
        answer = self._make(Request("HeadObject", "HEAD", key, _version(key), _WITH_CHECKSUM, _NO_BYTES, 0))
        if answer and answer.status == ABSENT:
            return {}
        if answer is None or answer.status != _GOOD or not {"etag", "content-length"} <= answer.headers.keys():
            return None
        return {**_fields(answer), "ContentLength": int(answer.headers["content-length"])}

    def page(self, listing: Listing, request: Mapping[str, str]) -> dict[str, Any] | None:
        """List one page, for boto3's parameters; return the fields of boto3's answer, or None if it is for boto3 to do."""
        where, query = PhysicalKey(request["Bucket"], ""), listing.asking(request)
        answer = self._make(Request(listing.operation, "GET", where, query, [], _NO_BYTES, 0, most=_PAGE))
        if answer is None or answer.status != _GOOD or answer.is_too_long:
            return None
        page = page_of(b"".join(answer.chunks), listing)
        return page and {**page, "ResponseMetadata": {"HTTPHeaders": answer.headers}}

    def _make(self, request: Request) -> Answer | None:
        """Make a request; return the answer, or None if it is for boto3 to do."""
        engine = self._engine()
        return engine.make(request) if engine else None

    def _engine(self) -> "CrtClient | None":
        """Return what makes the requests in this process, if anything does."""
        if not self._use:
            return None
        process = os.getpid()
        if process not in self._engines:
            with self._locks.setdefault(process, threading.Lock()):
                if process not in self._engines:
                    self._engines[process] = start(self.client)
        engine = self._engines[process]
        return engine if engine and engine.is_ready else None


def _version(key: PhysicalKey) -> dict[str, str]:
    return {"versionId": key.version_id} if key.version_id is not None else {}


def _fields(answer: Answer) -> dict[str, str]:
    """Return those fields of boto3's answer that somebody looks at."""
    named = {
        "ETag": "etag",
        "VersionId": "x-amz-version-id",
        "ChecksumSHA256": "x-amz-checksum-sha256",
        "ChecksumCRC64NVME": "x-amz-checksum-crc64nvme",
    }
    return {field: answer.headers[name] for field, name in named.items() if name in answer.headers}


def _metadata(answer: Answer) -> dict[str, str]:
    return {name.removeprefix(_META): value for name, value in answer.headers.items() if name.startswith(_META)}


def _is_whole(answer: Answer, data: bytes) -> bool:
    """Whether the bytes are those of the object, as far as the answer tells."""
    if len(data) != int(answer.headers.get("content-length", -1)):
        return False
    told = {name.removeprefix(_CHECKSUM): value for name, value in answer.headers.items() if name.startswith(_CHECKSUM)}
    return not any(contradicts_s3(data, name, value) for name, value in told.items())
