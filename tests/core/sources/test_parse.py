from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, overload

import pandas as pd
import pytest

from airflow_quilt.core.errors import LogicalKeyError, MetadataError, QuiltError, SourceError
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.sources.parse import (
    ContentSource,
    DirectoryMeta,
    LocationSource,
    ParsedSource,
    parse_entries,
    remote_locations,
)
from airflow_quilt.core.sources.serializers import serialize


class MappedOutput(Sequence[Any]):
    """The output of mapped tasks: a sequence that is no list and is read item by item."""

    def __init__(self, *items: Any) -> None:
        self._items = items

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)


class AnyPath:
    """A path of another library."""

    def __init__(self, text: Any) -> None:
        self._text = text

    def __fspath__(self) -> Any:
        return self._text


def parsed(entries: object) -> list[ParsedSource]:
    """Return the sources of entries, content as the bytes that are published."""
    sources = parse_entries(entries)
    return [
        content(each.key, serialize(each.key, each.content), each.meta) if isinstance(each, ContentSource) else each
        for each in sources
    ]


def located(key: str, text: str, meta: dict[str, Any] | None = None) -> LocationSource:
    location = PhysicalKey.parse(text)
    return LocationSource(key, location, meta or {}, location.name, text)


def content(key: str, data: bytes, meta: Mapping[str, Any]) -> ContentSource:
    return ContentSource(LogicalKey(key), data, meta)


def directory(key: str, meta: dict[str, Any]) -> DirectoryMeta:
    return DirectoryMeta(DirectoryKey(key), meta)


URI = "quilt+s3://b#package=team/data&path=a"
LOCAL_URI = "quilt+file:///registry#package=team/data"


@pytest.mark.parametrize(
    ("entries", "sources"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param({"a": "/data/a"}, [located("a", "/data/a")], id="local-path"),
        pytest.param({"a": "file:///data/a"}, [located("a", "file:///data/a")], id="file-url"),
        pytest.param(
            {"a": "s3://b/k?versionId=v"},
            [LocationSource("a", PhysicalKey("b", "k", "v"), {}, "k", "s3://b/k?versionId=v")],
            id="object",
        ),
        pytest.param({"a/": "s3://b/p/"}, [LocationSource("a/", PhysicalKey("b", "p/"), {}, "p", "s3://b/p/")], id="prefix"),
        pytest.param({"a/": URI}, [LocationSource("a/", QuiltUri.parse(URI), {}, "", URI)], id="package"),
        pytest.param(
            {"a/": LOCAL_URI},
            [LocationSource("a/", QuiltUri.parse(LOCAL_URI), {}, "", LOCAL_URI)],
            id="package-of-a-local-registry",
        ),
        pytest.param({"a": PurePosixPath("/data/a")}, [located("a", "/data/a")], id="path"),
        pytest.param({"a": AnyPath("s3://b/k")}, [located("a", "s3://b/k")], id="path-like-on-s3"),
        pytest.param({"a": {"path": "/data/a"}}, [located("a", "/data/a")], id="described-path"),
        pytest.param({"a": {"path": AnyPath("/data/a")}}, [located("a", "/data/a")], id="described-path-like"),
        pytest.param({"a": b"hello"}, [content("a", b"hello", {})], id="bytes"),
        pytest.param({"a": bytearray(b"hi")}, [content("a", b"hi", {})], id="bytearray"),
        pytest.param({"a": memoryview(b"hello")[::2]}, [content("a", b"hlo", {})], id="memoryview"),
        pytest.param({"a": {"content": b"hi"}}, [content("a", b"hi", {})], id="described-bytes"),
        pytest.param({"a": {"content": "/é"}}, [content("a", "/é".encode(), {})], id="described-text"),
        pytest.param({"/": "/data/a"}, [located("", "/data/a")], id="root"),
        pytest.param({"a/": ["/x", "/y"]}, [located("a/", "/x"), located("a/", "/y")], id="list"),
        pytest.param({"a/": [["/x"], ["/y"]]}, [located("a/", "/x"), located("a/", "/y")], id="list-of-lists"),
        pytest.param({"a/": []}, [], id="empty-list"),
        pytest.param({"a/": ("/x",)}, [located("a/", "/x")], id="tuple"),
        pytest.param("/data/", [located("", "/data/")], id="one-source-for-the-package"),
        pytest.param(Path("/data"), [located("", "/data")], id="one-path-for-the-package"),
        pytest.param(["/x", Path("/y")], [located("", "/x"), located("", "/y")], id="a-list-for-the-package"),
        pytest.param(URI, [LocationSource("", QuiltUri.parse(URI), {}, "", URI)], id="a-package-for-the-package"),
        pytest.param({"path": "/x"}, [located("", "/x")], id="a-described-source-for-the-package"),
        pytest.param({"path/": "/x"}, [located("path/", "/x")], id="a-directory-named-path"),
        pytest.param({"path": "/x", "b": "/y"}, [located("path", "/x"), located("b", "/y")], id="a-file-named-path"),
        pytest.param({"meta": "/x"}, [located("meta", "/x")], id="a-file-named-meta"),
        pytest.param({"a/": {"meta": {"x": 1}}}, [directory("a/", {"x": 1})], id="metadata-of-a-directory"),
        pytest.param({"a/": {"meta": {}}}, [directory("a/", {})], id="empty-metadata-of-a-directory"),
        pytest.param(
            {"a/": [{"meta": {"x": 1}}, "/x"]}, [directory("a/", {"x": 1}), located("a/", "/x")], id="metadata-among-sources"
        ),
        pytest.param(
            {"a/": {"path": "/x/", "meta": {"x": 1}}},
            [located("a/", "/x/", {"user_meta": {"x": 1}})],
            id="metadata-with-a-directory",
        ),
    ],
)
def test_every_source_is_parsed(entries: object, sources: list[ParsedSource]) -> None:
    assert parsed(entries) == sources


