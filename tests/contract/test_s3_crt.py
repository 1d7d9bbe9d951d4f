"""The bytes of objects through the common runtime, beside boto3: the same requests, the same objects, the same errors."""

import gc
import hashlib
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from awscrt.s3 import S3Client as Runtime
from botocore import UNSIGNED
from botocore.config import Config
from botocore.stub import Stubber
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_quilt.core.catalog.credentials import CredentialSource
from airflow_quilt.core.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ChecksumMismatchError,
    ObjectNotFoundError,
    QuiltError,
    StorageUnavailableError,
)
from airflow_quilt.core.format.hashes import StoreAlgorithm, to_s3
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.retry import NO_RETRY
from airflow_quilt.core.runtime.threads import map_concurrently
from airflow_quilt.core.storage.s3.crt.requests import Transport
from airflow_quilt.core.storage.s3.crt.route import route, why_not
from airflow_quilt.core.storage.s3.storage import S3Storage, client_config
from airflow_quilt.hooks.aws import make_session
from testbed.faults import Fault
from testbed.loopback import Request
from testbed.proxy import S3Proxy, access_key, running_proxy
from testbed.server import S3Server
from testbed.tls import loopback_tls
from tests.contract.storage_contract import ALGORITHMS, DIGESTS, MIB, pattern
from tests.property.strategies import ODD_LETTERS

_serial = itertools.count(1)
WAIT = 20.0
CURE = "pip install --upgrade 'awscrt>=0.38'"
WITHOUT = Path(__file__).with_name("without_awscrt.py")
TRANSPORTS: tuple[Transport, Transport] = ("auto", "boto3")


def by_crt(request: Request) -> bool:
    """Whether the common runtime made a request: it adds its name to boto3's."""
    return "CRTS3NativeClient" in request.headers["User-Agent"]


def by_boto3(request: Request) -> bool:
    return not by_crt(request)


def upload(storage: S3Storage, key: PhysicalKey, data: bytes = b"hello", algorithm: StoreAlgorithm = "SHA256") -> Any:
    return storage.upload(key, data, DIGESTS[algorithm](data), algorithm)


def send(storage: S3Storage, key: PhysicalKey, data: bytes = b"hello", algorithm: StoreAlgorithm = "SHA256") -> Any:
    """Send an object as an upload of one part."""
    parts = storage.begin(key, algorithm)
    parts.send(1, data, DIGESTS[algorithm](data))
    return parts.complete()


def read(storage: S3Storage, key: PhysicalKey) -> bytes:
    return b"".join(storage.stream(key, 0, 5))


def whole(storage: S3Storage, key: PhysicalKey) -> bytes:
    return storage.get(key).data


def client_of(server: S3Server, verify: bool | str | None = None, **options: Any) -> Any:  # noqa: FBT001
    """Return a client whose first failure is its last."""
    chosen = {"retries": {"mode": "standard", "total_max_attempts": 1}, "connect_timeout": 5, **options}
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.admin.access_key,
        aws_secret_access_key=server.admin.secret_key,
        verify=verify,
        config=Config(**chosen),
    )


@pytest.fixture
def root(bucket: str) -> PhysicalKey:
    return PhysicalKey(bucket, "test/")


@pytest.fixture
def through(proxy: S3Proxy) -> S3Storage:
    """A storage that goes through the proxy, and makes no request twice by itself."""
    return S3Storage(client_of(proxy.store), NO_RETRY)


# The same objects.


