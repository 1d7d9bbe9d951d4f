"""What the latest revision holds of what is to be sent: found with few requests, however many files there are.

An object counts if the revision names its version, and a listing shows that this version is still the current one. Whether
a file has the same content is for who reads it to find out (:class:`airflow_quilt.core.transfer.upload.Uploader`).
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.hashes import part_size
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.format.ordering import merge_join
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Transfer, Upload
from airflow_quilt.core.registry.pointers import Latest
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.spool import Spool

_log = logging.getLogger(__name__)

_LINE: Final = 1000
"""Bytes of a manifest, for each file to be sent, up to which it is worth while to read it."""
_VERSIONS: Final = 4
"""Versions, for each file to be sent, up to which it is worth while to list them."""
_FEW: Final = 1000
"""As many as one request lists."""


class _Listed(msgspec.Struct, frozen=True, gc=False):
    """An object below the prefix where files land, by the logical key that lands there."""

    logical_key: LogicalKey
    key: PhysicalKey


def attach_previous(
    registry: Registry, name: PackageName, latest: Latest, tasks: Spool[Transfer], spool: Callable[[Any], Spool[Any]]
) -> Iterable[Transfer]:
    """Return the tasks; each small file with the entry that the latest revision has of it, if its object is still there.

    Args:
        registry: where they are sent.
        name: the package.
        latest: its latest revision.
        tasks: in walk order.
        spool: makes a place for records.
    """
    first = next(filter(_is_small, tasks), None)
    prefix = _prefix(first) if isinstance(first, Upload) else None
    if prefix is None:
        return tasks
    files = sum(map(_is_small, tasks))
    try:
        found = _found(registry, name, latest, prefix, files, spool)
    except QuiltError as error:
        _log.info("What the latest revision holds is sent again, since it cannot be read: %s", error)
        return tasks
    return (_told(task, entry) for task, entry in merge_join(tasks, found) if task)


def _is_small(task: Transfer) -> bool:
    """Whether a task sends a file in one piece; what has parts is looked for one by one."""
    return isinstance(task, Upload) and task.source.size <= part_size(task.source.size)


def _prefix(task: Upload) -> PhysicalKey | None:
    """Return the prefix below which files land under their logical keys, if they do."""
    key = task.destination.key
    return PhysicalKey(task.destination.bucket, key.removesuffix(task.logical_key)) if key.endswith(task.logical_key) else None


def _told(task: Transfer, entry: Entry | None) -> Transfer:
    """Tell a task of the entry of the latest revision, if it is of the place where the file is to land."""
    if not entry or not isinstance(task, Upload) or not _is_small(task):
        return task
    place = PhysicalKey.parse(entry.physical_keys[0])
    is_same = place.at_version(None) == task.destination and entry.size == task.source.size
    return msgspec.structs.replace(task, earlier=entry) if is_same and entry.hash.type == task.source.hash_type else task


def _found(
    registry: Registry, name: PackageName, latest: Latest, prefix: PhysicalKey, files: int, spool: Callable[[Any], Spool[Any]]
) -> Spool[Entry]:
    """Return the entries of the latest revision whose objects are below a prefix, at the versions that are current."""
    found: Spool[Entry] = spool(Entry)
    manifest = registry.read_small(name, latest.top_hash, _LINE * (files + _FEW))
    if manifest is None:
        return found
    listed: Spool[_Listed] = spool(_Listed)
    stats = registry.stores.remote.list_versions(prefix, _VERSIONS * files + _FEW)
    listed.extend(_Listed(LogicalKey(stat.key.key.removeprefix(prefix.key)), stat.key) for stat in stats)
    found.extend(_current(manifest.entries, listed))
    return found


def _current(entries: Iterable[Entry], listed: Iterable[_Listed]) -> Iterator[Entry]:
    for entry, there in merge_join(entries, listed):
        if entry and there and there.key.version_id is not None and entry.physical_keys == (str(there.key),):
            yield entry
