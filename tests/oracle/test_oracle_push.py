"""quilt3 reads, installs and verifies packages of the core on a real S3 store."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from testbed.server import S3Server
from tests.oracle.quilt3_client import Quilt3, Spec, place, record, s3_registry_in

MIB = 1024 * 1024
NAME = "pushed/data"
FILES = {
    "README.md": b"# Data\n",
    "empty": b"",
    "plots/bill length + depth.png": bytes(range(256)),
    "plots/50%/a#b?c&d=e;f.csv": b"x,y\n",
    "plots/50%25.csv": b"not a space",
    "\u00e9/e\u0301/\U0001f427.txt": "\u00e9".encode(),
    "d/b": b"1",
    "d.txt": b"2",
    "d-b": b"3",
    **{
        f"large/{size}": hashlib.shake_128(bytes([size % 251])).digest(size)
        for size in (8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB)
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """A package that the core pushed: its parts, the place of its files, and the result."""

    spec: Spec
    directory: Path
    registry: Registry
    published: PublishResult

    @property
    def url(self) -> str:
        """The registry, as quilt3 names it."""
        return str(self.registry.location)


@pytest.fixture(scope="module")
def pushed(s3: S3Server, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    """A package of awkward names, of sizes around the part size, and of metadata on every level; no test changes it."""
    directory = tmp_path_factory.mktemp("pushed")
    spec = Spec(
        files=place(directory, FILES),
        file_meta={"empty": {"rows": 0}, "d/b": {"\u00e9": [0.1, 1e16, None]}},
        meta={"weeks": [1, 2.0], "\U0001f427": "\x7f"},
        message='one\n"two"',
    )
    registry = s3_registry_in(s3, bucket)
    return Pushed(spec=spec, directory=directory, registry=registry, published=push(registry, spec.draft(NAME)))


def test_push_has_quilt3s_top_hash(pushed: Pushed, quilt3: Quilt3) -> None:
    assert quilt3.top_hash(pushed.spec) == pushed.published.top_hash


def test_quilt3_browses_our_push(pushed: Pushed, quilt3: Quilt3) -> None:
    found = quilt3.browse(pushed.url, NAME)
    assert found["top_hash"] == pushed.published.top_hash
    assert found["header"] == {"version": "v0", "user_meta": pushed.spec.meta, "message": pushed.spec.message}
    assert {each["logical_key"]: each["size"] for each in found["entries"]} == {key: len(data) for key, data in FILES.items()}
    assert {each["logical_key"]: each["meta"]["user_meta"] for each in found["entries"] if each["meta"]} == pushed.spec.file_meta


def test_places_equal_quilt3s(pushed: Pushed, quilt3: Quilt3, other_bucket: str) -> None:
    ours = [record(entry) for entry in pushed.registry.read(pushed.published.package).entries]
    quilt3.push(f"s3://{other_bucket}", NAME, pushed.spec)
    theirs = quilt3.browse(f"s3://{other_bucket}", NAME)["entries"]
    assert [in_bucket("any", each) for each in ours] == [in_bucket("any", each) for each in theirs]
    assert all("?versionId=" in each["physical_keys"][0] for each in ours)


def test_quilt3_installs_our_push(pushed: Pushed, quilt3: Quilt3, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    quilt3.install(pushed.url, NAME, target)
    installed = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert installed == FILES
    assert quilt3.verify(pushed.url, NAME, target)


CHANGES: dict[str, Callable[[Path], object]] = {
    "another letter": lambda directory: (directory / "README.md").write_bytes(b"# data\n"),
    "a letter more": lambda directory: (directory / "README.md").write_bytes(b"# Data\n\n"),
    "a file more": lambda directory: (directory / "new.txt").write_bytes(b""),
    "a file less": lambda directory: (directory / "d/b").unlink(),
    "another last byte of a large file": lambda directory: change_last_byte(directory / f"large/{20 * MIB}"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_quilt3_finds_differences(change: Callable[[Path], object], pushed: Pushed, quilt3: Quilt3, tmp_path: Path) -> None:
    copy = shutil.copytree(pushed.directory, tmp_path / "copy")
    assert quilt3.verify(pushed.url, NAME, copy)
    change(copy)
    assert not quilt3.verify(pushed.url, NAME, copy)


def test_quilt3_lists_our_packages(
    quilt3: Quilt3, s3_registry: Registry, bucket_url: str, tmp_path: Path, namespace: str, name: str
) -> None:
    spec = Spec(files=place(tmp_path, {"a.txt": b"a"}))
    pushed = [push(s3_registry, replace(spec, message=f"revision {number}").draft(name)).top_hash for number in range(5)]
    others = [f"{namespace}/data-2", f"{namespace}_B/data"]
    for other in others:
        push(s3_registry, spec.draft(other))
    found = quilt3.packages(bucket_url)
    assert [found.count(each) for each in (name, *others)] == [1, 1, 1]
    assert quilt3.revisions(bucket_url, name) == pushed[::-1]
    assert quilt3.latest(bucket_url, name) == pushed[-1]


def test_short_hash_finds_revision(quilt3: Quilt3, s3_registry: Registry, bucket_url: str, tmp_path: Path, name: str) -> None:
    spec = Spec(files=place(tmp_path, {"a.txt": b"a"}), message="older")
    older = push(s3_registry, spec.draft(name))
    push(s3_registry, replace(spec, message="newer").draft(name))
    assert quilt3.browse(bucket_url, name, older.top_hash[:10])["header"]["message"] == "older"


def test_unversioned_push_is_read(quilt3: Quilt3, plain_registry: Registry, tmp_path: Path, name: str) -> None:
    spec = Spec(files=place(tmp_path, {"a b.txt": b"a", "large": bytes(8 * MIB + 1)}))
    published = push(plain_registry, spec.draft(name))
    url = str(plain_registry.location)
    found = quilt3.browse(url, name)
    assert found["top_hash"] == published.top_hash == quilt3.top_hash(spec)
    assert [each["physical_keys"] for each in found["entries"]] == [[f"{url}/{name}/a%20b.txt"], [f"{url}/{name}/large"]]
    assert quilt3.read(url, name, "large") == bytes(8 * MIB + 1)


def test_content_is_read_back(quilt3: Quilt3, s3_registry: Registry, bucket_url: str, name: str) -> None:
    entries = {"a.bin": b"\0\xff", "b.json": {"\u00e9": [1, None]}, "c": {"content": "text", "meta": {"k": 1}}}
    published = push(s3_registry, Draft(package=name, entries=entries))
    assert quilt3.browse(bucket_url, name)["top_hash"] == published.top_hash
    assert quilt3.read(bucket_url, name, "a.bin") == b"\0\xff"
    assert quilt3.read(bucket_url, name, "b.json") == '{"\u00e9": [1, null]}'.encode()
    assert quilt3.read(bucket_url, name, "c") == b"text"


def test_empty_push_equals_quilt3s(quilt3: Quilt3, s3_registry: Registry, bucket_url: str, name: str) -> None:
    published = push(s3_registry, Spec(files={}).draft(name))
    assert published.top_hash == quilt3.top_hash(Spec(files={})) == quilt3.browse(bucket_url, name)["top_hash"]


def test_deleted_package_is_gone(quilt3: Quilt3, s3_registry: Registry, bucket_url: str, tmp_path: Path, name: str) -> None:
    spec = Spec(files=place(tmp_path, {"a.txt": b"a"}))
    push(s3_registry, spec.draft(name))
    push(s3_registry, spec.draft(f"{name}-2"))
    quilt3.delete(bucket_url, name)
    packages = list(s3_registry.packages())
    assert PackageName.parse(f"{name}-2") in packages
    assert PackageName.parse(name) not in packages
    assert s3_registry.latest(PackageName.parse(name)) is None


def test_deleted_revision_is_gone(quilt3: Quilt3, s3_registry: Registry, bucket_url: str, tmp_path: Path, name: str) -> None:
    spec = Spec(files=place(tmp_path, {"a.txt": b"a"}))
    first, second, third = (push(s3_registry, replace(spec, message=text).draft(name)).top_hash for text in "123")
    quilt3.delete(bucket_url, name, second)
    assert [revision.top_hash for revision in s3_registry.revisions(PackageName.parse(name))] == [third, first]


def in_bucket(bucket: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a record as it would stand in another bucket, without the version, which each copy has another one of."""
    keys = [PhysicalKey.parse(text) for text in entry["physical_keys"]]
    return entry | {"physical_keys": [str(PhysicalKey(bucket, key.key)) for key in keys]}


def change_last_byte(path: Path) -> None:
    """Change one byte of a file and leave its size."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
