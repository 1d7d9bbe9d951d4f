import copy
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from airflow_quilt.core.errors import ManifestError, MetadataError, QuiltError, RecordSizeError
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import (
    MAX_RECORD_SIZE,
    Entry,
    canonical_entry,
    directory_line,
    entry_line,
    header_line,
    make_header,
)
from airflow_quilt.core.format.manifest_reader import read_manifest
from airflow_quilt.core.format.manifest_writer import Summary, write_manifest
from airflow_quilt.core.format.metadata import check_meta
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey, TopHash, walk_order

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
def test_header_key_order(message: str | None, user_meta: Any, line: bytes) -> None:
    assert header_line(make_header(message, user_meta)) == line


def test_entry_is_one_line() -> None:
    assert entry_line(ENTRY) == LINE


def test_entry_meta_is_verbatim() -> None:
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
def test_unicode_and_float_format(value: object, text: str) -> None:
    line = header_line(make_header(None, {"k": value}))

    assert line.decode() == f'{{"version": "v0", "user_meta": {{"k": {text}}}, "message": null}}'


def test_empty_top_hash_is_known() -> None:
    summary, lines = written(make_header(None, None))

    assert summary == Summary(TopHash("2a5a67156ca9238c14d12042db51c5b52260fdd5511b61ea89b58929d6e1769b"), 0, 0)
    assert lines == HEADER + b"\n"


def test_top_hash_is_canonical() -> None:
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


def test_null_empty_absent_differ() -> None:
    headers: list[dict[str, Any]] = [
        {"version": "v0", "message": None},
        {"version": "v0", "message": None, "user_meta": None},
        {"version": "v0", "message": None, "user_meta": {}},
    ]

    assert len({top_hash(header) for header in headers}) == 3


def test_empty_meta_is_in_header() -> None:
    assert "user_meta" not in make_header(None, None)
    assert make_header(None, {})["user_meta"] == {}


def test_key_order_not_in_top_hash() -> None:
    one, other = make_header("m", {"a": 1, "b": 2}), make_header("m", {"b": 2, "a": 1})

    assert top_hash(one) == top_hash(other)
    assert header_line(one) != header_line(other)


def test_summary_and_newlines() -> None:
    entries = [replace(ENTRY, logical_key=LogicalKey(key), size=size) for key, size in (("a", 3), ("b", 0), ("c", 2**40))]
    summary, lines = written(make_header(None, None), entries)

    assert (summary.entries, summary.bytes) == (3, 3 + 2**40)
    assert lines == HEADER + b"\n" + b"".join(entry_line(entry) + b"\n" for entry in entries)


