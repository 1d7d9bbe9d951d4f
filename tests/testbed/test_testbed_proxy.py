"""The proxy in front of the store passes everything on, but for what a test orders to go wrong."""

import hashlib
import re
import secrets
import socket
import zlib
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from testbed.loopback import Exchange, LoopbackServer, Request
from testbed.proxy import S3Proxy, access_key, running_proxy
from testbed.server import Identity, S3Server


def url(proxy: S3Proxy, bucket: str, method: str = "get_object", key: str = "a.txt") -> str:
    """Return a signed URL: unlike boto3, nobody tries again who asks for it."""
    return proxy.store.client().generate_presigned_url(method, Params={"Bucket": bucket, "Key": key})


@pytest.fixture
def with_object(s3: S3Server, bucket: str) -> str:
    s3.client().put_object(Bucket=bucket, Key="a.txt", Body=b"content")
    return bucket


def ask_head(url: str) -> tuple[str, bytes]:
    """Make a HEAD request; return the status line, and whatever comes on the connection after the headers."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(
            f"HEAD {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
        )
        with connection.makefile("rb") as answer:
            head, _, rest = answer.read().partition(b"\r\n\r\n")
    return head.decode().splitlines()[0], rest


def is_put(request: Request) -> bool:
    return request.method == "PUT"


def test_requests_reach_the_store_as_they_were_signed(proxy: S3Proxy, s3: S3Server, bucket: str) -> None:
    through, direct = proxy.store.client(), s3.client()
    key = "a b/c+d%25/ü?x=1&y"
    put = through.put_object(Bucket=bucket, Key=key, Body=b"content", Metadata={"name": "value"}, ChecksumAlgorithm="SHA256")
    through.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    head = through.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")

    assert direct.get_object(Bucket=bucket, Key=key)["Body"].read() == b"content"
    assert (head["VersionId"], head["ChecksumSHA256"], head["Metadata"]) == (
        put["VersionId"],
        put["ChecksumSHA256"],
        {"name": "value"},
    )
    assert through.get_object(Bucket=bucket, Key=key, Range="bytes=3-")["Body"].read() == b"tent"
    assert [item["Key"] for item in through.list_objects_v2(Bucket=bucket)["Contents"]] == [key, "copy"]
    through.delete_object(Bucket=bucket, Key=key)
    through.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "copy"}]})
    assert "Contents" not in direct.list_objects_v2(Bucket=bucket)
    with pytest.raises(ClientError, match="404"):
        through.head_object(Bucket=bucket, Key=key)
    assert proxy.count(lambda request: request.method == "HEAD") == 2
    assert {access_key(request) for request in proxy.requests} == {s3.admin.access_key}


def test_a_wrong_signature_stays_wrong(proxy: S3Proxy, s3: S3Server) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        proxy.store.client(Identity(s3.admin.access_key, "wrong")).list_buckets()


def test_a_long_list_passes(proxy: S3Proxy, s3: S3Server, bucket: str) -> None:
    keys = [f"{number:03}-{'x' * 200}" for number in range(60)]
    for key in keys:
        s3.client().put_object(Bucket=bucket, Key=key)

    assert [item["Key"] for item in proxy.store.client().list_objects_v2(Bucket=bucket)["Contents"]] == keys


def test_large_bodies_pass(proxy: S3Proxy, bucket: str) -> None:
    data = secrets.token_bytes(1 << 20) * 48
    client = proxy.store.client()
    client.put_object(Bucket=bucket, Key="large", Body=data)
    read = client.get_object(Bucket=bucket, Key="large")["Body"].read()

    assert hashlib.sha256(read).digest() == hashlib.sha256(data).digest()


def test_bodies_of_unknown_length_pass(proxy: S3Proxy, s3: S3Server, bucket: str) -> None:
    parts = [b"a" * 100_000, b"b" * 300_000]
    answer = requests.put(url(proxy, bucket, "put_object"), data=iter(parts), timeout=30)

    assert answer.ok
    assert s3.client().get_object(Bucket=bucket, Key="a.txt")["Body"].read() == b"".join(parts)


def test_bodies_in_the_chunks_of_aws_pass(proxy: S3Proxy, s3: S3Server, bucket: str) -> None:
    data = b"content" * 10_000
    checksum = b64encode(zlib.crc32(data).to_bytes(4)).decode()
    request = AWSRequest(
        "PUT",
        f"{proxy.store.endpoint}/{bucket}/a.txt",
        headers={
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": str(len(data)),
            "X-Amz-Trailer": "x-amz-checksum-crc32",
        },
    )
    request.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
    S3SigV4Auth(Credentials(s3.admin.access_key, s3.admin.secret_key), "s3", "us-east-1").add_auth(request)

    def body() -> Iterator[bytes]:
        yield b"%x\r\n%b\r\n" % (len(data), data)
        yield f"0\r\nx-amz-checksum-crc32:{checksum}\r\n\r\n".encode()

    answer = requests.put(request.url, data=body(), headers=dict(request.headers.items()), timeout=30)
    got = s3.client().get_object(Bucket=bucket, Key="a.txt", ChecksumMode="ENABLED")

    assert answer.ok, answer.text
    assert got["Body"].read() == data
    assert got["ChecksumCRC32"] == checksum


def test_answers_of_unknown_length_pass() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send_response_only(200)
        exchange.send_header("Transfer-Encoding", "chunked")
        exchange.end_headers()
        if exchange.command != "HEAD":
            exchange.wfile.write(b"3\r\ncon\r\n4\r\ntent\r\n0\r\n\r\n")

    store, nobody = LoopbackServer(), Identity.make()
    with store.serving(answer), running_proxy(S3Server(store.url, nobody, nobody)) as proxy:
        bodies = [requests.get(proxy.store.endpoint, timeout=30).content for _ in range(2)]
        head = ask_head(f"{proxy.store.endpoint}/")

    assert bodies == [b"content", b"content"]
    assert head == ("HTTP/1.1 200 OK", b"")


@pytest.mark.parametrize(("code", "status"), [("ExpiredToken", 400), ("SlowDown", 503), ("InternalError", 500)])
def test_a_request_fails_as_ordered_and_the_next_one_does_not(proxy: S3Proxy, with_object: str, code: str, status: int) -> None:
    proxy.fail(code, times=2)
    answers = [requests.get(url(proxy, with_object), timeout=30) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert [re.findall("<Code>(.*)</Code>", answer.text) for answer in answers] == [[code], [code], []]
    assert answers[2].content == b"content"
    assert proxy.count() == 3


def test_boto3_understands_the_errors(proxy: S3Proxy, with_object: str) -> None:
    client = proxy.store.client()
    proxy.fail("SlowDown")

    assert client.get_object(Bucket=with_object, Key="a.txt")["Body"].read() == b"content"
    assert proxy.count() == 2
    proxy.fail("ExpiredToken", times=2)
    with pytest.raises(ClientError, match="ExpiredToken"):
        client.get_object(Bucket=with_object, Key="a.txt")
    with pytest.raises(ClientError, match="400"):
        client.head_object(Bucket=with_object, Key="a.txt")


def test_an_error_of_head_has_no_body(proxy: S3Proxy, with_object: str) -> None:
    proxy.fail("InternalError")

    assert ask_head(url(proxy, with_object, "head_object")) == ("HTTP/1.1 500 Internal Server Error", b"")


def test_only_chosen_requests_go_wrong(proxy: S3Proxy, with_object: str) -> None:
    proxy.fail("InternalError", is_put)
    reads = [requests.get(url(proxy, with_object), timeout=30).status_code for _ in range(2)]
    writes = [requests.put(url(proxy, with_object, "put_object"), b"new", timeout=30).status_code for _ in range(2)]

    assert (reads, writes) == ([200, 200], [500, 200])
    assert proxy.count(is_put) == 2


@pytest.mark.parametrize(("order", "content"), [(S3Proxy.cut, b"content"), (S3Proxy.lose, b"new")])
def test_a_connection_is_cut_before_or_after_the_store_acts(
    proxy: S3Proxy, s3: S3Server, with_object: str, order: type[S3Proxy.cut], content: bytes
) -> None:
    order(proxy, is_put)
    with pytest.raises(requests.ConnectionError):
        requests.put(url(proxy, with_object, "put_object"), b"new", timeout=30)

    assert s3.client().get_object(Bucket=with_object, Key="a.txt")["Body"].read() == content


def test_a_body_ends_in_its_middle(proxy: S3Proxy, with_object: str) -> None:
    proxy.truncate()
    answer = requests.get(url(proxy, with_object), timeout=30, stream=True)

    assert answer.headers["Content-Length"] == "7"
    assert answer.raw.read(3) == b"con"
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = answer.content


def test_an_expired_key_is_refused_and_others_are_not(proxy: S3Proxy, s3: S3Server, with_object: str) -> None:
    old, new = s3.assume("writer"), s3.assume("writer")
    client = proxy.store.client(old)
    signed = client.generate_presigned_url("get_object", Params={"Bucket": with_object, "Key": "a.txt"})
    before = client.get_object(Bucket=with_object, Key="a.txt")["Body"].read()
    proxy.expire(old.access_key)

    assert before == b"content"
    for call in (client.get_object, client.put_object):
        with pytest.raises(ClientError, match="ExpiredToken"):
            call(Bucket=with_object, Key="a.txt")
    assert requests.get(signed, timeout=30).status_code == 400
    assert proxy.store.client(new).get_object(Bucket=with_object, Key="a.txt")["Body"].read() == b"content"
