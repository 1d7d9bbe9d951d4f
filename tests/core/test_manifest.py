import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_quilt.core.checksums import Hash
from airflow_quilt.core.errors import ManifestError, MetadataError, QuiltError, RecordSizeError
from airflow_quilt.core.manifest import (
    MAX_RECORD_SIZE,
    Entry,
    Summary,
    check_meta,
    entry_line,
    header_line,
    make_header,
    read_manifest,
    write_manifest,
)
from airflow_quilt.core.names import LogicalKey, TopHash

ENTRY = Entry(LogicalKey("a/b.txt"), ("s3://b/k?versionId=v",), 5, Hash("sha2-256-chunked", "abc="))
LINE = (
    b'{"logical_key": "a/b.txt", "physical_keys": ["s3://b/k?versionId=v"], "size": 5, '
    b'"hash": {"type": "sha2-256-chunked", "value": "abc="}, "meta": {}}'
)
HEADER = b'{"version": "v0", "message": null}'


def written(header: Mapping[str, Any], entries: Iterable[Entry] = ()) -> tuple[Summary, bytes]:
    out = io.BytesIO()
    return write_manifest(header, entries, out), out.getvalue()


def top_hash(header: Mapping[str, Any], entries: Iterable[Entry] = ()) -> str:
    return written(header, entries)[0].top_hash


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("message", "user_meta", "line"),
    [
        pytest.param(None, None, b'{"version": "v0", "message": null}', id="nothing"),
        pytest.param("hi", None, b'{"version": "v0", "message": "hi"}', id="message"),
        pytest.param("", {}, b'{"version": "v0", "user_meta": {}, "message": ""}', id="empty"),
        pytest.param("hi", {"b": 1, "a": 2}, b'{"version": "v0", "user_meta": {"b": 1, "a": 2}, "message": "hi"}', id="both"),
    ],
)
def test_the_header_says_version_then_metadata_then_message(message: str | None, user_meta: Any, line: bytes) -> None:
    assert header_line(make_header(message, user_meta)) == line


def test_an_entry_is_one_line_with_its_keys_in_quilts_order() -> None:
    assert entry_line(ENTRY) == LINE


def test_an_entrys_metadata_stands_as_it_was_given() -> None:
    line = entry_line(replace(ENTRY, meta={"user_meta": {"b": 1, "a": [True, None, 1.5]}, "other": "x"}))

    assert line.endswith(b'"meta": {"user_meta": {"b": 1, "a": [true, null, 1.5]}, "other": "x"}}')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param("é", '"é"', id="unicode"),
        pytest.param("😀", '"😀"', id="outside-the-basic-plane"),
        pytest.param("\x7f", '"\x7f"', id="del"),
        pytest.param("\u2028", '"\u2028"', id="line-separator"),
        pytest.param('a"\\/\n\t\x01', '"a\\"\\\\/\\n\\t\\u0001"', id="escapes"),
        pytest.param(1e16, "1e+16", id="1e16"),
        pytest.param(1e-7, "1e-07", id="1e-7"),
        pytest.param(0.1, "0.1", id="0.1"),
        pytest.param(1.0, "1.0", id="1.0"),
        pytest.param(-0.0, "-0.0", id="minus-zero"),
        pytest.param(2**70, "1180591620717411303424", id="large-integer"),
        pytest.param((1, 2), "[1, 2]", id="tuple"),
    ],
)
def test_the_lines_hold_unicode_as_it_is_and_floats_as_python_prints_them(value: object, text: str) -> None:
    line = header_line(make_header(None, {"k": value}))

    assert line.decode() == f'{{"version": "v0", "user_meta": {{"k": {text}}}, "message": null}}'


def test_the_top_hash_of_an_empty_package_is_the_known_one() -> None:
    summary, lines = written(make_header(None, None))

    assert summary == Summary(TopHash("2a5a67156ca9238c14d12042db51c5b52260fdd5511b61ea89b58929d6e1769b"), 0, 0)
    assert lines == HEADER + b"\n"


