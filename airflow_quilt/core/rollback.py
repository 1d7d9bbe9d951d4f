"""Rollback: make an older revision of a package the latest one again."""

import logging
from dataclasses import dataclass

import pendulum

from airflow_quilt.core.errors import short
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RollbackResult:
    """The revision that is the latest one now.

    Attributes:
        top_hash: of the revision.
        published_at: the time of its pointer.
        previous: the top hash that ``latest`` named before: the same one where there was nothing to do.
    """

    top_hash: TopHash
    published_at: pendulum.DateTime
    previous: TopHash


def rollback(registry: Registry, package: PackageName | str, revision: str, *, attempt: Attempt | None = None) -> RollbackResult:
    """Make a revision of the history the latest one again; nothing is copied or deleted.

    Args:
        registry: a registry on S3 or on the local disk.
        package: ``namespace/name``.
        revision: its top hash or the beginning of it (6 digits or more).
        attempt: identifies the attempts of one piece of work, such as an Airflow task instance.

    Raises:
        PackageNotFoundError: there is no such package or revision, or its manifest is gone.
        TopHashError: ``revision`` is malformed, or several revisions begin with it.
        RevisionConflictError: ``latest`` moved meanwhile; it was left alone.
    """
    found, previous = registry.rollback(package, revision, attempt)
    message = "The latest revision of %s in %s is %s; it was %s"
    _log.info(message, package, registry.location, short(found.top_hash), short(previous))
    return RollbackResult(found.top_hash, found.published_at, previous)