@pytest.mark.parametrize(
    ("value", "data"),
    [
        pytest.param({"b": 1, "a": [None, True]}, b'{"b": 1, "a": [null, true]}', id="mapping"),
        pytest.param({}, b"{}", id="empty-mapping"),
        pytest.param({"meta": {"x": 1}}, b'{"meta": {"x": 1}}', id="mapping-with-only-meta"),
        pytest.param({"path": "/x", "b": 1}, b'{"path": "/x", "b": 1}', id="mapping-with-path-and-more"),
        pytest.param(["/x", "s3://b/k"], b'["/x", "s3://b/k"]', id="list"),
        pytest.param((1, 2), b"[1, 2]", id="tuple"),
        pytest.param(MappedOutput(1, {"x": MappedOutput("y")}), b'[1, {"x": ["y"]}]', id="mapped-output"),
        pytest.param(1, b"1", id="integer"),
        pytest.param(1.5, b"1.5", id="float"),
        pytest.param(True, b"true", id="bool"),
        pytest.param({"content": None}, b"null", id="described-null"),
        pytest.param({"content": 5}, b"5", id="described-number"),
        pytest.param({"content": "as it is"}, b"as it is", id="described-text-stays-text"),
        pytest.param({"content": {"é": 1}}, '{"é": 1}'.encode(), id="described-mapping"),
        pytest.param({"content": ["/x"]}, b'["/x"]', id="described-list"),
        pytest.param({"content": {"path": "/x"}}, b'{"path": "/x"}', id="described-mapping-with-path"),
        pytest.param({"content": {"content": 1}}, b'{"content": 1}', id="described-mapping-with-content"),
    ],
)
def test_json_key_makes_content(value: object, data: bytes) -> None:
    assert parsed({"sub/a.JSON": value}) == [content("sub/a.JSON", data, {})]


@pytest.mark.parametrize("key", ["a/", "run.json/"])
def test_directory_list_is_sources(key: str) -> None:
    assert parsed({key: ["/x", "/y"]}) == [located(key, "/x"), located(key, "/y")]


@pytest.mark.parametrize("key", ["", "parts/"])
def test_mapped_output_is_sources(key: str) -> None:
    output = MappedOutput("/x", Path("/y"), {"path": "/z", "meta": {"n": 3}}, MappedOutput("s3://b/k"))

    assert parsed({key: output} if key else output) == [
        located(key, "/x"),
        located(key, "/y"),
        located(key, "/z", {"user_meta": {"n": 3}}),
        located(key, "s3://b/k"),
    ]


def test_mapped_path_keeps_slash() -> None:
    assert parsed({"parts/": MappedOutput("/x/", AnyPath("s3://b/p/"))}) == [
        located("parts/", "/x/"),
        located("parts/", "s3://b/p/"),
    ]


