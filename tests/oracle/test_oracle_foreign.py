"""Manifests of other programs mean the same to quilt3 and to us: lines in any order, metadata of any kind."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_quilt.core.build import build
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from tests.oracle.quilt3_client import Directory, Quilt3, Spec, place
from tests.oracle.test_oracle_manifests import TREES, relayed, written
from tests.property.strategies import HEADERS, PackageTree


@settings(max_examples=40, deadline=None)
@given(header=HEADERS, tree=TREES, random=st.randoms(use_true_random=False))
def test_any_order_reads_alike(header: dict[str, Any], tree: PackageTree, random: Random, quilt3: Quilt3) -> None:
    first, *lines = written(header, tree)["manifest"].rstrip("\n").split("\n")
    shuffled = "\n".join([first, *random.sample(lines, len(lines))])

    assert relayed(shuffled) == quilt3.relay(shuffled) == written(header, tree)


KEPT = ['"text"', '["a", {"b": 1}]', "5", "1.5", "true"]


@pytest.mark.parametrize("meta", [*KEPT, "null", "{}", "[]", "0", '""', "false"])
def test_odd_meta_is_kept_alike(meta: str, quilt3: Quilt3) -> None:
    """Keep metadata that is a text or a list: of packages, directories and files; of files also where the user's should be."""
    entry = '"physical_keys": ["s3://b/k"], "size": 5, "hash": {"type": "SHA256", "value": "x"}'
    text = (
        f'{{"version": "v0", "user_meta": {meta}, "message": null}}\n'
        f'{{"logical_key": "a/", "meta": {meta if meta in KEPT else 1}}}\n'
        f'{{"logical_key": "a/b", {entry}, "meta": {meta}}}\n{{"logical_key": "c", {entry}, "meta": {{"user_meta": {meta}}}}}\n'
    )

    assert relayed(text) == quilt3.relay(text)


def test_move_from_set_dir_is_unchanged(quilt3: Quilt3, s3_registry: Registry, local_registry: Registry, tmp_path: Path) -> None:
    """Make no revision of the directory that quilt3's ``set_dir`` published: its null metadata is in the top hash."""
    place(tmp_path / "files", {"a.txt": b"a", "b/c": b"c"})
    name, files = "team/moved", f"{tmp_path / 'files'}/"
    moved = quilt3.build(local_registry.location.root.key, name, Spec(files={}), Directory("/", files))

    for ours, work in ((s3_registry, push), (local_registry, build)):
        published = work(ours, Draft(package=name, entries=files, null_meta=True))
        assert (published.created, published.top_hash) == (ours is s3_registry, moved)
        updated = work(ours, Draft(package=name, entries={"d": f"{files}a.txt"}, mode="update"))
        assert ours.read(name, updated.top_hash).header["user_meta"] is None
        assert work(ours, Draft(package=f"{name}-2", entries=files, meta={"a": 1}, null_meta=True)).created
        assert ours.read(f"{name}-2").user_meta == {"a": 1}
        assert work(ours, Draft(package=name, entries=files)).top_hash != moved
