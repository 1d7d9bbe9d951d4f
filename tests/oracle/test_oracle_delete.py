"""Deletions, judged by quilt3's lists afterwards."""

from pathlib import Path

import pytest

from airflow_quilt.core.delete import delete
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from tests.oracle.quilt3_client import Manuscript, Quilt3, Spec, place, plant, write

TAGS = ("2020-05", "stable", "17000000990")


@pytest.fixture(params=["local_registry", "s3_registry"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """A registry of each kind, for packages of its own."""
    return request.getfixturevalue(request.param)


def url_of(registry: Registry) -> str:
    return registry.location.root.key if registry.location.is_local else str(registry.location)


def planted(registry: Registry, name: str) -> list[str]:
    """Write three revisions by hand, oldest first."""
    return plant(registry, name, *(Manuscript({"version": "v0", "message": each}, []) for each in ("a", "b", "c")))


def point(registry: Registry, name: str, pointer: str, top_hash: str) -> None:
    write(registry, f".quilt/named_packages/{name}/{pointer}", top_hash.encode())


def test_deleted_package_is_not_listed(registry: Registry, quilt3: Quilt3, name: str) -> None:
    """Delete a package with tags, and with leftovers of consoles and dead writers."""
    hashes = planted(registry, name)
    for tag in TAGS:
        point(registry, name, tag, hashes[0])
    point(registry, name, "deep/er", hashes[0])
    if registry.location.is_local:
        directory = Path(registry.location.root.key, ".quilt/named_packages", name)
        (directory / "empty/empty").mkdir(parents=True)
        (directory / f".{'0' * 32}.tmp").write_bytes(b"")
    else:
        point(registry, name, "", "")
    url = url_of(registry)
    assert name in quilt3.packages(url)
    assert PackageName.parse(name) in list(registry.packages())

    delete(registry, name)
    assert not [each for each in quilt3.packages(url) if name in each]
    assert quilt3.pointers(url, name) == {}
    assert PackageName.parse(name) not in list(registry.packages())


def test_deleted_revision_has_no_tag(registry: Registry, quilt3: Quilt3, name: str) -> None:
    """Delete a revision by its hash: the same pointers are left as by quilt3, but `latest` is a revision of the history."""
    first, second, third = planted(registry, name)
    for tag, top_hash in zip(TAGS, (first, third, third), strict=True):
        point(registry, name, tag, top_hash)
    url = url_of(registry)
    before = quilt3.pointers(url, name)

    delete(registry, name, third)
    left = {each: top_hash for each, top_hash in before.items() if top_hash != third}
    assert quilt3.pointers(url, name) == {**left, "latest": second}

    # The last one of the history takes everything along but tags of other revisions.
    delete(registry, name, second)
    delete(registry, name, first)
    assert quilt3.pointers(url, name) == {}
    assert name not in quilt3.packages(url)


def test_names_of_quilt3_are_deleted(registry: Registry, quilt3: Quilt3, namespace: str, tmp_path: Path) -> None:
    """Delete packages whose names quilt3 lets through, and those that it lists and refuses to delete."""
    url, spec = url_of(registry), Spec(files=place(tmp_path / "files", {"a": b"a"}))
    made = [f"{namespace}/data\n", f"{namespace}/dätä"]
    for name in made:
        quilt3.publish(url, name, spec)
    by_hand = [f"{namespace}/da.ta v2", f"{namespace} of/a+b"]
    for name in by_hand:
        planted(registry, name)
    listed = [each for each in quilt3.packages(url) if each.startswith(namespace)]
    assert sorted(listed) == sorted([*made, *by_hand])
    assert {str(each) for each in registry.packages()} >= set(listed)

    for name in listed:
        delete(registry, name)
    assert [each for each in quilt3.packages(url) if each.startswith(namespace)] == []