def test_the_top_hash_is_taken_over_the_canonical_text() -> None:
    meta = {"user_meta": {"z": "\x7f", "é": 1e16, "Z": "😀", "a": [1, {}]}}
    header = make_header("café\n", {"b": 1e-7, "a": None})
    entry = replace(ENTRY, logical_key=LogicalKey("a/ü"), meta=meta)
    canonical = (
        rb'{"message":"caf\u00e9\n","user_meta":{"a":null,"b":1e-07},"version":"v0"}'
        rb'{"hash":{"type":"sha2-256-chunked","value":"abc="},"logical_key":"a/\u00fc",'
        rb'"meta":{"user_meta":{"Z":"\ud83d\ude00","a":[1,{}],"z":"\u007f","\u00e9":1e+16}},"size":5}'
        rb'{"hash":{"type":"sha2-256-chunked","value":"abc="},"logical_key":"b","meta":{},"size":5}'
    )

    assert top_hash(header, [entry, replace(ENTRY, logical_key=LogicalKey("b"))]) == hashlib.sha256(canonical).hexdigest()


def test_metadata_that_is_null_empty_and_absent_gives_three_hashes() -> None:
    headers: list[dict[str, Any]] = [
        {"version": "v0", "message": None},
        {"version": "v0", "message": None, "user_meta": None},
        {"version": "v0", "message": None, "user_meta": {}},
    ]

    assert len({top_hash(header) for header in headers}) == 3


def test_no_metadata_and_empty_metadata_make_two_headers() -> None:
    assert "user_meta" not in make_header(None, None)
    assert make_header(None, {})["user_meta"] == {}


def test_the_order_of_keys_shows_in_the_lines_but_not_in_the_top_hash() -> None:
    one, other = make_header("m", {"a": 1, "b": 2}), make_header("m", {"b": 2, "a": 1})

    assert top_hash(one) == top_hash(other)
    assert header_line(one) != header_line(other)


def test_a_manifest_is_summed_up_and_has_a_newline_after_each_line() -> None:
    entries = [replace(ENTRY, logical_key=LogicalKey(key), size=size) for key, size in (("a", 3), ("b", 0), ("c", 2**40))]
    summary, lines = written(make_header(None, None), entries)

    assert (summary.entries, summary.bytes) == (3, 3 + 2**40)
    assert lines == HEADER + b"\n" + b"".join(entry_line(entry) + b"\n" for entry in entries)


@pytest.mark.parametrize("letter", ["x", "é"], ids=["ascii", "two-bytes"])
def test_an_entrys_record_may_have_a_million_bytes_and_not_one_more(letter: str) -> None:
    left = 1_000_000 - len(entry_line(replace(ENTRY, meta={"user_meta": {"k": ""}})))
    wide = len(letter.encode())
    fits = letter * (left // wide) + "x" * (left % wide)

    assert len(entry_line(replace(ENTRY, meta={"user_meta": {"k": fits}}))) == MAX_RECORD_SIZE == 1_000_000
    with pytest.raises(RecordSizeError, match=r"'a/b\.txt'.*1,000,001 bytes"):
        entry_line(replace(ENTRY, meta={"user_meta": {"k": fits + "x"}}))


def test_the_header_may_have_a_million_bytes_and_not_one_more() -> None:
    left = 1_000_000 - len(header_line(make_header("", {})))

    assert len(header_line(make_header("x" * left, {}))) == 1_000_000
    with pytest.raises(RecordSizeError, match="the package's metadata.*1,000,001 bytes"):
        header_line(make_header("x" * (left + 1), {}))


def test_a_manifest_with_a_record_that_is_too_long_is_not_written() -> None:
    with pytest.raises(RecordSizeError, match=r"'a/b\.txt'"):
        written(make_header(None, None), [replace(ENTRY, meta={"user_meta": {"k": "x" * 1_000_000}})])


NOT_JSON = [
    pytest.param({"when": datetime(2024, 1, 2, tzinfo=UTC)}, "meta.when: datetime", id="datetime"),
    pytest.param({"day": date(2024, 1, 2)}, "meta.day: date", id="date"),
    pytest.param({"x": Decimal("1.5")}, "meta.x: Decimal", id="decimal"),
    pytest.param({"x": b"bytes"}, "meta.x: bytes", id="bytes"),
    pytest.param({"x": {1, 2}}, "meta.x: set", id="set"),
    pytest.param({"x": object()}, "meta.x: object", id="object"),
    pytest.param({"x": float("nan")}, "meta.x: nan", id="nan"),
    pytest.param({"x": float("inf")}, "meta.x: inf", id="inf"),
    pytest.param({"x": float("-inf")}, "meta.x: -inf", id="minus-inf"),
    pytest.param({"weeks": [1, 2, {"x": float("nan")}]}, "meta.weeks[2].x: nan", id="nan-deep-inside"),
    pytest.param({1: "x"}, "meta: the key 1 is int", id="number-as-key"),
    pytest.param({None: "x"}, "meta: the key None", id="none-as-key"),
    pytest.param({True: "x"}, "meta: the key True", id="bool-as-key"),
    pytest.param({"a": {"b": {(1, 2): "x"}}}, "meta.a.b: the key (1, 2) is tuple", id="tuple-as-key-deep-inside"),
    pytest.param({"x": "\ud800"}, "meta.x: not valid Unicode", id="lone-surrogate"),
    pytest.param({"\udfff": 1}, "meta: not valid Unicode", id="lone-surrogate-in-a-key"),
    pytest.param([1, 2], "meta: expected a mapping, got list", id="list"),
    pytest.param("text", "meta: expected a mapping, got str", id="text"),
]


@pytest.mark.parametrize(("value", "words"), NOT_JSON)
def test_metadata_that_is_not_json_is_refused_with_its_place(value: Any, words: str) -> None:
    with pytest.raises(MetadataError) as caught:
        make_header(None, value)

    assert words in str(caught.value)


@pytest.mark.parametrize(("message", "words"), [(5, "got int"), (b"m", "got bytes"), ("\ud800", "not valid Unicode")])
def test_a_message_that_is_no_text_is_refused(message: Any, words: str) -> None:
    with pytest.raises(MetadataError, match=f"^message.*{words}"):
        make_header(message, None)


def test_metadata_that_is_json_passes_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "x", ("y",)], "": {}}

    assert check_meta(value, "meta") is value


