"""S3 and the stores that speak its protocol, through boto3; the only module that knows boto3.

Request and response fields are those of the Amazon S3 API Reference.
"""

import base64
import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from airflow_quilt.core.checksums import StoreAlgorithm, to_s3
from airflow_quilt.core.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ChecksumMismatchError,
    CredentialsExpiredError,
    ObjectNotFoundError,
    PreconditionError,
    QuiltError,
    StorageError,
    StorageUnavailableError,
    ThrottledError,
    UnsupportedError,
    UploadVanishedError,
)
from airflow_quilt.core.locations import PhysicalKey
from airflow_quilt.core.patience import Patience
from airflow_quilt.core.storage.base import CHUNK, Blob, Replace, Stat, WriteMode, raise_first

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

_DELETE_BATCH: Final = 1000
_MARK: Final = "airflow-quilt"
_NO_STATE: Final = '"00000000000000000000000000000000"'
"""An ETag that no object has."""
_READING: Final = Patience(seconds=30.0, longest=2.0)
"""For what botocore does not try again: an answer that breaks off in its body."""

_CODES: Final[Mapping[str, tuple[type[StorageError], str]]] = {
    "404": (ObjectNotFoundError, "there is no such object"),
    "NoSuchKey": (ObjectNotFoundError, "there is no such object"),
    "NoSuchVersion": (ObjectNotFoundError, "there is no such version of the object"),
    "NoSuchUpload": (UploadVanishedError, "the upload was completed or aborted"),
    "MethodNotAllowed": (ObjectNotFoundError, "the object was deleted"),
    "405": (ObjectNotFoundError, "the object was deleted"),
    "NoSuchBucket": (BucketNotFoundError, "there is no such bucket"),
    "InvalidBucketName": (BucketNotFoundError, "this is no name of a bucket"),
    "403": (AccessDeniedError, "access denied"),
    "AccessDenied": (AccessDeniedError, "access denied"),
    "InvalidAccessKeyId": (AccessDeniedError, "the store does not know the access key"),
    "SignatureDoesNotMatch": (AccessDeniedError, "the secret key does not match the access key"),
    "InvalidToken": (AccessDeniedError, "the session token is not valid"),
    "ExpiredToken": (CredentialsExpiredError, "the credentials have expired"),
    "ExpiredTokenException": (CredentialsExpiredError, "the credentials have expired"),
    "RequestExpired": (CredentialsExpiredError, "the credentials have expired"),
    "TokenRefreshRequired": (CredentialsExpiredError, "the credentials have expired"),
    "412": (PreconditionError, "the object is not in the state that was expected"),
    "PreconditionFailed": (PreconditionError, "the object is not in the state that was expected"),
    "ConditionalRequestConflict": (PreconditionError, "another writer was faster"),
    "NotImplemented": (UnsupportedError, "the store does not know this request"),
    "501": (UnsupportedError, "the store does not know this request"),
    "SlowDown": (ThrottledError, "the store asks to slow down"),
    "Throttling": (ThrottledError, "the store asks to slow down"),
    "ThrottlingException": (ThrottledError, "the store asks to slow down"),
    "TooManyRequests": (ThrottledError, "the store asks to slow down"),
    "RequestLimitExceeded": (ThrottledError, "the store asks to slow down"),
    "RequestTimeout": (StorageUnavailableError, "the request took too long"),
    "RequestTimeTooSkewed": (StorageUnavailableError, "the clocks of this machine and the store differ too much"),
}
_NO_REASON: Final = "400"
_BEYOND_THE_END: Final = {"416", "InvalidRange"}
_OTHER_BYTES: Final = {"BadDigest", "InvalidPart", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_SERVER_ERRORS: Final = {"InternalError", "ServiceUnavailable"}
"""What a store says of one object of a batch, where no status comes with it."""


_DEFAULTS: Final = Config(max_pool_connections=32, retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=10)


def client_config(own: Config | None) -> Config:
    """Return the settings that this storage needs of its client; what the user chose goes before."""
    return _DEFAULTS.merge(own) if own else _DEFAULTS


class S3Storage:
    """An S3 store.

    Args:
        client: a boto3 S3 client; it may be shared by threads, and its own retries come first.
        patience: with answers that break off, which botocore does not ask for again.
    """

    def __init__(self, client: "S3Client", patience: Patience = _READING) -> None:
        self._client = client
        self._patience = patience
        self._conditions: dict[str | None, bool] = {}

    @property
    def guards_answers(self) -> bool:
        """Whether the connection shows when bytes change on their way: TLS does."""
        return self._client.meta.endpoint_url.startswith("https:")

    def get(self, key: PhysicalKey) -> Blob:
        """Read a small object whole."""
        return self._patience.call(lambda: self._get(key))

    def _get(self, key: PhysicalKey) -> Blob:
        with _translated(key):
            answer = self._client.get_object(**_address(key))
            version = _version(answer) if key.version_id is None else key.version_id
            data = answer["Body"].read()
        return Blob(data, answer["ETag"], key.at_version(version), answer.get("Metadata", {}).get(_MARK))

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read a range of an object in chunks; where an answer breaks off, the rest of the same state is asked for."""
        state: dict[str, Any] = {}
        failures, began = 0, 0.0
        while start < stop:
            try:
                for chunk in self._range(key, start, stop, state):
                    start += len(chunk)
                    failures = 0
                    yield chunk
            except StorageUnavailableError as error:
                if not state:
                    raise  # Nothing came yet: to ask again is for whoever asked.
                failures += 1
                began = self._patience.clock() if failures == 1 else began
                pause = self._patience.pause(error, failures, began)
                if pause is None:
                    raise
                self._patience.sleep(pause)
            else:
                return

    def _range(self, key: PhysicalKey, start: int, stop: int, state: dict[str, Any]) -> Iterator[bytes]:
        """Read a range once; ``state`` holds the condition that it still is the object which was read from before."""
        with _translated(key):
            try:
                answer = self._client.get_object(**_address(key), Range=f"bytes={start}-{stop - 1}", **state)
            except ClientError as error:
                if error.response["Error"]["Code"] in _BEYOND_THE_END:
                    return
                raise
            state["IfMatch"] = answer["ETag"]
            with contextlib.closing(answer["Body"]) as body:
                yield from body.iter_chunks(CHUNK)

    def put(self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", mark: str | None = None) -> Stat:
        """Write an object with one request, if the condition of ``mode`` holds; the mark is metadata of the object."""
        options: dict[str, Any] = {"Metadata": {_MARK: mark}} if mark is not None else {}
        if mode == "create":
            options["IfNoneMatch"] = "*"
        elif isinstance(mode, Replace):
            options["IfMatch"] = mode.etag
        size = len(body) if isinstance(body, bytes) else body.seek(0, os.SEEK_END)

        def put() -> Any:
            if not isinstance(body, bytes):
                body.seek(0)
            with _translated(key):
                return self._client.put_object(**_address(key.at_version(None)), Body=body, **options)

        try:
            answer = self._patience.call(put)
        except ObjectNotFoundError as error:
            if not isinstance(mode, Replace):
                raise
            # S3's answer to If-Match where there is nothing.
            raise PreconditionError("there is no object to replace", str(key)) from error
        return Stat(key.at_version(_version(answer)), size, answer["ETag"])

    def keeps_conditions(self, key: PhysicalKey, data: bytes) -> bool:
        """Tell whether the store keeps conditions, by writes that must be refused; each bucket is asked once."""
        if key.bucket not in self._conditions:
            self._conditions[key.bucket] = self._refuses(key, data, Replace(_NO_STATE)) and (
                # Somebody may have deleted it in between, and then it is written anew, but only once.
                self._refuses(key, data, "create") or self._refuses(key, data, "create")
            )
        return self._conditions[key.bucket]

    def _refuses(self, key: PhysicalKey, data: bytes, mode: WriteMode) -> bool:
        try:
            self.put(key, data, mode)
        except PreconditionError:
            return True
        except UnsupportedError:
            pass
        return False

    def upload(self, key: PhysicalKey, data: bytes, digest: bytes, algorithm: StoreAlgorithm = "SHA256") -> Stat:
        """Write an object with one request; the store refuses it when its bytes do not have the digest."""
        checksum: Any = _checksum(algorithm, digest)
        with _translated(key):
            answer = self._client.put_object(**_address(key.at_version(None)), Body=data, **checksum)
        return _stat(key.at_version(_version(answer)), len(data), answer["ETag"], checksum)

    def stat(self, key: PhysicalKey) -> Stat:
        """Tell size, version and checksum of an object."""
        return self._patience.call(lambda: self._stat(key))

    def _stat(self, key: PhysicalKey) -> Stat:
        with _translated(key):
            try:
                answer = self._client.head_object(**_address(key), ChecksumMode="ENABLED")
            except ClientError as error:
                if error.response["Error"]["Code"] != _NO_REASON:
                    raise
                self._ask_why(key)
                answer = self._client.head_object(**_address(key), ChecksumMode="ENABLED")
        version = _version(answer) if key.version_id is None else key.version_id
        return _stat(key.at_version(version), answer["ContentLength"], answer["ETag"], answer)

    def _ask_why(self, key: PhysicalKey) -> None:
        """Read one byte: the answer says why HEAD, whose answers have no body, was refused; fresh credentials may mend it."""
        try:
            self._client.get_object(**_address(key), Range="bytes=0-0")["Body"].close()
        except ClientError as error:
            if error.response["Error"]["Code"] not in _BEYOND_THE_END:
                raise

    def scan(self, prefix: PhysicalKey) -> Iterator[Stat]:
        """List the objects below a prefix, without versions."""
        for page in self._pages(self._client.list_objects_v2, prefix, {"ContinuationToken": "NextContinuationToken"}):
            for item in page.get("Contents", ()):
                yield Stat(PhysicalKey(prefix.bucket, item["Key"]), item["Size"], item["ETag"])

    def _pages(self, call: Callable[..., Any], prefix: PhysicalKey, markers: Mapping[str, str]) -> Iterator[Any]:
        """List page by page; each is asked for again where it failed for now, which boto's paginators cannot."""
        request = {"Bucket": _bucket(prefix), "Prefix": prefix.key}

        def ask() -> Any:
            with _translated(prefix):
                return call(**request)

        while True:
            page = self._patience.call(ask)
            yield page
            if not page.get("IsTruncated"):
                return
            request |= {marker: page[following] for marker, following in markers.items() if following in page}

    def scan_current(self, prefix: PhysicalKey) -> Iterator[Stat]:
        """List the objects below a prefix at their current versions; a store that has none lists them without."""
        try:
            yield from self._scan_versions(prefix)
        except UnsupportedError:  # The first page says so, if any.
            yield from self.scan(prefix)

    def _scan_versions(self, prefix: PhysicalKey) -> Iterator[Stat]:
        markers = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
        for page in self._pages(self._client.list_object_versions, prefix, markers):
            for item in page.get("Versions", ()):
                if item["IsLatest"]:
                    key = PhysicalKey(prefix.bucket, item["Key"], _version(item))
                    # SeaweedFS lists other ETags than it tells for objects that have no version.
                    yield Stat(key, item["Size"], item["ETag"] if key.version_id else "")

    def keeps_versions(self, key: PhysicalKey) -> bool:
        """Tell whether the bucket of a key keeps versions; a store that does not know the question has none."""
        try:
            with _translated(key):
                return self._client.get_bucket_versioning(Bucket=_bucket(key)).get("Status") == "Enabled"
        except UnsupportedError:
            return False

    def delete(self, keys: Sequence[PhysicalKey]) -> None:
        """Delete objects, up to 1000 with one request; with versions, a delete marker covers them."""
        failed = []
        for batch in _batches(keys):
            answer = self._patience.call(partial(self._delete, batch))
            for refused in answer.get("Errors", ()):
                key = PhysicalKey(batch[0].bucket, refused.get("Key", ""))
                failed.append(_error(refused.get("Code", ""), refused.get("Message", ""), 0, str(key)))
        raise_first(failed, len(keys))

    def _delete(self, keys: Sequence[PhysicalKey]) -> Any:
        with _translated(keys[0]):
            if len(keys) == 1:  # Without a body, which not every store checks.
                return self._client.delete_object(**_address(keys[0].at_version(None)))
            objects: Any = [{"Key": key.key} for key in keys]
            return self._client.delete_objects(Bucket=_bucket(keys[0]), Delete={"Objects": objects, "Quiet": True})

    def copy(self, source: Stat, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> Stat:
        """Let the store copy an object of at most 5 GiB; the copy's checksum is asked for where the store is silent."""
        with _translated(source.key):
            answer = self._client.copy_object(
                **_address(key.at_version(None)),
                CopySource=_copy_source(source.key),
                CopySourceIfMatch=source.etag,
                ChecksumAlgorithm=algorithm,
            )
        copied, result = key.at_version(_version(answer)), answer["CopyObjectResult"]
        return _stat(copied, source.size, result["ETag"], result) if f"Checksum{algorithm}" in result else self.stat(copied)

    def begin(self, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> "S3Upload":
        """Begin an upload in parts, each with its digest."""
        options: Any = {"ChecksumAlgorithm": algorithm}
        if algorithm == "CRC64NVME":
            options["ChecksumType"] = "FULL_OBJECT"
        with _translated(key):
            answer = self._client.create_multipart_upload(**_address(key.at_version(None)), **options)
        return S3Upload(self._client, key, answer["UploadId"], algorithm)

    def unfinished(self, key: PhysicalKey, since: float, algorithm: StoreAlgorithm = "SHA256") -> "list[S3Upload]":
        """Find the uploads to a key that are still open; a store or user that may not list them has none."""
        try:
            with _translated(key):
                answer = self._client.list_multipart_uploads(Bucket=_bucket(key), Prefix=key.key)
                found = [
                    upload
                    for upload in answer.get("Uploads", ())
                    if upload["Key"] == key.key
                    and upload["Initiated"].timestamp() >= since
                    and upload.get("ChecksumAlgorithm", algorithm) == algorithm
                ]
                found.sort(key=lambda upload: upload["Initiated"], reverse=True)
                return [S3Upload(self._client, key, upload["UploadId"], algorithm, self._parts(key, upload)) for upload in found]
        except (AccessDeniedError, UnsupportedError, UploadVanishedError) as error:
            _log.info("Parts that an earlier try may have sent are not looked for: %s", error)
            return []

    def _parts(self, key: PhysicalKey, upload: Any) -> dict[int, Any]:
        pages = self._client.get_paginator("list_parts").paginate(**_address(key.at_version(None)), UploadId=upload["UploadId"])
        return {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}


class S3Upload:
    """An upload in parts to an S3 store; parts may be sent from several threads."""

    def __init__(
        self,
        client: "S3Client",
        key: PhysicalKey,
        upload_id: str,
        algorithm: StoreAlgorithm,
        arrived: Mapping[int, Any] | None = None,
    ) -> None:
        self._client = client
        self._key = key
        self._algorithm: StoreAlgorithm = algorithm
        self._target: Any = {**_address(key.at_version(None)), "UploadId": upload_id}
        self._parts: dict[int, tuple[int, dict[str, Any]]] = {}
        self._arrived = arrived or {}

    def has(self, number: int, data: bytes, digest: bytes) -> bool:
        """Tell whether a part arrived: by its checksum, or by the MD5 in its ETag where the store lists no other."""
        part = self._arrived.get(number)
        if part is None or part["Size"] != len(data):
            return False
        checksum = _checksum(self._algorithm, digest)
        told = part.get(f"Checksum{self._algorithm}")
        if not (told == to_s3(digest) if told else part["ETag"].strip('"') == _md5(data)):
            return False
        self._keep(number, len(data), part["ETag"], checksum)
        return True

    def arrived(self, number: int, size: int) -> bytes | None:
        """Return the digest of a part that arrived, if it has this size and the store lists it."""
        part = self._arrived.get(number, {})
        told = part.get(f"Checksum{self._algorithm}")
        if part.get("Size") != size or not told:
            return None
        digest = base64.b64decode(told)
        self._keep(number, size, part["ETag"], _checksum(self._algorithm, digest))
        return digest

    def send(self, number: int, data: bytes, digest: bytes) -> None:
        """Send a part; the store refuses it when its bytes do not have the digest."""
        checksum: Any = _checksum(self._algorithm, digest)
        with _translated(self._key):
            answer = self._client.upload_part(**self._target, PartNumber=number, Body=data, **checksum)
        self._keep(number, len(data), answer["ETag"], checksum)

    def copy(self, number: int, source: Stat, start: int, stop: int) -> bytes | None:
        """Let the store copy a range of another object as a part."""
        with _translated(source.key):
            answer = self._client.upload_part_copy(
                **self._target,
                PartNumber=number,
                CopySource=_copy_source(source.key),
                CopySourceIfMatch=source.etag,
                CopySourceRange=f"bytes={start}-{stop - 1}",
            )
        result: Any = answer["CopyPartResult"]
        told = result.get(f"Checksum{self._algorithm}")
        self._keep(number, stop - start, result["ETag"], {f"Checksum{self._algorithm}": told} if told else {})
        return base64.b64decode(told) if told else None

    def complete(self) -> Stat:
        """Put the parts together."""
        parts: Any = [part for _, (_, part) in sorted(self._parts.items())]
        with _translated(self._key):
            answer = self._client.complete_multipart_upload(**self._target, MultipartUpload={"Parts": parts})
        size = sum(size for size, _ in self._parts.values())
        return _stat(self._key.at_version(_version(answer)), size, answer["ETag"], answer)

    def abort(self) -> None:
        """Drop the parts."""
        with _translated(self._key):
            self._client.abort_multipart_upload(**self._target)

    def _keep(self, number: int, size: int, etag: str, checksum: Mapping[str, str]) -> None:
        """Remember a part for when it is put together with the others; one that is sent again takes its own place."""
        self._parts[number] = size, {"PartNumber": number, "ETag": etag, **checksum}


def _bucket(key: PhysicalKey) -> str:
    if key.bucket is None:
        raise StorageError("this is no object of an S3 store", str(key))
    return key.bucket


def _address(key: PhysicalKey) -> dict[str, Any]:
    address = {"Bucket": _bucket(key), "Key": key.key}
    return address | {"VersionId": key.version_id} if key.version_id is not None else address


def _copy_source(key: PhysicalKey) -> Any:
    return _address(key)


def _checksum(algorithm: StoreAlgorithm, digest: bytes) -> dict[str, str]:
    return {f"Checksum{algorithm}": to_s3(digest)}


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _stat(key: PhysicalKey, size: int, etag: str, checksums: Mapping[str, Any]) -> Stat:
    return Stat(key, size, etag, checksums.get("ChecksumSHA256"), checksums.get("ChecksumCRC64NVME"))


def _version(answer: Mapping[str, Any]) -> str | None:
    """Return the version that the store told; buckets without versioning call theirs ``null``."""
    version: str | None = answer.get("VersionId")
    return None if version == "null" else version


def _batches(keys: Sequence[PhysicalKey]) -> Iterator[Sequence[PhysicalKey]]:
    for start in range(0, len(keys), _DELETE_BATCH):
        yield keys[start : start + _DELETE_BATCH]


@contextlib.contextmanager
def _translated(key: PhysicalKey) -> Iterator[None]:
    """Turn boto's errors into the engine's."""
    try:
        yield
    except ClientError as error:
        details = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise _error(details.get("Code", ""), details.get("Message", ""), status, str(key)) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessDeniedError(f"no credentials: {error}", str(key)) from error
    except FlexibleChecksumError as error:
        raise ChecksumMismatchError(f"{key}: other bytes came than the store has: {error}") from error
    except (BotoConnectionError, CredentialRetrievalError, HTTPClientError, IncompleteReadError) as error:
        raise StorageUnavailableError(str(error), str(key)) from error
    except BotoCoreError as error:
        raise StorageError(str(error), str(key)) from error
    except QuiltError:
        raise
    except Exception as error:  # What botocore makes of an answer that was damaged on its way is no one kind of error.
        raise StorageUnavailableError(f"the answer cannot be read: {error!r}", str(key)) from error


def _error(code: str, message: str, status: int, location: str) -> QuiltError:
    if code in _OTHER_BYTES:
        return ChecksumMismatchError(f"{location}: the store received other bytes than were sent")
    if code in _CODES:
        kind, meaning = _CODES[code]
        return kind(f"{meaning} ({message})" if message and not code.isdigit() else meaning, location)
    if status == _TOO_MANY_REQUESTS:
        return ThrottledError(f"the store asks to slow down ({code} {message})".strip(), location)
    if status >= _SERVER_ERROR or code in _SERVER_ERRORS:
        return StorageUnavailableError(f"the store failed ({status} {code} {message})".strip(), location)
    return StorageError(f"the store refused ({status} {code} {message})".strip(), location)
