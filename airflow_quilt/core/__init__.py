"""The core: Quilt's packages and registries, complete without Airflow. This is its front door (docs/engine.md).

``from airflow_quilt.core import open_registry, push, Draft`` is all that a Python program needs. Modules below this one are
private. Nothing is imported before it is used: Airflow parses DAG files that name one of these without the rest.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow_quilt.core.build import build, build_planner
    from airflow_quilt.core.delete import delete
    from airflow_quilt.core.errors import QuiltError
    from airflow_quilt.core.format.names import PackageName
    from airflow_quilt.core.format.quilt_uri import QuiltUri
    from airflow_quilt.core.install import install
    from airflow_quilt.core.publish.commit import PublishResult
    from airflow_quilt.core.publish.draft import Draft
    from airflow_quilt.core.publish.sharded.run import (
        ShardingOptions,
        commit_shards,
        discard,
        plan_shards,
        staging_of,
        transfer_shard,
    )
    from airflow_quilt.core.push import push, push_planner
    from airflow_quilt.core.read import read_bytes, read_entries, read_frame, read_json
    from airflow_quilt.core.registry.attempt import Attempt
    from airflow_quilt.core.registry.open import open_registry
    from airflow_quilt.core.registry.registry import Registry
    from airflow_quilt.core.registry.selection import Reference
    from airflow_quilt.core.rollback import rollback
    from airflow_quilt.core.sources.entry import entry
    from airflow_quilt.core.storage.memory import MemoryStorage
    from airflow_quilt.core.verify import verify

__all__ = [
    "Attempt",
    "Draft",
    "MemoryStorage",
    "PackageName",
    "PublishResult",
    "QuiltError",
    "QuiltUri",
    "Reference",
    "Registry",
    "ShardingOptions",
    "build",
    "build_planner",
    "commit_shards",
    "delete",
    "discard",
    "entry",
    "install",
    "open_registry",
    "plan_shards",
    "push",
    "push_planner",
    "read_bytes",
    "read_entries",
    "read_frame",
    "read_json",
    "rollback",
    "staging_of",
    "transfer_shard",
    "verify",
]

_HOMES: Final = {
    "Attempt": "registry.attempt",
    "Draft": "publish.draft",
    "MemoryStorage": "storage.memory",
    "PackageName": "format.names",
    "PublishResult": "publish.commit",
    "QuiltError": "errors",
    "QuiltUri": "format.quilt_uri",
    "Reference": "registry.selection",
    "Registry": "registry.registry",
    "ShardingOptions": "publish.sharded.run",
    "build": "build",
    "build_planner": "build",
    "commit_shards": "publish.sharded.run",
    "delete": "delete",
    "discard": "publish.sharded.run",
    "entry": "sources.entry",
    "install": "install",
    "open_registry": "registry.open",
    "plan_shards": "publish.sharded.run",
    "push": "push",
    "push_planner": "push",
    "read_bytes": "read",
    "read_entries": "read",
    "read_frame": "read",
    "read_json": "read",
    "rollback": "rollback",
    "staging_of": "publish.sharded.run",
    "transfer_shard": "publish.sharded.run",
    "verify": "verify",
}


class _FrontDoor(ModuleType):
    """This package; the name of a verb is its function, and not the module of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        # Python binds a submodule to its package when it is first imported, by whichever way: push.py would hide push().
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _FrontDoor