def test_metadata_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(MetadataError, match="nested too deeply"):
        make_header(None, nested(100_000))


def test_metadata_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["self"] = value

    with pytest.raises(MetadataError, match="nested too deeply"):
        make_header(None, value)


def test_metadata_of_any_depth_is_refused_or_can_be_written_and_read() -> None:
    outcomes = set()
    for depth in range(200, 1100, 7):
        try:
            header = make_header(None, nested(depth))
            _, lines = written(header, [replace(ENTRY, meta={"user_meta": nested(depth)})])
            assert [entry.meta for entry in read_manifest([lines]).entries] == [{"user_meta": nested(depth)}]
        except MetadataError:
            outcomes.add("refused")
        else:
            outcomes.add("written")

    assert outcomes == {"refused", "written"}


def test_an_integer_too_long_to_print_is_refused() -> None:
    with pytest.raises(MetadataError):
        header_line(make_header(None, {"x": 10**5000}))


# Reading.

OTHER = replace(
    ENTRY,
    logical_key=LogicalKey("é"),
    physical_keys=("s3://b/1", "s3://b/2"),
    size=0,
    hash=Hash("SHA256", "00"),
    meta={"user_meta": {"x": [1e16, "\u2028"]}, "mine": None},
)


def test_what_was_written_is_read_back_with_the_header_in_its_order() -> None:
    header = make_header("m", {"b": 1, "a": 2})
    manifest = read_manifest([written(header, [ENTRY, OTHER])[1]])

    assert list(manifest.header.items()) == [("version", "v0"), ("user_meta", {"b": 1, "a": 2}), ("message", "m")]
    assert list(manifest.entries) == [ENTRY, OTHER]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_the_file_may_come_in_chunks_cut_anywhere(size: int) -> None:
    _, lines = written(make_header("é", None), [OTHER, ENTRY])
    manifest = read_manifest(lines[at : at + size] for at in range(0, len(lines), size))

    assert manifest.header["message"] == "é"
    assert list(manifest.entries) == [OTHER, ENTRY]


def test_empty_chunks_and_a_missing_last_newline_do_no_harm() -> None:
    manifest = read_manifest([b"", HEADER, b"", b"\n", LINE, b""])

    assert list(manifest.entries) == [ENTRY]


def test_unknown_keys_of_the_header_survive_in_their_place_and_in_the_hash() -> None:
    lines = b'{"zeta": [1], "version": "v0", "workflow": {"id": "x"}, "message": null}\n'
    header = read_manifest([lines]).header

    assert written(header)[1] == lines
    assert top_hash(header) != top_hash(make_header(None, None))


def test_an_obsolete_top_hash_in_the_header_is_dropped() -> None:
    manifest = read_manifest([b'{"version": "v0", "message": null, "top_hash": "abc"}\n'])

    assert manifest.header == {"version": "v0", "message": None}


