import hashlib
import io
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.credentials import CredentialResolver
from botocore.response import StreamingBody
from botocore.stub import Stubber

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
from airflow_quilt.core.format.hashes import to_s3
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.retry import NO_RETRY, RetryPolicy
from airflow_quilt.core.storage.objects import IfMatch, ObjectInfo
from airflow_quilt.core.storage.s3.crt.requests import Transport
from airflow_quilt.core.storage.s3.storage import S3Storage
from testbed.loopback import Request
from testbed.proxy import S3Proxy
from testbed.server import Identity, S3Server
from tests.contract.s3_contract import S3Contract
from tests.contract.storage_contract import digest, raised

Call = Callable[[S3Storage, PhysicalKey], object]

READS = [
    pytest.param(lambda storage, key: storage.get(key), id="get"),
    pytest.param(lambda storage, key: storage.stream(key, 0, 1), id="stream"),
    pytest.param(lambda storage, key: storage.stat(key), id="stat"),
    pytest.param(lambda storage, key: storage.list_objects(key), id="scan"),
    pytest.param(lambda storage, key: storage.list_versions(key), id="scan-current"),
]

WRITES = [
    pytest.param(lambda storage, key: storage.put(key, b"x"), id="put"),
    pytest.param(lambda storage, key: storage.put(key, b"x", "create"), id="create"),
    pytest.param(lambda storage, key: storage.upload(key, b"x", digest(b"x")), id="upload"),
    pytest.param(lambda storage, key: storage.begin(key), id="begin"),
    pytest.param(lambda storage, key: storage.copy(ObjectInfo(key, 1, "etag"), key), id="copy"),
    pytest.param(lambda storage, key: storage.delete([key]), id="delete"),
]


@pytest.fixture(scope="module")
def admin(s3: S3Server, transport: Transport) -> S3Storage:
    return S3Storage(s3.client(), transport=transport)


@pytest.fixture
def root(bucket: str) -> PhysicalKey:
    return PhysicalKey(bucket, "test/")


@pytest.fixture(scope="module")
def server(s3: S3Server) -> S3Server:
    return s3


class TestSeaweedFS(S3Contract):
    """The whole contract, on SeaweedFS."""

    lists_digests = False


@pytest.mark.parametrize("call", [case for case in READS + WRITES if case.id != "stat"])
def test_missing_bucket_is_named(admin: S3Storage, call: Call) -> None:
    with pytest.raises(BucketNotFoundError, match="s3://no-such-bucket") as caught:
        raised(lambda: call(admin, PhysicalKey("no-such-bucket", "object")))

    assert not caught.value.transient


def test_stat_hides_missing_bucket(admin: S3Storage) -> None:
    with pytest.raises((BucketNotFoundError, ObjectNotFoundError), match="s3://no-such-bucket/object"):
        admin.stat(PhysicalKey("no-such-bucket", "object"))


@pytest.mark.parametrize("call", READS + WRITES)
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda who: replace(who, secret_key="0" * 40), id="wrong-secret"),
        pytest.param(lambda who: replace(who, access_key="AKNOBODYKNOWSTHISONE"), id="unknown-key"),
    ],
)
def test_wrong_keys_are_denied(
    s3: S3Server,
    transport: Transport,
    admin: S3Storage,
    root: PhysicalKey,
    call: Call,
    spoil: Callable[[Identity], Identity],
) -> None:
    key = root.join("object")
    before = admin.put(key, b"x")
    stranger = S3Storage(s3.client(spoil(s3.admin)), transport=transport)

    with pytest.raises(AccessDeniedError, match=f"s3://{root.bucket}") as caught:
        raised(lambda: call(stranger, key))
    assert not caught.value.transient
    assert admin.stat(key).key == before.key


@pytest.mark.parametrize("call", WRITES)
def test_reader_may_not_write(
    s3: S3Server,
    transport: Transport,
    admin: S3Storage,
    root: PhysicalKey,
    call: Call,
) -> None:
    key = root.join("object")
    before = admin.put(key, b"before")
    reader = S3Storage(s3.client(s3.reader), transport=transport)

    with pytest.raises(AccessDeniedError, match=f"s3://{root.bucket}"):
        raised(lambda: call(reader, key))
    assert reader.stat(key).key == before.key


@pytest.mark.parametrize("call", READS)
def test_reader_may_read(s3: S3Server, admin: S3Storage, root: PhysicalKey, call: Call) -> None:
    key = root.join("object")
    admin.put(key, b"x")

    assert raised(lambda: call(S3Storage(s3.client(s3.reader)), key)) == raised(lambda: call(admin, key))


