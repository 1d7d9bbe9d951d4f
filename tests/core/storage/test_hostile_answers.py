"""Answers of a hostile store: longer than asked for, without an end, or of other things; few bytes and requests show it."""

import contextlib
import itertools
import time
import xml.sax.saxutils
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import boto3
import pytest
from botocore.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_quilt.core.errors import EntryDamagedError, QuiltError, StorageError, StorageUnavailableError
from airflow_quilt.core.format.hashes import Hash, verify_stream
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.retry import NO_RETRY
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.s3.crt.requests import Transport
from airflow_quilt.core.storage.s3.pages import Pages
from airflow_quilt.core.storage.s3.storage import S3Storage
from testbed.loopback import Exchange, LoopbackServer

KEY = PhysicalKey("bucket", "raw/")
MIB = 1 << 20
MOST_SENT = 40 * MIB
"""More than the bound of an answer and what sockets hold; far less than what the store would send."""


class Hostile:
    """A store that answers as a test lets it; it counts requests and the bytes that it could send."""

    def __init__(self, url: str, transport: Transport, timeout: float = 5) -> None:
        self.requests = self.sent = 0
        self.answer: Callable[[Exchange], None] = self.flood
        self.framing = self.status = ""
        config = Config(retries={"total_max_attempts": 1}, read_timeout=timeout, s3={"addressing_style": "path"})
        known = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        self.storage = S3Storage(boto3.client("s3", endpoint_url=url, config=config, **known), NO_RETRY, transport=transport)

    def respond(self, exchange: Exchange) -> None:
        self.requests += 1
        self.answer(exchange)

    def flood(self, exchange: Exchange) -> None:
        """Answer with 150 MiB."""
        exchange.close_connection = True
        headers = {"length": ("Content-Length", str(150 * MIB)), "chunked": ("Transfer-Encoding", "chunked")}
        exchange.send_response_only(int(self.status))
        for name, value in (("ETag", '"e"'), headers.get(self.framing, ("Connection", "close"))):
            exchange.send_header(name, value)
        exchange.end_headers()
        part = b"x" * 65_536
        try:
            for _ in range(150 * MIB // len(part)):
                exchange.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if self.framing == "chunked" else part)
                self.sent += len(part)
        except OSError:
            pass

    def list(self, *pages: str) -> None:
        """Answer with pages, the last one again and again."""
        following = itertools.chain(pages, itertools.repeat(pages[-1]))
        self.answer = lambda exchange: exchange.answer(200, {"Content-Type": "application/xml"}, next(following).encode())


@pytest.fixture(params=["auto", "boto3"])
def hostile(request: pytest.FixtureRequest) -> Iterator[Hostile]:
    server = LoopbackServer()
    store = Hostile(server.url, request.param)
    with server.serving(store.respond):
        yield store


def xml_of(fields: Mapping[str, Any]) -> str:
    return "".join(f"<{name}>{xml.sax.saxutils.escape(str(value))}</{name}>" for name, value in fields.items())


def page(*keys: str, after: object = None, root: str = "ListBucketResult", **other: object) -> str:
    item = "Version" if root == "ListVersionsResult" else "Contents"
    fields = {"LastModified": "2026-11-27T09:00:00.000Z", "ETag": '"e"', "Size": 1, "IsLatest": "true", **other}
    listed = "".join(f"<{item}>{xml_of({'Key': key, **fields})}</{item}>" for key in keys)
    names = ("NextContinuationToken", "NextKeyMarker") if after is not None else ()
    more = xml_of({"IsTruncated": str(after is not None).lower(), **dict.fromkeys(names, after)})
    return f"<{root}>{more}{listed}</{root}>"


def test_long_bodies_end_early(hostile: Hostile) -> None:
    """Read ten bytes of an object of which the store sends 150 MiB, however it states their number."""
    for hostile.framing, hostile.status in (("length", "206"), ("chunked", "206"), ("none", "200")):
        hostile.sent, read = 0, list[bytes]()
        with pytest.raises(StorageError, match="more bytes came"):
            read.extend(hostile.storage.stream(KEY.at_version(None), 0, 10))
        assert (b"".join(read), hostile.sent < MOST_SENT) == (b"", True)


