from pathlib import Path

import pytest

from airflow_quilt.core import Draft, MemoryStorage, build, open_registry, push
from airflow_quilt.core.errors import LocationError, SettingsError
from airflow_quilt.core.runtime.limits import Limits


def test_memory_in_place_of_s3() -> None:
    registry = open_registry("s3://bucket", remote=MemoryStorage(["bucket"]))

    published = push(registry, Draft(package="team/data", entries={"a.txt": b"a"}))

    assert registry.read_bytes(registry.entry("team/data", "a.txt")) == b"a"
    assert registry.resolve("team/data") == published.top_hash


def test_directory_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "a.txt").write_bytes(b"a")
    registry = open_registry(f"{tmp_path}/link", limits=Limits(max_concurrency=2))

    build(registry, Draft(package="team/data", entries={"a.txt": str(tmp_path / "a.txt")}))

    assert str(registry.location) == (tmp_path / "real").resolve().as_uri()
    assert registry.stores.limits.max_concurrency == 2
    assert [str(name) for name in open_registry(f"{tmp_path}/real").packages()] == ["team/data"]


@pytest.mark.parametrize("location", ["s3://bucket/prefix", "https://example.com", ""])
def test_bad_location_is_refused(location: str) -> None:
    with pytest.raises(LocationError):
        open_registry(location)


def test_bad_settings_of_boto_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(SettingsError, match=r"boto3's own settings: .*\(nobody\) could not be found"):
        open_registry("s3://bucket")