@pytest.mark.parametrize("letter", ["x", "é"], ids=["ascii", "two-bytes"])
def test_entry_limit_is_1_mb(letter: str) -> None:
    left = 1_000_000 - len(entry_line(replace(ENTRY, meta={"user_meta": {"k": ""}})))
    wide = len(letter.encode())
    fits = letter * (left // wide) + "x" * (left % wide)

    assert len(entry_line(replace(ENTRY, meta={"user_meta": {"k": fits}}))) == MAX_RECORD_SIZE == 1_000_000
    with pytest.raises(RecordSizeError, match=r"'a/b\.txt'.*1,000,001 bytes"):
        entry_line(replace(ENTRY, meta={"user_meta": {"k": fits + "x"}}))


def test_header_limit_is_1_mb() -> None:
    left = 1_000_000 - len(header_line(make_header("", {})))

    assert len(header_line(make_header("x" * left, {}))) == 1_000_000
    with pytest.raises(RecordSizeError, match="the package's metadata.*1,000,001 bytes"):
        header_line(make_header("x" * (left + 1), {}))


def test_long_record_not_written() -> None:
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
def test_non_json_meta_names_place(value: Any, words: str) -> None:
    with pytest.raises(MetadataError) as caught:
        make_header(None, value)

    assert words in str(caught.value)


@pytest.mark.parametrize(("message", "words"), [(5, "got int"), (b"m", "got bytes"), ("\ud800", "not valid Unicode")])
def test_non_str_message_refused(message: Any, words: str) -> None:
    with pytest.raises(MetadataError, match=f"^message.*{words}"):
        make_header(message, None)


def test_json_meta_is_normalised() -> None:
    value = {"a": [1, 2.5, None, True, "x", ("y",)], "": {}}

    assert check_meta(value, "meta") == {"a": [1, 2.5, None, True, "x", ["y"]], "": {}}
    assert value["a"] == [1, 2.5, None, True, "x", ("y",)]


def test_deep_meta_is_refused() -> None:
    with pytest.raises(MetadataError, match="nested too deeply"):
        make_header(None, nested(100_000))


def test_cyclic_meta_is_refused() -> None:
    value: dict[str, Any] = {}
    value["self"] = value

    with pytest.raises(MetadataError, match="nested too deeply"):
        make_header(None, value)


def test_writable_meta_is_readable() -> None:
    outcomes = set()
    for depth in (200, 253, 254, 255, 256, 500, *range(900, 1100, 20)):
        try:
            header = make_header(None, nested(depth))
            _, lines = written(header, [replace(ENTRY, meta={"user_meta": nested(depth)})])
            assert [entry.meta for entry in read_manifest([lines]).entries] == [{"user_meta": nested(depth)}]
        except MetadataError:
            outcomes.add("refused")
        else:
            outcomes.add("written")

    assert outcomes == {"refused", "written"}


def test_huge_integer_is_refused() -> None:
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
DIRECTORY = b'{"logical_key": "a/", "meta": {"x": 1}}'


def test_manifest_round_trips() -> None:
    header = make_header("m", {"b": 1, "a": 2})
    manifest = read_manifest([written(header, [ENTRY, OTHER])[1]])

    assert list(manifest.header.items()) == [("version", "v0"), ("user_meta", {"b": 1, "a": 2}), ("message", "m")]
    assert list(manifest.entries) == [ENTRY, OTHER]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_chunks_may_cut_anywhere(size: int) -> None:
    _, lines = written(make_header("é", None), [ENTRY, OTHER])
    manifest = read_manifest(lines[at : at + size] for at in range(0, len(lines), size))

    assert manifest.header["message"] == "é"
    assert list(manifest.entries) == [ENTRY, OTHER]


def test_last_newline_is_optional() -> None:
    manifest = read_manifest([b"", HEADER, b"", b"\n", LINE, b""])

    assert list(manifest.entries) == [ENTRY]


def test_crlf_lines_mean_the_same() -> None:
    summary, lines = written(make_header("m", {"a": 1}), [ENTRY, OTHER])
    manifest = read_manifest([lines.replace(b"\n", b"\r\n")], summary.top_hash)

    assert manifest.header == make_header("m", {"a": 1})
    assert list(manifest.entries) == [ENTRY, OTHER]


def test_unknown_header_keys_survive() -> None:
    lines = b'{"zeta": [1], "version": "v0", "workflow": {"id": "x"}, "message": null}\n'
    header = read_manifest([lines]).header

    assert written(header)[1] == lines
    assert top_hash(header) != top_hash(make_header(None, None))


def test_unknown_meta_keys_survive() -> None:
    line = LINE.replace(b'"meta": {}', b'"meta": {"zeta": [1], "user_meta": {"x": 1}, "alpha": null}')
    (entry,) = read_manifest([HEADER + b"\n" + line]).entries

    assert entry_line(entry) == line
    assert entry.user_meta == {"x": 1}
    assert top_hash({}, [entry]) != top_hash({}, [replace(entry, meta={"user_meta": {"x": 1}})])


def test_physical_keys_keep_order() -> None:
    line = LINE.replace(b'["s3://b/k?versionId=v"]', b'["s3://b/2", "file:///1", "s3://b/2"]')
    (entry,) = read_manifest([HEADER + b"\n" + line]).entries

    assert entry.physical_keys == ("s3://b/2", "file:///1", "s3://b/2")
    assert entry_line(entry) == line


def test_obsolete_top_hash_dropped() -> None:
    manifest = read_manifest(
        [b'{"version": "v0", "message": null, "top_hash": "abc"}\n'], TopHash(top_hash(make_header(None, None)))
    )

    assert manifest.header == {"version": "v0", "message": None}
    assert list(manifest.entries) == []


def test_null_meta_reads_as_empty() -> None:
    lines = HEADER + b"\n" + LINE.replace(b'"meta": {}', b'"meta": null')

    assert list(read_manifest([lines]).entries) == [ENTRY]


@pytest.mark.parametrize(
    ("header", "user_meta"),
    [(b"{}", {}), (b'{"user_meta": {}}', {}), (b'{"user_meta": null}', None), (b'{"user_meta": {"a": 1}}', {"a": 1})],
    ids=["none", "empty", "null", "some"],
)
def test_no_package_meta_is_empty(header: bytes, user_meta: object) -> None:
    assert read_manifest([header]).user_meta == user_meta


@pytest.mark.parametrize(
    ("meta", "user_meta"),
    [({}, {}), ({"other": 1}, {}), ({"user_meta": None}, None), ({"user_meta": {"a": 1}, "other": 2}, {"a": 1})],
    ids=["none", "others", "null", "some"],
)
def test_no_entry_meta_is_empty(meta: dict[str, Any], user_meta: object) -> None:
    assert replace(ENTRY, meta=meta).user_meta == user_meta


# Directories.

DIRECTORIES = {
    DirectoryKey("a/"): {"b": 1, "a": "é"},
    DirectoryKey("a/b/"): [1, None],
    DirectoryKey("a-b/"): {"x": {}},
    DirectoryKey("é/"): {"y": 1e16},
}


def test_directories_after_header() -> None:
    out = io.BytesIO()
    write_manifest(make_header(None, None), [ENTRY], out, dict(reversed(DIRECTORIES.items())))

    assert out.getvalue().decode().splitlines() == [
        HEADER.decode(),
        '{"logical_key": "a/", "meta": {"b": 1, "a": "é"}}',
        '{"logical_key": "a/b/", "meta": [1, null]}',
        '{"logical_key": "a-b/", "meta": {"x": {}}}',
        '{"logical_key": "é/", "meta": {"y": 1e+16}}',
        LINE.decode(),
    ]


def test_directories_are_no_entries() -> None:
    out = io.BytesIO()
    summary = write_manifest(make_header(None, None), [ENTRY], out, DIRECTORIES)
    manifest = read_manifest([out.getvalue()], summary.top_hash)

    assert list(manifest.entries) == [ENTRY]
    assert list(manifest.directories.items()) == list(DIRECTORIES.items())
    assert (summary.entries, summary.bytes) == (1, 5)


def test_directories_not_in_hash() -> None:
    assert write_manifest({}, [ENTRY], io.BytesIO(), DIRECTORIES).top_hash == top_hash({}, [ENTRY])


def test_directories_before_entries() -> None:
    manifest = read_manifest([b"\n".join([HEADER, DIRECTORY, LINE, entry_line(OTHER)])])

    assert list(manifest.entries) == [ENTRY, OTHER]
    assert manifest.directories == {"a/": {"x": 1}}


@pytest.mark.parametrize("before", [1, 2])
def test_late_directory_is_read(before: int) -> None:
    lines = [LINE, entry_line(OTHER)]
    manifest = read_manifest([b"\n".join([HEADER, *lines[:before], DIRECTORY, *lines[before:]])]).begun()

    assert manifest.directories == {"a/": {"x": 1}}
    assert list(manifest.entries) == [ENTRY, OTHER]


@pytest.mark.parametrize("physical_keys", ["[]", "null"])
def test_null_keys_mean_directory(physical_keys: str) -> None:
    line = f'{{"logical_key": "a/", "physical_keys": {physical_keys}, "size": null, "hash": null, "meta": {{}}}}'
    manifest = read_manifest([HEADER + b"\n" + line.encode()])

    assert list(manifest.entries) == []
    assert manifest.directories == {"a/": {}}


def test_directory_limit_is_1_mb() -> None:
    key = DirectoryKey("a/")
    left = 1_000_000 - len(directory_line(key, ""))

    assert len(directory_line(key, "x" * left)) == MAX_RECORD_SIZE
    with pytest.raises(RecordSizeError, match="directory 'a/'.*1,000,001 bytes"):
        directory_line(key, "x" * (left + 1))


# The header of a revision that is derived from another.

BASE = {"zeta": 1, "version": "v0", "user_meta": {"a": 1}, "workflow": {"id": "old"}, "message": "old", "omega": [2]}


@pytest.mark.parametrize(
    ("user_meta", "workflow", "expected"),
    [
        pytest.param(
            None, None, {"zeta": 1, "version": "v0", "user_meta": {"a": 1}, "message": "new", "omega": [2]}, id="no-workflow"
        ),
        pytest.param(
            {}, None, {"zeta": 1, "version": "v0", "user_meta": {}, "message": "new", "omega": [2]}, id="empty-metadata"
        ),
        pytest.param(
            {"b": 2},
            {"id": "new"},
            {"zeta": 1, "version": "v0", "user_meta": {"b": 2}, "workflow": {"id": "new"}, "message": "new", "omega": [2]},
            id="all-new",
        ),
    ],
)
def test_derived_header_keeps_rest(user_meta: Any, workflow: Any, expected: Mapping[str, Any]) -> None:
    before = copy.deepcopy(BASE)
    header = make_header("new", user_meta, workflow, BASE)

    assert header_line(header) == header_line(expected)
    assert before == BASE


def test_base_message_not_inherited() -> None:
    assert make_header(None, None, None, BASE)["message"] is None


def test_workflow_before_message() -> None:
    header = make_header("m", {"a": 1}, {"id": "x", "config": "c"})

    assert header_line(header) == (
        b'{"version": "v0", "user_meta": {"a": 1}, "workflow": {"id": "x", "config": "c"}, "message": "m"}'
    )


def test_base_without_meta_gets_it() -> None:
    header = make_header("m", {"a": 1}, None, {"version": "v0", "message": None})

    assert header == {"version": "v0", "user_meta": {"a": 1}, "message": "m"}


# What is no manifest.

DEEP = b"[" * 100_000 + b"]" * 100_000
NOT_FINITE = [
    pytest.param(b"NaN", id="nan"),
    pytest.param(b"Infinity", id="infinity"),
    pytest.param(b"-Infinity", id="minus-infinity"),
    pytest.param(b"1e999", id="infinite-float"),
    pytest.param(b'[{"x": -1e999}]', id="infinite-float-deep-inside"),
]
ODD_VALUES = [
    pytest.param(b"1" * 5000, id="integer-of-5000-digits"),
    pytest.param(b'"\\ud800"', id="lone-surrogate"),
    pytest.param(b'{"\\udfff": 1}', id="lone-surrogate-in-a-key"),
    pytest.param(b'{"a": 1, "b": 2, "a": 1}', id="key-given-twice"),
    pytest.param(b'[[{"a": {}, "a": {}}]]', id="key-given-twice-deep-inside"),
    pytest.param(b'{"a": 1, "\\u0061": 2}', id="key-given-twice-in-two-spellings"),
    pytest.param(DEEP, id="nested-100000-deep"),
    pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="objects-nested-100000-deep"),
    pytest.param(b'"\xff"', id="no-utf-8"),
    pytest.param(b'"\xed\xa0\x80"', id="surrogate-in-utf-8"),
    pytest.param(b'"\0"', id="nul"),
    pytest.param(b'"a\tb"', id="tab-in-a-text"),
    pytest.param(b"01", id="leading-zero"),
    pytest.param(b"'a'", id="single-quotes"),
    pytest.param(b"[1,]", id="comma-at-the-end"),
    pytest.param(b"", id="nothing"),
]


