import string

from hypothesis import example, given
from hypothesis import strategies as st

from airflow_quilt.core.format.names import PackageName, TopHash, parse_logical_key, parse_top_hash
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.paths import resolve_path, resolve_registry
from tests.property.strategies import LOGICAL_KEYS, ODD_LETTERS, TEXT

ALPHABET = string.ascii_letters + string.digits

BUCKETS = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]", fullmatch=True)
S3_KEYS = st.text(ODD_LETTERS, max_size=20) | TEXT
WORDS = st.text(st.sampled_from(ALPHABET + "-_"), min_size=1, max_size=10)
EXISTING_WORDS = st.from_regex(r"[\w-]{1,10}", fullmatch=True)
TOP_HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
PATHS = LOGICAL_KEYS.map(lambda key: key.replace("\0", "")).filter(
    lambda key: bool(key) and all(part not in {"", ".", ".."} for part in key.split("/"))
)
CATALOGS = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)


@given(st.builds(PhysicalKey, BUCKETS, S3_KEYS, st.none() | st.text(ODD_LETTERS, min_size=1) | TEXT.filter(bool)))
@example(PhysicalKey("bucket", ""))
@example(PhysicalKey("bucket", "/"))
@example(PhysicalKey("bucket", "//a//", "null"))
@example(PhysicalKey("bucket", "?versionId=a#b", "&versionId=+ %20"))
def test_s3_key_round_trips(key: PhysicalKey) -> None:
    assert PhysicalKey.parse(str(key)) == key


@given(PATHS, st.sampled_from(["", "/"]))
def test_local_key_round_trips(path: str, ending: str) -> None:
    key = PhysicalKey(None, f"/no-such-place/{path}{ending}")

    assert PhysicalKey.parse(str(key)) == key


@given(PATHS)
def test_path_equals_its_url(path: str) -> None:
    key = PhysicalKey.parse(f"/no-such-place/{path}")

    assert key == resolve_path(f"/no-such-place/{path}") == PhysicalKey.parse(str(key))


@given(st.builds(PackageName, WORDS, WORDS))
def test_package_name_round_trips(name: PackageName) -> None:
    assert PackageName.parse(str(name)) == name == PackageName.parse_existing(str(name))


@given(st.builds(PackageName, EXISTING_WORDS, EXISTING_WORDS))
def test_existing_name_round_trips(name: PackageName) -> None:
    assert PackageName.parse_existing(str(name)) == name


REGISTRIES = BUCKETS.map(lambda bucket: f"s3://{bucket}") | PATHS.map(lambda path: f"/no-such-place/{path}")


@given(REGISTRIES)
@example("/")
def test_registry_round_trips(text: str) -> None:
    location = resolve_registry(text)

    assert resolve_registry(str(location)) == location


TAGS = st.sampled_from(["latest", "1700000000"]) | st.text(
    st.characters(codec="utf-8", exclude_characters="/@:\0"), min_size=1
).filter(lambda tag: tag not in {".", ".."})


@st.composite
def quilt_uris(draw: st.DrawFn) -> QuiltUri:
    pin = draw(st.sampled_from(["none", "hash", "prefix", "tag"]))
    path = draw(st.none() | st.tuples(PATHS, st.sampled_from(["", "/"])).map("".join))
    return QuiltUri(
        registry=resolve_registry(draw(REGISTRIES)),
        package=PackageName(draw(EXISTING_WORDS), draw(EXISTING_WORDS)),
        top_hash=TopHash(draw(TOP_HASHES)) if pin == "hash" else None,
        hash_prefix=draw(TOP_HASHES)[: draw(st.integers(1, 63))] if pin == "prefix" else None,
        tag=draw(TAGS) if pin == "tag" else None,
        path=path,
        catalog=draw(st.none() | CATALOGS),
    )


@given(quilt_uris())
def test_quilt_uri_round_trips(uri: QuiltUri) -> None:
    assert QuiltUri.parse(str(uri)) == uri


@given(PATHS)
def test_logical_key_is_unchanged(key: str) -> None:
    assert parse_logical_key(key) == key


@given(TOP_HASHES)
def test_top_hash_is_unchanged(text: str) -> None:
    assert parse_top_hash(text) == text
