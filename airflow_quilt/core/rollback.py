"""Rollback: make an older revision of a package the latest one again."""

import logging

from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.registry.pointers import Revision
from airflow_quilt.core.registry.registry import Registry

_log = logging.getLogger(__name__)


def rollback(registry: Registry, package: str, top_hash: str) -> tuple[Revision, TopHash]:
    """Let ``latest`` of a package name one of its revisions again.

    Args:
        registry: a registry on S3 or on the local disk.
        package: ``namespace/name``.
        top_hash: the revision, by its whole hash or the beginning of it (6 digits or more).

    Returns:
        The revision, and the top hash that ``latest`` named before: the same one where there was nothing to do.

    Raises:
        PackageNotFoundError: there is no such package or revision, or its manifest is gone.
        TopHashError: ``top_hash`` is malformed, or several revisions begin with it.
        RevisionConflictError: ``latest`` moved meanwhile; it was left alone.
    """
    name = PackageName.parse_existing(package)
    revision, previous = registry.rollback(name, top_hash)
    _log.info("The latest revision of %s in %s is %s; it was %s", name, registry.location, revision.top_hash, previous)
    return revision, previous