def refused(*lines: bytes) -> str:
    """Return the error of reading lines that are no manifest."""
    with pytest.raises(ManifestError) as caught:
        list(read_manifest([b"\n".join(lines) + b"\n"]).entries)
    return str(caught.value)


def line_error(line: bytes) -> str:
    """Return the error of a bad line among good ones; it begins with the number of the line."""
    message = refused(HEADER, LINE, entry_line(OTHER), line, entry_line(replace(OTHER, logical_key=LogicalKey("êêê"))))
    assert message.startswith("line 4: ")
    return message


def having(**values: object) -> bytes:
    """Return the line of a good entry but for some of its fields."""
    return json.dumps({**json.loads(LINE), "logical_key": "ê", **values}).encode()


def without(key: str) -> bytes:
    record = json.loads(having())
    del record[key]
    return json.dumps(record).encode()


def test_template_line_is_good() -> None:
    manifest = read_manifest([b"\n".join([HEADER, LINE, entry_line(OTHER), having()])])

    assert [entry.logical_key for entry in manifest.entries] == ["a/b.txt", "é", "ê"]


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("key", ["user_meta", "message", "other"])
def test_odd_header_is_line_1(key: str, value: bytes) -> None:
    assert refused(b'{"version": "v0", "%s": %s}' % (key.encode(), value), LINE).startswith("line 1: ")


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("before", [b"", b'"user_meta": {}, '], ids=["only", "beside"])
def test_odd_entry_meta_names_line(before: bytes, value: bytes) -> None:
    line_error(having(meta=0).replace(b'"meta": 0', b'"meta": {%s"x": %s}' % (before, value)))


