"""Delete: take a package, or one of its revisions, out of a registry; manifests and data stay."""

import logging

from airflow_quilt.core.errors import PackageNotFoundError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.pointers import DeleteResult
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.progress import count

_log = logging.getLogger(__name__)


def delete(registry: Registry, package: str, top_hash: str | None = None, *, missing_ok: bool = False) -> DeleteResult:
    """Delete the pointers of a package, or of the revisions of it that have a top hash.

    Args:
        registry: a registry on S3 or on the local disk.
        package: ``namespace/name``.
        top_hash: the revision, by its whole hash or the beginning of it (6 digits or more); None is the whole package.
        missing_ok: whether it may be gone already.

    Returns:
        What was deleted; nothing, where it was gone already.

    Raises:
        PackageNotFoundError: there is no such package or revision.
        TopHashError: ``top_hash`` is malformed, or several revisions begin with it.
        RevisionConflictError: ``latest`` moved meanwhile; nothing was deleted.
    """
    name = PackageName.parse_existing(package)
    try:
        deleted = registry.delete(name, top_hash)
    except PackageNotFoundError as error:
        if not missing_ok:
            raise
        _log.info("Nothing to delete: %s", error)
        return DeleteResult()
    revisions = count(len(deleted.times), "revision", "revisions")
    _log.info("Deleted %s of %s from %s; the data stays", revisions, name, registry.location)
    return deleted