def test_slow_bodies_end_early() -> None:
    """Wait for no object of which a byte comes now and then, as no timeout of a connection would end it."""
    server = LoopbackServer()
    store = Hostile(server.url, "boto3", timeout=0.2)

    def drip(exchange: Exchange) -> None:
        exchange.close_connection = True
        exchange.send_response_only(206)
        exchange.send_header("Content-Length", "1000")
        exchange.send_header("ETag", '"e"')
        exchange.end_headers()
        with contextlib.suppress(OSError):
            while store.sent < 1000:
                exchange.wfile.write(b"x")
                store.sent += 1
                time.sleep(0.05)

    store.answer = drip
    with server.serving(store.respond):
        with pytest.raises(StorageUnavailableError, match="Read timeout"):
            list(store.storage.stream(KEY.at_version(None), 0, 1000))
        assert store.sent < 100
        store.sent = 1000


def test_long_answers_end_early() -> None:
    """Read no more than a page may have, of results and errors; the common runtime cannot, and is left out here."""
    server = LoopbackServer()
    store = Hostile(server.url, "boto3")
    key = KEY.at_version(None)
    calls: list[Callable[[], object]] = [
        lambda: list(store.storage.list_objects(KEY)),
        lambda: store.storage.unfinished(key, 0),
        lambda: store.storage.get(key, 64),
        lambda: store.storage.part_sizes(ObjectInfo(key, 1, '"e"')) or store.storage.keeps_versions(key),
    ]
    with server.serving(store.respond):
        for store.framing, store.status, call in itertools.product(("length", "none"), ("200", "404"), calls):
            store.sent = 0
            with pytest.raises(StorageError):
                call()
            assert store.sent < MOST_SENT


def test_listings_do_not_go_in_circles(hostile: Hostile) -> None:
    storage = hostile.storage
    for name, pages in {
        "one token": [page("raw/a", after="t"), page("raw/b", after="t")],
        "two tokens": [page("raw/a", after="t"), page("raw/b", after="u"), page("raw/c", after="t")],
        "no token": [page("raw/a", after="")],
    }.items():
        for root, listed in (
            ("ListBucketResult", storage.list_objects),
            ("ListBucketResult", storage.list_names),
            ("ListVersionsResult", storage.list_versions),
        ):
            hostile.requests = 0
            hostile.list(*(text.replace("ListBucketResult", root).replace("Contents", _items(root)) for text in pages))
            with pytest.raises(StorageError, match="repeats itself"):
                list(listed(KEY))
            assert hostile.requests <= 8, name
    hostile.answer = lambda exchange: exchange.answer(200, {}, page("raw/a", after=next(numbers)).encode())
    numbers = itertools.count()
    hostile.requests = 0
    with pytest.raises(StorageError, match="repeats itself"):
        list(storage.list_objects(KEY))
    assert hostile.requests <= 4


def test_uploads_and_parts_do_not_go_in_circles() -> None:
    server = LoopbackServer()
    store = Hostile(server.url, "boto3")
    key = PhysicalKey("bucket", "raw/a")
    upload = "<Upload><Key>raw/a</Key><UploadId>u</UploadId><Initiated>2026-11-27T09:00:00.000Z</Initiated></Upload>"
    part = "<Part><PartNumber>1</PartNumber><Size>5</Size><ETag>e</ETag></Part>"
    more = "<IsTruncated>true</IsTruncated>"
    uploads = f"<ListMultipartUploadsResult>{more}<NextKeyMarker>%s</NextKeyMarker>{upload}</ListMultipartUploadsResult>"
    parts = f"<ObjectParts>{more}<NextPartNumberMarker>%s</NextPartNumberMarker>{part}</ObjectParts>"
    with server.serving(store.respond):
        store.list(*(uploads % marker for marker in "abab"))
        with pytest.raises(StorageError, match="repeats itself"):
            store.storage.unfinished(key, 0)
        store.list(*(f"<GetObjectAttributesResponse>{parts % marker}</GetObjectAttributesResponse>" for marker in "1212"))
        assert store.storage.part_sizes(ObjectInfo(key, 10, "e")) == []
    assert store.requests <= 6