@pytest.mark.parametrize(
    ("entries", "sources"),
    [
        pytest.param(
            {"parts/{index}/": MappedOutput("/x/part.csv", "/y/part.csv")},
            [located("parts/0/", "/x/part.csv"), located("parts/1/", "/y/part.csv")],
            id="directories",
        ),
        pytest.param({"{index}/{index}.csv": ["/x", "/y"]}, [located("0/0.csv", "/x"), located("1/1.csv", "/y")], id="files"),
        pytest.param(
            {"{index}/": [["/x", "/y"], "/z"]},
            [located("0/", "/x"), located("0/", "/y"), located("1/", "/z")],
            id="a-list-from-each-task",
        ),
        pytest.param(
            {"{index}.json": [[1], {"n": 2}]}, [content("0.json", b"[1]", {}), content("1.json", b'{"n": 2}', {})], id="json"
        ),
        pytest.param(
            {"{index}.bin": [b"x", {"content": "y", "meta": {"n": 1}}]},
            [content("0.bin", b"x", {}), content("1.bin", b"y", {"user_meta": {"n": 1}})],
            id="content-with-metadata",
        ),
        pytest.param({"parts/{index}/": []}, [], id="no-result"),
        pytest.param({"parts/{index}/": "/x"}, [located("parts/{index}/", "/x")], id="no-list"),
        pytest.param({"{index}.json": {"n": 1}}, [content("{index}.json", b'{"n": 1}', {})], id="no-list-but-a-mapping"),
    ],
)
def test_index_numbers_list(entries: object, sources: list[ParsedSource]) -> None:
    assert parsed(entries) == sources


def test_frame_in_format_of_key() -> None:
    frame = pd.DataFrame({"a": [1, 2]})

    assert parsed({"t.csv": frame, "u.json": {"content": frame, "meta": {"n": 1}}}) == [
        content("t.csv", b"a\n1\n2\n", {}),
        content("u.json", b'[{"a":1},{"a":2}]', {"user_meta": {"n": 1}}),
    ]


@pytest.mark.parametrize(
    ("meta", "stored"),
    [({"x": [1, None]}, {"user_meta": {"x": [1, None]}}), ({}, {"user_meta": {}}), (None, {})],
    ids=["some", "empty", "none"],
)
def test_meta_of_path_and_content(meta: object, stored: dict[str, Any]) -> None:
    entries = {"a": {"path": "/x", "meta": meta}, "b": {"content": "x", "meta": meta}, "c.json": {"content": [1], "meta": meta}}

    assert [source.meta for source in parsed(entries)] == [stored, stored, stored]


def test_content_may_resemble_source() -> None:
    (source,) = parsed({"a.json": {"content": {"path": "/x"}, "meta": {"n": 1}}})

    assert source.meta == {"user_meta": {"n": 1}}


@pytest.mark.parametrize("kind", [str, bytes, bytearray], ids=["text", "bytes", "bytearray"])
def test_str_is_location_not_content(kind: type) -> None:
    (source,) = parsed({"a.json": "/x" if kind is str else kind(b"/x")})

    assert isinstance(source, LocationSource if kind is str else ContentSource)


