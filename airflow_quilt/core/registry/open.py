"""Opens registries."""

from typing import TYPE_CHECKING

from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.storage.base import ObjectStore
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.stores import Stores

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def open_registry(
    location: str, *, client: "S3Client | None" = None, remote: ObjectStore | None = None, limits: Limits | None = None
) -> Registry:
    """Open a registry.

    Args:
        location: ``s3://bucket``, ``file:///directory`` or a local path.
        client: a boto3 client for S3; by default one with boto3's own credentials, region and settings.
        remote: a storage in place of S3, such as ``MemoryStorage(["bucket"])``.
        limits: bounds on concurrency, transfer buffer and entries in memory.

    Raises:
        LocationError: the location is no bucket and no directory.
        SettingsError: boto3's own settings make no client.
    """
    root, limits = resolve_registry(location), limits or Limits()
    if remote is None:
        # Only here: a registry in memory, or a DAG file, does without boto3, which takes a quarter of a second to import.
        from airflow_quilt.core.storage.s3.storage import open_s3  # noqa: PLC0415

        remote = open_s3(client, limits)
    return Registry(root, Stores(LocalStorage(), remote, limits=limits))
