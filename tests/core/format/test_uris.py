from pathlib import Path
from urllib.parse import quote, urlencode, urlunparse

import pytest

from airflow_quilt.core.errors import LocationError, LogicalKeyError, PackageNameError, TopHashError
from airflow_quilt.core.format.names import PackageName, TopHash, is_quilt_uri
from airflow_quilt.core.format.quilt_uri import Pin, QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.storage.paths import resolve_path, resolve_registry

HASH = TopHash("0123456789abcdef" * 4)

S3_KEYS = [
    pytest.param(PhysicalKey("b", "k"), "s3://b/k", id="plain"),
    pytest.param(PhysicalKey("b", "a/b.txt"), "s3://b/a/b.txt", id="path"),
    pytest.param(PhysicalKey("b", "a b"), "s3://b/a%20b", id="space"),
    pytest.param(PhysicalKey("b", "é/ü"), "s3://b/%C3%A9/%C3%BC", id="unicode"),
    pytest.param(PhysicalKey("b", "a+b"), "s3://b/a%2Bb", id="plus"),
    pytest.param(PhysicalKey("b", "100%"), "s3://b/100%25", id="percent"),
    pytest.param(PhysicalKey("b", "a%20b"), "s3://b/a%2520b", id="percent-that-looks-escaped"),
    pytest.param(PhysicalKey("b", "a?b"), "s3://b/a%3Fb", id="question-mark"),
    pytest.param(PhysicalKey("b", "a#b"), "s3://b/a%23b", id="hash"),
    pytest.param(PhysicalKey("b", "a&b=c"), "s3://b/a%26b%3Dc", id="ampersand"),
    pytest.param(PhysicalKey("b", "~a-b_c.d"), "s3://b/~a-b_c.d", id="unreserved"),
    pytest.param(PhysicalKey("b", "a\nb\tc"), "s3://b/a%0Ab%09c", id="control-characters"),
    pytest.param(PhysicalKey("b", "a/"), "s3://b/a/", id="trailing-slash"),
    pytest.param(PhysicalKey("b", "/a"), "s3://b//a", id="leading-slash"),
    pytest.param(PhysicalKey("b", "//a//b//"), "s3://b///a//b//", id="many-slashes"),
    pytest.param(PhysicalKey("b", "a/../b/."), "s3://b/a/../b/.", id="dots-are-not-resolved"),
    pytest.param(PhysicalKey("b", ""), "s3://b/", id="whole-bucket"),
    pytest.param(PhysicalKey("b", "k", "v1"), "s3://b/k?versionId=v1", id="version"),
    pytest.param(PhysicalKey("b", "k", "a+b/c=d e"), "s3://b/k?versionId=a%2Bb%2Fc%3Dd+e", id="odd-version"),
    pytest.param(PhysicalKey("b", "a?versionId=x", "v"), "s3://b/a%3FversionId%3Dx?versionId=v", id="version-in-the-key"),
]


@pytest.mark.parametrize(("key", "text"), S3_KEYS)
def test_s3_key_prints_as_in_quilt(key: PhysicalKey, text: str) -> None:
    query = urlencode({"versionId": key.version_id}) if key.version_id is not None else ""

    assert str(key) == text
    assert str(key) == urlunparse(("s3", key.bucket, quote("/" + key.key), "", query, ""))