@pytest.fixture
def unreachable(transport: Transport) -> Iterator[S3Storage]:
    """A storage whose store does not answer: its port is taken, and nobody listens on it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{held.getsockname()[1]}",
            region_name="us-east-1",
            aws_access_key_id="AK",
            aws_secret_access_key="SK",  # noqa: S106  (nobody's)
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=5),
        )
        yield S3Storage(client, NO_RETRY, transport=transport)


@pytest.mark.parametrize("call", READS + WRITES)
def test_dead_endpoint_is_transient(unreachable: S3Storage, call: Call) -> None:
    with pytest.raises(StorageUnavailableError, match="s3://bucket") as caught:
        raised(lambda: call(unreachable, PhysicalKey("bucket", "object")))

    assert caught.value.transient


@pytest.mark.parametrize("call", READS + WRITES)
def test_local_key_is_refused(admin: S3Storage, call: Call) -> None:
    with pytest.raises(StorageError, match="no object of an S3 store"):
        raised(lambda: call(admin, PhysicalKey(None, "/data/a.txt")))


@pytest.mark.parametrize("name", ["UPPER", "a", "under_score", "two..dots"])
def test_bad_bucket_is_named(admin: S3Storage, name: str) -> None:
    with pytest.raises(StorageError, match=f"s3://{name}"):
        admin.get(PhysicalKey(name, "object"))


def test_aborted_upload_takes_no_part(admin: S3Storage, root: PhysicalKey) -> None:
    upload = admin.begin(root.join("object"))
    upload.abort()

    with pytest.raises(UploadVanishedError, match=str(root.join("object"))):
        upload.send(1, b"x", digest(b"x"))


def test_denied_listing_finds_none(s3: S3Server, admin: S3Storage, root: PhysicalKey) -> None:
    key = root.join("object")
    upload = admin.begin(key)
    client = lonely_client()
    with Stubber(client) as stubber:
        stubber.add_client_error("list_multipart_uploads", "AccessDenied", "no", 403)
        assert S3Storage(client).unfinished(key, 0.0) == []
    upload.abort()


@pytest.mark.parametrize(
    ("answers", "holds"),
    [
        pytest.param(["PreconditionFailed", "PreconditionFailed"], True, id="both are refused"),
        pytest.param(["NoSuchKey", None, "PreconditionFailed"], True, id="it was deleted in between"),
        pytest.param([None], False, id="another state is replaced"),
        pytest.param(["PreconditionFailed", None, None], False, id="what is there is created"),
        pytest.param(["NotImplemented"], False, id="the request is not known"),
    ],
)
def test_ignored_condition_is_found(answers: list[str | None], holds: bool) -> None:  # noqa: FBT001
    client = lonely_client()
    status = {"PreconditionFailed": 412, "NoSuchKey": 404, "NotImplemented": 501}
    with Stubber(client) as stubber:
        for answer in answers:
            if answer:
                stubber.add_client_error("put_object", answer, "", status[answer])
            else:
                stubber.add_response("put_object", {"ETag": '"e"'})
        storage = S3Storage(client, NO_RETRY)
        assert storage.supports_conditional_writes(PhysicalKey("bucket", "key"), b"x") is holds
        assert storage.supports_conditional_writes(PhysicalKey("bucket", "other"), b"x") is holds  # Asked once.
        stubber.assert_no_pending_responses()


def test_arrived_part_is_known() -> None:
    """Compare the part's checksum, or else its MD5."""
    client = lonely_client()
    when = datetime(2026, 1, 1, tzinfo=UTC)
    parts = [
        {"PartNumber": 1, "Size": 1, "ETag": '"any"', "ChecksumSHA256": to_s3(digest(b"a"))},
        {"PartNumber": 2, "Size": 1, "ETag": f'"{hashlib.md5(b"b", usedforsecurity=False).hexdigest()}"'},
        {"PartNumber": 3, "Size": 1, "ETag": '"any"'},
    ]
    with Stubber(client) as stubber:
        listed = [
            {"Key": "key", "UploadId": "old", "Initiated": when - timedelta(days=2)},
            {"Key": "key.old", "UploadId": "of another key", "Initiated": when},
            {"Key": "key", "UploadId": "crc", "Initiated": when, "ChecksumAlgorithm": "CRC64NVME"},
            {"Key": "key", "UploadId": "ours", "Initiated": when, "ChecksumAlgorithm": "SHA256"},
        ]
        stubber.add_response("list_multipart_uploads", {"Uploads": listed})
        stubber.add_response("list_parts", {"Parts": parts}, {"Bucket": "bucket", "Key": "key", "UploadId": "ours"})
        (upload,) = S3Storage(client).unfinished(PhysicalKey("bucket", "key"), (when - timedelta(days=1)).timestamp())

    assert [upload.has(number, data, digest(data)) for number, data in enumerate((b"a", b"b", b"c", b"d"), 1)] == [
        True,
        True,
        False,
        False,
    ]
    assert not upload.has(1, b"x", digest(b"x"))
    assert not upload.has(2, b"x", digest(b"x"))
    assert not upload.has(1, b"aa", digest(b"a"))


