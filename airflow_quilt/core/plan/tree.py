"""The tree of a future revision: sources and metadata of directories, and its derivation from another tree."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_quilt.core.format.names import DirectoryKey, parse_logical_key
from airflow_quilt.core.format.ordering import merge_join
from airflow_quilt.core.plan.actions import Source


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Sources in walk order, and the metadata of directories, whose keys end in ``/``.

    ``is_checked``: the sources come from the reader of one manifest, which checks that they make a tree.
    """

    sources: Iterable[Source] = ()
    directories: Mapping[DirectoryKey, Any] = field(default_factory=dict)
    is_checked: bool = False


class Removal:
    """Removal of files and directories from a tree.

    Args:
        keys: keys of files, and of directories, with or without a ``/`` at the end; all below a directory is removed with it.

    Raises:
        LogicalKeyError: a key is not a logical key.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = {key: parse_logical_key(key.removesuffix("/")) for key in keys}
        self._directories = set(self._keys.values())
        self._files = {parsed for key, parsed in self._keys.items() if not key.endswith("/")}
        self._lengths = {len(key) for key in self._directories}
        self._found: set[str] = set()

    def takes(self, key: str) -> bool:
        """Return whether a file or directory is removed."""
        hits = self._directories.intersection(_ancestors(key, self._lengths)) | self._files.intersection([key])
        self._found.update(hits)
        return bool(hits)

    @property
    def absent(self) -> list[str]:
        """Keys that matched none of the files and directories so far."""
        return [key for key, parsed in self._keys.items() if parsed not in self._found]


def updated(base: SourceTree, removal: Removal, added: SourceTree) -> SourceTree:
    """Return a tree after removals and additions; an addition replaces the source or metadata with the same key."""
    kept = (source for source in base.sources if not removal.takes(source.logical_key))
    sources = (new or old for old, new in merge_join(kept, added.sources))
    directories = {key: meta for key, meta in base.directories.items() if not removal.takes(key)}
    return SourceTree((source for source in sources if source), {**directories, **added.directories})


def _ancestors(key: str, lengths: set[int]) -> Iterator[str]:
    """Yield the directories above a key that have one of some lengths, without their ``/``; also the key of a directory itself.

    The lengths bound the work: all ancestors together may be as long as the square of the key.
    """
    at = key.find("/")
    while at >= 0:
        if at in lengths:
            yield key[:at]
        at = key.find("/", at + 1)