@pytest.mark.parametrize("write", [upload, send])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(ODD_LETTERS.filter(str.isprintable), max_size=12), size=st.sampled_from([0, 1, 4096, MIB + 1]))
def test_stored_objects_are_equal(
    s3: S3Server, root: PhysicalKey, write: Callable[..., Any], algorithm: StoreAlgorithm, name: str, size: int
) -> None:
    client, data = s3.client(), pattern(size, size)
    keys = [root.join(f"{next(_serial)}/x{name}x") for _ in range(2)]
    stats = [
        write(S3Storage(client, transport=transport), key, data, algorithm)
        for transport, key in zip(TRANSPORTS, keys, strict=True)
    ]
    heads = [
        client.head_object(Bucket=str(key.bucket), Key=key.key, VersionId=str(stat.key.version_id), ChecksumMode="ENABLED")
        for key, stat in zip(keys, stats, strict=True)
    ]
    for head in heads:
        for changing in ("ResponseMetadata", "LastModified", "VersionId"):
            head.pop(changing)  # type: ignore[misc]

    assert heads[0] == heads[1]
    assert [stat.key.at_version(None) for stat in stats] == keys
    assert all(stat.key.version_id for stat in stats)
    assert (stats[0].size, stats[0].etag, stats[0].sha256, stats[0].crc64nvme) == (
        stats[1].size,
        stats[1].etag,
        stats[1].sha256,
        stats[1].crc64nvme,
    )
    read_back = [b"".join(S3Storage(client, transport=transport).stream(stats[0].key, 0, size + 1)) for transport in TRANSPORTS]
    assert read_back == [data, data]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("do", [upload, send])
def test_requests_are_equal(proxy: S3Proxy, root: PhysicalKey, algorithm: StoreAlgorithm, do: Callable[..., Any]) -> None:
    for transport in TRANSPORTS:
        storage = S3Storage(client_of(proxy.store), transport=transport)
        key = do(storage, root.join("object"), b"hello", algorithm).key
        assert read(storage, key) == b"hello"
    kinds = {"Authorization", "amz-sdk-invocation-id", "amz-sdk-request", "X-Amz-Date", "User-Agent", "Expect", "Accept-Encoding"}
    seen = [
        (request.method, {name.lower(): value for name, value in request.headers.items() if name not in kinds})
        for request in proxy.requests
        if request.method in {"GET", "PUT"}
    ]

    assert [by_crt(request) for request in proxy.requests if request.method in {"GET", "PUT"}] == [True, True, False, False]
    assert seen[0] == seen[2]
    assert seen[1][1].items() <= seen[3][1].items()
    assert seen[3][1].keys() - seen[1][1].keys() <= {"x-amz-checksum-mode"}  # No header of a range.


@pytest.mark.parametrize(("size", "is_by_crt"), [(MIB, True), (MIB + 1, False)])
def test_boto3_reads_large_ranges(
    proxy: S3Proxy,
    through: S3Storage,
    root: PhysicalKey,
    size: int,
    is_by_crt: bool,  # noqa: FBT001
) -> None:
    key = upload(through, root.join("object"), pattern(2 * MIB)).key

    assert b"".join(through.stream(key, 0, size)) == pattern(size)
    assert [by_crt(request) for request in proxy.requests] == [True, is_by_crt]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_stat_is_one_request(proxy: S3Proxy, through: S3Storage, root: PhysicalKey, algorithm: StoreAlgorithm) -> None:
    key = upload(through, root.join("object"), b"hello", algorithm).key
    sent = len(proxy.requests)
    for place in (key, key.at_version(None)):
        assert through.stat(place) == S3Storage(client_of(proxy.store), transport="boto3").stat(place)
    for _ in range(20):  # More than it takes to leave all to boto3, if they were failures.
        with pytest.raises(ObjectNotFoundError, match="there is no such object"):
            through.stat(root.join("absent"))

    assert through.stat(key).size == 5
    assert [by_crt(request) for request in proxy.requests[sent:]] == [True, False, True, False, *[True] * 21]


@pytest.mark.parametrize("writer_tag", [None, "a tag"])
def test_small_get_is_one_request(proxy: S3Proxy, through: S3Storage, root: PhysicalKey, writer_tag: str | None) -> None:
    by_boto = S3Storage(client_of(proxy.store), transport="boto3")
    keys = [by_boto.put(root.join(name), data, writer_tag=writer_tag).key for name, data in (("empty", b""), ("small", b"hello"))]
    sent = len(proxy.requests)
    for key in keys:
        for place in (key, key.at_version(None)):
            assert through.get(place) == by_boto.get(place)
    assert through.get(keys[1]).writer_tag == writer_tag
    for _ in range(20):  # More than it takes to leave all to boto3, if they were failures.
        with pytest.raises(ObjectNotFoundError, match="there is no such object"):
            through.get(root.join("absent"))

    assert [by_crt(request) for request in proxy.requests[sent:]] == [*[True, False] * 4, *[True] * 21]


