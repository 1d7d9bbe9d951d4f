from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_quilt.core.errors import LocationError
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.storage.paths import resolve_location, resolve_registry


def test_relative_path_from_cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert resolve_location("a/../b.txt") == PhysicalKey(None, f"{tmp_path.resolve()}/b.txt")
    assert resolve_location("sub/") == PhysicalKey(None, f"{tmp_path.resolve()}/sub/")
    assert resolve_location(".") == PhysicalKey(None, str(tmp_path.resolve()))


def test_tilde_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert resolve_location("~/a.txt") == PhysicalKey(None, f"{tmp_path.resolve()}/a.txt")
    assert resolve_location("~/") == PhysicalKey(None, f"{tmp_path.resolve()}/")


def test_tilde_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        key = resolve_location("~$report.docx")
    except LocationError as error:
        assert "~$report.docx" in str(error)  # noqa: PT017  (either outcome is right, a bare RuntimeError is not)
    else:
        assert key == PhysicalKey(None, f"{tmp_path.resolve()}/~$report.docx")


def test_path_links_are_resolved(write: Callable[..., Path], tmp_path: Path) -> None:
    target = write("target/file.txt", "x")
    (tmp_path / "link").symlink_to(target.parent)

    assert resolve_location(f"{tmp_path}/link/file.txt") == PhysicalKey(None, str(target.resolve()))


def test_url_links_are_resolved(write: Callable[..., Path], tmp_path: Path) -> None:
    target = write("target/file.txt", "x")
    (tmp_path / "link").symlink_to(target.parent)

    assert resolve_location(f"file://{tmp_path}/link/file.txt") == PhysicalKey(None, str(target.resolve()))


def test_registry_links_resolved(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "link").symlink_to("registry")

    for text in (f"{tmp_path}/link", f"{tmp_path}/link/", f"file://{tmp_path}/link", f"file://{tmp_path}/link/"):
        assert resolve_registry(text) == RegistryLocation(PhysicalKey(None, str(tmp_path.resolve() / "registry")))


def test_s3_url_is_parsed() -> None:
    assert resolve_location("s3://b/k?versionId=v") == PhysicalKey("b", "k", "v")
    assert resolve_registry("s3://b") == RegistryLocation(PhysicalKey("b", ""))


@pytest.mark.parametrize(
    ("text", "words", "of_registry"),
    [
        pytest.param("", "empty", "empty", id="empty"),
        pytest.param("https://example.com/a", "s3://bucket/key", "expected s3://bucket or a directory", id="https"),
        pytest.param("./a\0b", "NUL", "NUL", id="nul"),
        pytest.param("~\ud800", "Unicode", "Unicode", id="half-a-pair-in-a-home"),
    ],
)
def test_bad_location_is_refused(text: str, words: str, of_registry: str) -> None:
    with pytest.raises(LocationError, match=words):
        resolve_location(text)
    with pytest.raises(LocationError, match=of_registry):
        resolve_registry(text)
