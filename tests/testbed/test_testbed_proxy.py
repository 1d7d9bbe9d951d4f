"""The proxy in front of the store passes everything on, but for the faults that a test orders."""

import hashlib
import random
import re
import secrets
import socket
import threading
import time
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from email.message import Message
from urllib.parse import urlsplit

import pytest
import requests
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from testbed.faults import ERRORS, KINDS, Fault, Kind, RandomFaults
from testbed.loopback import Exchange, LoopbackServer, Request
from testbed.proxy import S3Proxy, access_key, running_proxy
from testbed.server import Identity, S3Server


def url(proxy: S3Proxy, bucket: str, method: str = "get_object", key: str = "a.txt") -> str:
    """Return a signed URL: its requests, unlike boto3's, are not retried."""
    return proxy.store.client().generate_presigned_url(method, Params={"Bucket": bucket, "Key": key})


@pytest.fixture
def with_object(s3: S3Server, bucket: str) -> str:
    s3.client().put_object(Bucket=bucket, Key="a.txt", Body=b"content")
    return bucket


def ask_head(url: str) -> tuple[str, bytes]:
    """Make a HEAD request; return the status line, and all bytes on the connection after the headers."""
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


def test_signed_requests_pass(proxy: S3Proxy, s3: S3Server, bucket: str) -> None:
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


def test_wrong_signature_is_refused(proxy: S3Proxy, s3: S3Server) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        proxy.store.client(Identity(s3.admin.access_key, "wrong")).list_buckets()


def test_long_listing_passes(proxy: S3Proxy, s3: S3Server, bucket: str) -> None:
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


def test_unsized_bodies_pass(proxy: S3Proxy, s3: S3Server, bucket: str) -> None:
    parts = [b"a" * 100_000, b"b" * 300_000]
    answer = requests.put(url(proxy, bucket, "put_object"), data=iter(parts), timeout=30)

    assert answer.ok
    assert s3.client().get_object(Bucket=bucket, Key="a.txt")["Body"].read() == b"".join(parts)


def test_aws_chunked_bodies_pass(proxy: S3Proxy, s3: S3Server, bucket: str) -> None:
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


def test_unsized_answers_pass() -> None:
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