@pytest.mark.parametrize("value", [*ODD_VALUES, *NOT_FINITE])
@pytest.mark.parametrize("field", ["logical_key", "physical_keys", "size", "hash"])
def test_odd_field_names_line(field: str, value: bytes) -> None:
    line_error(having(**{field: 77}).replace(b'"%s": 77' % field.encode(), b'"%s": %s' % (field.encode(), value)))


@pytest.mark.parametrize("value", [*ODD_VALUES, *NOT_FINITE])
@pytest.mark.parametrize(
    "where", [b'"hash": {"type": %s, "value": "x"}', b'"hash": {"type": "x", "value": %s}'], ids=["type", "value"]
)
def test_odd_hash_names_line(where: bytes, value: bytes) -> None:
    line_error(having(hash=77).replace(b'"hash": 77', where % value))


@pytest.mark.parametrize("value", [*ODD_VALUES, *NOT_FINITE])
def test_odd_physical_key_refused(value: bytes) -> None:
    line_error(having(physical_keys=77).replace(b'"physical_keys": 77', b'"physical_keys": ["s3://b/k", %s]' % value))


@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_directory_meta_refused(value: bytes) -> None:
    line_error(b'{"logical_key": "a/", "meta": %s}' % value)


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([], id="no-chunk"),
        pytest.param([b""], id="empty-file"),
        pytest.param([b"\n"], id="empty-line"),
        pytest.param([b"\r\n"], id="empty-line-of-windows"),
        pytest.param([b" "], id="space"),
        pytest.param([b"not json\n"], id="no-json"),
        pytest.param([b"[]\n"], id="list"),
        pytest.param([b'"v0"\n'], id="text"),
        pytest.param([b"null\n"], id="null"),
        pytest.param([b"5\n"], id="number"),
        pytest.param([b'{"version": "v0"'], id="cut"),
        pytest.param([HEADER[:-1] + b"\n" + b"}\n"], id="on-two-lines"),
        pytest.param([HEADER + HEADER + b"\n"], id="two-records"),
        pytest.param([b'{"version": "\xff"}\n'], id="no-utf-8"),
        pytest.param([b"\xef\xbb\xbf" + HEADER + b"\n"], id="byte-order-mark"),
        pytest.param([HEADER.decode().encode("utf-16")], id="utf-16"),
        pytest.param([HEADER.decode().encode("utf-16-le")], id="utf-16-without-a-mark"),
        pytest.param([HEADER.decode().encode("utf-32-be")], id="utf-32"),
        pytest.param([b"\0" + HEADER + b"\n"], id="nul-first"),
        pytest.param([HEADER + b"\0\n"], id="nul-last"),
        pytest.param([b"PAR1\x15\x04\x15\x00"], id="parquet"),
        pytest.param([b"\x1f\x8b\x08\x00"], id="gzip"),
    ],
)
def test_damaged_header_is_line_1(chunks: list[bytes]) -> None:
    with pytest.raises(ManifestError, match="^line 1: "):
        read_manifest(chunks)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(having()[:-5], id="cut"),
        pytest.param(b"", id="empty"),
        pytest.param(b" \r", id="blank"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[1]", id="list"),
        pytest.param(b"{}", id="nothing-in-it"),
        pytest.param(having() + having(), id="two-records"),
        pytest.param(b"[" + having() + b"]", id="in-a-list"),
        pytest.param(b"\xef\xbb\xbf" + having(), id="byte-order-mark"),
        pytest.param(having().decode().encode("utf-16"), id="utf-16"),
        pytest.param(b"\0" + having(), id="nul-first"),
        pytest.param(having() + b"\0", id="nul-last"),
        pytest.param(having()[:-1] + b', "size": 5}', id="field-given-twice"),
    ],
)
def test_non_record_names_line(line: bytes) -> None:
    line_error(line)