@pytest.mark.parametrize(
    ("reason", "status", "kind"), [("ExpiredToken", 400, CredentialsExpiredError), ("InvalidArgument", 400, StorageError)]
)
def test_get_explains_head_error(reason: str, status: int, kind: type[Exception]) -> None:
    client = lonely_client()
    with Stubber(client) as stubber:
        stubber.add_client_error("head_object", "400", "Bad Request", 400)
        stubber.add_client_error("get_object", reason, "so says the store", status)
        with pytest.raises(StorageError) as caught:
            S3Storage(client, NO_RETRY).stat(PhysicalKey("bucket", "object"))

    assert type(caught.value) is kind


def test_refused_head_is_transient() -> None:
    """A store that serves an object without describing it may describe it next time."""
    client = lonely_client()
    with Stubber(client) as stubber:
        stubber.add_client_error("head_object", "400", "Bad Request", 400)
        stubber.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"x"), 1), "ContentLength": 1, "ETag": '"e"'})
        stubber.add_client_error("head_object", "400", "Bad Request", 400)
        with pytest.raises(
            StorageUnavailableError, match="s3://bucket/object: the store serves the object, but does not describe it"
        ):
            S3Storage(client, NO_RETRY).stat(PhysicalKey("bucket", "object"))


class Unread:
    """The bytes of an answer, which nobody may read."""

    closed = False

    def read(self) -> bytes:
        raise AssertionError("it is not to be read")

    def close(self) -> None:
        self.closed = True


def test_large_body_is_not_read() -> None:
    client, body = lonely_client(), Unread()
    with Stubber(client) as stubber:
        stubber.add_response("get_object", {"Body": StreamingBody(body, 2**36), "ContentLength": 2**36, "ETag": '"e"'})
        with pytest.raises(StorageError, match="it has 68,719,476,736 bytes, and no more than 67,108,864 "):
            S3Storage(client).get(PhysicalKey("bucket", "object"))

    assert body.closed


def is_get(request: Request) -> bool:
    return request.method == "GET" and "/object" in request.path


def test_broken_range_resumes(admin: S3Storage, root: PhysicalKey, proxy: S3Proxy) -> None:
    data = os.urandom(3_000_000)
    key = admin.put(root.join("object"), data).key
    proxy.truncate(is_get, times=3)
    through = S3Storage(proxy.store.client(), RetryPolicy(longest=0.01), transport="boto3")

    assert b"".join(through.stream(key, 0, len(data))) == data
    ranges = [request.headers["Range"] for request in proxy.requests if is_get(request)]
    assert len(ranges) == 4
    assert ranges[0] == "bytes=0-2999999"
    assert len(set(ranges)) == 4


def test_changed_range_is_not_resumed(admin: S3Storage, plain_bucket: str, proxy: S3Proxy) -> None:
    key = PhysicalKey(plain_bucket, "object")
    admin.put(key, b"a" * 3_000_000)
    proxy.truncate(is_get)
    chunks = S3Storage(proxy.store.client(), RetryPolicy(longest=0.01), transport="boto3").stream(key, 0, 3_000_000)
    assert set(next(chunks)) == set(b"a")
    admin.put(key, b"b" * 3_000_000)

    with pytest.raises(PreconditionError):
        list(chunks)


def test_broken_get_is_repeated(admin: S3Storage, root: PhysicalKey, proxy: S3Proxy) -> None:
    admin.put(root.join("object"), b"x" * 1000)
    proxy.truncate(is_get, times=2)

    assert S3Storage(proxy.store.client(), RetryPolicy(longest=0.01)).get(root.join("object")).data == b"x" * 1000


