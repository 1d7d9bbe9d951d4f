"""Parts of hostile input, and the bounds in time and memory that its readers must keep."""

import contextlib
import json
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from airflow_quilt.core.errors import QuiltError

T = TypeVar("T")

MIB: Final = 1024 * 1024
_WAITING: Final = 10
_PAGE: Final = resource.getpagesize()


class TookTooLongError(BaseException):
    """Work did not end in its time; no ``except Exception`` of that work may hide it."""


@contextlib.contextmanager
def bounded(seconds: float = 10.0, memory: int = 1024 * MIB) -> Iterator[None]:
    """Let work, on the main thread, take so much time, and so much memory beyond that of the process, at most.

    The time is that of the processor, which does not depend on other processes; work that only waits gets more.
    """
    signals = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, _WAITING * seconds)}
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    data = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * _PAGE
    before = {number: signal.signal(number, _ring) for number in signals}
    resource.setrlimit(resource.RLIMIT_DATA, (data + memory, hard))
    for timer, most in signals.values():
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for number, (timer, _) in signals.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _ring(number: int, _frame: object) -> None:
    raise TookTooLongError(f"not done in time ({signal.Signals(number).name})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def value_or_refusal(read: Callable[[], T], seconds: float = 10.0, memory: int = 1024 * MIB) -> T | QuiltError:
    """Return the result of reading, or the core's own error; any other error passes through, and so fails the test."""
    try:
        with bounded(seconds, memory):
            return read()
    except QuiltError as error:
        if any(isinstance(each, MemoryError) for each in _chain(error)):
            raise AssertionError("it was the memory that ended it") from error
        str(error).encode(errors="backslashreplace")
        return error


# Texts.

_SURROGATES: Final = "\ud800\udbff\udfff\udcff"
ANY_TEXT: Final = st.text(st.characters() | st.sampled_from(_SURROGATES), max_size=30)

_PIECES: Final = (
    *("s3://", "S3://", "s3:", "file://", "file:///", "file:", "quilt+s3://", "quilt+file://", "http://", "//localhost/"),
    *("#", "#package=", "package=team/data", "&path=", "&catalog=", "&package=", "?versionId=", "?", "&", "=", ";", "@", ":"),
    *(":latest", "@" + "0a" * 32, "latest", "0a" * 32, "0a0a0a", "1700000000", "2024-01-02T03:04:05Z", "2024-W01", "-", "+"),
    *("bucket", "team", "data", "a", ".", "..", "/", "//", "/../", "~", "~root", "\\", "C:\\", ".quilt/", "*", "[", "]", "[::1]"),
    *("%", "%00", "%2F", "%2e%2e", "%ff", "%ed%a0%80", "%09", "%zz", "%26", "%2B", "%23", "%25"),
    *("\0", "\t", "\r", "\n", " ", "\x1f", "\x7f", "\x85", "\u2028", "\ufeff", "\u202e", "é", "e\u0301", "\u2100", "😀", "٣"),
    *_SURROGATES,
)
_LONG: Final = st.builds(lambda piece, count: piece * count, st.sampled_from(_PIECES), st.sampled_from([0, 2, 250, 3000]))

TEXTS: Final = st.lists(st.sampled_from(_PIECES) | _LONG | ANY_TEXT, max_size=8).map("".join)
"""Texts that resemble addresses, names, hashes and times."""

NOT_TEXTS: Final = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=9) | st.just(("team", "data"))


# Bytes that were something right once.


def _lines(*records: object) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def _entry(key: str, **changes: object) -> dict[str, Any]:
    digest = {"type": "sha2-256-chunked", "value": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}
    return {"logical_key": key, "physical_keys": ["s3://b/k?versionId=v"], "size": 5, "hash": digest, "meta": {}} | changes


_HEADER: Final = {
    "version": "v0",
    "user_meta": {"a": [1, {"b": None}]},
    "workflow": {"id": "w", "config": "s3://b/c"},
    "message": "é",
}