@pytest.mark.parametrize("field", ["logical_key", "physical_keys", "size", "hash"])
def test_missing_field_names_line(field: str) -> None:
    line_error(without(field))


WRONG: dict[str, list[object]] = {
    "logical_key": [None, 5, 1.5, True, [], ["a"], {}],
    "physical_keys": [None, 0, False, 5, True, "", "s3://b/k", [], {}, {"a": "s3://b/k"}, [None], [5], [[]], ["s3://b/k", None]],
    "size": [None, "", "5", 5.0, 1.5, True, False, -1, -(2**70), 2**63, [], {}, [5]],
    "hash": [
        None,
        "abc=",
        5,
        [],
        ["SHA256", "x"],
        {},
        {"type": "SHA256"},
        {"value": "x"},
        {"type": None, "value": "x"},
        {"type": 5, "value": "x"},
        {"type": "SHA256", "value": None},
        {"type": "SHA256", "value": 5},
        {"type": "SHA256", "value": ["x"]},
        {"type": "SHA256", "value": "x", "more": None},
    ],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values], ids=repr)
def test_wrong_type_names_line(field: str, value: object) -> None:
    line_error(having(**{field: value}))


def test_size_fits_64_bits() -> None:
    (entry,) = read_manifest([HEADER + b"\n" + having(size=2**63 - 1)]).entries

    assert entry.size == 2**63 - 1