@pytest.mark.parametrize(("size", "is_by_crt"), [(MIB, True), (MIB + 1, False)])
def test_boto3_gets_large_objects(
    proxy: S3Proxy,
    through: S3Storage,
    root: PhysicalKey,
    size: int,
    is_by_crt: bool,  # noqa: FBT001
) -> None:
    key = upload(through, root.join("object"), pattern(size)).key
    sent = len(proxy.requests)

    assert through.get(key).data == pattern(size)
    assert [by_crt(request) for request in proxy.requests[sent:]] == ([True] if is_by_crt else [True, False])


@pytest.mark.parametrize("put", [upload, lambda storage, key: storage.put(key, b"hello")], ids=["SHA256", "boto3's own"])
def test_corrupt_bytes_are_reread(proxy: S3Proxy, through: S3Storage, root: PhysicalKey, put: Callable[..., Any]) -> None:
    key = put(through, root.join("object")).key
    sent = len(proxy.requests)
    proxy.order(Fault("corrupt", late=True), times=1)

    assert through.get(key).data == b"hello"
    assert [by_crt(request) for request in proxy.requests[sent:]] == [True, False]


# The same listings.


def listed(storage: S3Storage, key: PhysicalKey) -> list[Any]:
    return list(storage.list_objects(key))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sets(
        st.text(ODD_LETTERS.filter(lambda letter: letter.isprintable() and letter not in "\\/"), max_size=12), max_size=4
    )
)
def test_listings_are_equal(s3: S3Server, root: PhysicalKey, names: set[str]) -> None:
    client = s3.client()
    below = root.join(f"{next(_serial)}/+ %20&=é/")
    for name in names:
        S3Storage(client).put(below.join(f"x{name}x"), name.encode())
        S3Storage(client).put(below.join(f"x{name}x"), b"again")
    through, beside = (S3Storage(client, transport=transport) for transport in TRANSPORTS)
    after = f"x{min(names, default='')}x"

    assert listed(through, below) == listed(beside, below)
    assert list(through.list_objects(below, after)) == list(beside.list_objects(below, after))
    assert list(through.list_versions(below)) == list(beside.list_versions(below))
    assert bool(listed(through, below)) == bool(names)


def test_pages_are_equal(s3: S3Server, proxy: S3Proxy, through: S3Storage, root: PhysicalKey) -> None:
    writing = S3Storage(s3.client())
    keys = [root.join(f"{number:04} é") for number in range(1001)]
    list(map_concurrently(lambda key: writing.put(key, b"x"), keys, 16))
    for list_objects in (S3Storage.list_objects, S3Storage.list_versions):
        sent = len(proxy.requests)
        found = list(list_objects(through, root))
        queries = [parse_qs(urlsplit(request.path).query, keep_blank_values=True) for request in proxy.requests[sent:]]

        assert found == list(list_objects(S3Storage(proxy.store.client(), transport="boto3"), root))
        assert [stat.key.at_version(None) for stat in found] == keys
        assert [by_crt(request) for request in proxy.requests[sent:]] == [True, True, False, False]
        assert queries == [
            parse_qs(urlsplit(request.path).query, keep_blank_values=True) for request in proxy.requests[sent + 2 :]
        ]


@pytest.mark.parametrize(
    "fault", [Fault("corrupt", late=True, at=0.0, bit=7), Fault("truncate")], ids=["no listing", "half a listing"]
)
def test_bad_listing_goes_to_boto3(proxy: S3Proxy, through: S3Storage, root: PhysicalKey, fault: Fault) -> None:
    key = upload(through, root.join("object")).key
    sent = len(proxy.requests)
    proxy.order(fault, by_crt)

    assert [stat.key for stat in listed(through, root)] == [key.at_version(None)]
    assert [by_crt(request) for request in proxy.requests[sent:]] == [True, False]


# The same errors, and retries.


