"""What a revision will hold: files and the metadata of directories; and how it is made from the one before it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_quilt.core.errors import LogicalKeyError
from airflow_quilt.core.names import DirectoryKey, check_tree, parse_logical_key, walk_order
from airflow_quilt.core.plan import Source


@dataclass(frozen=True, slots=True)
class Tree:
    """Sources, and the metadata of directories, whose keys end in ``/``."""

    sources: list[Source] = field(default_factory=list)
    directories: Mapping[DirectoryKey, Any] = field(default_factory=dict)


def ordered(tree: Tree) -> Tree:
    """Return a tree with its sources in walk order.

    Raises:
        LogicalKeyError: a key is given twice, or is a file and a directory.
    """
    sources = sorted(tree.sources, key=lambda source: walk_order(source.logical_key))
    check_tree(source.logical_key for source in sources)
    if tree.directories:
        files = {source.logical_key for source in sources}
        for key in tree.directories:
            _check_directory(key, files)
    return Tree(sources, tree.directories)


def _check_directory(key: str, files: set[Any]) -> None:
    while key:
        key = key[:-1]
        if key in files:
            raise LogicalKeyError(f"logical key {key!r} is a file, and a directory that has metadata")
        key = key[: key.rfind("/") + 1]


def without(tree: Tree, removed: Iterable[str]) -> tuple[Tree, list[str]]:
    """Take files and directories out of a tree.

    Args:
        tree: the tree.
        removed: the keys of files; and of directories, with or without a ``/`` at the end, which go with all below them.

    Returns:
        The tree that is left, and the keys that were not in it.

    Raises:
        LogicalKeyError: something is no logical key.
    """
    keys = {key: parse_logical_key(key.removesuffix("/")) for key in removed}
    directories = set(keys.values())
    files = {parsed for key, parsed in keys.items() if not key.endswith("/")}
    seen: set[str] = set()

    def is_removed(key: str) -> bool:
        hits = directories.intersection(_parents(key)) | files.intersection([key])
        seen.update(hits)
        return bool(hits)

    left = Tree(
        [source for source in tree.sources if not is_removed(source.logical_key)],
        {key: meta for key, meta in tree.directories.items() if not is_removed(key)},
    )
    return left, [key for key, parsed in keys.items() if parsed not in seen]


def _parents(key: str) -> Iterable[str]:
    """Yield the directories above a file; for the key of a directory, itself too; without their ``/``."""
    at = key.find("/")
    while at >= 0:
        yield key[:at]
        at = key.find("/", at + 1)


def merged(base: Tree, added: Tree) -> Tree:
    """Put a tree over another one: what has the same key takes the place of what was there."""
    taken = {source.logical_key for source in added.sources}
    kept = [source for source in base.sources if source.logical_key not in taken]
    return Tree(kept + added.sources, {**base.directories, **added.directories})