BAD_KEYS = ["", "/", "//", ".", "..", "./ê", "../ê", "ê/.", "ê/..", "ê/../ë", "/ê", "ê//ë", "ê\0", "ê\0/ë", "\ud800", "ê/\udfff"]


@pytest.mark.parametrize("key", [*BAD_KEYS, "ê/"], ids=ascii)
def test_bad_entry_key_names_line(key: str) -> None:
    assert "logical" in line_error(having(logical_key=key))


@pytest.mark.parametrize("key", [*(f"{key}/" for key in BAD_KEYS), "ê", "", None, 5, [], {}], ids=ascii)
def test_bad_directory_key_refused(key: object) -> None:
    assert "logical" in line_error(json.dumps({"logical_key": key, "meta": {}}).encode())


def test_keyless_directory_refused() -> None:
    assert "logical" in line_error(b'{"meta": {}}')


@pytest.mark.parametrize(
    ("key", "words"),
    [
        pytest.param("é", "'é' is given twice", id="twice"),
        pytest.param("é/x", "'é' is a file, and a directory that holds 'é/x'", id="file-and-directory"),
    ],
)
def test_bad_tree_names_later_line(key: str, words: str) -> None:
    lines = [LINE, entry_line(OTHER), having(logical_key=key), having(logical_key="z")]
    for order in itertools.permutations(lines):
        later = max(order.index(lines[1]), order.index(lines[2])) + 2

        assert refused(HEADER, *order).startswith(f"line {later}: logical key")
        assert words in refused(HEADER, *order)


def test_file_with_directory_meta() -> None:
    lines = [LINE, b'{"logical_key": "a/b.txt/", "meta": {"x": 1}}', entry_line(OTHER)]
    for order in itertools.permutations(lines):
        later = max(order.index(lines[0]), order.index(lines[1])) + 2

        assert refused(HEADER, *order) == f"line {later}: logical key 'a/b.txt' is a file, and a directory that has metadata"


def test_duplicate_directory_refused() -> None:
    assert refused(HEADER, DIRECTORY, DIRECTORY).startswith("line 3: ")


# Lines in another order, whose writer is any other program.

TREE = ["a/b", "a/c/d", "a-b/x", "a.txt", "b"]