@pytest.mark.parametrize(("key", "text"), S3_KEYS)
def test_s3_url_round_trips(key: PhysicalKey, text: str) -> None:
    assert PhysicalKey.parse(text) == key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param("s3://b", PhysicalKey("b", ""), id="no-slash"),
        pytest.param("s3://b/a b+c", PhysicalKey("b", "a b+c"), id="not-escaped"),
        pytest.param("s3://b/é", PhysicalKey("b", "é"), id="unicode-as-it-is"),
        pytest.param("s3://b/k?", PhysicalKey("b", "k"), id="empty-query"),
        pytest.param("s3://b/k?versionId=a%2Bb", PhysicalKey("b", "k", "a+b"), id="escaped-version"),
    ],
)
def test_loose_s3_urls_accepted(text: str, key: PhysicalKey) -> None:
    assert PhysicalKey.parse(text) == key


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param("s3:", "no bucket", id="only-the-scheme"),
        pytest.param("s3://", "no bucket", id="no-bucket"),
        pytest.param("s3:///key", "no bucket", id="key-without-bucket"),
        pytest.param("s3:bucket/key", "no bucket", id="no-slashes"),
        pytest.param("s3://b/k?region=us", "region=us", id="other-query"),
        pytest.param("s3://b/k?versionId=v&x=y", "versionId=v&x=y", id="one-more-query"),
        pytest.param("s3://b/k?versionId=v&versionId=w", "one versionId", id="two-versions"),
        pytest.param("s3://b/k?versionid=v", "versionid=v", id="wrong-case"),
        pytest.param("s3://b/a#b", "%23", id="fragment"),
        pytest.param("s3://[b/k", "s3://[b/k", id="bad-address"),
        pytest.param("/a\0b", "NUL", id="nul"),
        pytest.param("file:relative", "absolute", id="relative-file-url"),
        pytest.param("file:~/a", "absolute", id="home-in-a-file-url"),
        pytest.param("file://host/a", "absolute", id="file-on-a-host"),
        pytest.param("file:///a?b", "%3F", id="query-in-a-file-url"),
        pytest.param("file:///a#b", "%23", id="fragment-in-a-file-url"),
        pytest.param("https://example.com/a", "s3://bucket/key", id="https"),
        pytest.param("gs://bucket/a", "s3://bucket/key", id="other-store"),
        pytest.param("S3://bucket/a", "s3://bucket/key", id="upper-case-scheme"),
        pytest.param("s3://b\ud800/k", "Unicode", id="half-a-pair-in-a-bucket"),
        pytest.param("s3://b/k\ud800", "Unicode", id="half-a-pair-in-a-key"),
        pytest.param("s3://b/k?versionId=\ud800", "Unicode", id="half-a-pair-in-a-version"),
        pytest.param("s3://b/k\udcff", "Unicode", id="a-byte-that-is-no-unicode-in-a-key"),
        pytest.param("file:///\ud800", "Unicode", id="half-a-pair-in-a-file-url"),
        pytest.param("/\ud800", "Unicode", id="half-a-pair-in-a-path"),
        pytest.param("a/b", "absolute", id="relative-path"),
        pytest.param("~/a", "absolute", id="home"),
    ],
)
def test_bad_location_names_part(text: str, words: str) -> None:
    with pytest.raises(LocationError) as caught:
        PhysicalKey.parse(text)

    assert words in str(caught.value)


def test_escaped_nul_is_refused() -> None:
    with pytest.raises(LocationError):
        PhysicalKey.parse("file:///a%00b")


@pytest.mark.parametrize("text", ["s3://b/a\tb", "s3://b/a\nb", "s3://b/k\n", "s3://b/k?versionId=v\n"])
def test_tab_or_newline_not_dropped(text: str) -> None:
    try:
        key = PhysicalKey.parse(text)
    except LocationError:
        return
    assert str(key) not in {"s3://b/ab", "s3://b/k", "s3://b/k?versionId=v"}


def test_empty_version_is_none() -> None:
    try:
        key = PhysicalKey.parse("s3://b/k?versionId=")
    except LocationError:
        return
    assert key == PhysicalKey("b", "k")


LOCAL_NAMES = [
    pytest.param("plain.txt", "plain.txt", id="plain"),
    pytest.param("a b.txt", "a%20b.txt", id="space"),
    pytest.param("é.txt", "%C3%A9.txt", id="unicode"),
    pytest.param("a+b", "a%2Bb", id="plus"),
    pytest.param("100%", "100%25", id="percent"),
    pytest.param("a?b#c", "a%3Fb%23c", id="question-mark-and-hash"),
    pytest.param("directory/", "directory/", id="directory"),
]


