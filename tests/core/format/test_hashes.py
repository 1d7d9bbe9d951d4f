import base64
import hashlib
import itertools
from collections.abc import Iterable, Sequence

import pytest
from awscrt.checksums import crc64nvme

from airflow_quilt.core.errors import EntryDamagedError, HashTypeError
from airflow_quilt.core.format.hashes import (
    CHUNKED,
    CRC64NVME,
    SHA256,
    Hash,
    algorithm,
    check_new_hash_type,
    digest_of,
    from_s3,
    hash_of,
    part_ranges,
    part_size,
    to_s3,
    verify_stream,
)
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.objects import ObjectInfo

MIB = 1024 * 1024
PART = 8 * MIB
LIMIT = 10_000 * PART
SIZES = [0, 1, PART - 1, PART, PART + 1, 3 * PART]
TYPES = [CHUNKED, SHA256, CRC64NVME]
DATA = (bytes(range(251)) * (3 * PART // 251 + 1))[: 3 * PART]


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def crc(data: bytes) -> bytes:
    return crc64nvme(data).to_bytes(8, "big")


def plainly(data: bytes, hash_type: str) -> Hash:
    """The hash by another way than the engine's."""
    match hash_type:
        case "sha2-256-chunked":
            digests = b"".join(sha256(data[at : at + PART]) for at in range(0, len(data), PART))
            return Hash(hash_type, in_base64(sha256(digests)))
        case "SHA256":
            return Hash(hash_type, hashlib.sha256(data).hexdigest())
        case _:
            return Hash(hash_type, in_base64(crc(data)))


def cut(data: bytes, edges: Sequence[int]) -> list[bytes]:
    return [data[start:stop] for start, stop in itertools.pairwise([0, *edges, len(data)])]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("hash_type", TYPES)
def test_hash_equals_reference(hash_type: str, size: int) -> None:
    assert hash_of(DATA[:size], hash_type) == plainly(DATA[:size], hash_type)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("hash_type", TYPES)
def test_part_digests_make_hash(hash_type: str, size: int) -> None:
    kind, data = algorithm(hash_type), DATA[:size]
    digests = [
        digest_of(
            [data[start : start + 1], b"", data[start + 1 : min(start + 3 * MIB, stop)], data[start + 3 * MIB : stop]], kind.new()
        )
        for start, stop in kind.parts(size)
    ]

    assert kind.combine(digests, size) == plainly(data, hash_type)


@pytest.mark.parametrize(
    ("hash_type", "data", "value"),
    [
        pytest.param(CHUNKED, b"", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", id="chunked-of-nothing"),
        pytest.param(CHUNKED, b"hello", in_base64(sha256(sha256(b"hello"))), id="chunked-of-one-part-is-hashed-again"),
        pytest.param(SHA256, b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", id="sha256-of-nothing"),
        pytest.param(SHA256, b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", id="sha256-of-fips-180"),
        pytest.param(CRC64NVME, b"", "AAAAAAAAAAA=", id="crc-of-nothing"),
        pytest.param(CRC64NVME, b"123456789", in_base64(bytes.fromhex("ae8b14860a799888")), id="crc-of-the-catalogue"),
    ],
)
def test_known_hashes_match(hash_type: str, data: bytes, value: str) -> None:
    assert hash_of(data, hash_type) == Hash(hash_type, value)


def test_default_type_is_chunked() -> None:
    assert hash_of(b"hello") == hash_of(b"hello", "sha2-256-chunked")


@pytest.mark.parametrize(
    ("hash_type", "store", "by_parts"),
    [(CHUNKED, "SHA256", True), (SHA256, "SHA256", False), (CRC64NVME, "CRC64NVME", True)],
)
def test_type_names_s3_checksum(hash_type: str, store: str, *, by_parts: bool) -> None:
    kind = algorithm(hash_type)
    plain = {"SHA256": sha256, "CRC64NVME": crc}[store]

    assert (kind.store, kind.by_parts) == (store, by_parts)
    assert digest_of([b"he", b"llo"], kind.new()) == plain(b"hello")


@pytest.mark.parametrize("size", [*SIZES, LIMIT + 1])
@pytest.mark.parametrize("hash_type", TYPES)
def test_parts_follow_the_grid(hash_type: str, size: int) -> None:
    kind = algorithm(hash_type)

    assert list(kind.parts(size)) == (list(part_ranges(size)) if kind.by_parts else [(0, size)])


def test_crc_needs_all_digests() -> None:
    kind = algorithm(CRC64NVME)

    for digests in ([], [bytes(8), bytes(8)]):
        with pytest.raises(ValueError, match="shorter|longer"):
            kind.combine(digests, 5)


@pytest.mark.parametrize("hash_type", ["", "sha256", "MD5", None, 5, [], {}], ids=repr)
def test_unknown_type_lists_known(hash_type: str) -> None:
    with pytest.raises(HashTypeError, match="expected one of sha2-256-chunked, SHA256, CRC64NVME"):
        algorithm(hash_type)


@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
def test_new_entry_types_accepted(hash_type: str) -> None:
    check_new_hash_type(hash_type)


@pytest.mark.parametrize("hash_type", [SHA256, "", "sha256", None, [], {}], ids=repr)
def test_new_entry_types_refused(hash_type: str) -> None:
    with pytest.raises(HashTypeError, match="new entries get 'sha2-256-chunked' or 'CRC64NVME'"):
        check_new_hash_type(hash_type)


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
def test_at_most_10_000_parts(size: int, part: int, parts: int) -> None:
    """Double the part size until there are at most 10,000 parts."""
    ranges = list(part_ranges(size))

    assert part_size(size) == part
    assert len(ranges) == parts


def test_s3_digests_are_base64() -> None:
    assert to_s3(bytes(range(250, 256))) == "+vv8/f7/"


# Bytes that are checked as they pass.

EDGES = [
    pytest.param([], id="one-chunk"),
    pytest.param([0, 0, 0], id="empty-chunks-first"),
    pytest.param([2 * PART + 7] * 3, id="empty-chunks-last"),
    pytest.param([PART, PART, 2 * PART, 2 * PART], id="at-the-parts-with-empty-chunks"),
    pytest.param([PART - 1, PART + 1, 2 * PART - 1, 2 * PART + 1], id="around-the-parts"),
    pytest.param([1, 2 * PART + 6], id="one-chunk-across-all-parts"),
    pytest.param(range(1000, 2 * PART, 999_983), id="anywhere"),
]


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("hash_type", TYPES)
def test_right_bytes_pass_in_chunks(hash_type: str, edges: Sequence[int]) -> None:
    data = DATA[: 2 * PART + 7]
    chunks = cut(data, edges)

    assert list(verify_stream(iter(chunks), len(data), plainly(data, hash_type), "here")) == chunks


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("hash_type", TYPES)
def test_right_bytes_pass_any_size(hash_type: str, size: int) -> None:
    data = DATA[:size]

    assert b"".join(verify_stream([data], size, plainly(data, hash_type), "here")) == data


@pytest.mark.parametrize("chunks", [[], [b""], [b"", b""]], ids=["none", "one", "two"])
@pytest.mark.parametrize("hash_type", TYPES)
def test_empty_object_passes(hash_type: str, chunks: list[bytes]) -> None:
    assert list(verify_stream(chunks, 0, plainly(b"", hash_type), "here")) == chunks


def passed(chunks: Iterable[bytes], size: int, expected: Hash, why: str = "the bytes differ from those in the manifest") -> bytes:
    """Return the bytes that came through before the wrong ones were refused."""
    came: list[bytes] = []
    with pytest.raises(EntryDamagedError, match=f"^s3://b/k: {why}"):
        came.extend(verify_stream(chunks, size, expected, "s3://b/k"))
    return b"".join(came)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("edges", [[], [PART]], ids=["whole", "cut"])
@pytest.mark.parametrize("hash_type", TYPES)
def test_extra_byte_is_refused(hash_type: str, edges: list[int], size: int) -> None:
    """The chunk with the byte too many does not come through: none is written beyond the size."""
    chunks = cut(DATA[:size] + b"x", [edge for edge in edges if edge < size])

    came = passed(chunks, size, plainly(DATA[:size], hash_type), f"more bytes came than the {size:,} of the manifest")
    assert came == b"".join(chunks[:-1])


@pytest.mark.parametrize("size", [size for size in SIZES if size])
@pytest.mark.parametrize("edges", [[], [PART]], ids=["whole", "cut"])
@pytest.mark.parametrize("hash_type", TYPES)
def test_missing_byte_is_refused(hash_type: str, edges: list[int], size: int) -> None:
    wrong = DATA[: size - 1]

    assert passed(cut(wrong, [edge for edge in edges if edge < size]), size, plainly(DATA[:size], hash_type)) == wrong


@pytest.mark.parametrize("count", [0, 1, PART, 2 * PART], ids=["nothing", "one-byte", "one-part", "two-parts"])
@pytest.mark.parametrize("hash_type", TYPES)
def test_early_end_names_both_sizes(hash_type: str, count: int) -> None:
    with pytest.raises(EntryDamagedError, match=f"{count:,} bytes of 16,777,223 came"):
        list(verify_stream([DATA[:count]], 2 * PART + 7, plainly(DATA[: 2 * PART + 7], hash_type), "here"))


@pytest.mark.parametrize("hash_type", TYPES)
def test_size_mismatch_is_refused(hash_type: str) -> None:
    assert passed([b"hello"], 4, plainly(b"hello", hash_type), "more bytes came than the 4 of the manifest") == b""


@pytest.mark.parametrize("at", [0, PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 6])
@pytest.mark.parametrize("hash_type", TYPES)
def test_wrong_byte_is_refused(hash_type: str, at: int) -> None:
    data = bytearray(DATA[: 2 * PART + 7])
    expected = plainly(bytes(data), hash_type)
    data[at] ^= 1

    assert passed(cut(bytes(data), [MIB, 2 * PART]), len(data), expected) == data


def test_swapped_parts_are_refused() -> None:
    data = b"a" * PART + b"b" * PART

    for hash_type in TYPES:
        passed([data[PART:], data[:PART]], len(data), plainly(data, hash_type))


def test_chunks_are_not_held_back() -> None:
    source = iter([DATA[:MIB], DATA[MIB : 2 * MIB]])
    chunks = verify_stream(source, 2 * MIB, Hash(CHUNKED, "wrong"), "here")

    assert next(chunks) == DATA[:MIB]
    assert next(source) == DATA[MIB : 2 * MIB]


def test_unknown_type_is_no_damage() -> None:
    with pytest.raises(HashTypeError, match="'MD5'"):
        list(verify_stream([b"hello"], 5, Hash("MD5", "x"), "here"))


# What a store's checksums prove.


@pytest.mark.parametrize("size", SIZES)
def test_s3_sha256_proves_one_part(size: int) -> None:
    """A whole SHA-256 of S3 proves the chunked hash up to one part."""
    proven = algorithm(CHUNKED).proven(size, in_base64(sha256(DATA[:size])), None)

    assert proven == (plainly(DATA[:size], CHUNKED) if size <= PART else None)


@pytest.mark.parametrize("size", [*SIZES, LIMIT])
def test_s3_sha256_proves_plain(size: int) -> None:
    digest = sha256(b"any bytes")

    assert algorithm(SHA256).proven(size, in_base64(digest), None) == Hash(SHA256, digest.hex())


@pytest.mark.parametrize("size", [*SIZES, LIMIT])
def test_s3_crc_proves_any_size(size: int) -> None:
    assert algorithm(CRC64NVME).proven(size, None, "rosUhgp5mIg=") == Hash(CRC64NVME, "rosUhgp5mIg=")


WHOLE_SHA256, WHOLE_CRC = in_base64(sha256(b"hello")), in_base64(crc(b"hello"))


@pytest.mark.parametrize(
    ("s3_sha256", "s3_crc", "proven"),
    [
        pytest.param(None, None, set(), id="nothing"),
        pytest.param("", "", set(), id="empty"),
        pytest.param(WHOLE_SHA256, None, {CHUNKED, SHA256}, id="sha256"),
        pytest.param(None, WHOLE_CRC, {CRC64NVME}, id="crc"),
        pytest.param(WHOLE_SHA256, WHOLE_CRC, {CHUNKED, SHA256, CRC64NVME}, id="both"),
        pytest.param(WHOLE_SHA256 + "-1", None, set(), id="composite-sha256-of-one-part"),
        pytest.param(WHOLE_SHA256 + "-2", WHOLE_CRC + "-2", set(), id="composites"),
        pytest.param(WHOLE_SHA256 + "-2", WHOLE_CRC, {CRC64NVME}, id="composite-sha256-and-crc"),
    ],
)
def test_only_whole_checksums_prove(s3_sha256: str | None, s3_crc: str | None, proven: set[str]) -> None:
    stat = ObjectInfo(PhysicalKey("b", "k"), 5, "etag", s3_sha256, s3_crc)

    assert {kind: stat.proven(kind) for kind in TYPES} == {
        kind: plainly(b"hello", kind) if kind in proven else None for kind in TYPES
    }


def test_unknown_type_proves_nothing() -> None:
    stat = ObjectInfo(PhysicalKey("b", "k"), 5, "etag", WHOLE_SHA256, WHOLE_CRC)

    assert stat.proven("MD5") is None
    assert not stat.contradicts(Hash("MD5", "x"))


@pytest.mark.parametrize("hash_type", TYPES)
def test_only_other_bytes_contradict(hash_type: str) -> None:
    whole = ObjectInfo(PhysicalKey("b", "k"), 5, "etag", WHOLE_SHA256, WHOLE_CRC)
    composite = ObjectInfo(PhysicalKey("b", "k"), 5, "etag", WHOLE_SHA256 + "-1")

    assert whole.contradicts(plainly(b"other", hash_type))
    assert not whole.contradicts(plainly(b"hello", hash_type))
    assert not composite.contradicts(plainly(b"other", hash_type))


@pytest.mark.parametrize("checksum", [None, "", "A", "AAA", "AA=A", "####", "\u00e9AAA"])
def test_bad_checksum_proves_nothing(checksum: str | None) -> None:
    assert from_s3(checksum) is None
    assert algorithm(CHUNKED).proven(5, checksum, checksum) is None
    assert algorithm(CRC64NVME).proven(5, checksum, checksum) is None


def test_s3_checksum_round_trips() -> None:
    assert from_s3(to_s3(b"digest")) == b"digest"