@pytest.mark.parametrize(("code", "status"), [(code, status) for code, (_, status, _) in ERRORS.items()])
def test_request_fails_as_ordered(proxy: S3Proxy, with_object: str, code: str, status: int) -> None:
    proxy.fail(code, times=2)
    answers = [requests.get(url(proxy, with_object), timeout=30) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert [re.findall("<Code>(.*)</Code>", answer.text) for answer in answers] == [[code], [code], []]
    assert answers[2].content == b"content"
    assert proxy.count() == 3


def test_boto3_understands_errors(proxy: S3Proxy, with_object: str) -> None:
    client = proxy.store.client()
    proxy.fail("SlowDown")

    assert client.get_object(Bucket=with_object, Key="a.txt")["Body"].read() == b"content"
    assert proxy.count() == 2
    proxy.fail("ExpiredToken", times=2)
    with pytest.raises(ClientError, match="ExpiredToken"):
        client.get_object(Bucket=with_object, Key="a.txt")
    with pytest.raises(ClientError, match="400"):
        client.head_object(Bucket=with_object, Key="a.txt")


def test_head_error_has_no_body(proxy: S3Proxy, with_object: str) -> None:
    proxy.fail("InternalError")

    assert ask_head(url(proxy, with_object, "head_object")) == ("HTTP/1.1 500 Internal Server Error", b"")


def test_only_chosen_requests_fail(proxy: S3Proxy, with_object: str) -> None:
    proxy.fail("InternalError", is_put)
    reads = [requests.get(url(proxy, with_object), timeout=30).status_code for _ in range(2)]
    writes = [requests.put(url(proxy, with_object, "put_object"), b"new", timeout=30).status_code for _ in range(2)]

    assert (reads, writes) == ([200, 200], [500, 200])
    assert proxy.count(is_put) == 2


@pytest.mark.parametrize(("order", "content"), [(S3Proxy.cut, b"content"), (S3Proxy.lose, b"new")])
def test_connection_cut_is_timed(
    proxy: S3Proxy, s3: S3Server, with_object: str, order: type[S3Proxy.cut], content: bytes
) -> None:
    order(proxy, is_put)
    with pytest.raises(requests.ConnectionError):
        requests.put(url(proxy, with_object, "put_object"), b"new", timeout=30)

    assert s3.client().get_object(Bucket=with_object, Key="a.txt")["Body"].read() == content


def test_body_ends_in_its_middle(proxy: S3Proxy, with_object: str) -> None:
    proxy.truncate()
    answer = requests.get(url(proxy, with_object), timeout=30, stream=True)

    assert answer.headers["Content-Length"] == "7"
    assert answer.raw.read(3) == b"con"
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = answer.content


def test_only_expired_key_is_refused(proxy: S3Proxy, s3: S3Server, with_object: str) -> None:
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


def ask(proxy: S3Proxy, method: str, url: str, body: bytes = b"") -> tuple[socket.socket, float]:
    """Send a request; return the connection on which its answer comes, and the time before it was sent."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=30)
    head = f"{method} {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
    began = time.monotonic()
    connection.sendall(head.encode() + body)
    return connection, began


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(1 << 16):
        data += part
    return data


@pytest.mark.parametrize(("fault", "content"), [(Fault("reset"), b"content"), (Fault("reset", late=True), b"new")])
def test_connection_reset_is_timed(proxy: S3Proxy, s3: S3Server, with_object: str, fault: Fault, content: bytes) -> None:
    proxy.order(fault, is_put)
    connection, _ = ask(proxy, "PUT", url(proxy, with_object, "put_object"), b"new")
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(1)

    assert s3.client().get_object(Bucket=with_object, Key="a.txt")["Body"].read() == content
    assert proxy.count_faults() == {"reset": 1}


def test_answer_resets_midway(proxy: S3Proxy, s3: S3Server, with_object: str) -> None:
    s3.client().put_object(Bucket=with_object, Key="a.txt", Body=bytes(1 << 20))
    proxy.order(Fault("reset", late=True))
    connection, _ = ask(proxy, "GET", url(proxy, with_object))
    with connection:
        first = connection.recv(1 << 10)
        with pytest.raises(ConnectionResetError):
            read_all(connection)

    assert first.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("fault", [Fault("delay", seconds=3), Fault("delay", late=True, seconds=3)])
def test_delay_holds_the_exchange(proxy: S3Proxy, s3: S3Server, with_object: str, fault: Fault) -> None:
    client = s3.client()
    proxy.order(fault)
    connection, began = ask(proxy, "PUT", url(proxy, with_object, "put_object"), b"new")
    with connection:
        time.sleep(1)
        meanwhile = client.get_object(Bucket=with_object, Key="a.txt")["Body"].read()
        answer = connection.recv(1 << 10)
        seconds = time.monotonic() - began

    assert meanwhile == (b"new" if fault.late else b"content")
    assert answer.startswith(b"HTTP/1.1 200")
    assert seconds >= 3
    assert s3.client().get_object(Bucket=with_object, Key="a.txt")["Body"].read() == b"new"


def test_abandoned_request_arrives(proxy: S3Proxy, s3: S3Server, with_object: str) -> None:
    client = s3.client()
    proxy.order(Fault("delay", seconds=3))
    with pytest.raises(requests.ReadTimeout):
        requests.put(url(proxy, with_object, "put_object"), b"new", timeout=0.1)
    before = client.get_object(Bucket=with_object, Key="a.txt")["Body"].read()
    proxy.wait_until_idle()

    assert before == b"content"
    assert s3.client().get_object(Bucket=with_object, Key="a.txt")["Body"].read() == b"new"


def test_delays_end_with_the_proxy(s3: S3Server, with_object: str) -> None:
    with running_proxy(s3) as proxy:
        proxy.order(Fault("delay", seconds=60))
        connection, began = ask(proxy, "GET", url(proxy, with_object))
        connection.close()
        while not proxy.faults:
            time.sleep(0.01)

    assert time.monotonic() - began < 20


def difference(one: bytes, other: bytes) -> list[tuple[int, int]]:
    """Return where two texts of one length differ, and by which bits."""
    return [(i, a ^ b) for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]


def test_answer_bit_is_flipped(proxy: S3Proxy, with_object: str) -> None:
    proxy.order(Fault("corrupt", late=True, at=0.3, bit=6))
    answers = [requests.get(url(proxy, with_object), timeout=30) for _ in range(2)]

    assert difference(answers[0].content, b"content") == [(2, 64)]
    assert answers[0].headers["ETag"] == answers[1].headers["ETag"]
    assert answers[1].content == b"content"


@pytest.mark.parametrize(("at", "place"), [(0.0, 0), (0.5, 1), (1.0, 2)])
def test_request_bit_is_flipped(proxy: S3Proxy, s3: S3Server, with_object: str, at: float, place: int) -> None:
    proxy.order(Fault("corrupt", at=at))
    answer = requests.put(url(proxy, with_object, "put_object"), b"new", timeout=30)

    assert answer.ok
    assert difference(s3.client().get_object(Bucket=with_object, Key="a.txt")["Body"].read(), b"new") == [(place, 1)]


@pytest.mark.parametrize("fault", [Fault("corrupt"), Fault("corrupt", late=True), Fault("truncate")])
def test_empty_body_stays_intact(proxy: S3Proxy, with_object: str, fault: Fault) -> None:
    proxy.order(fault)

    assert requests.put(url(proxy, with_object, "put_object"), b"", timeout=30).status_code == 200
    assert proxy.count_faults() == {}


def test_unsized_answer_is_spoiled() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send_response_only(200)
        exchange.send_header("Transfer-Encoding", "chunked")
        exchange.end_headers()
        exchange.wfile.write(b"3\r\ncon\r\n4\r\ntent\r\n0\r\n\r\n")

    store, nobody = LoopbackServer(), Identity.make()
    with store.serving(answer), running_proxy(S3Server(store.url, nobody, nobody)) as proxy:
        proxy.order(Fault("corrupt", late=True))
        proxy.truncate()
        corrupt = requests.get(proxy.store.endpoint, timeout=30).content
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            requests.get(proxy.store.endpoint, timeout=30)

    assert difference(corrupt, b"content") == [(3, 1)]
    assert proxy.count_faults() == {"corrupt": 1, "truncate": 1}


def requests_of_all_sorts() -> list[Request]:
    with_body = Message()
    with_body["Content-Length"] = "5"
    return [Request("PUT", "/a", with_body), Request("GET", "/a", Message()), Request("POST", "/a", with_body)] * 2000


def random_faults(seed: int, rate: float, kinds: Sequence[Kind] = KINDS) -> RandomFaults:
    return RandomFaults(random.Random(seed), rate, kinds, (0.1, 5.0))  # noqa: S311


def faults(seed: int, rate: float, kinds: Sequence[Kind] = KINDS) -> list[Fault | None]:
    return list(map(random_faults(seed, rate, kinds), requests_of_all_sorts()))


def test_seed_repeats_faults() -> None:
    assert faults(1, 0.2) == faults(1, 0.2)
    assert faults(1, 0.2) != faults(2, 0.2)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_faults_come_at_their_rate(rate: float) -> None:
    counts = Counter(fault.kind for fault in faults(1, rate) if fault)

    assert counts.total() == pytest.approx(6000 * rate, rel=0.3)
    assert set(counts) == set(KINDS)
    if rate == 0.2:
        assert all(count == pytest.approx(6000 * rate / len(KINDS), rel=0.3) for count in counts.values())


def test_random_faults_vary() -> None:
    found = [fault for fault in faults(1, 1.0) if fault]

    assert {fault.code for fault in found} == {None, *ERRORS} - {"NotImplemented"}  # Which no repetition mends.
    assert {fault.seconds for fault in found if fault.kind == "delay"} == {0.1, 5.0}
    assert {fault.bit for fault in found} == set(range(8))
    for kind in ("delay", "reset", "corrupt"):
        assert {fault.late for fault in found if fault.kind == kind} == {True, False}


def test_only_given_kinds_occur() -> None:
    assert {fault.kind for fault in faults(1, 1.0, ("lose", "reset")) if fault} == {"lose", "reset"}


def test_present_body_is_corrupted() -> None:
    chosen = zip(requests_of_all_sorts(), faults(1, 1.0, ("corrupt",)), strict=True)
    late = {(request.method, fault.late) for request, fault in chosen if fault}

    assert late == {("PUT", False), ("GET", True), ("POST", False), ("POST", True)}


def test_disturbance_ends_with_block(proxy: S3Proxy, with_object: str) -> None:
    with proxy.disturbed(random_faults(1, 0.5, ("throttle",))):
        during = [requests.get(url(proxy, with_object), timeout=30).status_code for _ in range(40)]
    after = [requests.get(url(proxy, with_object), timeout=30).status_code for _ in range(10)]

    assert set(during) == {200, 429, 503}
    assert proxy.count_faults() == {"throttle": 40 - during.count(200)}
    assert after == [200] * 10


def test_idle_store_has_settled(proxy: S3Proxy, with_object: str) -> None:
    proxy.order(Fault("delay", late=True, seconds=0.4))
    asking = threading.Thread(target=requests.get, args=(url(proxy, with_object),), kwargs={"timeout": 30})
    asking.start()
    while not proxy.faults:
        time.sleep(0.01)
    began = time.monotonic()
    proxy.wait_until_idle()
    first = time.monotonic() - began
    proxy.wait_until_idle()
    asking.join()

    assert first > 0.2
    assert time.monotonic() - began < 10
