"""Which files of which revision a reference names."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.errors import (
    EntryNotFoundError,
    LocationError,
    LogicalKeyError,
    ManifestError,
    PackageNameError,
    PackageNotFoundError,
    TopHashError,
)
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference, parse_destination, select
from airflow_quilt.core.storage.paths import resolve_path
from tests.core.packages import commit, entry_of

NAME = PackageName("team", "package")
KEYS = ["a/b/c.txt", "a/b/d", "a/b.txt", "a-b", "a.txt"]


def entries(*keys: str) -> list[Entry]:
    return [entry_of(key, key.encode(), f"s3://source/{key}") for key in keys]


@pytest.fixture
def top_hash(registry: Registry) -> TopHash:
    """The top hash of the only revision of a package."""
    return commit(registry, NAME, entries(*KEYS))


@pytest.mark.parametrize(
    ("path", "files"),
    [
        pytest.param(None, {key: key for key in KEYS}, id="everything"),
        pytest.param("a", {"b/c.txt": "a/b/c.txt", "b/d": "a/b/d", "b.txt": "a/b.txt"}, id="directory"),
        pytest.param("a/", {"b/c.txt": "a/b/c.txt", "b/d": "a/b/d", "b.txt": "a/b.txt"}, id="directory-with-slash"),
        pytest.param("a/b", {"c.txt": "a/b/c.txt", "d": "a/b/d"}, id="directory-inside"),
        pytest.param("a/b/", {"c.txt": "a/b/c.txt", "d": "a/b/d"}, id="directory-inside-with-slash"),
        pytest.param("a.txt", {"a.txt": "a.txt"}, id="file"),
        pytest.param("a/b/c.txt", {"c.txt": "a/b/c.txt"}, id="file-inside"),
    ],
)
def test_path_selects_below_it(registry: Registry, top_hash: TopHash, path: str | None, files: dict[str, str]) -> None:
    selection = select(registry, Reference(str(NAME), path=path))

    assert [(relative, entry.logical_key) for relative, entry in selection.files] == list(files.items())
    assert (selection.package, selection.top_hash) == (NAME, top_hash)
    assert selection.bytes == sum(map(len, files.values()))
    assert str(selection) == f"team/package@{top_hash[:12]}"


@pytest.mark.parametrize("path", ["b", "a/b/c.txt/", "a.txt/", "a/b/c", "A", "a/b/c.txt/d", "a-"])
def test_absent_path_is_an_error(registry: Registry, top_hash: TopHash, path: str) -> None:
    with pytest.raises(EntryNotFoundError) as caught:
        select(registry, Reference(str(NAME), path=path))

    assert str(caught.value).startswith(f"s3://registry: package team/package@{top_hash[:12]} has nothing at {path!r}")


@pytest.mark.parametrize("path", ["", "/", "../a", "a//b", "a//", "/a", "./a", "a/.."])
def test_bad_path_is_refused(registry: Registry, top_hash: TopHash, path: str) -> None:
    with pytest.raises(LogicalKeyError):
        select(registry, Reference(str(NAME), path=path))


def test_empty_package_no_files(registry: Registry) -> None:
    commit(registry, NAME, [])

    assert select(registry, Reference(str(NAME))).files == []
    with pytest.raises(EntryNotFoundError):
        select(registry, Reference(str(NAME), path="a"))


@pytest.mark.parametrize(
    ("package", "error"),
    [
        pytest.param("team", PackageNameError, id="no-name"),
        pytest.param("../x/y", PackageNameError, id="dots"),
        pytest.param("", PackageNameError, id="empty"),
        pytest.param(None, PackageNameError, id="none"),
        pytest.param("no/such", PackageNotFoundError, id="absent"),
        pytest.param("ä/ü", PackageNotFoundError, id="absent-in-quilt3s-wider-alphabet"),
    ],
)
def test_package_must_exist(registry: Registry, top_hash: TopHash, package: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        select(registry, Reference(package))


def test_revision_by_any_name(registry: Registry, top_hash: TopHash) -> None:
    (published,) = registry.revisions(NAME)
    names = [
        None,
        "latest",
        top_hash,
        top_hash[:6],
        published.published_at,
        str(published.published_at.int_timestamp),
        published.published_at.isoformat(),
    ]
    commit(registry, NAME, entries("other"))

    found = [[relative for relative, _ in select(registry, Reference(str(NAME), name)).files] for name in names]
    assert found == [["other"]] * 2 + [KEYS] * 5


@pytest.mark.parametrize(
    ("revision", "error"),
    [
        pytest.param("0" * 64, PackageNotFoundError, id="absent-hash"),
        pytest.param("000000", TopHashError, id="absent-short-hash"),
        pytest.param("xyz", TopHashError, id="something-else"),
        pytest.param(datetime(2001, 1, 1, tzinfo=UTC), PackageNotFoundError, id="before-the-first"),
    ],
)
def test_revision_must_exist(registry: Registry, top_hash: TopHash, revision: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        select(registry, Reference(str(NAME), revision))


@pytest.mark.parametrize("path", [None, "a/b", "a.txt"])
def test_damaged_manifest_refused(registry: Registry, top_hash: TopHash, path: str | None) -> None:
    place = registry.location.root.join(layout.manifest(top_hash))
    data = registry.stores.remote.get(place).data
    registry.stores.remote.put(place, data.replace(b'"a.txt"', b'"z.txt"'))

    with pytest.raises(ManifestError, match="changed or damaged"):
        select(registry, Reference(str(NAME), path=path))


@pytest.mark.parametrize("ending", ["", "/"])
@pytest.mark.parametrize("place", ["there", "not/there/yet"])
def test_destination_may_be_absent(tmp_path: Path, place: str, ending: str) -> None:
    (tmp_path / "there").mkdir()

    assert parse_destination(f"{tmp_path}/{place}{ending}") == resolve_path(f"{tmp_path}/{place}{ending}")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://bucket", PhysicalKey("bucket", "")),
        ("s3://bucket/a", PhysicalKey("bucket", "a")),
        ("s3://bucket/a%20b/", PhysicalKey("bucket", "a b/")),
    ],
)
def test_destination_is_a_prefix(url: str, place: PhysicalKey) -> None:
    assert parse_destination(url) == place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("s3://bucket/a?versionId=1", "a prefix has no version", id="version"),
        pytest.param("", "no", id="empty"),
        pytest.param("https://bucket/a", "expected s3://", id="another-scheme"),
        pytest.param("quilt+s3://bucket#package=a/b", "expected s3://", id="package"),
    ],
)
def test_bad_destination_refused(text: str, words: str) -> None:
    with pytest.raises(LocationError, match=words):
        parse_destination(text)


@pytest.mark.parametrize("ending", ["", "/"])
def test_destination_is_no_file(tmp_path: Path, ending: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(LocationError, match="file/?': give another directory: there is a file"):
        parse_destination(f"{tmp_path}/file{ending}")


def test_destination_can_be_too_long(tmp_path: Path) -> None:
    with pytest.raises(LocationError, match="give another directory: File name too long"):
        parse_destination(f"{tmp_path}/{'x' * 256}")