def test_retry_puts_from_start(admin: S3Storage, root: PhysicalKey, proxy: S3Proxy) -> None:
    proxy.fail("InternalError", lambda request: request.method == "PUT", times=4)  # One more than the client tries itself.
    body = BytesIO(b"this")
    body.read()
    S3Storage(proxy.store.client(), RetryPolicy(longest=0.01)).put(root.join("object"), body)

    assert admin.get(root.join("object")).data == b"this"


# Answers that no store of the test bed gives, with the error codes of the Amazon S3 API Reference.


def lonely_client() -> Any:
    """A client that no test lets reach a store."""
    return boto3.client("s3", region_name="us-east-1", aws_access_key_id="AK", aws_secret_access_key="SK")  # noqa: S106


def answering(code: str, status: int, message: str = "so says the store") -> S3Storage:
    """A storage whose store answers the next PutObject with an error."""
    client = lonely_client()
    stubber = Stubber(client)
    stubber.add_client_error("put_object", code, message, status)
    stubber.activate()
    return S3Storage(client, NO_RETRY)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchBucket", 404, BucketNotFoundError),
        ("AccessDenied", 403, AccessDeniedError),
        ("InvalidAccessKeyId", 403, AccessDeniedError),
        ("SignatureDoesNotMatch", 403, AccessDeniedError),
        ("ExpiredToken", 400, CredentialsExpiredError),
        ("InvalidToken", 400, AccessDeniedError),
        ("PreconditionFailed", 412, PreconditionError),
        ("ConditionalRequestConflict", 409, StorageUnavailableError),
        ("OperationAborted", 409, StorageUnavailableError),
        ("409", 409, StorageUnavailableError),
        ("InvalidBucketState", 409, StorageError),
        ("BadDigest", 400, ChecksumMismatchError),
        ("SlowDown", 503, ThrottledError),
        ("Calm", 429, ThrottledError),
        ("ServiceUnavailable", 503, StorageUnavailableError),
        ("InternalError", 500, StorageUnavailableError),
        ("RequestTimeout", 400, StorageUnavailableError),
        ("NotImplemented", 501, UnsupportedError),
        ("Sorry", 501, UnsupportedError),
        ("InvalidArgument", 400, StorageError),
        ("EntityTooLarge", 400, StorageError),
    ],
)
def test_store_code_becomes_error(code: str, status: int, kind: type[Exception]) -> None:
    with pytest.raises(QuiltError) as caught:
        answering(code, status).put(PhysicalKey("bucket", "object"), b"x")

    assert type(caught.value) is kind
    assert ("s3://bucket:" if kind is BucketNotFoundError else "s3://bucket/object") in str(caught.value)


@pytest.mark.parametrize(("code", "kind"), [("InvalidArgument", StorageError), ("InternalError", StorageUnavailableError)])
def test_unknown_code_is_reported(code: str, kind: type[StorageError]) -> None:
    with pytest.raises(kind, match=f"{code} so says the store"):
        answering(code, 500 if kind.transient else 400).put(PhysicalKey("bucket", "object"), b"x")


def test_versionless_store_is_listed() -> None:
    client = lonely_client()
    stubber = Stubber(client)
    stubber.add_client_error("list_object_versions", "NotImplemented", "", 501)
    stubber.add_response("list_objects_v2", {"Contents": [{"Key": "raw/a", "Size": 5, "ETag": '"e"'}]})
    with stubber:
        found = list(S3Storage(client).list_versions(PhysicalKey("bucket", "raw/")))

    assert found == [ObjectInfo(PhysicalKey("bucket", "raw/a"), 5, '"e"')]


@pytest.mark.parametrize(
    ("answers", "version"),
    [
        pytest.param([{"Status": "Enabled"}], "null", id="enabled"),
        pytest.param([{"Status": "Suspended"}], "null", id="suspended"),
        pytest.param([{}], None, id="never"),
        pytest.param(["NotImplemented"], None, id="unknown to the store"),
        pytest.param(["AccessDenied", {"ETag": '"e"', "VersionId": "null"}], "null", id="stated by the object"),
        pytest.param(["AccessDenied", {"ETag": '"e"'}], None, id="not stated by the object"),
        pytest.param(["AccessDenied", "403"], "null", id="nobody may ask"),
    ],
)
def test_bucket_decides_on_null(answers: list[str | dict[str, str]], version: str | None) -> None:
    """The listing states ``null`` in each case; whether it is a version, other requests show, once for each listing."""
    client = lonely_client()
    status = {"NotImplemented": 501, "AccessDenied": 403, "403": 403}
    listed = [{"Key": key, "Size": 1, "ETag": '"e"', "IsLatest": True, "VersionId": "null"} for key in ("a", "b")]
    with Stubber(client) as stubber:
        stubber.add_response("list_object_versions", {"Versions": listed})
        for method, answer in zip(("get_bucket_versioning", "head_object"), answers, strict=False):
            if isinstance(answer, str):
                stubber.add_client_error(method, answer, "", status[answer])
            else:
                stubber.add_response(method, answer)
        found = list(S3Storage(client, NO_RETRY).list_versions(PhysicalKey("bucket", "")))
        stubber.assert_no_pending_responses()

    assert [stat.key for stat in found] == [PhysicalKey("bucket", key, version) for key in ("a", "b")]