def test_the_metadata_of_a_directory_is_no_entry() -> None:
    lines = HEADER + b'\n{"logical_key": "a/", "meta": {"x": 1}}\n' + LINE + b"\n"

    assert list(read_manifest([lines]).entries) == [ENTRY]


def test_metadata_that_is_null_reads_as_none_given() -> None:
    lines = HEADER + b"\n" + LINE.replace(b'"meta": {}', b'"meta": null')

    assert list(read_manifest([lines]).entries) == [ENTRY]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([], id="no-chunk"),
        pytest.param([b""], id="empty-file"),
        pytest.param([b"\n"], id="empty-line"),
        pytest.param([b"not json\n"], id="no-json"),
        pytest.param([b"[]\n"], id="list"),
        pytest.param([b'"v0"\n'], id="text"),
        pytest.param([b'{"version": "v0"'], id="cut"),
        pytest.param([b'{"version": "\xff"}\n'], id="no-utf-8"),
        pytest.param([b'{"user_meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"], id="nested-too-deeply"),
    ],
)
def test_a_damaged_header_is_line_1(chunks: list[bytes]) -> None:
    with pytest.raises(ManifestError, match="line 1:"):
        read_manifest(chunks)


def without(key: str) -> bytes:
    record = json.loads(LINE)
    del record[key]
    return json.dumps(record).encode()


def having(**values: object) -> bytes:
    return json.dumps(json.loads(LINE) | values).encode()


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(LINE[:-5], id="cut"),
        pytest.param(b"", id="empty"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[1]", id="list"),
        pytest.param(LINE.replace(b"a/b", b"\xff/b"), id="no-utf-8"),
        pytest.param(LINE + LINE, id="two-records"),
        pytest.param(without("logical_key"), id="no-logical-key"),
        pytest.param(without("size"), id="no-size"),
        pytest.param(without("hash"), id="no-hash"),
        pytest.param(without("meta"), id="no-meta"),
        pytest.param(having(hash=None), id="hash-null"),
        pytest.param(having(hash="abc"), id="hash-text"),
        pytest.param(having(hash={"type": "SHA256"}), id="hash-without-value"),
        pytest.param(having(physical_keys=5), id="physical-keys-number"),
        pytest.param(having(physical_keys="s3://b/k"), id="physical-keys-text"),
        pytest.param(having(physical_keys=[None]), id="physical-key-null"),
        pytest.param(having(size="5"), id="size-text"),
        pytest.param(having(size=None), id="size-null"),
        pytest.param(having(logical_key=5), id="logical-key-number"),
        pytest.param(having(meta=[1]), id="meta-list"),
    ],
)
def test_a_damaged_line_is_named_by_its_number(line: bytes) -> None:
    manifest = read_manifest([HEADER + b"\n" + LINE + b"\n" + LINE + b"\n" + line + b"\n" + LINE + b"\n"])

    with pytest.raises(ManifestError, match="line 4:"):
        list(manifest.entries)


def test_the_entries_before_a_damaged_line_are_read() -> None:
    entries = read_manifest([HEADER + b"\n" + LINE + b"\n{"]).entries

    assert next(entries) == ENTRY
    with pytest.raises(QuiltError, match="line 3:"):
        next(entries)


def test_a_manifest_that_does_not_have_the_top_hash_of_its_name_is_an_error_at_its_end() -> None:
    summary, lines = written(make_header(None, None), [ENTRY])

    assert list(read_manifest([lines], summary.top_hash).entries) == [ENTRY]
    for changed in (lines.replace(b'"size": ', b'"size": 1'), lines.replace(b'"v0"', b'"v1"'), lines.partition(b"\n")[0]):
        with pytest.raises(ManifestError, match=f"the manifest {summary.top_hash} was changed or damaged"):
            list(read_manifest([changed], summary.top_hash).entries)


def test_a_physical_key_may_change_under_the_same_top_hash() -> None:
    summary, lines = written(make_header(None, None), [ENTRY])
    moved = lines.replace(ENTRY.physical_keys[0].encode(), b"s3://elsewhere/key")

    (entry,) = read_manifest([moved], summary.top_hash).entries
    assert entry.physical_keys == ("s3://elsewhere/key",)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_not_json_names_its_line(constant: str) -> None:
    _, lines = written(make_header(None, None), [ENTRY])
    bad = lines + b'{"logical_key": "b/", "meta": {"x": ' + constant.encode() + b"}}\n"

    with pytest.raises(ManifestError, match=f"line 3: {constant} is not JSON"):
        list(read_manifest([bad]).entries)
