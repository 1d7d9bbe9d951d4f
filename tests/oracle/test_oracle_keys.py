"""Physical keys mean the same thing, and are spelled the same way, in quilt3 and in our engine."""

import string
from pathlib import Path

import pytest

from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.paths import resolve_location, resolve_path
from tests.oracle.quilt3_client import Quilt3

NAMES = {
    "plain": "a/b.txt",
    "a space": "a b/c d.txt",
    "spaces at the ends": " a / b ",
    "a plus": "a+b",
    "a percent sign": "50%",
    "what looks encoded": "a%20b%2Fc%",
    "all punctuation": string.punctuation.replace("/", ""),
    "a question mark": "a?versionId=x",
    "a hash": "a#b",
    "a semicolon": "a;b;c=d/e;f",
    "a colon": "c:/a:b",
    "an at sign": "user@host/a",
    "a tilde": "~/a~b",
    "a backslash": "a\\b",
    "a newline": "a\nb\rc\td",
    "control characters": "a\x01\x1f\x7fb",
    "a slash at the end": "a/",
    "composed Unicode": "\u00e9",
    "decomposed Unicode": "e\u0301",
    "beyond 16 bits": "\U0001f427/\U00010348",
    "spaces of Unicode": "a\u00a0b\u2028c\u3000d",
    "what Unicode calls a full stop": "\uff0e/\uff03\uff1f\uff0f",
    "very long": "/".join(["\u00e9" * 60] * 8),
}
ODD_SLASHES = {repr(name): name for name in ("/a", "a//b", "//", "", "./a/../b")}
VERSIONS = [None, "3L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY", "a+b/c==", "null", "a b%20c&d#e", "\u00e9", "0"]


@pytest.mark.parametrize("version_id", VERSIONS, ids=str)
@pytest.mark.parametrize("name", (NAMES | ODD_SLASHES).values(), ids=NAMES | ODD_SLASHES)
def test_s3_spelling_is_equal(name: str, version_id: str | None, quilt3: Quilt3) -> None:
    key = PhysicalKey("some.bucket-1", name, version_id)
    text = str(key)
    assert quilt3.physical_key(text) == {"bucket": key.bucket, "key": name, "version_id": version_id, "text": text}
    assert PhysicalKey.parse(text) == key


@pytest.mark.parametrize("name", [name.rstrip("/") for name in NAMES.values()], ids=NAMES)
def test_local_spelling_is_equal(name: str, quilt3: Quilt3, tmp_path: Path) -> None:
    key = resolve_path(tmp_path / name)
    text = str(key)
    assert quilt3.physical_key(text) == {"bucket": None, "key": key.key, "version_id": None, "text": text}
    assert PhysicalKey.parse(text) == key


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a b",
        "s3://bucket/a+b",
        "s3://bucket/a%2Bb%20c",
        "s3://bucket/a%2fb%2F%2f",
        "s3://bucket/50%",
        "s3://bucket/%zz%",
        "s3://bucket/a;b",
        "s3://bucket/a:b@c",
        "s3://bucket/\u00e9",
        "s3://bucket/%C3%A9",
        "s3://bucket/%E9",
        "s3://bucket//a//b/",
        "s3://bucket/",
        "s3://bucket",
        "s3://Bucket.With-Dots_1/a",
        "s3://bucket/a?versionId=b+c%2Bd",
        "s3://bucket/a?versionId=",
        "s3://bucket/a?",
        "s3://bucket/a ?versionId= b",
        "s3://bucket/../a/./b",
        "file:///a%20b",
        "file:///a+b;c",
        "file://localhost/a",
        "file:///a/",
        "file:///a/../b/./c",
        "file:////a",
    ],
)
def test_given_location_is_equal(text: str, quilt3: Quilt3) -> None:
    theirs = quilt3.physical_key(text)
    key = resolve_location(text)
    assert {"bucket": key.bucket, "key": key.key, "version_id": key.version_id} == {
        part: theirs[part] for part in ("bucket", "key", "version_id")
    }
