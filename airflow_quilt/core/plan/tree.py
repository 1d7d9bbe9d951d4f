"""The tree of a future revision: sources and metadata of directories, and its derivation from another tree."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from airflow_quilt.core.errors import quoted
from airflow_quilt.core.format.metadata import lost_keys, merge_meta
from airflow_quilt.core.format.names import DirectoryKey, parse_logical_key, walk_order
from airflow_quilt.core.format.ordering import Block, merge_blocks, records_of, sort_key
from airflow_quilt.core.plan.actions import Source, Sources

_SHOWN: Final = 10

OnChange = Callable[[Source | None, Source | None], object]
"""Called with a source of a tree, or None, and the one that takes its place in the next tree, or None."""


def _ignore(_old: Source | None, _new: Source | None) -> None:
    """Do nothing with a change."""


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Sources in walk order, and the metadata of directories, whose keys end in ``/``.

    ``is_checked``: the sources come from the reader of one manifest, which checks that they make a tree. ``header`` is that of
    the package that alone makes up the tree, if one does.
    """

    sources: Sources = ()
    directories: Mapping[DirectoryKey, Any] = field(default_factory=dict)
    is_checked: bool = False
    header: Mapping[str, Any] | None = None


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
        self._starts = sorted(map(walk_order, self._directories))
        self._found: set[str] = set()

    def takes(self, key: str) -> bool:
        """Return whether a file or directory is removed."""
        hits = self._directories.intersection(_ancestors(key, self._lengths)) | self._files.intersection([key])
        self._found.update(hits)
        return bool(hits)

    def may_take_from(self, block: Block[Source]) -> bool:
        """Return whether a file of a block may be removed: the first one is, or a key is among those of the block."""
        if not self._keys:
            return False
        at = bisect_left(self._starts, sort_key(block.first))
        is_within = at < len(self._starts) and self._starts[at] <= sort_key(block.last)
        return is_within or self.takes(block.first.logical_key)

    @property
    def absent(self) -> list[str]:
        """Keys that matched none of the files and directories so far."""
        return [key for key, parsed in self._keys.items() if parsed not in self._found]


class Additions:
    """Additions to a tree; each replaces the source, or the metadata of a directory, that has the same key.

    Args:
        tree: the added files, and metadata of directories.
        merges: let the metadata that was there join the metadata that is added, which overrides keys of the same name.
    """

    def __init__(self, tree: SourceTree, *, merges: bool = False) -> None:
        self._tree = tree
        self._merges = merges
        self.losses = 0
        self.lost: dict[str, list[str]] = {}
        """The number of files and directories so far that lost keys of their metadata; and the keys, of the first few."""

    def sources(self, base: Sources, on_change: OnChange = _ignore) -> Iterator[Source | Block[Source]]:
        """Yield the sources of a tree, with the added ones."""
        for old, new in merge_blocks(base, records_of(self._tree.sources)):
            if isinstance(old, Block) or not new:
                if old:
                    yield old
                continue
            on_change(old, new)
            yield self._replaced(old, new) if old else new

    def directories(self, base: Mapping[DirectoryKey, Any]) -> dict[DirectoryKey, Any]:
        """Return the metadata of directories, with that of the added ones."""
        added = self._tree.directories
        return {**base, **{key: self._meta(key, base[key], meta) if key in base else meta for key, meta in added.items()}}

    def _replaced(self, old: Source, new: Source) -> Source:
        if old.user_meta in ({}, None):
            return new
        meta = self._meta(old.logical_key, old.user_meta, new.user_meta)
        is_same = meta == new.user_meta or not isinstance(new.meta, dict)  # A text in place of all metadata stays alone.
        return new if is_same else replace(new, meta={**new.meta, "user_meta": meta})

    def _meta(self, key: str, there: Any, given: Any) -> Any:
        if self._merges:
            return merge_meta(there, given, f"entry {quoted(key)}")
        if lost := lost_keys(there, given):
            self.losses += 1
            if len(self.lost) < _SHOWN:
                self.lost[key] = lost
        return given


def updated(base: SourceTree, removal: Removal, additions: Additions, on_change: OnChange = _ignore) -> SourceTree:
    """Return a tree after removals and additions."""

    def kept() -> Iterator[Source | Block[Source]]:
        for item in base.sources:
            if isinstance(item, Block) and not removal.may_take_from(item):
                yield item
                continue
            for source in records_of([item]):
                if removal.takes(source.logical_key):
                    on_change(source, None)
                else:
                    yield source

    directories = {key: meta for key, meta in base.directories.items() if not removal.takes(key)}
    return SourceTree(additions.sources(kept(), on_change), additions.directories(directories))


def _ancestors(key: str, lengths: set[int]) -> Iterator[str]:
    """Yield the directories above a key that have one of some lengths, without their ``/``; also the key of a directory itself.

    The lengths bound the work: all ancestors together may be as long as the square of the key.
    """
    at = key.find("/")
    while at >= 0:
        if at in lengths:
            yield key[:at]
        at = key.find("/", at + 1)