@pytest.mark.parametrize(("name", "printed"), LOCAL_NAMES)
def test_local_path_round_trips(tmp_path: Path, name: str, printed: str) -> None:
    key = PhysicalKey.parse(f"{tmp_path}/{name}")

    assert key == PhysicalKey(None, f"{tmp_path.resolve()}/{name}")
    assert str(key) == f"{tmp_path.resolve().as_uri()}/{printed}"
    assert PhysicalKey.parse(str(key)) == key


def test_disk_root_is_directory() -> None:
    root = PhysicalKey.parse("/")

    assert str(root) == "file:///"
    assert root.is_prefix
    assert root.join("a") == PhysicalKey(None, "/a")
    assert PhysicalKey.parse("file:///") == root


def test_localhost_is_local(tmp_path: Path) -> None:
    assert PhysicalKey.parse(f"file://localhost{tmp_path}/a") == PhysicalKey.parse(f"{tmp_path}/a")


def test_non_unicode_path_round_trips(tmp_path: Path) -> None:
    key = resolve_path(f"{tmp_path}/\udcff.bin")

    assert str(key).endswith("/%FF.bin")
    assert PhysicalKey.parse(str(key)) == key
    assert PhysicalKey.parse(f"file://{tmp_path}/\udcff.bin") == key


def test_escaped_utf8_path_is_plain(tmp_path: Path) -> None:
    assert resolve_path(f"{tmp_path}/\udcc3\udca9") == resolve_path(f"{tmp_path}/é")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("//", "/"),
        ("//.", "/"),
        ("/a//./b", "/a/b"),
        ("/a/../b", "/a/../b"),
        ("//a", "/a"),
        ("//a/", "/a/"),
        ("file:////a", "/a"),
    ],
)
def test_path_is_normalised(text: str, plain: str) -> None:
    assert PhysicalKey.parse(text) == PhysicalKey(None, plain)


@pytest.mark.parametrize(
    ("key", "name", "is_prefix"),
    [
        pytest.param(PhysicalKey("b", "a/b.txt"), "b.txt", False, id="object"),
        pytest.param(PhysicalKey("b", "a/b/"), "b", True, id="prefix"),
        pytest.param(PhysicalKey("b", ""), "", True, id="bucket"),
        pytest.param(PhysicalKey(None, "/a/b"), "b", False, id="file"),
        pytest.param(PhysicalKey(None, "/a/b/"), "b", True, id="directory"),
    ],
)
def test_name_and_is_prefix(key: PhysicalKey, name: str, is_prefix: bool) -> None:  # noqa: FBT001
    assert (key.name, key.is_prefix) == (name, is_prefix)


@pytest.mark.parametrize(
    ("base", "joined"),
    [
        pytest.param(PhysicalKey("b", ""), PhysicalKey("b", "x/y"), id="bucket"),
        pytest.param(PhysicalKey("b", "a"), PhysicalKey("b", "a/x/y"), id="prefix-without-slash"),
        pytest.param(PhysicalKey("b", "a/"), PhysicalKey("b", "a/x/y"), id="prefix"),
        pytest.param(PhysicalKey("b", "a", "v"), PhysicalKey("b", "a/x/y"), id="a-version-does-not-pass-on"),
        pytest.param(PhysicalKey(None, "/a"), PhysicalKey(None, "/a/x/y"), id="directory"),
        pytest.param(PhysicalKey(None, "/"), PhysicalKey(None, "/x/y"), id="root"),
    ],
)
def test_join_adds_one_slash(base: PhysicalKey, joined: PhysicalKey) -> None:
    assert base.join("x/y") == joined


def test_at_version_keeps_key() -> None:
    key = PhysicalKey("b", "k", "v1")

    assert key.at_version("v2") == PhysicalKey("b", "k", "v2")
    assert key.at_version(None) == PhysicalKey("b", "k")


