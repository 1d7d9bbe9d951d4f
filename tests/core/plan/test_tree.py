"""The entries of a revision, put in order, merged and cut as a tree."""

from typing import Any

import pytest

from airflow_quilt.core.errors import LogicalKeyError
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey
from airflow_quilt.core.format.ordering import validate_order
from airflow_quilt.core.plan.actions import Source, origin_of
from airflow_quilt.core.plan.tree import Additions, Removal, SourceTree, updated
from airflow_quilt.core.runtime.spool import Spool


def ordered(tree: SourceTree) -> SourceTree:
    """Put the files of a tree in order, and check that it is one."""
    found: Spool[Source] = Spool(Source, 100)
    found.extend(tree.sources)
    return SourceTree(list(validate_order(found, tree.directories, origin_of)), tree.directories)


def merged(base: SourceTree, added: SourceTree) -> SourceTree:
    return updated(base, Removal([]), Additions(added))


def tree(*keys: str, data: bytes = b"old", **directories: Any) -> SourceTree:
    """Return a tree of files, and of directories that are named without their slash and with ``__`` for one inside."""
    sources = [Source(logical_key=LogicalKey(key), origin=data, size=len(data)) for key in keys]
    return SourceTree(sources, {DirectoryKey(f"{key.replace('__', '/')}/"): meta for key, meta in directories.items()})


def keys(tree: SourceTree) -> list[str]:
    return [source.logical_key for source in tree.sources]


def left(tree: SourceTree, *removed: str) -> tuple[list[str], list[str], list[str]]:
    """Remove keys; return the files and directories that are left, and the keys that were not there."""
    removal = Removal(removed)
    rest = updated(tree, removal, Additions(SourceTree()))
    return keys(rest), list(rest.directories), removal.absent


def test_files_are_in_walk_order() -> None:
    found = ordered(tree("b", "a.txt", "a/c", "a-b", "a/b/c"))

    assert keys(found) == ["a/b/c", "a/c", "a-b", "a.txt", "b"]


def test_directory_meta_stays() -> None:
    directories = tree(z={"x": 1}, a={}, a__b=None).directories

    assert ordered(SourceTree([], directories)).directories == {"z/": {"x": 1}, "a/": {}, "a/b/": None}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param(["a", "b", "a"], "'a' is given twice", id="twice"),
        pytest.param(["a/b", "a"], "'a' is a file, and a directory that holds 'a/b'", id="file-and-directory"),
        pytest.param(["a", "a!", "a/b"], "'a' is a file, and a directory that holds 'a/b'", id="with-a-key-between"),
    ],
)
def test_non_tree_is_refused(files: list[str], message: str) -> None:
    with pytest.raises(LogicalKeyError, match=message):
        ordered(tree(*files))


@pytest.mark.parametrize("directory", ["a", "a__b", "a__b__c"])
def test_file_has_no_directory_meta(directory: str) -> None:
    with pytest.raises(LogicalKeyError, match="'a' is a file, and a directory that has metadata"):
        ordered(tree("a", "b", **{directory: {"x": 1}}))


@pytest.mark.parametrize("file", ["a", "a/b", "a/b/c"])
def test_directory_among_similar(file: str) -> None:
    directories = {DirectoryKey(key): {} for key in ("a!/", "a/b!/", "a/b/c/d/", "a/b0/", "a0/", "a/!/")}
    with pytest.raises(LogicalKeyError, match=f"'{file}' is a file, and a directory that has metadata"):
        ordered(SourceTree(tree(file, "a1", "z").sources, directories))


def test_directory_may_be_empty() -> None:
    directories = tree(a={"x": 1}, empty={"x": 2}).directories

    assert ordered(SourceTree(tree("a/b", "a.txt", "empty.txt").sources, directories)).directories == directories


@pytest.mark.parametrize(
    ("removed", "files", "directories", "absent"),
    [
        pytest.param([], ["a", "d/b", "d/e/c", "de"], ["d/", "d/e/", "f/"], [], id="nothing"),
        pytest.param(["a"], ["d/b", "d/e/c", "de"], ["d/", "d/e/", "f/"], [], id="file"),
        pytest.param(["a/"], ["a", "d/b", "d/e/c", "de"], ["d/", "d/e/", "f/"], ["a/"], id="file-as-a-directory"),
        pytest.param(["d"], ["a", "de"], ["f/"], [], id="directory"),
        pytest.param(["d/"], ["a", "de"], ["f/"], [], id="directory-with-slash"),
        pytest.param(["d", "d/"], ["a", "de"], ["f/"], [], id="directory-both-ways"),
        pytest.param(["d/e"], ["a", "d/b", "de"], ["d/", "f/"], [], id="directory-inside"),
        pytest.param(["d", "d/e", "d/b"], ["a", "de"], ["f/"], [], id="directory-and-its-content"),
        pytest.param(["d/b"], ["a", "d/e/c", "de"], ["d/", "d/e/", "f/"], [], id="file-below"),
        pytest.param(["f"], ["a", "d/b", "d/e/c", "de"], ["d/", "d/e/"], [], id="directory-that-only-has-metadata"),
        pytest.param(["f/"], ["a", "d/b", "d/e/c", "de"], ["d/", "d/e/"], [], id="the-same-with-slash"),
        pytest.param(["x", "a", "y/", "e"], ["d/b", "d/e/c", "de"], ["d/", "d/e/", "f/"], ["x", "y/", "e"], id="some-absent"),
        pytest.param(["a", "d", "de", "f"], [], [], [], id="everything"),
    ],
)
def test_keys_are_removed(removed: list[str], files: list[str], directories: list[str], absent: list[str]) -> None:
    base = tree("a", "d/b", "d/e/c", "de", d={"x": 1}, d__e={"x": 2}, f={"x": 3})

    assert left(base, *removed) == (files, directories, absent)


@pytest.mark.parametrize("key", ["", "/", "a//", "../a", "a/../b", "a\0", "/a"])
def test_bad_removal_is_refused(key: str) -> None:
    with pytest.raises(LogicalKeyError):
        Removal([key])


def test_added_replaces_same_key() -> None:
    added = tree("b", "c", data=b"new", d={"new": 1}, e={})
    both = ordered(merged(tree("a", "b", d={"old": 1}, e={"old": 1}), added))

    assert [(source.logical_key, source.origin) for source in both.sources] == [("a", b"old"), ("b", b"new"), ("c", b"new")]
    assert both.directories == {"d/": {"new": 1}, "e/": {}}


def test_merge_refuses_non_tree() -> None:
    for base, added in (("a", "a/b"), ("a/b", "a")):
        with pytest.raises(LogicalKeyError, match="'a' is a file, and a directory"):
            ordered(merged(tree(base), tree(added)))


def test_merge_changes_no_input() -> None:
    base, added = tree("a", d={"x": 1}), tree("a", data=b"new", d={"x": 2})
    merged(base, added)

    assert (base, added) == (tree("a", d={"x": 1}), tree("a", data=b"new", d={"x": 2}))
