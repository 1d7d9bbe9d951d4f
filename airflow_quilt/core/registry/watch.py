"""Polls of the ``latest`` pointers of many packages, with few requests for each."""

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from airflow_quilt.core.errors import ManifestError, PackageNameError, plain
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName, TopHash, is_pattern, literal_prefix, matches
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Latest
from airflow_quilt.core.runtime.threads import map_concurrently

if TYPE_CHECKING:
    from airflow_quilt.core.registry.attempt import RollbackTag, WriterTag

_log = logging.getLogger(__name__)

_FEW: Final = 16
"""The most packages that are always polled one by one, without a listing to find out whether it needs fewer requests."""
_PAGE: Final = 1000
"""The most objects that one listing request returns."""


class LatestWatcher:
    """Polls the ``latest`` pointers of packages of one registry.

    A poll reads ``latest`` of each package, all at once; or it lists their pointers, 1000 with each request: where there is a
    pattern, or where packages are many, unless the last listing needed more requests than there are packages. Then the names of
    those that fit a pattern are listed, without their pointers. A ``latest`` that is listed is read where its ETag has changed
    since the last poll.

    Args:
        registry: the registry of the packages.

    Attributes:
        writers: the tags of ``latest`` at the last poll, by package, where they name a task (ADR 0030).
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.writers: Mapping[str, WriterTag | RollbackTag] = {}
        self._root = registry.location.root
        self._storage = registry.stores.of(self._root)
        self._threads = registry.stores.limits.max_concurrency
        self._etags: dict[str, str] = {}
        self._found: dict[str, TopHash] = {}
        self._pages = 0
        self._by_name = 0

    def poll(self, packages: Collection[str]) -> Mapping[str, TopHash]:
        """Return the top hash that ``latest`` names, by package, without packages that do not exist.

        Args:
            packages: names and patterns.

        Raises:
            StorageError: a store refused or failed.
        """
        patterns = [package for package in packages if is_pattern(package)]
        fitting = list(self._fitting(patterns)) if patterns and self._pages > max(_FEW, self._by_name) else None
        prefixes = [literal_prefix(pattern) for pattern in patterns] if fitting is None else []
        names = [package for package in packages if not is_pattern(package) and not package.startswith(tuple(prefixes))]
        names = list(dict.fromkeys([*names, *(fitting or ())]))
        if fitting is None and len(names) > max(_FEW, self._pages):
            prefixes.append(os.path.commonprefix(names))  # noqa: RUF071  (of characters, as prefixes of listings are)
            names = []
        listed = dict(self._list(_outermost(prefixes), packages) if prefixes else ())
        unknown = [*names, *(name for name, etag in listed.items() if self._etags.get(name) != etag)]
        read = dict(zip(unknown, map_concurrently(self._read, unknown, self._threads), strict=True))
        etags = {name: latest.etag for name, latest in read.items() if latest} | listed
        hashes = self._found | {name: latest.top_hash for name, latest in read.items() if latest}
        found = {name: hashes[name] for name in etags if name not in read or read[name]}
        # Remembered only now: a poll that fails half-way must not hide a change from the next one.
        if read:
            tags = {
                **self.writers,
                **{name: latest and (latest.writer_tag or latest.rollback_tag) for name, latest in read.items()},
            }
            self.writers = {name: tag for name, tag in tags.items() if tag and tag.task and name in found}
        self._etags, self._found = {name: etags[name] for name in found}, found
        return found

    def _fitting(self, patterns: Collection[str]) -> Iterator[str]:
        """List the names of the packages that fit patterns, each once, with a request for each namespace that may hold one."""
        spaces = {pattern.partition("/")[0] for pattern in patterns}
        directory = self._root.join(layout.NAMES)
        if any(map(is_pattern, spaces)):
            there = (name.removesuffix("/") for name in self._storage.list_names(directory) if name.endswith("/"))
            spaces = {name for name in there if any(fnmatchcase(name, space) for space in spaces)}
        requests = len(spaces) + 1
        for namespace in sorted(spaces):
            for name in self._storage.list_names(directory.join(f"{namespace}/")):
                package = f"{namespace}/{name.removesuffix('/')}"
                if name.endswith("/") and _is_polled(package, (), patterns) and _is_readable(package):
                    requests += 1
                    yield package
        self._by_name = requests

    def _list(self, prefixes: Collection[str], packages: Collection[str]) -> Iterator[tuple[str, str]]:
        """List the pointers below prefixes; yield the packages that are polled, each with the ETag of its ``latest``."""
        names = {package for package in packages if not is_pattern(package)}
        patterns = [package for package in packages if is_pattern(package)]
        directory = self._root.join(layout.NAMES)
        spaces, found = {""}, 0
        pages = 0
        for prefix in prefixes:
            pages += 1
            for count, stat in enumerate(self._storage.list_objects(PhysicalKey(directory.bucket, directory.key + prefix)), 1):
                pages += count % _PAGE == 0
                name, _, pointer = stat.key.key.removeprefix(directory.key).rpartition("/")
                if pointer == layout.LATEST and name.count("/") == 1 and _is_polled(name, names, patterns):
                    spaces.add(name.partition("/")[0])
                    found += 1
                    yield name, stat.etag
        self._pages, self._by_name = pages, len(spaces) + found

    def _read(self, name: str) -> Latest | None:
        """Read ``latest`` of a package; None where it is gone meanwhile, or holds no top hash."""
        try:
            return self.registry.latest(PackageName.parse_existing(name))
        except (ManifestError, PackageNameError) as error:
            _log.warning(
                "%s: 'latest' of %s is no top hash, the package is skipped: %s", self.registry.location, plain(name), error
            )
            return None


def _is_polled(name: str, names: Collection[str], patterns: Iterable[str]) -> bool:
    return name in names or any(matches(name, pattern) for pattern in patterns)


def _is_readable(name: str) -> bool:
    try:
        PackageName.parse_existing(name)
    except PackageNameError:
        return False
    return True


def _outermost(prefixes: Iterable[str]) -> list[str]:
    """Return the prefixes that lie below no other one."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept
