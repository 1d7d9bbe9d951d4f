"""One piece of work, done by our engine in a process of its own; see :mod:`benchmarks.client`."""

from collections import deque
from typing import Any

import boto3

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.draft import Draft
from airflow_quilt.core.install import install
from airflow_quilt.core.locations import RegistryLocation
from airflow_quilt.core.names import PackageName
from airflow_quilt.core.push import push
from airflow_quilt.core.registry import Registry
from airflow_quilt.core.selection import Reference
from airflow_quilt.core.storage.base import Stores
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3 import S3Storage, client_config
from benchmarks.client import main


def _registry(location: str) -> Registry:
    client = boto3.session.Session().client("s3", config=client_config(None))
    return Registry(RegistryLocation.parse(location), Stores(LocalStorage(), S3Storage(client)))


def push_directory(registry: str, package: str, source: str) -> dict[str, Any]:
    """Push a directory, or a prefix on S3."""
    published = push(_registry(registry), Draft(package=package, entries=source))
    return {"entries": published.entries, "top_hash": published.top_hash}


def build_prefix(registry: str, package: str, source: str) -> dict[str, Any]:
    """Build a package of what lies at a prefix, or in a directory."""
    published = build(_registry(registry), Draft(package=package, entries=source))
    return {"entries": published.entries, "top_hash": published.top_hash}


def build_package(registry: str, package: str, source: str) -> dict[str, Any]:
    """Build a package of the entries of another one of a local registry, whose hashes are known."""
    location = RegistryLocation.parse(registry)
    published = build(_registry(registry), Draft(package=package, entries=f"quilt+{location}#package={source}"))
    return {"entries": published.entries, "top_hash": published.top_hash}


def read_package(registry: str, package: str) -> dict[str, Any]:
    """Read a manifest as a stream, entry after entry."""
    manifest = _registry(registry).read(PackageName.parse(package))
    return {"last": deque(manifest.entries, 1)[0].logical_key}


def install_package(registry: str, package: str, dest: str) -> dict[str, Any]:
    """Install a package to a directory."""
    return {"entries": len(install(_registry(registry), Reference(package), dest).paths)}


def list_revisions(registry: str, package: str) -> dict[str, Any]:
    """List the revisions of a package."""
    return {"revisions": len(list(_registry(registry).revisions(PackageName.parse(package))))}


def delete_package(registry: str, package: str) -> dict[str, Any]:
    """Delete a package."""
    return {"revisions": len(delete(_registry(registry), package))}


if __name__ == "__main__":
    main(globals())
