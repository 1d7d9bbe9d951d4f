import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.credentials import CredentialResolver
from botocore.stub import Stubber

from airflow_quilt.core.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ChecksumMismatchError,
    ObjectNotFoundError,
    PreconditionError,
    QuiltError,
    StorageError,
    StorageUnavailableError,
    UnsupportedError,
)
from airflow_quilt.core.locations import PhysicalKey
from airflow_quilt.core.storage.base import Replace, Stat
from airflow_quilt.core.storage.s3 import S3Storage
from testbed.server import Identity, S3Server
from tests.contract.s3_contract import S3Contract
from tests.contract.storage_contract import digest, raised

Call = Callable[[S3Storage, PhysicalKey], object]

READS = [
    pytest.param(lambda storage, key: storage.get(key), id="get"),
    pytest.param(lambda storage, key: storage.stream(key, 0, 1), id="stream"),
    pytest.param(lambda storage, key: storage.stat(key), id="stat"),
    pytest.param(lambda storage, key: storage.scan(key), id="scan"),
    pytest.param(lambda storage, key: storage.scan_current(key), id="scan-current"),
]

WRITES = [
    pytest.param(lambda storage, key: storage.put(key, b"x"), id="put"),
    pytest.param(lambda storage, key: storage.put(key, b"x", "create"), id="create"),
    pytest.param(lambda storage, key: storage.upload(key, b"x", digest(b"x")), id="upload"),
    pytest.param(lambda storage, key: storage.begin(key), id="begin"),
    pytest.param(lambda storage, key: storage.copy(Stat(key, 1, "etag"), key), id="copy"),
    pytest.param(lambda storage, key: storage.delete([key]), id="delete"),
]


@pytest.fixture(scope="module")
def admin(s3: S3Server) -> S3Storage:
    return S3Storage(s3.client())


@pytest.fixture
def root(bucket: str) -> PhysicalKey:
    return PhysicalKey(bucket, "test/")


@pytest.fixture(scope="module")
def server(s3: S3Server) -> S3Server:
    return s3


class TestSeaweedFS(S3Contract):
    """The whole contract, on SeaweedFS."""


@pytest.mark.parametrize("call", [case for case in READS + WRITES if case.id != "stat"])
def test_a_bucket_that_is_not_there_is_its_own_error(admin: S3Storage, call: Call) -> None:
    with pytest.raises(BucketNotFoundError, match="s3://no-such-bucket") as caught:
        raised(lambda: call(admin, PhysicalKey("no-such-bucket", "object")))

    assert not caught.value.transient


def test_a_stat_cannot_tell_a_missing_bucket_from_a_missing_object(admin: S3Storage) -> None:
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
def test_wrong_credentials_are_denied(
    s3: S3Server, admin: S3Storage, root: PhysicalKey, call: Call, spoil: Callable[[Identity], Identity]
) -> None:
    key = root.join("object")
    before = admin.put(key, b"x")
    stranger = S3Storage(s3.client(spoil(s3.admin)))

    with pytest.raises(AccessDeniedError, match=f"s3://{root.bucket}") as caught:
        raised(lambda: call(stranger, key))
    assert not caught.value.transient
    assert admin.stat(key).key == before.key


@pytest.mark.parametrize("call", WRITES)
def test_a_user_who_may_only_read_cannot_write(s3: S3Server, admin: S3Storage, root: PhysicalKey, call: Call) -> None:
    key = root.join("object")
    before = admin.put(key, b"before")
    reader = S3Storage(s3.client(s3.reader))

    with pytest.raises(AccessDeniedError, match=f"s3://{root.bucket}"):
        raised(lambda: call(reader, key))
    assert reader.stat(key).key == before.key


@pytest.mark.parametrize("call", READS)
def test_a_user_who_may_only_read_can_read(s3: S3Server, admin: S3Storage, root: PhysicalKey, call: Call) -> None:
    key = root.join("object")
    admin.put(key, b"x")

    assert raised(lambda: call(S3Storage(s3.client(s3.reader)), key)) == raised(lambda: call(admin, key))


@pytest.fixture
def unreachable() -> Iterator[S3Storage]:
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
        yield S3Storage(client)


@pytest.mark.parametrize("call", READS + WRITES)
def test_a_store_that_cannot_be_reached_is_unavailable_for_now(unreachable: S3Storage, call: Call) -> None:
    with pytest.raises(StorageUnavailableError, match="s3://bucket") as caught:
        raised(lambda: call(unreachable, PhysicalKey("bucket", "object")))

    assert caught.value.transient