@pytest.mark.parametrize("do", [upload, read, whole, listed], ids=["upload", "read", "whole", "listed"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault("drop"),
        Fault("lose"),
        Fault("reset"),
        Fault("reset", late=True),
        Fault.refusal("ExpiredToken"),
        Fault.refusal("SlowDown"),
        Fault.refusal("NotSoFast"),
        Fault.refusal("InternalError"),
    ],
    ids=lambda fault: f"{fault.code or fault.kind}{'-late' * fault.late}",
)
def test_failure_goes_to_boto3(
    s3: S3Server, proxy: S3Proxy, through: S3Storage, root: PhysicalKey, fault: Fault, do: Callable[..., object]
) -> None:
    """Raise boto3's error when its request fails too."""
    key = root.join("object")
    upload(S3Storage(s3.client()), key)
    proxy.order(fault, times=1)
    do(through, key)
    assert [by_crt(request) for request in proxy.requests] == [True, False]

    proxy.order(fault, times=3)
    with pytest.raises(QuiltError) as caught:
        do(through, key)
    with pytest.raises(QuiltError) as expected:
        do(S3Storage(client_of(proxy.store), NO_RETRY, transport="boto3"), key)

    assert (type(caught.value), str(caught.value)) == (type(expected.value), str(expected.value))
    assert [by_crt(request) for request in proxy.requests[2:]] == [True, False, False]


