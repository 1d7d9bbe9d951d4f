"""One piece of work, done by airflow_quilt in a process of its own; see :mod:`benchmarks.client`."""

from collections import deque
from typing import Any

import boto3

from airflow_quilt.core.build import build, build_planner
from airflow_quilt.core.delete import delete
from airflow_quilt.core.format.hashes import CHUNKED
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import ShardingOptions, ShardResult, commit_shards, plan_shards, transfer_shard
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.s3.storage import S3Storage, client_config
from airflow_quilt.core.storage.stores import Stores
from benchmarks.client import main


def _registry(location: str, **limits: int) -> Registry:
    bounds = Limits(**limits)
    client = boto3.session.Session().client("s3", config=client_config(None, bounds))
    return Registry(resolve_registry(location), Stores(LocalStorage(), S3Storage(client), limits=bounds))


def _told(published: PublishResult) -> dict[str, Any]:
    return {"entries": published.entries, "bytes": published.bytes, "top_hash": published.top_hash}


def push_directory(registry: str, package: str, source: str, **limits: int) -> dict[str, Any]:
    """Push a directory, or a prefix on S3."""
    return _told(push(_registry(registry, **limits), Draft(package=package, entries=source)))


def build_prefix(registry: str, package: str, source: str, hash_type: str = CHUNKED) -> dict[str, Any]:
    """Build a package of a prefix or a directory."""
    return _told(build(_registry(registry), Draft(package=package, entries=source, hash_type=hash_type)))


def build_package(registry: str, package: str, source: str, **limits: int) -> dict[str, Any]:
    """Build a package of the entries of another package of a local registry, whose hashes are known."""
    entries = f"quilt+{resolve_registry(registry)}#package={source}"
    return _told(build(_registry(registry, **limits), Draft(package=package, entries=entries)))


def plan_push(registry: str, package: str, source: str, staging: str, shards: int) -> dict[str, Any]:
    """Plan a push of a directory or a prefix in shards."""
    draft, opened = Draft(package=package, entries=source), _registry(registry)
    planned = plan_shards(
        opened, draft, push_planner(opened, draft.package), PhysicalKey.parse(staging), ShardingOptions(shards=shards)
    )
    return {"plan": str(planned.location)}


def plan_build(registry: str, package: str, source: str, staging: str, shards: int) -> dict[str, Any]:
    """Plan a build of the entries of another package of a local registry."""
    entries = f"quilt+{resolve_registry(registry)}#package={source}"
    draft, opened = Draft(package=package, entries=entries), _registry(registry)
    planned = plan_shards(
        opened, draft, build_planner(opened, draft.package), PhysicalKey.parse(staging), ShardingOptions(shards=shards)
    )
    return {"plan": str(planned.location)}


def transfer_some(registry: str, package: str, plan: str, first: int, stop: int) -> dict[str, Any]:
    """Transfer shards, one after the other."""
    opened, location = _registry(registry), PhysicalKey.parse(plan)
    return {"results": [transfer_shard(opened, package, location, number).to_xcom() for number in range(first, stop)]}


def commit(registry: str, package: str, plan: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Commit all shards."""
    done = map(ShardResult.from_xcom, results)
    return _told(commit_shards(_registry(registry), package, PhysicalKey.parse(plan), done))


def resolve_and_push(registry: str, package: str, top_hash: str, source: str) -> dict[str, Any]:
    """Resolve a short hash to a revision of a package, then push a directory to another package."""
    found = _registry(registry).resolve(PackageName.parse(package), top_hash)
    return {**push_directory(registry, f"{package}-next", source), "resolved": found}


def read_package(registry: str, package: str) -> dict[str, Any]:
    """Read a manifest as a stream, entry after entry."""
    manifest = _registry(registry).read(PackageName.parse(package))
    return {"last": deque(manifest.entries, 1)[0].logical_key}


def install_package(registry: str, package: str, dest: str, **limits: int) -> dict[str, Any]:
    """Install a package to a directory."""
    installed = install(_registry(registry, **limits), Reference(package), dest)
    return {"entries": len(installed.paths), "bytes": installed.bytes}


def list_revisions(registry: str, package: str) -> dict[str, Any]:
    """List the revisions of a package."""
    return {"revisions": len(list(_registry(registry).revisions(PackageName.parse(package))))}


def delete_package(registry: str, package: str) -> dict[str, Any]:
    """Delete a package."""
    return {"revisions": len(delete(_registry(registry), package).times)}


if __name__ == "__main__":
    main(globals())