@pytest.mark.parametrize("call", READS + WRITES)
def test_a_local_file_is_no_object_of_an_s3_store(admin: S3Storage, call: Call) -> None:
    with pytest.raises(StorageError, match="no object of an S3 store"):
        raised(lambda: call(admin, PhysicalKey(None, "/data/a.txt")))


@pytest.mark.parametrize("name", ["UPPER", "a", "under_score", "two..dots"])
def test_a_name_that_no_bucket_can_have_is_a_storage_error(admin: S3Storage, name: str) -> None:
    with pytest.raises(StorageError, match=f"s3://{name}"):
        admin.get(PhysicalKey(name, "object"))


def test_an_upload_that_was_aborted_takes_no_more_parts(admin: S3Storage, root: PhysicalKey) -> None:
    upload = admin.begin(root.join("object"))
    upload.abort()

    with pytest.raises(StorageError, match=str(root.join("object"))):
        upload.send(1, b"x", digest(b"x"))


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
    return S3Storage(client)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchBucket", 404, BucketNotFoundError),
        ("AccessDenied", 403, AccessDeniedError),
        ("InvalidAccessKeyId", 403, AccessDeniedError),
        ("SignatureDoesNotMatch", 403, AccessDeniedError),
        ("ExpiredToken", 400, AccessDeniedError),
        ("InvalidToken", 400, AccessDeniedError),
        ("PreconditionFailed", 412, PreconditionError),
        ("ConditionalRequestConflict", 409, PreconditionError),
        ("BadDigest", 400, ChecksumMismatchError),
        ("SlowDown", 503, StorageUnavailableError),
        ("ServiceUnavailable", 503, StorageUnavailableError),
        ("InternalError", 500, StorageUnavailableError),
        ("RequestTimeout", 400, StorageUnavailableError),
        ("NotImplemented", 501, UnsupportedError),
        ("InvalidArgument", 400, StorageError),
        ("EntityTooLarge", 400, StorageError),
    ],
)
def test_what_a_store_answers_becomes_the_engines_error(code: str, status: int, kind: type[Exception]) -> None:
    with pytest.raises(QuiltError) as caught:
        answering(code, status).put(PhysicalKey("bucket", "object"), b"x")

    assert type(caught.value) is kind
    assert "s3://bucket/object" in str(caught.value)


@pytest.mark.parametrize(("code", "kind"), [("InvalidArgument", StorageError), ("InternalError", StorageUnavailableError)])
def test_an_answer_that_is_not_known_is_told_as_it_is(code: str, kind: type[StorageError]) -> None:
    with pytest.raises(kind, match=f"{code} so says the store"):
        answering(code, 500 if kind.transient else 400).put(PhysicalKey("bucket", "object"), b"x")


def test_a_store_that_does_not_know_versions_lists_its_objects_without() -> None:
    client = lonely_client()
    stubber = Stubber(client)
    stubber.add_client_error("list_object_versions", "NotImplemented", "", 501)
    stubber.add_response("list_objects_v2", {"Contents": [{"Key": "raw/a", "Size": 5, "ETag": '"e"'}]})
    with stubber:
        found = list(S3Storage(client).scan_current(PhysicalKey("bucket", "raw/")))

    assert found == [Stat(PhysicalKey("bucket", "raw/a"), 5, '"e"')]


def test_to_replace_what_is_gone_is_a_condition_that_does_not_hold_though_s3_answers_404() -> None:
    with pytest.raises(PreconditionError):
        answering("NoSuchKey", 404).put(PhysicalKey("bucket", "object"), b"x", Replace("etag"))


def test_no_credentials_at_all_are_denied() -> None:
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
        ("SlowDown", StorageUnavailableError),
        ("AccessDenied", AccessDeniedError),
        ("InvalidArgument", StorageError),
    ],
)
def test_what_the_store_says_of_one_object_of_a_batch_is_told_as_of_a_request(code: str, kind: type[StorageError]) -> None:
    client = lonely_client()
    with Stubber(client) as stubber:
        stubber.add_response("delete_objects", {"Errors": [{"Key": "b", "Code": code, "Message": "so says the store"}]})
        with pytest.raises(kind, match="s3://bucket/b: .*so says the store") as caught:
            S3Storage(client).delete([PhysicalKey("bucket", "a"), PhysicalKey("bucket", "b")])

    assert type(caught.value) is kind