def _items(root: str) -> str:
    return "Version" if root == "ListVersionsResult" else "Contents"


def test_items_are_those_of_the_prefix(hostile: Hostile) -> None:
    for answer, message in {
        page("raw/b", "other/a"): "not below",
        page("raw/a" * 1000): "longer than any key",
        page("raw/a", Size=-1): "without a true size",
        page("raw/a", Size=1 << 80): "without a true size",
        page("raw/a", Size="9" * 5000): "cannot be read",
        page("raw/a", Size="many"): "cannot be read",
        page("raw/a", ETag="e" * 10_000): "without a true size or ETag",
        "<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>": "cannot be read",
        f'<!DOCTYPE a [<!ENTITY e "{"e" * 1000}">]>{page("raw/&e;")}': "no plain XML",
        "no XML": "the store failed",
        "<a>" * 100_000: "the store failed",
    }.items():
        hostile.list(answer)
        with pytest.raises(StorageError, match=message) as caught:
            list(hostile.storage.list_objects(KEY))
        assert len(str(caught.value)) < 1000
    hostile.list(page("raw/a", root="ListVersionsResult", VersionId="v" * MIB))
    with pytest.raises(StorageError, match="states a version of"):
        list(hostile.storage.list_versions(KEY))


def test_messages_of_a_store_are_one_line(hostile: Hostile) -> None:
    forged = f"denied\n[ERROR] forged {'x' * 10_000}"
    body = f"<Error>{xml_of({'Code': 'Odd' + forged, 'Message': forged})}</Error>".encode()
    hostile.answer = lambda exchange: exchange.answer(400, {}, body)
    with pytest.raises(StorageError) as caught:
        list(hostile.storage.list_objects(KEY))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_a_cycle_of_pages_is_seen(cycle: list[int]) -> None:
    """Follow any sequence of tokens that is repeated for ever no further than its first repetition."""
    pages, followed = Pages(KEY), list[int]()

    def follow() -> None:
        for number, following in enumerate(itertools.cycle(cycle)):
            pages.check({"token": following}, [{"Key": number}])
            followed.append(following)

    with pytest.raises(StorageError, match="repeats itself"):
        follow()
    assert len(followed) == len(set(followed)) <= 10


def test_any_answer_is_items_or_an_error(hostile: Hostile) -> None:
    """List items below the prefix, or end with an error of the core, for any bytes."""
    whole = page("raw/a", "raw/b").encode()
    cut = st.integers(0, len(whole)).map(lambda length: whole[:length])
    spoilt = st.tuples(st.integers(0, len(whole) - 1), st.binary(max_size=3)).map(
        lambda at: whole[: at[0]] + at[1] + whole[at[0] + 1 :]
    )

    @settings(max_examples=20, deadline=None)
    @given(st.binary(max_size=30) | cut | spoilt, st.sampled_from([200, 404]))
    def check(body: bytes, status: int) -> None:
        hostile.answer = lambda exchange: exchange.answer(status, {"Content-Type": "application/xml"}, body)
        with contextlib.suppress(QuiltError):
            assert all(item.key.key.startswith("raw/") for item in hostile.storage.list_objects(KEY))

    check()


@given(st.lists(st.binary(min_size=1, max_size=5), max_size=10), st.integers(0, 20))
def test_no_byte_beyond_the_size_is_passed_on(chunks: list[bytes], size: int) -> None:
    passed = 0
    with contextlib.suppress(EntryDamagedError):
        for chunk in verify_stream(chunks, size, Hash("SHA256", "00"), "here"):
            passed += len(chunk)
    assert passed <= size