@pytest.mark.parametrize("text", ["s3://bucket", "s3://bucket/"])
def test_s3_registry_is_a_bucket(text: str) -> None:
    location = resolve_registry(text)

    assert location.root == PhysicalKey("bucket", "")
    assert not location.is_local
    assert str(location) == "s3://bucket"


@pytest.mark.parametrize("text", ["s3://bucket/prefix", "s3://bucket/prefix/", "s3://bucket//", "s3://bucket?versionId=v"])
def test_registry_prefix_refused(text: str) -> None:
    with pytest.raises(LocationError) as caught:
        resolve_registry(text)

    assert "write 's3://bucket'" in str(caught.value)
    assert "'dest'" in str(caught.value)


@pytest.mark.parametrize("ending", ["", "/"])
def test_local_registry_spellings(tmp_path: Path, ending: str) -> None:
    locations = {resolve_registry(f"{tmp_path}/reg{ending}"), resolve_registry(f"{tmp_path.as_uri()}/reg{ending}")}

    assert [str(location) for location in locations] == [f"{tmp_path.resolve().as_uri()}/reg"]
    assert all(location.is_local for location in locations)


def test_whole_disk_as_registry() -> None:
    assert str(resolve_registry("/")) == "file:///"


NAME = PackageName("team", "data")
BUCKET = RegistryLocation.parse("s3://b")
DISK = resolve_registry("/no-such-place/ä #?")

URIS = [
    pytest.param(QuiltUri(registry=BUCKET, package=NAME), "quilt+s3://b#package=team/data", id="package"),
    pytest.param(QuiltUri(registry=BUCKET, package=NAME, top_hash=HASH), f"quilt+s3://b#package=team/data@{HASH}", id="hash"),
    pytest.param(QuiltUri(registry=BUCKET, package=NAME, tag="latest"), "quilt+s3://b#package=team/data:latest", id="tag"),
    pytest.param(
        QuiltUri(registry=BUCKET, package=NAME, hash_prefix="abc1"), "quilt+s3://b#package=team/data@abc1", id="short-hash"
    ),
    pytest.param(
        QuiltUri(registry=BUCKET, package=NAME, hash_prefix="1700000000"),
        "quilt+s3://b#package=team/data@1700000000",
        id="short-hash-of-digits",
    ),
    pytest.param(
        QuiltUri(registry=BUCKET, package=NAME, tag="1700000000"), "quilt+s3://b#package=team/data:1700000000", id="time"
    ),
    pytest.param(
        QuiltUri(registry=BUCKET, package=NAME, tag="v1.0+b é&=#%"),
        "quilt+s3://b#package=team/data:v1.0%2Bb%20%C3%A9%26%3D%23%25",
        id="odd-tag",
    ),
    pytest.param(
        QuiltUri(registry=BUCKET, package=NAME, path="a/b.txt"), "quilt+s3://b#package=team/data&path=a/b.txt", id="path"
    ),
    pytest.param(QuiltUri(registry=BUCKET, package=NAME, path="a/"), "quilt+s3://b#package=team/data&path=a/", id="directory"),
    pytest.param(
        QuiltUri(registry=BUCKET, package=NAME, path="ü +%&#=?.txt"),
        "quilt+s3://b#package=team/data&path=%C3%BC%20%2B%25%26%23%3D%3F.txt",
        id="odd-path",
    ),
    pytest.param(
        QuiltUri(registry=BUCKET, package=NAME, top_hash=HASH, path="a", catalog="open.quiltdata.com"),
        f"quilt+s3://b#package=team/data@{HASH}&path=a&catalog=open.quiltdata.com",
        id="everything",
    ),
    pytest.param(
        QuiltUri(registry=BUCKET, package=NAME, catalog="localhost:3000"),
        "quilt+s3://b#package=team/data&catalog=localhost:3000",
        id="catalog-with-a-port",
    ),
    pytest.param(
        QuiltUri(registry=BUCKET, package=NAME, catalog="a&path=b"),
        "quilt+s3://b#package=team/data&catalog=a%26path%3Db",
        id="odd-catalog",
    ),
    pytest.param(QuiltUri(registry=BUCKET, package=PackageName("é", "ü")), "quilt+s3://b#package=é/ü", id="name-outside-ascii"),
    pytest.param(
        QuiltUri(registry=DISK, package=NAME, top_hash=HASH, path="a/b.txt"),
        f"quilt+file:///no-such-place/%C3%A4%20%23%3F#package=team/data@{HASH}&path=a/b.txt",
        id="local-registry",
    ),
    pytest.param(QuiltUri(registry=resolve_registry("/"), package=NAME), "quilt+file:///#package=team/data", id="whole-disk"),
]