@pytest.mark.parametrize(
    ("date", "is_told"),
    [
        pytest.param("Fri, 27 Nov 2026 09:00:03 GMT", True, id="long before"),
        pytest.param("Fri, 27 Nov 2026 10:00:03 +0100", True, id="long before, by another clock"),
        pytest.param("Fri, 27 Nov 2026 09:00:02 GMT", False, id="in this moment"),
        pytest.param("Fri, 27 Nov 2026 08:00:00 GMT", False, id="later"),
        pytest.param("yesterday", False, id="no date"),
        pytest.param("", False, id="an empty date"),
        pytest.param(None, False, id="none"),
    ],
)
def test_listing_separates_writes(date: str | None, *, is_told: bool) -> None:
    """Report the time of a write once its second is over."""
    client = lonely_client()
    stubber = Stubber(client)
    written = datetime(2026, 11, 27, 9, tzinfo=UTC)
    for offset in (0, 1):
        answer = {
            "Contents": [{"Key": "a", "Size": 1, "ETag": '"e"', "LastModified": written - timedelta(seconds=offset)}],
            "ResponseMetadata": {"HTTPHeaders": {"date": date} if date is not None else {}},
        }
        stubber.add_response("list_objects_v2", answer)
    with stubber:
        (first,), (second,) = (list(S3Storage(client).list_objects(PhysicalKey("bucket", ""))) for _ in range(2))

    assert bool(first.written) == is_told
    assert first.written != second.written or not is_told


def test_if_match_404_is_a_conflict() -> None:
    with pytest.raises(PreconditionError):
        answering("NoSuchKey", 404).put(PhysicalKey("bucket", "object"), b"x", IfMatch("etag"))


def test_no_credentials_is_denied() -> None:
    client = botocore.session.Session()
    client.register_component("credential_provider", CredentialResolver([]))
    storage = S3Storage(client.create_client("s3", region_name="us-east-1"))

    with pytest.raises(AccessDeniedError, match="no credentials"):
        storage.put(PhysicalKey("bucket", "object"), b"x")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InternalError", StorageUnavailableError),
        ("ServiceUnavailable", StorageUnavailableError),
        ("SlowDown", ThrottledError),
        ("OperationAborted", StorageUnavailableError),
        ("AccessDenied", AccessDeniedError),
        ("InvalidArgument", StorageError),
    ],
)
def test_batch_error_names_object(code: str, kind: type[StorageError]) -> None:
    client = lonely_client()
    with Stubber(client) as stubber:
        stubber.add_response("delete_objects", {"Errors": [{"Key": "b", "Code": code, "Message": "so says the store"}]})
        with pytest.raises(kind, match="s3://bucket/b: .*so says the store") as caught:
            S3Storage(client).delete([PhysicalKey("bucket", "a"), PhysicalKey("bucket", "b")])

    assert type(caught.value) is kind


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_all_open_uploads_are_found(s3: S3Server, bucket: str, size: int) -> None:
    """Pages of open uploads, and of the parts of one, are read to the end; uploads to longer keys are on the same pages."""
    client = s3.client()
    for operation, most in (("ListMultipartUploads", "MaxUploads"), ("ListParts", "MaxParts")):
        client.meta.events.register(
            f"provide-client-params.s3.{operation}", lambda params, most=most, **_: {**params, most: size}
        )
    storage, key = S3Storage(client, transport="boto3"), PhysicalKey(bucket, "d/large")
    parts = {number: b"%d" % number for number in (1, 2, 3)}
    for name in ("d/large", "d/large.1", "d/large", "d/large/x", "d/large", "d"):
        upload = storage.begin(PhysicalKey(bucket, name))
        for number, part in parts.items() if name == key.key else ():
            upload.send(number, part, digest(part))

    found = storage.unfinished(key, 0)
    assert len(found) == 3
    assert all(upload.has(number, part, digest(part)) for upload in found for number, part in parts.items())