MANIFESTS: Final = (
    _lines({"version": "v0", "message": None}),
    _lines(_HEADER, _entry("a/b.txt"), _entry("a.txt", meta={"user_meta": {"x": 1.5e300}}), _entry("b", size=2**62)),
    _lines(
        _HEADER,
        {"logical_key": "a/", "meta": {"x": "y"}},
        _entry("a/b"),
        _entry("a/c/d", physical_keys=["file:///a%20b", "s3://b"]),
    ),
    _lines({}, _entry("~"), _entry("é", physical_keys=["relative/path"])),
)

_TOKENS: Final = st.sampled_from(
    [
        *(b"", b"\n", b"\r\n", b" ", b"\t", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
        *(b'"', b"'", b"\\", b"\\ud800", b"\\u0000", b"{", b"}", b"[", b"]", b"{}", b"[]", b":", b": ", b",", b"- ", b"#", b"? "),
        *(b"null", b"true", b"NaN", b"-Infinity", b"0", b"-1", b"1e3", b"1e999", b"1.5", b"9" * 40, b"9" * 4301, b"0x" + b"f" * 5000),
        *(b"..", b"../", b"/", b".quilt/", b"file:///etc/passwd", b'"size": -1', b'"meta": 5', b'"physical_keys": []', b'"hash": {}'),
        *(b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system ", b"!!binary ", b"!!set ", b"!!timestamp ", b"---\n", b"...\n", b"|\n", b"> "),
        *(b"[" * 3000, b'{"a":' * 3000, b"a/" * 3000, b"1:" * 3000, b'{"$ref": "#"}', b'{"$ref": "http://127.0.0.1:1/"}'),
    ]
) | st.binary(max_size=4)  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn, *rights: bytes) -> bytes:
    """Bytes that were right: parts of them replaced, dropped, doubled or swapped."""
    data = draw(st.sampled_from(rights))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 5]))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 0, 1, 1, 2, 9, 60, 10_000])))
        match draw(st.sampled_from(["replace", "drop", "double", "move"])):
            case "replace":
                data = data[:start] + draw(_TOKENS) + data[stop:]
            case "drop":
                data = data[:start] + data[stop:]
            case "double":
                data = data[:stop] + data[start:]
            case _:
                data = data[start:stop] + data[:start] + data[stop:]
    return data


ANY_BYTES: Final = st.lists(_TOKENS | st.binary(max_size=20) | ANY_TEXT.map(lambda text: text.encode(errors="replace"))).map(
    b"".join
)


# Workflows.

CONFIG: Final = b"""\
version: {base: '1.1.0', catalog: '1.1'}
is_workflow_required: true
default_workflow: alpha
workflows:
  alpha: &rules
    name: Alpha
    description: "d\\u00e9"
    handle_pattern: ^(team|group)/
    is_message_required: false
    metadata_schema: meta
    entries_schema: entries
  beta: {<<: *rules, name: Beta, catalog: {x: [1, 2.5, 2024-01-02]}}
schemas:
  meta: {url: 's3://rules/schema.json?versionId=v1'}
  entries: {url: "s3://rules/schema.json"}
successors:
  s3://other: {title: Other, copy_data: false}
"""