@pytest.mark.parametrize(("uri", "text"), URIS)
def test_quilt_uri_round_trips(uri: QuiltUri, text: str) -> None:
    assert str(uri) == text
    assert QuiltUri.parse(text) == uri


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("C++.csv", "C++.csv"),
        ("C%2B+.csv", "C++.csv"),
        ("a+b%20c", "a+b c"),
        ("100%", "100%"),
        ("100%_of.csv", "100%_of.csv"),
        ("x%zz%2", "x%zz%2"),
        ("50%25.csv", "50%.csv"),
        ("a%2520b", "a%20b"),
        ("a%252Fb", "a%2Fb"),
        ("dir%2f", "dir/"),
        ("x=1/y=2&catalog=c+d", "x=1/y=2"),
        ("a#b?c", "a#b?c"),
        ("é%C3%A9", "éé"),
    ],
)
def test_path_is_decoded_once(text: str, path: str) -> None:
    uri = QuiltUri.parse(f"quilt+s3://b#package=team/data&path={text}")

    assert uri.path == path
    assert QuiltUri.parse(str(uri)) == uri


def test_other_parts_keep_a_plus() -> None:
    uri = QuiltUri.parse("QUILT+S3://b#catalog=a+b&package=team%2fdata%3Av1+2")

    assert (uri.package, uri.tag, uri.catalog) == (NAME, "v1+2", "a+b")
    assert uri.pin == Pin("tag", "v1+2")
    assert is_quilt_uri("Quilt+s3://b")
    assert not is_quilt_uri("team/data")
    assert not is_quilt_uri(None)


@pytest.mark.parametrize("text", ["%FF", "a/%C3", "%ed%a0%80", "%C0%AF", "é%E9"])
@pytest.mark.parametrize("part", ["path=", "catalog=", "package=team/data:", "x"])
def test_bytes_must_be_utf8(part: str, text: str) -> None:
    with pytest.raises(LocationError, match="UTF-8"):
        QuiltUri.parse(f"quilt+s3://b#package=team/data&{part}{text}")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("quilt+s3://b/#package=team/data", id="slash-before-the-fragment"),
        pytest.param("QUILT+S3://b#package=team/data", id="upper-case-scheme"),
        pytest.param("quilt+s3://b#&package=team/data&", id="nothing-between-ampersands"),
        pytest.param("quilt+s3://b#package=team%2Fdata", id="escaped-name"),
        pytest.param("quilt+s3://b#path=&package=team/data", id="empty-path"),
        pytest.param("quilt+s3://b#package=team/data&catalog=", id="empty-catalog"),
    ],
)
def test_quilt_uri_spellings(text: str) -> None:
    uri = QuiltUri.parse(text)

    assert str(uri) == "quilt+s3://b#package=team/data"
    assert QuiltUri.parse(str(uri)) == uri


