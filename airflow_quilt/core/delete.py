"""Delete: take a package, or one of its revisions, out of a registry; manifests and data stay."""

import logging

from airflow_quilt.core.errors import PackageNotFoundError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import DeleteResult
from airflow_quilt.core.runtime.progress import count

_log = logging.getLogger(__name__)


def delete(
    registry: Registry, package: PackageName | str, revision: str | None = None, *, missing_ok: bool = False
) -> DeleteResult:
    """Delete the pointers of a package, or of one of its revisions.

    Args:
        registry: a registry on S3 or on the local disk.
        package: ``namespace/name``.
        revision: its top hash or the beginning of it (6 digits or more); None is the whole package.
        missing_ok: return an empty result where there is no such package or revision.

    Raises:
        PackageNotFoundError: there is no such package or revision.
        TopHashError: ``revision`` is malformed, or several revisions begin with it.
        RevisionConflictError: ``latest`` moved meanwhile; nothing was deleted.
    """
    try:
        deleted = registry.delete(package, revision)
    except PackageNotFoundError as error:
        if not missing_ok:
            raise
        _log.info("Nothing to delete: %s", error)
        return DeleteResult()
    revisions = count(len(deleted.times), "revision", "revisions")
    _log.info("Deleted %s of %s from %s; the data stays", revisions, package, registry.location)
    return deleted
