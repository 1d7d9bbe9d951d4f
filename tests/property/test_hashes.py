import base64
import hashlib

from hypothesis import example, given
from hypothesis import strategies as st

from airflow_quilt.core.checksums import Hash, combine, digest_part, from_s3_sha256, part_ranges, part_size

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
def test_the_parts_cover_every_byte_once_and_are_at_most_10_000(size: int) -> None:
    ranges = list(part_ranges(size))
    edges = [0, *(stop for _, stop in ranges)]

    assert [start for start, _ in ranges] == edges[:-1]
    assert edges[-1] == size
    assert len(ranges) <= 10_000
    assert all(stop - start == part_size(size) for start, stop in ranges[:-1])
    assert all(0 < stop - start <= part_size(size) for start, stop in ranges)


@given(st.integers(0, 5 * 1024**4))
def test_a_part_is_the_smallest_doubling_of_8_mib_that_does(size: int) -> None:
    part = part_size(size)

    assert part % PART == 0
    assert (part // PART).bit_count() == 1
    assert part == PART or part // 2 * 10_000 < size


BLOCK = hashlib.sha512(b"seed").digest() * (MIB // 64)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Bytes up to 17 MiB, most often near the edge of a part."""
    near = st.builds(lambda parts, more: parts * PART + more, st.integers(0, 2), st.integers(-3, 3))
    size = max(0, draw(st.integers(0, 1000) | near | st.integers(0, 17 * MIB)))
    head = draw(st.binary(max_size=20))
    return (head + BLOCK * (size // MIB + 1))[:size]


@given(contents(), st.integers(1, 3 * MIB) | st.just(64 * MIB))
@example(b"", 1)
def test_the_chunked_hash_is_what_a_plain_computation_says(data: bytes, chunk: int) -> None:
    digests = []
    for start, stop in part_ranges(len(data)):
        step = max(chunk, (stop - start) // 100)
        digests.append(digest_part(data[at : min(at + step, stop)] for at in range(start, stop, step)))

    plain = hashlib.sha256()
    rest = data
    while rest:
        plain.update(hashlib.sha256(rest[: 8 * 1024 * 1024]).digest())
        rest = rest[8 * 1024 * 1024 :]
    assert combine(digests) == Hash("sha2-256-chunked", base64.b64encode(plain.digest()).decode())


@given(contents())
def test_a_checksum_of_s3_gives_the_same_hash_as_the_bytes_or_none(data: bytes) -> None:
    checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
    told = from_s3_sha256(checksum, len(data))

    assert told == (combine(digest_part([data[a:b]]) for a, b in part_ranges(len(data))) if len(data) <= PART else None)
