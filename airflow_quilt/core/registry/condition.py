"""A condition on the latest revision of a package, which sensors wait for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pendulum

from airflow_quilt.core.errors import PackageNotFoundError
from airflow_quilt.core.format.arguments import parse_moment
from airflow_quilt.core.format.names import PackageName, TopHash, parse_path
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import at


@dataclass(frozen=True, slots=True)
class FoundRevision:
    """The latest revision of a package.

    Attributes:
        uri: its Quilt+ URI.
        published_at: the time at which it was published, where the newest pointer shows it.
    """

    uri: QuiltUri
    published_at: pendulum.DateTime | None

    @property
    def top_hash(self) -> TopHash | None:
        """The top hash of the revision."""
        return self.uri.top_hash

    def to_xcom(self, catalog: str | None = None) -> dict[str, Any]:
        """Return the revision as plain values, for XCom and for events; ``catalog`` is the URL of a Quilt catalog."""
        return {
            **self.uri.to_xcom(catalog),
            "published_at": self.published_at.to_iso8601_string() if self.published_at else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionCondition:
    """A condition that the latest revision of a package meets, or not yet.

    Attributes:
        package: ``namespace/name``.
        newer_than: a top hash or the beginning of one (6 digits or more), which the latest revision must not have; or a
            time (a datetime, or a `str` as ISO 8601 writes it with ``-``; UTC by default), after which it must have been
            published. None: any revision meets it.
        path: the logical key of a file, or of a directory, that the revision must hold.
    """

    package: PackageName | str
    newer_than: str | datetime | None = None
    path: str | None = None
    _lacking: set[TopHash] = field(default_factory=set, init=False, repr=False, compare=False)
    """The revision that was read last and does not hold the path: the next poll does not read it again."""

    def find(self, registry: Registry, on_absent: Callable[[str], object] | None = None) -> FoundRevision | None:
        """Return the latest revision if it meets the condition.

        Args:
            registry: holds the package.
            on_absent: called where there is no such package, with a sentence that names the nearest one; names are listed for it.

        Raises:
            InputError: a part of the condition is malformed.
            QuiltError: the registry cannot be read.
        """
        name = PackageName.parse_existing(self.package)
        since, known = (None, None) if self.newer_than is None else parse_moment(self.newer_than)
        if self.path is not None:
            parse_path(self.path)
        newer = None if since is None else registry.pointers_since(name, since)
        if newer and newer.latest and not newer.stats:  # One request for a poll that finds nothing new.
            return None
        latest = registry.latest(name) if newer is None or newer.latest else None
        if latest is None and on_absent:
            on_absent(str(registry.absent(name)))
        if latest is None or (known and latest.top_hash.startswith(known)):
            return None
        if self.path is not None and not self._has_path(registry, name, latest.top_hash, self.path):
            return None
        published_at = registry.published_at(name, latest, newer)
        if newer and published_at is None:
            return None
        uri = QuiltUri(registry=registry.location, package=name, top_hash=latest.top_hash)
        return FoundRevision(uri, published_at)

    def _has_path(self, registry: Registry, name: PackageName, top_hash: TopHash, path: str) -> bool:
        if top_hash in self._lacking:
            return False
        try:
            # To the end of the manifest, where its top hash is checked.
            has_path = sum(1 for _ in at(registry.read(name, top_hash).entries, path)) > 0
        except PackageNotFoundError:  # Its manifest is gone, so nobody can read it.
            return False
        if not has_path:
            self._lacking.clear()
            self._lacking.add(top_hash)
        return has_path