def _mostly(right: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(lambda number: right if number else wrong)


_URLS: Final = _mostly(st.sampled_from(["s3://rules/schema.json", "s3://rules/schema.json?versionId=v1"]), TEXTS)
_RULES: Final = st.fixed_dictionaries(
    {"name": st.just("A")},
    optional={
        "handle_pattern": st.sampled_from(["^team/", "(", ""]) | ANY_TEXT,
        "metadata_schema": _mostly(st.just("meta"), st.just("gone")),
        "entries_schema": _mostly(st.just("meta"), st.just("gone")),
        "is_message_required": st.booleans(),
        "description": ANY_TEXT.map(lambda text: text or "-"),
        "catalog": st.floats() | st.integers(-(10**400), 10**400),
    },
)
CONFIGS: Final = st.fixed_dictionaries(
    {
        "version": _mostly(st.sampled_from(["1", "1.1.0", {"base": "1"}]), TEXTS | st.just("1." + "9" * 30)),
        "workflows": _mostly(st.fixed_dictionaries({"alpha": _RULES}), st.dictionaries(TEXTS, _RULES, max_size=2)),
        "default_workflow": _mostly(st.just("alpha"), TEXTS),
        "schemas": st.fixed_dictionaries({"meta": st.fixed_dictionaries({"url": _URLS})}),
    }
).map(lambda config: json.dumps(config).encode())
"""Configs that are nearly right; YAML takes JSON as it is."""

_NUMBERS: Final = (
    st.sampled_from([0, 1, -1, 2, 10**30, -(10**400), 0.5, 1e308, -0.0, 5e-324, 1e16]) | st.integers(-5, 300) | st.floats()
)
_VALUES: Final = st.none() | st.booleans() | _NUMBERS | ANY_TEXT | st.sampled_from(["#", "", "string", "date-time", "a" * 3000])
_PATTERNS: Final = (
    st.sampled_from(
        [
            "",
            "^a",
            "[",
            "(",
            "a{99999999999999999999}",
            "(?P<a>x)(?P<a>y)",
            "\\",
            "(?s:.)",
            "\\p{L}",
            "a{2,1}",
            "(?i)é",
            "[^/]+/[^/]+$",
            "(" * 500,
        ]
    )
    | ANY_TEXT
)
_DIALECTS: Final = st.sampled_from(
    [
        "http://json-schema.org/draft-07/schema#",
        "http://json-schema.org/draft-04/schema#",
        "https://json-schema.org/draft/2020-12/schema",
        "http://127.0.0.1:1/",
        "",
    ]
)
_REFERENCES: Final = st.sampled_from(
    ["#", "#/definitions/a", "http://127.0.0.1:1/schema.json", "file:///etc/passwd", "a b", "http://["]
)
_FLAT: Final[dict[str, st.SearchStrategy[Any]]] = {
    "type": st.sampled_from(["object", "array", "string", "number", "integer", "null", "nothing", ["string", "null"], []]),
    **dict.fromkeys(["enum", "examples"], st.lists(_VALUES, max_size=3)),
    **dict.fromkeys(["const", "default", "title", "$comment", "x"], _VALUES),
    **dict.fromkeys(["multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"], _NUMBERS),
    **dict.fromkeys(["maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"], _NUMBERS),
    "pattern": _PATTERNS,
    "uniqueItems": st.booleans(),
    "required": st.lists(ANY_TEXT, max_size=3),
    "format": st.sampled_from(["date-time", "regex", "email", "uri", "ipv6", "nothing"]),
    **dict.fromkeys(["contentEncoding", "contentMediaType"], ANY_TEXT),
    **dict.fromkeys(["$id", "$ref", "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor"], _REFERENCES),
    "$schema": _DIALECTS,
}


def _keywords(inner: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    many = st.lists(inner, max_size=2)
    named = st.dictionaries(_PATTERNS, inner, max_size=2)
    return _FLAT | {
        **dict.fromkeys(
            ["not", "if", "then", "else", "contains", "propertyNames", "additionalProperties", "unevaluatedItems"], inner
        ),
        **dict.fromkeys(["allOf", "anyOf", "oneOf", "prefixItems"], many),
        **dict.fromkeys(["properties", "patternProperties", "definitions", "$defs", "dependentSchemas"], named),
        **dict.fromkeys(["items", "additionalItems", "extends", "disallow"], inner | many),
        "dependencies": st.dictionaries(ANY_TEXT, inner | st.lists(ANY_TEXT, max_size=2), max_size=2),
    }


@st.composite
def _schemas(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    keywords = _keywords(inner)
    chosen = draw(st.lists(st.sampled_from(sorted(keywords)), unique=True, max_size=4))
    return {keyword: draw(keywords[keyword] if draw(st.integers(0, 9)) else _VALUES) for keyword in chosen}


SCHEMAS: Final = st.recursive(st.booleans() | _VALUES, _schemas, max_leaves=5)
"""JSON schemas and near misses."""

INSTANCES: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT | st.just("a"), inner, max_size=3),
    max_leaves=5,
)
