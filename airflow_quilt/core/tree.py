"""What a revision will hold: files and the metadata of directories; and how it is made from the one before it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_quilt.core.names import DirectoryKey, check_file, check_tree, parse_logical_key, walk_order
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
    if directories := sorted(tree.directories):
        for source in sources:
            check_file(source.logical_key, directories)
    return Tree(sources, tree.directories)


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
    lengths = {len(key) for key in directories}
    seen: set[str] = set()

    def is_removed(key: str) -> bool:
        hits = directories.intersection(_parents(key, lengths)) | files.intersection([key])
        seen.update(hits)
        return bool(hits)

    left = Tree(
        [source for source in tree.sources if not is_removed(source.logical_key)],
        {key: meta for key, meta in tree.directories.items() if not is_removed(key)},
    )
    return left, [key for key, parsed in keys.items() if parsed not in seen]


def _parents(key: str, lengths: set[int]) -> Iterator[str]:
    """Yield the directories above a file that have certain lengths; for the key of a directory, itself too; without their ``/``.

    Those of all lengths together may be as long as the square of the key.
    """
    at = key.find("/")
    while at >= 0:
        if at in lengths:
            yield key[:at]
        at = key.find("/", at + 1)


def merged(base: Tree, added: Tree) -> Tree:
    """Put a tree over another one: what has the same key takes the place of what was there."""
    taken = {source.logical_key for source in added.sources}
    kept = [source for source in base.sources if source.logical_key not in taken]
    return Tree(kept + added.sources, {**base.directories, **added.directories})