def shuffled(lines: Sequence[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the orders of the lines of some writers."""
    key = lambda line: json.loads(line)["logical_key"]  # noqa: E731
    yield "walk order", list(lines)
    yield "whole keys", sorted(lines, key=key)
    yield "reversed", list(reversed(lines))
    yield "directories late", sorted(lines, key=lambda line: (b"size" not in line, key(line)))


@pytest.mark.parametrize("spelling", [(", ", ": "), (",", ":")], ids=["python", "java"])
@pytest.mark.parametrize("meta", [{}, {"user_meta": {"x": float("nan")}}], ids=["plain", "nan"])
def test_any_order_is_read(meta: Any, spelling: tuple[str, str]) -> None:
    entries = [replace(ENTRY, logical_key=LogicalKey(key), meta=meta) for key in TREE]
    records = [{"logical_key": "a/", "meta": {"x": 1}}, {"logical_key": "a/c/", "meta": ["y"]}]
    records += [{**json.loads(LINE), "logical_key": key, "meta": meta} for key in TREE]
    name = TopHash(hashlib.sha256(b"{}" + b"".join(canonical_entry(entry).encode() for entry in entries)).hexdigest())
    for order, lines in shuffled([json.dumps(record, separators=spelling).encode() for record in records]):
        manifest = read_manifest([b"\n".join([b"{}", *lines])], name).begun()

        assert manifest.directories == {"a/": {"x": 1}, "a/c/": ["y"]}, order
        assert [canonical_entry(entry) for entry in manifest.entries] == list(map(canonical_entry, entries)), order


def test_any_order_is_checked() -> None:
    lines = [having(logical_key=key) for key in reversed(TREE)]
    with pytest.raises(ManifestError, match="changed or damaged"):
        list(read_manifest([b"\n".join([HEADER, *lines])], TopHash("0" * 64)).entries)


def test_java_top_hash_is_known() -> None:
    keys = sorted(TREE)
    entries = [replace(ENTRY, logical_key=LogicalKey(key)) for key in keys]
    name = TopHash(hashlib.sha256(b"{}" + b"".join(canonical_entry(entry).encode() for entry in entries)).hexdigest())
    lines = [b"{}", *map(entry_line, entries)]

    assert [entry.logical_key for entry in read_manifest([b"\n".join(lines)], name).entries] == TREE
    with pytest.raises(ManifestError, match="changed or damaged"):  # The same name, for lines in an order of nobody's.
        list(read_manifest([b"\n".join([b"{}", *reversed(lines[1:])])], name).entries)


def test_bad_line_found_in_any_order() -> None:
    lines = [having(logical_key=key) for key in reversed(TREE)]

    assert refused(HEADER, *lines[:2], without("size"), *lines[2:]).startswith("line 4: ")


def test_order_of_many_blocks() -> None:
    lines = [having(logical_key=f"{number % 7}/{number}") for number in range(5000)]
    found = [entry.logical_key for entry in read_manifest([b"\n".join([HEADER, *lines])]).entries]

    assert found == sorted((f"{number % 7}/{number}" for number in range(5000)), key=walk_order)


# Metadata of old writers.


@pytest.mark.parametrize("value", NOT_FINITE)
def test_nan_is_read_never_written(value: bytes) -> None:
    header, meta = b'{"user_meta": {"x": %s}}' % value, b'{"user_meta": [%s], "x": %s}' % (value, value)
    record = having(meta=0).replace(b'"meta": 0', b'"meta": %s' % meta)
    canonical = json.dumps(json.loads(header), sort_keys=True, separators=(",", ":")).encode()
    canonical += json.dumps(
        {key: value for key, value in json.loads(record).items() if key != "physical_keys"}, sort_keys=True, separators=(",", ":")
    ).encode()
    lines = [header, b'{"logical_key": "a/", "meta": %s}' % value, record]
    manifest = read_manifest([b"\n".join(lines)], TopHash(hashlib.sha256(canonical).hexdigest()))
    (entry,) = manifest.entries

    with pytest.raises(MetadataError, match="the package's metadata"):
        header_line(manifest.header)
    with pytest.raises(MetadataError, match="'a/'"):
        directory_line(DirectoryKey("a/"), manifest.directories[DirectoryKey("a/")])
    with pytest.raises(MetadataError, match="'ê'.*give it other metadata"):
        entry_line(entry)
    with pytest.raises(MetadataError):
        written({}, [entry])


@pytest.mark.parametrize("meta", ["a text", ["a", {"list": 1}], 5, 1.5, True], ids=repr)
def test_any_entry_meta_is_kept(meta: Any) -> None:
    lines = HEADER + b"\n" + having(meta=meta)
    (entry,) = read_manifest([lines]).entries

    assert (entry.meta, entry.user_meta) == (meta, {})
    assert json.loads(entry_line(entry))["meta"] == json.loads(canonical_entry(entry))["meta"] == meta


@pytest.mark.parametrize("meta", [None, "", [], 0, False], ids=repr)
def test_empty_entry_meta_is_none(meta: Any) -> None:
    found = [*read_manifest([HEADER + b"\n" + having(meta=meta) + b"\n" + without("meta").replace(b"\\u00ea", b"z")]).entries]

    assert [entry.meta for entry in found] == [{}, {}]


def test_readable_meta_is_writable() -> None:
    outcomes = set()
    for depth in (200, 253, 254, 255, 256, 500, *range(900, 1100, 20)):
        line = having(meta=0).replace(b'"meta": 0', b'"meta": ' + b'{"a": ' * depth + b"1" + b"}" * depth)
        try:
            entries = list(read_manifest([HEADER + b"\n" + line]).entries)
        except ManifestError as error:
            assert str(error).startswith("line 2: ")  # noqa: PT017
            outcomes.add("refused")
        else:
            at_depth(100, lambda entries=entries: written({}, entries))
            outcomes.add("written")

    assert outcomes == {"refused", "written"}


def at_depth(depth: int, call: Callable[[], object]) -> None:
    """Call something from a deeper stack than that of a test."""
    if depth:
        at_depth(depth - 1, call)
    else:
        call()


# Lines without an end.

MIB = 1024 * 1024


class Endless:
    """Chunks of 1 MiB of a line of 100 MiB, that are counted as they are taken."""

    def __init__(self, beginning: bytes) -> None:
        self.taken = 0
        self._beginning = beginning

    def __iter__(self) -> Iterator[bytes]:
        yield self._beginning
        for _ in range(100):
            self.taken += MIB
            yield b"x" * MIB


@pytest.mark.parametrize(
    ("beginning", "number"),
    [
        pytest.param(b"", 1, id="no-json"),
        pytest.param(b'{"message": "', 1, id="header"),
        pytest.param(HEADER + b"\n" + LINE + b'\n{"logical_key": "', 3, id="entry"),
    ],
)
def test_long_line_refused_at_16_mib(beginning: bytes, number: int) -> None:
    chunks = Endless(beginning)
    with pytest.raises(ManifestError, match=f"^line {number}: longer than 16,777,216 bytes"):
        list(read_manifest(chunks).entries)

    assert 16 * MIB <= chunks.taken <= 17 * MIB


def header_of(size: int) -> bytes:
    """Return a header of so many bytes."""
    return b'{"message": "' + b"x" * (size - 15) + b'"}'


@pytest.mark.parametrize("step", [64 * 1024, MIB, 32 * MIB], ids=["64-kib", "1-mib", "whole"])
def test_line_limit_is_16_mib(step: int) -> None:
    fits, too_long = (header_of(size) + b"\n" for size in (16 * MIB, 16 * MIB + 1))

    assert len(read_manifest(fits[at : at + step] for at in range(0, len(fits), step)).header["message"]) == 16 * MIB - 15
    with pytest.raises(ManifestError, match="^line 1: longer than 16,777,216 bytes"):
        read_manifest(too_long[at : at + step] for at in range(0, len(too_long), step))


# Manifests that were damaged on their way.


def small() -> tuple[TopHash, bytes]:
    out = io.BytesIO()
    header = make_header("é", {"a": 1})
    summary = write_manifest(header, [ENTRY, OTHER], out, {DirectoryKey("a/"): {"x": "é"}})
    return summary.top_hash, out.getvalue()


def content(lines: bytes, name: TopHash | None = None) -> tuple[object, ...] | None:
    """Read a manifest; None stands for one that was refused."""
    try:
        manifest = read_manifest([lines], name)
        return dict(manifest.header), list(manifest.entries), dict(manifest.directories)
    except ManifestError:
        return None


def test_truncated_is_refused() -> None:
    name, lines = small()
    whole = content(lines, name)

    assert whole is not None
    assert [content(lines[:stop], name) for stop in range(len(lines))] == [None] * (len(lines) - 1) + [whole]


def test_truncated_keeps_whole_lines() -> None:
    """Refuse a truncated manifest or read whole lines only, when its top hash is unknown."""
    _, lines = small()
    edges = {stop for stop in range(1, len(lines)) if b"\n" in lines[stop - 1 : stop + 1]}
    read = {stop for stop in range(len(lines)) if content(lines[:stop]) is not None}

    assert read == edges


def test_bit_flip_refused_or_same() -> None:
    name, lines = small()
    whole = content(lines, name)
    assert whole is not None
    header, entries, _ = whole

    for at, bit in itertools.product(range(len(lines)), range(8)):
        changed = content(lines[:at] + bytes([lines[at] ^ 1 << bit]) + lines[at + 1 :], name)
        assert changed is None or (changed[0], unplaced(changed[1])) == (header, unplaced(entries))


def unplaced(entries: Any) -> list[Entry]:
    """Return entries without their places, which a top hash does not cover."""
    return [replace(entry, physical_keys=()) for entry in entries]


def test_damage_precedes_all_entries() -> None:
    entries = read_manifest([HEADER + b"\n" + LINE + b"\n{"]).entries

    with pytest.raises(QuiltError, match="^line 3: "):
        next(entries)


def test_wrong_top_hash_at_end() -> None:
    summary, lines = written(make_header(None, None), [ENTRY])

    assert list(read_manifest([lines], summary.top_hash).entries) == [ENTRY]
    for changed in (lines.replace(b'"size": ', b'"size": 1'), lines.replace(b'"v0"', b'"v1"'), lines.partition(b"\n")[0]):
        with pytest.raises(ManifestError, match=f"the manifest {summary.top_hash[:12]} was changed or damaged"):
            list(read_manifest([changed], summary.top_hash).entries)


def test_physical_key_not_in_hash() -> None:
    summary, lines = written(make_header(None, None), [ENTRY])
    moved = lines.replace(ENTRY.physical_keys[0].encode(), b"s3://elsewhere/key")

    (entry,) = read_manifest([moved], summary.top_hash).entries
    assert entry.physical_keys == ("s3://elsewhere/key",)