@pytest.mark.parametrize("directory", ["file:///no-such-place/r/", "file://localhost/no-such-place/r", "file:/no-such-place/r"])
def test_local_quilt_uri_spellings(directory: str) -> None:
    assert str(QuiltUri.parse(f"quilt+{directory}#package=team/data")) == "quilt+file:///no-such-place/r#package=team/data"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        pytest.param("", LocationError, id="empty"),
        pytest.param("s3://b#package=a/b", LocationError, id="s3"),
        pytest.param("quilt+s3://#package=a/b", LocationError, id="no-bucket"),
        pytest.param("quilt+s3://b", LocationError, id="no-fragment"),
        pytest.param("quilt+s3://b/prefix#package=a/b", LocationError, id="path-before-the-fragment"),
        pytest.param("quilt+s3://b?x=y#package=a/b", LocationError, id="query"),
        pytest.param("quilt+s3://b#path=x", LocationError, id="no-package"),
        pytest.param("quilt+s3://b#package=a/b&package=c/d", LocationError, id="two-packages"),
        pytest.param("quilt+s3://b#package=a/b&path=x&path=y", LocationError, id="two-paths"),
        pytest.param("quilt+s3://b#package=a/b&workflow=x", LocationError, id="unknown-part"),
        pytest.param("quilt+s3://b#package=&package=a/b", LocationError, id="two-packages-one-empty"),
        pytest.param("quilt+s3://b#package=a/b&catalog=x&catalog=y", LocationError, id="two-catalogs"),
        pytest.param("quilt+s3://b:latest@abc1", LocationError, id="pin-of-a-bucket"),
        pytest.param("quilt+s3:b#package=a/b", LocationError, id="no-slashes"),
        pytest.param("quilt+http://b#package=a/b", LocationError, id="other-protocol"),
        pytest.param("quilt+s3://b#package=a/b:", LocationError, id="empty-tag"),
        pytest.param("quilt+s3://b#package=a/b:v1:v2", LocationError, id="two-tags"),
        pytest.param("quilt+s3://b#package=a/b@abc1@abc2", LocationError, id="two-hashes"),
        pytest.param("quilt+s3://b#package=a/b@abc1:v1", LocationError, id="hash-and-tag"),
        pytest.param("quilt+s3://b#package=a/b:..%2F..%2Flatest", LocationError, id="tag-out-of-the-package"),
        pytest.param("quilt+s3://b#package=a/b:..", LocationError, id="tag-of-dots"),
        pytest.param("quilt+s3://b#package=a/b:a%00b", LocationError, id="tag-with-a-nul"),
        pytest.param(f"quilt+s3://b#package=a/b:latest@{HASH}", LocationError, id="tag-and-hash"),
        pytest.param("quilt+s3://[b#package=a/b", LocationError, id="bad-address"),
        pytest.param("quilt+file:r#package=a/b", LocationError, id="relative-directory"),
        pytest.param("quilt+file://host/r#package=a/b", LocationError, id="directory-of-another-host"),
        pytest.param("quilt+file:///r?x=y#package=a/b", LocationError, id="query-after-a-directory"),
        pytest.param("quilt+file:///r", LocationError, id="directory-alone"),
        pytest.param("file:///r#package=a/b", LocationError, id="file"),
        pytest.param("quilt+s3://b\ud800#package=a/b", LocationError, id="half-a-pair-in-a-bucket"),
        pytest.param("quilt+s3://b#package=a/b&catalog=\ud800", LocationError, id="half-a-pair-in-a-catalog"),
        pytest.param("quilt+file:///\ud800#package=a/b", LocationError, id="half-a-pair-in-a-directory"),
        pytest.param("quilt+s3://b#package=a", PackageNameError, id="bad-name"),
        pytest.param("quilt+s3://b#package=", PackageNameError, id="empty-name"),
        pytest.param("quilt+s3://b#package=a/b@", LocationError, id="empty-hash"),
        pytest.param("quilt+s3://b#package=a/b@ABCDEF", TopHashError, id="upper-case-hash"),
        pytest.param("quilt+s3://b#package=a/b@latest", TopHashError, id="tag-as-hash"),
        pytest.param(f"quilt+s3://b#package=a/b@{HASH}0", TopHashError, id="long-hash"),
        pytest.param("quilt+s3://b#package=a/b&path=../x", LogicalKeyError, id="path-out-of-the-package"),
        pytest.param("quilt+s3://b#package=a/b&path=/", LogicalKeyError, id="path-slash"),
    ],
)
def test_bad_quilt_uri_refused(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        QuiltUri.parse(text)
