"""Pages of listings, parsed from the bytes of an answer, compared with botocore's of the same bytes."""

import gc
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

import boto3
import pytest
from botocore.handlers import decode_list_object_v2, decode_list_object_versions
from botocore.parsers import create_parser
from hypothesis import given
from hypothesis import strategies as st

from airflow_quilt.core.storage.s3.crt.listing import OBJECTS, VERSIONS, Listing, page_of

MODEL = boto3.client("s3", region_name="us-east-1").meta.service_model
DECODING = {"ListObjectsV2": decode_list_object_v2, "ListObjectVersions": decode_list_object_versions}
SEEN = {"Key", "VersionId", "IsLatest", "LastModified", "ETag", "Size"}
ITEM = "<Key>raw/a</Key><LastModified>2026-11-27T09:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>5</Size>"


def objects(*items: str, more: str = "<IsTruncated>false</IsTruncated>") -> bytes:
    listed = "".join(f"<Contents>{item}</Contents>" for item in items)
    return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{more}{listed}</ListBucketResult>'.encode()


def by_botocore(data: bytes, listing: Listing) -> dict[str, Any]:
    """Return the parsed page of boto3, with the fields in use only."""
    shape = MODEL.operation_model(listing.operation).output_shape
    answer = create_parser("rest-xml").parse({"body": data, "headers": {}, "status_code": 200}, shape)
    DECODING[listing.operation](answer, {"encoding_type_auto_set": True})
    page = {name: answer[name] for name in ("IsTruncated", *listing.markers.values()) if name in answer}
    items = [{name: item[name] for name in SEEN & item.keys()} for item in answer.get(listing.field, [])]
    prefixes = {"CommonPrefixes": answer["CommonPrefixes"]} if "CommonPrefixes" in answer else {}
    return {**page, listing.field: items, **prefixes}


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=12)
times = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(lambda time: f"{time.isoformat(timespec='milliseconds')}Z")  # noqa: DTZ001
items = st.fixed_dictionaries(
    {"Key": texts, "Size": st.integers(0, 1 << 80).map(str), "ETag": texts, "LastModified": times},
    optional={"StorageClass": texts, "Owner": texts.map(lambda text: {"ID": text, "DisplayName": text})},
)
versions = st.fixed_dictionaries(
    {"Key": texts, "Size": st.integers(0, 9).map(str), "ETag": texts, "IsLatest": st.sampled_from(["true", "false"])},
    optional={"VersionId": texts, "LastModified": times},
)


def xml(name: str, fields: Mapping[str, Any] | str) -> str:
    inner = escape(fields) if isinstance(fields, str) else "".join(xml(each, value) for each, value in fields.items())
    return f"<{name}>{inner}</{name}>"


@given(
    listed=st.lists(items, max_size=4),
    prefixes=st.lists(texts, max_size=3),
    truncated=st.booleans(),
    token=texts.filter(bool),
    encoding=st.sampled_from(["", "url"]),
)
def test_objects_match_boto3(
    listed: list[dict[str, Any]],
    prefixes: list[str],
    truncated: bool,  # noqa: FBT001
    token: str,
    encoding: str,
) -> None:
    page = {"EncodingType": encoding, "IsTruncated": str(truncated).lower(), "NextContinuationToken": token, "Name": "bucket"}
    body = "".join([*(xml(name, value) for name, value in page.items()), *(xml("Contents", item) for item in listed)])
    body += "".join(xml("CommonPrefixes", {"Prefix": prefix}) for prefix in prefixes)
    data = f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult>{body}\n</ListBucketResult>'.encode()

    assert page_of(data, OBJECTS) == by_botocore(data, OBJECTS)


@given(listed=st.lists(st.tuples(st.sampled_from(["Version", "DeleteMarker"]), versions), max_size=4), marker=texts.filter(bool))
def test_versions_match_boto3(listed: list[tuple[str, dict[str, Any]]], marker: str) -> None:
    page = {"EncodingType": "url", "IsTruncated": "true", "NextKeyMarker": marker, "NextVersionIdMarker": marker}
    body = "".join([*(xml(name, value) for name, value in page.items()), *(xml(name, item) for name, item in listed)])
    data = f"<ListVersionsResult>{body}</ListVersionsResult>".encode()

    assert page_of(data, VERSIONS) == by_botocore(data, VERSIONS)


def test_naive_time_is_utc() -> None:
    page = page_of(objects(ITEM.replace("000Z", "000")), OBJECTS)

    assert page
    assert page["Contents"][0]["LastModified"] == datetime(2026, 11, 27, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html/>", id="something else"),
        pytest.param(b"<Error><Code>NoSuchBucket</Code></Error>", id="an error"),
        pytest.param(b"<ListVersionsResult/>", id="another listing"),
        pytest.param(objects(ITEM)[:-20], id="cut off"),
        pytest.param(objects(ITEM) + b"x", id="more than a page"),
        pytest.param(b"<!DOCTYPE x [<!ENTITY e 'eeee'>]>" + objects(ITEM), id="a document type"),
        pytest.param(objects(ITEM.replace("raw/a", "&e;")), id="an entity"),
        pytest.param(objects(ITEM).replace(b"raw/a", b"\xff"), id="not UTF-8"),
        pytest.param(objects(ITEM.replace("<Size>5</Size>", "")), id="no size"),
        pytest.param(objects(ITEM.replace(">5<", ">five<")), id="a size that is no number"),
        pytest.param(objects(ITEM.replace(">5<", ">-5<")), id="a size below 0"),
        pytest.param(objects(ITEM.replace("Key>", "Name>")), id="no key"),
        pytest.param(objects(ITEM.replace("ETag>", "Tag>")), id="no ETag"),
        pytest.param(objects(ITEM.replace("2026", "long ago")), id="a time that is none"),
        pytest.param(objects(ITEM, more="<IsTruncated>true</IsTruncated>"), id="a page that does not say where to go on"),
    ],
)
def test_odd_page_left_to_boto3(data: bytes) -> None:
    assert page_of(data, OBJECTS) is None


@given(at=st.floats(0, 1), byte=st.integers(0, 255))
def test_damaged_page_or_none(at: float, byte: int) -> None:
    data = bytearray(objects(ITEM, ITEM))
    data[round(at * (len(data) - 1))] = byte
    page = page_of(bytes(data), OBJECTS)

    assert page is None or all({"Key", "Size", "ETag"} <= item.keys() for item in page["Contents"])


def test_page_is_untracked_by_gc() -> None:
    data = objects(*[ITEM] * 1000)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        page = page_of(data, OBJECTS)
        more = len(gc.get_objects()) - before
    finally:
        gc.enable()

    assert page
    assert len(page["Contents"]) == 1000
    assert more < 20