REFUSED = [
    pytest.param({"a": None}, "'a': give a source; it is None", id="none"),
    pytest.param(None, "entries: give a source; it is None", id="nothing-at-all"),
    pytest.param({"a/": ["/x", None]}, "'a/': give a source; it is None", id="none-in-a-list"),
    pytest.param({"a.json": None}, "'a.json': give a source; it is None", id="none-under-a-json-key"),
    pytest.param({"a": {"content": None}}, "'a'", id="content-none"),
    pytest.param({"a": ""}, "'a': an empty str", id="empty-text"),
    pytest.param({"a": "https://x/y"}, "'a': 'https://x/y'", id="https"),
    pytest.param({"a": "s3://b/k?x=y"}, "'a': 's3://b/k\\?x=y'", id="query"),
    pytest.param({"a": "quilt+s3://b"}, "'a': 'quilt\\+s3://b'", id="bad-package-uri"),
    pytest.param({"a": "quilt+s3://b#package=x"}, "'a': package name 'x'", id="bad-package-name"),
    pytest.param({"a": AnyPath(b"/x")}, "'a': give the path b'/x' as a str", id="path-of-bytes"),
    pytest.param({"a": {"path": AnyPath(b"/x")}}, "'a': give the path b'/x' as a str", id="described-path-of-bytes"),
    pytest.param({"a": {"path": "/x", "content": "y"}}, "'a': give path or content, not both", id="path-and-content"),
    pytest.param({"a": {"path": 5}}, "'a': give a path or URL as path", id="path-number"),
    pytest.param({"a": {"path": None}}, "'a': give a path or URL as path", id="path-none"),
    pytest.param({"a": {"path": ["/x"]}}, "'a': give a path or URL as path; it is a list of 1", id="path-list"),
    pytest.param({"a": 5}, "'a': give a path or URL.*; a value of type int is no source", id="number"),
    pytest.param({"a": 1.5}, "'a': give a path or URL.*; a value of type float is no source", id="float"),
    pytest.param({"a": True}, "'a': give a path or URL.*; a value of type bool is no source", id="bool"),
    pytest.param({"a": {"x": 1}}, "'a': give a path or URL.*; a value of type dict is no source", id="mapping"),
    pytest.param({"a": {}}, "'a': give a path or URL.*; a value of type dict is no source", id="empty-mapping"),
    pytest.param({"a": {"meta": {}}}, "'a': give a path or URL.*; a value of type dict is no source", id="only-meta"),
    pytest.param(
        {"/": {"meta": {"x": 1}}},
        "entries: give a path or URL.*; a value of type dict is no source",
        id="metadata-of-the-whole-package",
    ),
    pytest.param(
        [{"meta": {"x": 1}}],
        "entries: give a path or URL.*; a value of type dict is no source",
        id="metadata-of-the-whole-package-in-a-list",
    ),
    pytest.param(
        {"a/": {"meta": {}, "x": 1}},
        "'a/': give a path or URL.*; a value of type dict is no source",
        id="metadata-of-a-directory-and-more",
    ),
    pytest.param(
        {"a": {"path": "/x", "mata": {}}}, "'a': give a path or URL.*; a value of type dict is no source", id="misspelt-meta"
    ),
    pytest.param({"a": ["/x", "/y"]}, "'a': give a path or URL.*; a list of 2 is no source", id="list-under-a-file-key"),
    pytest.param(
        {"{index}": [["/x"], "/y"]}, "'0': give a path or URL.*; a list of 1 is no source", id="list-under-a-numbered-file-key"
    ),
    pytest.param(
        {"a": MappedOutput("/x")},
        "'a': give a path or URL.*; a value of type MappedOutput is no source",
        id="mapped-output-under-a-file-key",
    ),
    pytest.param({"a": {"/x"}}, "'a': give a path or URL.*; a value of type set is no source", id="set"),
    pytest.param({"a": object()}, "'a': give a path or URL.*; a value of type object is no source", id="object"),
    pytest.param(
        {"a/": (x for x in ["/x"])}, "'a/': give a path or URL.*; a value of type generator is no source", id="generator"
    ),
    pytest.param({"a": {"content": 5}}, "'a': give a path or URL.*; a value of type int is no source", id="described-number"),
    pytest.param({"a": {"content": ["x"]}}, "'a': give a path or URL.*; a list of 1 is no source", id="described-list"),
    pytest.param({"a/": {"content": ["/x"]}}, "'a/'", id="described-list-under-a-directory"),
    pytest.param({"a": {"content": Path("/x")}}, "'a'", id="described-content-that-is-a-path"),
    pytest.param({"a": {"content": "\ud800"}}, "'a'", id="text-that-is-no-unicode"),
    pytest.param({"a/": b"x"}, "'a/': content needs the key of a file", id="bytes-for-a-directory"),
    pytest.param({"": "/x"}, "'': a logical key is empty", id="empty-key"),
    pytest.param({"/": b"x"}, "entries: content needs the key of a file", id="bytes-for-the-root"),
    pytest.param(b"x", "entries: content needs the key of a file", id="bytes-for-the-package"),
    pytest.param({"a/": [b"x"]}, "'a/': content needs the key of a file", id="bytes-in-a-list"),
    pytest.param({"a/": {"content": "x"}}, "'a/': content needs the key of a file", id="text-for-a-directory"),
    pytest.param({"a/": pd.DataFrame()}, "'a/': content needs the key of a file", id="frame-for-a-directory"),
    pytest.param({"a": pd.DataFrame()}, "'a': a DataFrame needs a key that ends in", id="frame-without-a-suffix"),
    pytest.param({"a.csv": pd.Series([1])}, "'a.csv': give a path or URL.*; a value of type Series is no source", id="series"),
    pytest.param({"a.json": {"x": object()}}, "'a.json': its content is not JSON", id="not-json"),
    pytest.param({"a.json": float("nan")}, "'a.json': its content is not JSON", id="nan"),
    pytest.param({"a.json": ["\ud800"]}, "'a.json': its content is not JSON", id="json-that-is-no-unicode"),
    pytest.param({"a.json": {(1, 2): 3}}, "'a.json': its content is not JSON", id="json-with-a-tuple-as-key"),
    pytest.param({5: "/x"}, "5: give the logical key as a str; it is int", id="key-number"),
    pytest.param({None: "/x"}, "None: give the logical key as a str", id="key-none"),
    pytest.param({b"a": "/x"}, "b'a': give the logical key as a str", id="key-bytes"),
]


