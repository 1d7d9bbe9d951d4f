import base64
import hashlib
import itertools
from collections.abc import Iterator

import pytest
from awscrt.checksums import crc64nvme
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_quilt.core.errors import EntryDamagedError
from airflow_quilt.core.format.hashes import (
    CHUNKED,
    CRC64NVME,
    SHA256,
    Hash,
    algorithm,
    hash_of,
    part_ranges,
    part_size,
    verify_stream,
)

MIB = 1024 * 1024
PART = 8 * MIB
LIMIT = 10_000 * PART


@given(st.integers(0, 5 * 1024**4))
@example(0)
@example(1)
@example(PART)
@example(PART + 1)
@example(LIMIT)
@example(LIMIT + 1)
@example(2 * LIMIT + 1)
def test_parts_cover_every_byte_once(size: int) -> None:
    ranges = list(part_ranges(size))
    edges = [0, *(stop for _, stop in ranges)]

    assert [start for start, _ in ranges] == edges[:-1]
    assert edges[-1] == size
    assert len(ranges) <= 10_000
    assert all(stop - start == part_size(size) for start, stop in ranges[:-1])
    assert all(0 < stop - start <= part_size(size) for start, stop in ranges)


@given(st.integers(0, 5 * 1024**4))
def test_part_size_is_the_smallest(size: int) -> None:
    part = part_size(size)

    assert part % PART == 0
    assert (part // PART).bit_count() == 1
    assert part == PART or part // 2 * 10_000 < size


BLOCK = hashlib.sha512(b"seed").digest() * (MIB // 64)
TYPES = st.sampled_from([CHUNKED, SHA256, CRC64NVME])


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Bytes up to 17 MiB, most often near the edge of a part."""
    near = st.builds(lambda parts, more: parts * PART + more, st.integers(0, 2), st.integers(-3, 3))
    size = max(0, draw(st.integers(0, 1000) | near | st.integers(0, 17 * MIB)))
    head = draw(st.binary(max_size=20))
    return (head + BLOCK * (size // MIB + 1))[:size]


def plainly(data: bytes, hash_type: str) -> Hash:
    """The hash by another way than the engine's."""
    match hash_type:
        case "sha2-256-chunked":
            plain = hashlib.sha256()
            for at in range(0, len(data), 8 * 1024 * 1024):
                plain.update(hashlib.sha256(data[at : at + 8 * 1024 * 1024]).digest())
            return Hash(hash_type, base64.b64encode(plain.digest()).decode())
        case "SHA256":
            return Hash(hash_type, hashlib.sha256(data).hexdigest())
        case _:
            return Hash(hash_type, base64.b64encode(crc64nvme(data).to_bytes(8, "big")).decode())


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(edge % (len(data) + 1) for edge in at), len(data)]
    return (data[start:stop] for start, stop in itertools.pairwise(edges))


@given(contents(), TYPES)
@example(b"", CHUNKED)
@example(b"", CRC64NVME)
def test_hash_equals_a_plain_one(data: bytes, hash_type: str) -> None:
    assert hash_of(data, hash_type) == plainly(data, hash_type)


@given(contents(), TYPES, st.lists(st.integers(0, 17 * MIB), max_size=6))
def test_right_bytes_always_pass(data: bytes, hash_type: str, at: list[int]) -> None:
    assert b"".join(verify_stream(cut(data, at), len(data), plainly(data, hash_type), "here")) == data


@given(contents().filter(bool), TYPES, st.lists(st.integers(0, 17 * MIB), max_size=6), st.data())
def test_wrong_bytes_never_pass(data: bytes, hash_type: str, at: list[int], draws: st.DataObject) -> None:
    place = draws.draw(st.integers(0, len(data) - 1))
    spoil = draws.draw(
        st.sampled_from(
            [
                data[:place],
                data[:place] + data[place + 1 :],
                data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :],
                data[:place] + b"x" + data[place:],
            ]
        )
    )

    with pytest.raises(EntryDamagedError):
        list(verify_stream(cut(spoil, at), len(data), plainly(data, hash_type), "here"))


@given(data=contents(), hash_type=TYPES, tells_sha256=st.booleans(), tells_crc=st.booleans())
def test_s3_checksums_prove_hashes(data: bytes, hash_type: str, *, tells_sha256: bool, tells_crc: bool) -> None:
    sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode() if tells_sha256 else None
    crc = base64.b64encode(crc64nvme(data).to_bytes(8, "big")).decode() if tells_crc else None
    is_proven = {CHUNKED: tells_sha256 and len(data) <= PART, SHA256: tells_sha256, CRC64NVME: tells_crc}[hash_type]

    assert algorithm(hash_type).proven(len(data), sha256, crc) == (plainly(data, hash_type) if is_proven else None)
