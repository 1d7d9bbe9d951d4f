"""A revision that somebody waits for."""

from dataclasses import dataclass
from datetime import datetime

import pendulum

from airflow_quilt.core.errors import PackageNotFoundError
from airflow_quilt.core.format.names import PackageName, TopHash, parse_hash_prefix, parse_logical_key
from airflow_quilt.core.registry.registry import Registry, moment_of
from airflow_quilt.core.registry.selection import at


@dataclass(frozen=True, slots=True)
class FoundRevision:
    """The revision that ``latest`` names; with the time at which it was published, where the newest pointer tells it."""

    package: PackageName
    top_hash: TopHash
    time: pendulum.DateTime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionCondition:
    """What the latest revision of a package has to be.

    Attributes:
        package: ``namespace/name``.
        newer_than: a top hash or the beginning of one, which it must not have; or a time, after which it must have been
            published, as text of ISO 8601 with ``-``, UTC unless it says otherwise. None: any revision will do.
        path: the key of a file that it must hold, or of a directory.
    """

    package: str
    newer_than: str | datetime | None = None
    path: str | None = None

    def find(self, registry: Registry) -> FoundRevision | None:
        """Return the latest revision if it is one like that.

        Raises:
            InputError: something here is malformed.
            QuiltError: the registry cannot be read.
        """
        name = PackageName.parse_existing(self.package)
        moment = moment_of(self.newer_than)
        known = None if self.newer_than is None or moment else parse_hash_prefix(str(self.newer_than))
        if self.path is not None:
            parse_logical_key(self.path.removesuffix("/"))
        latest = registry.latest(name)
        if latest is None or (known and latest.top_hash.startswith(known)):
            return None
        time = registry.published(name, latest.top_hash, moment)
        if moment and time is None:
            return None
        if self.path is not None and not _has(registry, name, latest.top_hash, self.path):
            return None
        return FoundRevision(name, latest.top_hash, time)


def _has(registry: Registry, name: PackageName, top_hash: TopHash, path: str) -> bool:
    try:
        return any(at(registry.read(name, top_hash).entries, path))
    except PackageNotFoundError:  # Its manifest is gone, so nobody can read it.
        return False
