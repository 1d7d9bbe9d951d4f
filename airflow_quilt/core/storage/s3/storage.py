"""S3 and compatible stores: objects and listings through the common runtime (ADR 0010), all else through boto3."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from airflow_quilt.core.errors import (
    AccessDeniedError,
    ObjectNotFoundError,
    PreconditionError,
    SettingsError,
    StorageError,
    StorageUnavailableError,
    UnsupportedError,
)
from airflow_quilt.core.format.hashes import StoreAlgorithm
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.retry import Failures, RetryPolicy, retried
from airflow_quilt.core.storage.base import raise_first
from airflow_quilt.core.storage.objects import CHUNK, MOST_WHOLE, Data, IfMatch, ObjectInfo, StoredObject, WriteMode, check_whole
from airflow_quilt.core.storage.s3.body import boto_body
from airflow_quilt.core.storage.s3.crt.requests import CommonRuntime, Transport
from airflow_quilt.core.storage.s3.errors import ACTIONS, code_of, error_of, translated
from airflow_quilt.core.storage.s3.fields import address, bucket_of, checksum_fields, stat_of, version_of
from airflow_quilt.core.storage.s3.known import facts_of
from airflow_quilt.core.storage.s3.listings import BucketListings
from airflow_quilt.core.storage.s3.multipart import S3Upload, listed_part_sizes, unfinished_uploads
from airflow_quilt.core.storage.s3.sending import send_small_bodies_at_once
from airflow_quilt.core.storage.s3.stoppable import chunks_of, stoppable_client
from airflow_quilt.core.storage.s3.versioning import Versioning

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

_DELETE_BATCH: Final = 1000
"""The most objects that one request deletes."""
_NOT_IN_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_TAG: Final = "airflow-quilt"
"""The name of the metadata field that holds the writer tag of an object."""
_NO_REASON: Final = "400"
"""The code of a HEAD request that was refused; the code of S3 would be in a body, which its answers do not have."""
_BEYOND_THE_END: Final = {"416", "InvalidRange"}
"""The codes of a range that begins at the end of the object, or beyond it."""
_NO_STATE: Final = '"00000000000000000000000000000000"'
"""An ETag that no object has."""
READ_RETRY: Final = RetryPolicy(seconds=30.0, longest=2.0)
"""The policy for failures that botocore does not repeat, such as an answer that breaks off in its body."""

_DEFAULTS: Final = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=10)
_LIMITS: Final = Limits()


def client_config(own: Config | None, limits: Limits = _LIMITS) -> Config:
    """Return the settings for the client of a storage; ``own`` overrides the defaults."""
    defaults = _DEFAULTS.merge(Config(max_pool_connections=2 * limits.max_concurrency))  # No request waits for a connection.
    if own and (given := getattr(own, "retries", None)):
        retries: Any = {"mode": "standard", **given}  # As in botocore itself since 1.43.
        own = own.merge(Config(retries=retries))
    return defaults.merge(own) if own else defaults


class S3Storage:
    """An S3 store.

    Args:
        client: a boto3 S3 client, which threads may share; its own retries come first.
        retry: the policy for failures that botocore does not repeat.
        most: the most bytes of an object that is read whole.
        transport: ``"auto"`` makes the requests for objects and listings through the common runtime, where it can make the
            same ones as the client; ``"boto3"`` makes none.
    """

    def __init__(
        self,
        client: "S3Client",
        retry: RetryPolicy = READ_RETRY,
        most: int = MOST_WHOLE,
        *,
        transport: Transport = "auto",
    ) -> None:
        send_small_bodies_at_once(client)
        self._client = stoppable_client(client)
        self._runtime = CommonRuntime(self._client, transport)
        self._versioning = Versioning(self._client, retry)
        self._listings = BucketListings(self._client, self._runtime, self._versioning, retry)
        self._retry = retry
        self._most = most
        self._conditions: dict[str | None, bool] = {}

    @property
    def is_tls(self) -> bool:
        """Whether the connection uses TLS, which notices when bytes change on their way."""
        return self._client.meta.endpoint_url.startswith("https:")

    @retried
    def get(self, key: PhysicalKey, most: int | None = None) -> StoredObject:
        """Read a small object whole."""
        most = self._most if most is None else min(most, self._most)
        with translated(key):
            answer: Any
            if read := self._runtime.read(key, min(CHUNK, most)):
                answer, data = read
                if not answer:
                    raise ObjectNotFoundError("there is no such object", str(key))
            else:
                answer = self._client.get_object(**address(key))
                try:
                    check_whole(key, answer.get("ContentLength", 0), most)  # Not every store states it.
                except StorageError:
                    answer["Body"].close()
                    raise
                data = b"".join(chunks_of(answer["Body"], most, key))
            version = version_of(answer) if key.version_id is None else key.version_id
        return StoredObject(data, answer["ETag"], key.at_version(version), answer.get("Metadata", {}).get(_TAG))

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read a range of an object in chunks; after an answer that breaks off, the rest is read, of the same state only."""
        state: dict[str, Any] = {}
        failures = Failures()
        while start < stop:
            try:
                for chunk in self._range(key, start, stop, state):
                    start += len(chunk)
                    failures.count = 0
                    yield chunk
            except StorageUnavailableError as error:
                # Before the first byte, repeating is up to the caller.
                if not state or not self._retry.wait(error, failures):
                    raise
            else:
                return

    def _range(self, key: PhysicalKey, start: int, stop: int, state: dict[str, Any]) -> Iterator[bytes]:
        """Read a range with one request; ``state`` holds the condition that the object is still the one that was read before."""
        with translated(key):
            if not state and (read := self._runtime.get(key, start, stop)):
                state["IfMatch"], data = read
                yield data
                return
            try:
                answer = self._client.get_object(**address(key), Range=f"bytes={start}-{stop - 1}", **state)
            except ClientError as error:
                if code_of(error) in _BEYOND_THE_END:
                    return
                raise
            state["IfMatch"] = answer["ETag"]
            yield from chunks_of(answer["Body"], stop - start, key)

    @retried
    def put(
        self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", writer_tag: str | None = None
    ) -> ObjectInfo:
        """Write an object with one request, if the condition of ``mode`` holds; the writer tag becomes metadata of the object."""
        options: dict[str, Any] = {"Metadata": {_TAG: writer_tag}} if writer_tag is not None else {}
        if mode == "create":
            options["IfNoneMatch"] = "*"
        elif isinstance(mode, IfMatch):
            options["IfMatch"] = mode.etag
        if isinstance(body, bytes):
            size = len(body)
        else:
            size = body.seek(0, os.SEEK_END)
            body.seek(0)
        try:
            with translated(key):
                answer = self._client.put_object(**address(key.at_version(None)), Body=body, **options)
        except ObjectNotFoundError as error:
            if not isinstance(mode, IfMatch):
                raise
            # S3's answer to If-Match where there is no object.
            raise PreconditionError("there is no object to replace", str(key)) from error
        return ObjectInfo(key.at_version(version_of(answer)), size, answer["ETag"])

    def supports_conditional_writes(self, key: PhysicalKey, data: bytes) -> bool:
        """Return whether the store keeps conditions, by writes that it must refuse; a process checks a bucket once."""
        if key.bucket not in self._conditions:
            with translated(key):
                facts = facts_of(self._client, key.bucket)
            facts.keeps_conditions = facts.keeps_conditions or (
                self._refuses(key, data, IfMatch(_NO_STATE))
                # Where it is not there yet, or was deleted in between, the first one writes it, and the second is refused.
                and (self._refuses(key, data, "create") or self._refuses(key, data, "create"))
            )
            self._conditions[key.bucket] = facts.keeps_conditions
        return self._conditions[key.bucket]

    def _refuses(self, key: PhysicalKey, data: bytes, mode: WriteMode) -> bool:
        try:
            self.put(key, data, mode)
        except PreconditionError:
            return True
        except UnsupportedError:
            pass
        return False

    def upload(self, key: PhysicalKey, data: Data, digest: bytes, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        """Write an object with one request; the store refuses bytes that do not have the digest."""
        checksum: Any = checksum_fields(algorithm, digest)
        with translated(key):
            answer: Any = self._runtime.put(key, data, digest, algorithm)
            if answer is None:
                answer = self._client.put_object(**address(key.at_version(None)), Body=boto_body(data), **checksum)
        return stat_of(self._versioning.of_written(key, answer), len(data), answer["ETag"], checksum)

    @retried
    def stat(self, key: PhysicalKey) -> ObjectInfo:
        """Return size, version and checksums of an object."""
        with translated(key):
            try:
                answer: Any = self._runtime.head(key)
                if answer == {}:
                    raise ObjectNotFoundError("there is no such object", str(key))
                answer = answer or self._client.head_object(**address(key), ChecksumMode="ENABLED")
            except ClientError as error:
                if code_of(error) != _NO_REASON:
                    raise
                answer = self._head_again(key)
            version = version_of(answer) if key.version_id is None else key.version_id
            return stat_of(key.at_version(version), answer["ContentLength"], answer["ETag"], answer)

    @retried
    def part_sizes(self, stat: ObjectInfo) -> list[int]:
        """Return the bytes of each part of an object; none where the store, or this user's rights, do not let it."""
        try:
            with translated(stat.key):
                return list(listed_part_sizes(self._client, stat))
        except StorageError as error:
            if error.transient:
                raise
            _log.info("The parts of an object are not known, so it is read: %s", error)
            return []

    def _head_again(self, key: PhysicalKey) -> Any:
        """Read one byte, to raise the error that HEAD cannot report; boto renews expired credentials on the way."""
        try:
            self._client.get_object(**address(key), Range="bytes=0-0")["Body"].close()
        except ClientError as error:
            if code_of(error) not in _BEYOND_THE_END:
                raise
        try:
            return self._client.head_object(**address(key), ChecksumMode="ENABLED")
        except ClientError as error:
            if code_of(error) != _NO_REASON:
                raise
            raise StorageUnavailableError("the store serves the object, but does not describe it for now", str(key)) from error

    def list_objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        """List the objects below a prefix, without versions."""
        return self._listings.objects(prefix, after)

    def list_names(self, prefix: PhysicalKey) -> Iterator[str]:
        """List the names one level below a prefix, up to 1000 with one request."""
        return self._listings.names(prefix)

    def remove_directory(self, prefix: PhysicalKey) -> bool:  # noqa: ARG002
        """Return False: a bucket has no directories."""
        return False

    def list_versions(self, prefix: PhysicalKey, most: int | None = None) -> Iterator[ObjectInfo]:
        """List the objects below a prefix at their current versions; a store that has none lists them without."""
        return self._listings.versions(prefix, most)

    def keeps_versions(self, key: PhysicalKey) -> bool:
        """Return whether the bucket of a key keeps versions; a store that does not know the request has none."""
        return self._versioning.status(key) == "Enabled"

    def delete(self, keys: Sequence[PhysicalKey]) -> None:
        """Delete objects, up to 1000 with one request; in a bucket with versions delete markers cover them."""
        failed = []
        for batch in _batches(keys):
            answer = self._delete(batch)
            for refused in answer.get("Errors", ()):
                key = PhysicalKey(batch[0].bucket, refused.get("Key", ""))
                failed.append(error_of(refused.get("Code", ""), refused.get("Message", ""), 0, str(key), ACTIONS["DeleteObject"]))
        raise_first(failed, len(keys))

    @retried
    def _delete(self, keys: Sequence[PhysicalKey]) -> Any:
        with translated(keys[0]):
            if len(keys) == 1:  # The request has no body, which not every store checks.
                return self._client.delete_object(**address(keys[0].at_version(None)))
            objects: Any = [{"Key": key.key} for key in keys]
            return self._client.delete_objects(Bucket=bucket_of(keys[0]), Delete={"Objects": objects, "Quiet": True})

    def copy(self, source: ObjectInfo, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        """Let the store copy an object of at most 5 GiB; where the answer lacks the checksum, the copy's headers are read."""
        with translated(source.key):
            answer = self._client.copy_object(
                **address(key.at_version(None)),
                CopySource=address(source.key),
                CopySourceIfMatch=source.etag,
                ChecksumAlgorithm=algorithm,
            )
        copied, result = self._versioning.of_written(key, answer), answer["CopyObjectResult"]
        return stat_of(copied, source.size, result["ETag"], result) if f"Checksum{algorithm}" in result else self.stat(copied)

    def begin(self, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> S3Upload:
        """Begin an upload in parts, each with its digest."""
        options: Any = {"ChecksumAlgorithm": algorithm}
        if algorithm == "CRC64NVME":
            options["ChecksumType"] = "FULL_OBJECT"
        with translated(key):
            answer = self._client.create_multipart_upload(**address(key.at_version(None)), **options)
        return S3Upload(self._runtime, self._versioning, key, answer["UploadId"], algorithm)

    def unfinished(self, key: PhysicalKey, since: float, algorithm: StoreAlgorithm = "SHA256") -> list[S3Upload]:
        """Return the open uploads to a key; none where the store, or this user's rights, do not let it list them."""
        try:
            with translated(key):
                return unfinished_uploads(self._runtime, self._versioning, key, since, algorithm)
        except (AccessDeniedError, UnsupportedError) as error:
            _log.info("Parts that an earlier attempt may have sent are not listed: %s", error)
            return []


def _batches(keys: Sequence[PhysicalKey]) -> Iterator[Sequence[PhysicalKey]]:
    """Yield batches of keys to delete; those that the body of the request cannot hold, which is XML, are alone."""
    plain = [key for key in keys if not _NOT_IN_XML.search(key.key)]
    yield from (plain[start : start + _DELETE_BATCH] for start in range(0, len(plain), _DELETE_BATCH))
    yield from ([key] for key in keys if _NOT_IN_XML.search(key.key))


def open_s3(client: "S3Client | None" = None, limits: Limits = _LIMITS) -> S3Storage:
    """Return the storage of a boto3 client; by default of one with boto3's own credentials, region and settings.

    Raises:
        SettingsError: no client can be made with these.
    """
    try:
        return S3Storage(client or boto3.client("s3", config=client_config(None, limits)))
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"boto3's own settings: {error}") from error