@pytest.mark.parametrize(
    ("do", "kind"),
    [
        (lambda storage, _: upload(storage, PhysicalKey("no-such-bucket", "object")), BucketNotFoundError),
        (lambda storage, root: read(storage, root.join("never")), ObjectNotFoundError),
        (lambda storage, root: whole(storage, root.join("never")), ObjectNotFoundError),
        (lambda storage, _: whole(storage, PhysicalKey("no-such-bucket", "object")), BucketNotFoundError),
        (lambda storage, _: listed(storage, PhysicalKey("no-such-bucket", "")), BucketNotFoundError),
        (lambda storage, root: storage.upload(root.join("x"), b"other", DIGESTS["SHA256"](b"bytes")), ChecksumMismatchError),
        (lambda storage, root: storage.begin(root.join("x")).send(1, b"a", DIGESTS["SHA256"](b"b")), ChecksumMismatchError),
    ],
    ids=[
        "no bucket",
        "no object",
        "no object to read whole",
        "no bucket to read from",
        "no bucket to list",
        "other bytes",
        "a part of other bytes",
    ],
)
def test_refusal_is_that_of_boto3(
    through: S3Storage, root: PhysicalKey, do: Callable[..., object], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        do(through, root)


def test_hanging_store_times_out(proxy: S3Proxy, root: PhysicalKey) -> None:
    storage = S3Storage(client_of(proxy.store, read_timeout=0.3))
    for do in (upload, whole, listed):
        sent = len(proxy.requests)
        proxy.order(Fault("delay", seconds=30.0))
        do(storage, root.join("object"))

        assert [by_crt(request) for request in proxy.requests[sent:]] == [True, False]


def test_many_failures_disable_crt(proxy: S3Proxy, through: S3Storage, root: PhysicalKey) -> None:
    proxy.cut(by_crt, times=1000)
    for number in range(20):
        upload(through, root.join(f"{number}"))

    assert proxy.count(by_crt) == 16
    assert proxy.count(by_boto3) == 20


def test_mixed_failures_keep_crt(proxy: S3Proxy, through: S3Storage, root: PhysicalKey) -> None:
    chance = itertools.cycle([Fault("drop"), None])
    with proxy.disturbed(lambda request: next(chance) if by_crt(request) else None):
        for number in range(40):
            upload(through, root.join(f"{number}"))

    assert proxy.count(by_crt) == 40
    assert proxy.count(by_boto3) == 20


# Credentials.


def test_expired_keys_are_renewed(s3: S3Server, proxy: S3Proxy, root: PhysicalKey) -> None:
    from airflow_quilt.core.catalog.client import TemporaryCredentials

    handed_out = []

    def fetch() -> TemporaryCredentials:
        fresh = s3.assume("writer")
        handed_out.append(fresh.access_key)
        return TemporaryCredentials(fresh.access_key, fresh.secret_key, fresh.session_token, 900.0)

    session = make_session(CredentialSource(fetch), "us-east-1")
    storage = S3Storage(session.client("s3", endpoint_url=proxy.store.endpoint, config=client_config(None)), NO_RETRY)
    upload(storage, root.join("a"))
    proxy.expire(handed_out[0])
    upload(storage, root.join("b"))
    upload(storage, root.join("c"))

    assert len(handed_out) == 2
    assert [(by_crt(request), access_key(request)) for request in proxy.requests] == [
        (True, handed_out[0]),
        (True, handed_out[0]),
        (False, handed_out[0]),
        (False, handed_out[1]),
        (True, handed_out[1]),
    ]


def test_anonymous_is_not_signed(proxy: S3Proxy, root: PhysicalKey) -> None:
    storage = S3Storage(client_of(proxy.store, signature_version=UNSIGNED), NO_RETRY)

    with pytest.raises(AccessDeniedError):
        read(storage, root.join("object"))
    assert [(by_crt(request), request.headers["Authorization"]) for request in proxy.requests] == [(True, None), (False, None)]


# TLS.


@pytest.fixture
def secure(s3: S3Server, tmp_path: Path) -> Iterator[tuple[S3Proxy, str]]:
    """A proxy that speaks TLS, and the path of its CA bundle."""
    context, authority = loopback_tls(tmp_path / "tls")
    with running_proxy(s3, context) as server:
        yield server, str(authority)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_custom_ca_is_trusted(secure: tuple[S3Proxy, str], root: PhysicalKey, algorithm: StoreAlgorithm) -> None:
    proxy, authority = secure
    storage = S3Storage(client_of(proxy.store, authority), NO_RETRY)
    key = upload(storage, root.join("object"), b"hello", algorithm).key

    assert read(storage, key) == b"hello"
    assert [by_crt(request) for request in proxy.requests] == [True, True]


def test_other_certificate_fails(secure: tuple[S3Proxy, str], root: PhysicalKey) -> None:
    proxy, _ = secure

    with pytest.raises(StorageUnavailableError, match="certificate verify failed"):
        upload(S3Storage(client_of(proxy.store), NO_RETRY), root.join("object"))
    assert proxy.requests == []


def test_missing_ca_goes_to_boto3(
    secure: tuple[S3Proxy, str], root: PhysicalKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = str(tmp_path / "nothing.pem")
    with caplog.at_level("INFO"), pytest.raises(StorageUnavailableError, match="SSL validation failed"):
        upload(S3Storage(client_of(secure[0].store, missing), NO_RETRY), root.join("object"))
    assert "The bytes of objects go through boto3, which is slower: the common runtime does not start" in caplog.text


# When it is left to boto3, and how a bucket is reached.


def client(**options: Any) -> Any:
    """A client that no test lets reach a store."""
    where = {"endpoint_url": options.pop("endpoint_url", None), "verify": options.pop("verify", None)}
    options = {"region_name": "eu-central-1", **options}
    return boto3.client("s3", aws_access_key_id="AK", aws_secret_access_key="SK", **where, config=Config(**options))  # noqa: S106


def handled(client: Any, event: str) -> Any:
    client.meta.events.register(event, lambda **_: None)
    return client


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: client(proxies={"http": "http://proxy:3128"}), "asks for a proxy"),
        (lambda: client(client_cert="/etc/ours.pem"), "a certificate of its own"),
        (lambda: client(use_dualstack_endpoint=True), "dual-stack endpoints"),
        (lambda: client(use_fips_endpoint=True), "FIPS endpoints"),
        (lambda: client(auth_scheme_preference="sigv4a"), "a preference among signatures"),
        (lambda: client(sigv4a_signing_region_set="*"), "a set of regions"),
        (lambda: client(s3={"use_accelerate_endpoint": True}), "'use_accelerate_endpoint'"),
        (lambda: client(s3={"payload_signing_enabled": True}), "'payload_signing_enabled'"),
        (lambda: client(signature_version="s3"), "signs by 's3'"),
        (lambda: client(retries={"mode": "adaptive"}), "limits the rate"),
        (lambda: client(verify=False), "not to be verified"),
        (lambda: handled(client(), "before-sign.s3"), "handles the client's events"),
        (lambda: handled(client(), "before-send.s3.UploadPart"), "handles the client's events"),
        (lambda: handled(client(), "provide-client-params.s3.GetObject"), "handles the client's events"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsupported_option_uses_boto3(make: Callable[[], Any], reason: str) -> None:
    assert reason in str(why_not(make()))


@pytest.mark.parametrize(
    "make",
    [
        client,
        lambda: client(endpoint_url="http://127.0.0.1:9000", s3={"addressing_style": "path"}),
        lambda: client(signature_version=UNSIGNED, user_agent_extra="mine", read_timeout=5, retries={"mode": "legacy"}),
        lambda: handled(client(), "needs-retry.s3"),
        lambda: make_session(CredentialSource(dict), "us-east-1").client("s3"),  # type: ignore[arg-type]
    ],
    ids=["defaults", "an endpoint", "no signature", "who decides what is tried again", "the login of a catalog"],
)
def test_same_options_use_crt(make: Callable[[], Any]) -> None:
    assert why_not(make()) is None


def test_stubbed_client_uses_boto3() -> None:
    stubbed = client()
    with Stubber(stubbed):
        assert "handles the client's events" in str(why_not(stubbed))


def test_moved_settings_use_boto3() -> None:
    assert "botocore does not show" in str(why_not(SimpleNamespace()))  # type: ignore[arg-type]


@pytest.mark.parametrize("hidden", ["awscrt", "awscrt.s3.S3RetryMode"])
def test_boto3_works_without_awscrt(hidden: str, s3: S3Server, root: PhysicalKey) -> None:
    """Write and read in a Python that has no awscrt, or one before 0.38: one line of the log has the cure."""
    arguments = [hidden, s3.endpoint, s3.admin.access_key, s3.admin.secret_key, str(root.bucket)]
    run = subprocess.run([sys.executable, WITHOUT, *arguments], capture_output=True, text=True, check=True)

    read, crc = run.stdout.splitlines()
    assert read == "[b'hello', b'hello']"
    assert crc == to_s3(DIGESTS["CRC64NVME"](b"hello")) or (hidden == "awscrt" and CURE in crc)
    assert run.stderr.count(CURE) == 1


@pytest.mark.parametrize(
    "variable", [{"HTTP_PROXY": "http://127.0.0.1:1"}, {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "127.0.0.1"}]
)
def test_environment_proxy_applies(
    monkeypatch: pytest.MonkeyPatch, proxy: S3Proxy, root: PhysicalKey, variable: dict[str, str]
) -> None:
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    storage = S3Storage(client_of(proxy.store), NO_RETRY)
    if "NO_PROXY" in variable:
        upload(storage, root.join("object"))
        assert [by_crt(request) for request in proxy.requests] == [True]
    else:
        with pytest.raises(StorageUnavailableError):
            upload(storage, root.join("object"))
        assert proxy.requests == []


class CaughtError(Exception):
    """A request that boto3 was about to send."""


def catch(request: Any, **_: object) -> None:
    raise CaughtError(request)


@pytest.mark.parametrize("bucket", ["plain", "with.dots"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"region_name": "us-east-1"},
        {"region_name": "cn-north-1"},
        {"s3": {"addressing_style": "path"}},
        {"s3": {"addressing_style": "virtual"}},
        {"s3": {"us_east_1_regional_endpoint": "legacy"}, "region_name": "us-east-1"},
        {"endpoint_url": "http://localhost:9000"},
        {"endpoint_url": "http://127.0.0.1:9000"},
        {"endpoint_url": "https://s3.example.org/below/"},
        {"endpoint_url": "https://s3.example.org", "s3": {"addressing_style": "virtual"}},
    ],
    ids=str,
)
def test_route_matches_boto3(options: dict[str, Any], bucket: str) -> None:
    ours = route(client(**options), bucket)
    theirs = client(**options)
    theirs.meta.events.register("before-send", catch)
    with pytest.raises(CaughtError) as caught:
        theirs.put_object(Bucket=bucket, Key="a/b c", Body=b"")
    (prepared,) = caught.value.args
    signed = prepared.headers["Authorization"].decode()

    assert ours is not None
    assert prepared.url.partition("://")[2] == f"{ours.host}{ours.path}/a/b%20c"
    assert f"/{ours.region}/s3/aws4_request" in signed


@pytest.mark.parametrize("bucket", ["arn:aws:s3::123456789012:accesspoint/mine.mrap", "mine--use1-az4--x-s3"])
def test_other_signature_uses_boto3(bucket: str) -> None:
    assert route(client(), bucket) is None


# Processes and threads.


def thread_ids() -> set[str]:
    """Return the threads of this process, those too that Python knows nothing of."""
    return {path.name for path in Path("/proc/self/task").iterdir()}


def threads() -> int:
    """Count them."""
    return len(thread_ids())


def settles(expected: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT
    while not expected() and time.monotonic() < deadline:
        time.sleep(0.01)
    return expected()


def test_threads_end_with_storage(s3: S3Server, root: PhysicalKey) -> None:
    before = threads()
    for _ in range(3):
        storage = S3Storage(s3.client())
        storage.put(root.join("pointer"), b"x")
        assert threads() <= before  # Those of an earlier test may end meanwhile.
        upload(storage, root.join("object"))
        assert threads() > before
        del storage
        assert settles(lambda: threads() <= before)


def test_upload_keeps_client_alive(s3: S3Server, root: PhysicalKey) -> None:
    parts = S3Storage(s3.client()).begin(root.join("object"))
    gc.collect()
    parts.send(1, b"hello", DIGESTS["SHA256"](b"hello"))

    assert parts.complete().size == 5


def test_threads_share_one_start(s3: S3Server, root: PhysicalKey) -> None:
    alone, before = S3Storage(s3.client()), thread_ids()  # Those of an earlier test may end meanwhile.
    upload(alone, root.join("alone"))
    one = len(thread_ids() - before)
    storage, start = S3Storage(s3.client()), threading.Barrier(9)
    workers = [threading.Thread(target=lambda: (start.wait(WAIT), upload(storage, root.join("object")))) for _ in range(8)]
    for worker in workers:
        worker.start()
    start.wait(WAIT)
    for worker in workers:
        worker.join(WAIT)

    assert settles(lambda: len(thread_ids() - before) == 2 * one)


@pytest.mark.parametrize("is_used_before", [True, False], ids=["used before", "first used there"])
def test_forked_daemon_restarts(s3: S3Server, proxy: S3Proxy, root: PhysicalKey, is_used_before: bool) -> None:  # noqa: FBT001
    storage = S3Storage(proxy.store.client())
    if is_used_before:
        upload(storage, root.join("before"))
    before = proxy.count(by_crt)
    child = multiprocessing.get_context("fork").Process(target=upload, args=(storage, root.join("child")), daemon=True)
    child.start()
    child.join(WAIT)

    assert child.exitcode == 0
    assert proxy.count(by_crt) == before + 1
    upload(storage, root.join("after"))
    assert proxy.count() == before + 2
    assert proxy.count(by_boto3) == 0


def test_child_may_drop_storage(s3: S3Server, root: PhysicalKey) -> None:
    held = [S3Storage(s3.client())]
    upload(held[0], root.join("before"))
    child = multiprocessing.get_context("fork").Process(target=lambda: (held.clear(), gc.collect()), daemon=True)
    child.start()
    child.join(WAIT)

    assert child.exitcode == 0
    upload(held[0], root.join("after"))


def test_digest_is_sent_unchanged(proxy: S3Proxy, through: S3Storage, root: PhysicalKey) -> None:
    data = os.urandom(100)
    upload(through, root.join("object"), data)

    assert proxy.requests[0].headers["x-amz-content-sha256"] == hashlib.sha256(data).hexdigest()


def test_few_frames_to_request(s3: S3Server, root: PhysicalKey) -> None:
    storage = S3Storage(s3.client())
    key, made = upload(storage, root.join("object")).key, []

    def watch(frame: FrameType | None, event: str, _: object) -> None:
        if frame and event == "call" and frame.f_code is Runtime.make_request.__code__:
            while frame := frame.f_back:
                made.append(frame.f_code.co_qualname)

    sys.setprofile(watch)
    try:
        storage.get(key)
    finally:
        sys.setprofile(None)

    assert made[:4] == ["CrtClient.make", "CommonRuntime.read", "S3Storage.get", "retried.<locals>.repeat"]
    assert made[4] == "test_few_frames_to_request"
