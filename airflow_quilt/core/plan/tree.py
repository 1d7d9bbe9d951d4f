"""What a revision will hold: files and the metadata of directories; and how it is made from the one before it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_quilt.core.format.names import DirectoryKey, parse_logical_key
from airflow_quilt.core.format.ordering import merge_join
from airflow_quilt.core.plan.actions import Source


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Sources in walk order, and the metadata of directories, whose keys end in ``/``.

    ``is_checked`` tells that the sources are known to be a tree, since they were read as one.
    """

    sources: Iterable[Source] = ()
    directories: Mapping[DirectoryKey, Any] = field(default_factory=dict)
    is_checked: bool = False


class Removal:
    """Takes files and directories out of a tree.

    Args:
        keys: the keys of files; and of directories, with or without a ``/`` at the end, which go with all below them.

    Raises:
        LogicalKeyError: something is no logical key.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = {key: parse_logical_key(key.removesuffix("/")) for key in keys}
        self._directories = set(self._keys.values())
        self._files = {parsed for key, parsed in self._keys.items() if not key.endswith("/")}
        self._lengths = {len(key) for key in self._directories}
        self._seen: set[str] = set()

    def takes(self, key: str) -> bool:
        """Whether a file, or a directory, goes."""
        hits = self._directories.intersection(_parents(key, self._lengths)) | self._files.intersection([key])
        self._seen.update(hits)
        return bool(hits)

    @property
    def absent(self) -> list[str]:
        """The keys that were in nothing that was asked about."""
        return [key for key, parsed in self._keys.items() if parsed not in self._seen]


def updated(base: SourceTree, removal: Removal, added: SourceTree) -> SourceTree:
    """Return a tree without some of its files, and with others; what is added takes the place of what has the same key."""
    left = (source for source in base.sources if not removal.takes(source.logical_key))
    sources = (new or old for old, new in merge_join(left, added.sources))
    kept = {key: meta for key, meta in base.directories.items() if not removal.takes(key)}
    return SourceTree((source for source in sources if source), {**kept, **added.directories})


def _parents(key: str, lengths: set[int]) -> Iterator[str]:
    """Yield the directories above a file that have certain lengths; for the key of a directory, itself too; without their ``/``.

    Those of all lengths together may be as long as the square of the key.
    """
    at = key.find("/")
    while at >= 0:
        if at in lengths:
            yield key[:at]
        at = key.find("/", at + 1)
