import base64
import hashlib
from collections.abc import Iterator

import pytest

from airflow_quilt.core.checksums import CHUNKED, Hash, combine, digest_part, from_s3_sha256, part_ranges, part_size, to_s3

MIB = 1024 * 1024
PART = 8 * MIB
LIMIT = 10_000 * PART


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pieces(size: int) -> Iterator[bytes]:
    """Bytes that differ from place to place, in chunks that fit no part."""
    block = bytes(range(251)) * 4093
    while size > 0:
        yield block[:size]
        size -= len(block)


def hashed_by_parts(data: bytes) -> Hash:
    return combine(digest_part([data[start:stop]]) for start, stop in part_ranges(len(data)))


@pytest.mark.parametrize("size", [1, 5, PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 1])
def test_the_chunked_hash_is_the_hash_of_the_hashes_of_8_mib_parts(size: int) -> None:
    data = b"".join(pieces(size))
    digests = b"".join(hashlib.sha256(data[at : at + PART]).digest() for at in range(0, size, PART))

    assert hashed_by_parts(data) == Hash("sha2-256-chunked", in_base64(hashlib.sha256(digests).digest()))


def test_the_chunked_hash_of_one_small_file_is_its_sha256_hashed_again() -> None:
    assert hashed_by_parts(b"hello").value == in_base64(hashlib.sha256(hashlib.sha256(b"hello").digest()).digest())


def test_an_empty_file_is_the_sha256_of_nothing_hashed_once() -> None:
    assert list(part_ranges(0)) == []
    assert hashed_by_parts(b"") == Hash(CHUNKED, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")


def test_a_part_has_one_digest_whatever_its_chunks() -> None:
    data = b"".join(pieces(3 * MIB))

    assert digest_part([data[:1], data[1:MIB], b"", data[MIB:]]) == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    ("size", "part", "parts"),
    [
        pytest.param(0, PART, 0, id="empty"),
        pytest.param(1, PART, 1, id="1"),
        pytest.param(PART, PART, 1, id="one-part"),
        pytest.param(PART + 1, PART, 2, id="one-part-and-a-byte"),
        pytest.param(LIMIT, PART, 10_000, id="the-most-8-mib-parts"),
        pytest.param(LIMIT + 1, 2 * PART, 5_001, id="first-doubling"),
        pytest.param(2 * LIMIT, 2 * PART, 10_000, id="the-most-16-mib-parts"),
        pytest.param(2 * LIMIT + 1, 4 * PART, 5_001, id="second-doubling"),
        pytest.param(5 * 1024**4, 128 * PART, 5_120, id="5-tib"),
    ],
)
def test_the_part_size_doubles_until_there_are_at_most_10_000_parts(size: int, part: int, parts: int) -> None:
    ranges = list(part_ranges(size))

    assert part_size(size) == part
    assert len(ranges) == parts


def test_a_single_part_checksum_of_s3_is_hashed_once_more() -> None:
    digest = hashlib.sha256(b"hello").digest()

    assert from_s3_sha256(in_base64(digest), 5) == Hash(CHUNKED, in_base64(hashlib.sha256(digest).digest()))


def test_the_s3_checksum_of_an_empty_object_is_the_value_itself() -> None:
    checksum = in_base64(hashlib.sha256(b"").digest())

    assert from_s3_sha256(checksum, 0) == Hash(CHUNKED, checksum)


def test_an_object_of_exactly_one_part_is_proved_by_its_checksum() -> None:
    data = b"".join(pieces(PART))

    assert from_s3_sha256(in_base64(hashlib.sha256(data).digest()), PART) == hashed_by_parts(data)


@pytest.mark.parametrize(
    ("checksum", "size"),
    [
        pytest.param(None, 5, id="none"),
        pytest.param("", 5, id="empty"),
        pytest.param(in_base64(b"x" * 32) + "-2", 2 * PART, id="composite"),
        pytest.param(in_base64(b"x" * 32) + "-1", 5, id="composite-of-one-part"),
        pytest.param(in_base64(b"x" * 32), PART + 1, id="whole-object-of-two-parts"),
    ],
)
def test_a_checksum_that_proves_nothing_gives_no_hash(checksum: str | None, size: int) -> None:
    assert from_s3_sha256(checksum, size) is None


def test_s3_writes_digests_in_base64() -> None:
    assert to_s3(bytes(range(250, 256))) == "+vv8/f7/"