@pytest.mark.parametrize(("entries", "words"), REFUSED)
def test_bad_source_names_key(entries: object, words: str) -> None:
    with pytest.raises(SourceError, match=words if words.startswith("entries") else f"entry {words}"):
        parsed(entries)


def test_list_under_file_names_cure() -> None:
    with pytest.raises(SourceError, match=r"end the key in '/', or number its sources, as in 'part-\{index\}\.csv'"):
        parsed({"a.csv": ["/x", "/y"]})


@pytest.mark.parametrize("key", ["../a", "a//b", "a//", "/a", "a/../b", ".", "./", "a\ud800"])
def test_bad_logical_key_refused(key: str) -> None:
    with pytest.raises(LogicalKeyError):
        parsed({key: "/x"})


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        pytest.param([1], "'a': meta: expected a mapping, got list", id="list"),
        pytest.param("x", "'a': meta: expected a mapping, got str", id="text"),
        pytest.param({"x": {"y": float("nan")}}, "'a': meta.x.y: nan", id="nan"),
        pytest.param({1: 2}, "'a': meta: the key 1 is int", id="number-as-key"),
    ],
)
@pytest.mark.parametrize("source", [{"path": "/x"}, {"content": "x"}], ids=["path", "content"])
def test_bad_meta_names_key(source: dict[str, Any], meta: Any, words: str) -> None:
    with pytest.raises(MetadataError) as caught:
        parsed({"a": source | {"meta": meta}})

    assert f"entry {words}" in str(caught.value)


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        pytest.param(None, "'a/': meta: expected a mapping, got NoneType", id="none"),
        pytest.param([1], "'a/': meta: expected a mapping, got list", id="list"),
        pytest.param({"x": {"y": float("nan")}}, "'a/': meta.x.y: nan", id="nan"),
    ],
)
def test_bad_directory_meta_named(meta: Any, words: str) -> None:
    with pytest.raises(MetadataError) as caught:
        parsed({"a/": {"meta": meta}})

    assert f"entry {words}" in str(caught.value)


def test_sources_are_lazy() -> None:
    sources = parse_entries({"a": "/x", "b": None})

    assert next(sources) == located("a", "/x")
    with pytest.raises(QuiltError, match="'b'"):
        next(sources)


@pytest.mark.parametrize(
    "entries",
    [
        {"a": "s3://b/a", "b": "/local", "c/": ["s3://b/c/", URI, "/local"], "d": {"path": "s3://b/d", "meta": {}}},
        {"a.json": ["s3://b/a"], "b.json": {"path": "s3://b/b", "more": 1}, "c": {"content": "s3://b/c"}, "d/": {"meta": {}}},
        {"a/": MappedOutput("s3://b/a", {"path": URI}), "b": b"s3://b/b", "c": Path("/local"), "d": {"path": Path("/local")}},
        "s3://b",
        {"path": URI},
        [URI, "s3://b/a?versionId=1"],
    ],
)
def test_remote_as_published(entries: object) -> None:
    locations = [source.location for source in parse_entries(entries) if isinstance(source, LocationSource)]

    assert list(remote_locations(entries)) == [each for each in locations if isinstance(each, QuiltUri) or not each.is_local]


@pytest.mark.parametrize(
    "skipped",
    [
        None,
        5,
        "",
        "s3:/b/k",
        "https://x/y",
        "relative/path",
        AnyPath(b"/x"),
        {"path": "/x", "content": "y"},
        {"path": ["s3://b/inside"]},
        {"path": "s3://b/meta", "meta": 5},
        {"content": ["/x"]},
        ["s3://b/inside"],
    ],
)
def test_skipped_hides_no_location(skipped: object) -> None:
    assert list(remote_locations({"a": skipped, "b/": "s3://b/k"})) == [PhysicalKey("b", "k")]


def test_remote_needs_no_content() -> None:
    frame = type("DataFrame", (), {"__module__": "pandas", "to_csv": lambda *_, **__: pytest.fail("it was written")})()

    assert list(remote_locations({"a.csv": frame, "b.csv": {"content": frame}, "c": "s3://b/k"})) == [PhysicalKey("b", "k")]
