"""Entries of the latest revision whose objects are still current: a file that has the same content is not sent again.

They are found with few requests, however many files there are: the manifest, and one listing. An object counts if the revision
names its version, and the listing shows that this version is still the current one. Whether a file has the same content is
found out when it is read (:class:`airflow_quilt.core.transfer.upload.Uploader`).
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.hashes import part_size
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey
from airflow_quilt.core.format.ordering import merge_join
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Transfer, Upload
from airflow_quilt.core.publish.changes import PreviousEntries
from airflow_quilt.core.publish.presence import list_current
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.runtime.together import at_once
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.stores import Stores

_log = logging.getLogger(__name__)


class _CurrentObject(msgspec.Struct, frozen=True, gc=False):
    """An object below the prefix where files land, under the logical key that lands there."""

    logical_key: LogicalKey
    key: PhysicalKey


def attach_previous(
    stores: Stores,
    previous: PreviousEntries,
    transfers: Spool[Transfer],
    spool: Callable[[Any], Spool[Any]],
) -> Iterable[Transfer]:
    """Return the transfers; each small upload with its entry in the latest revision, if that object is still current.

    Args:
        stores: hold the objects.
        previous: the latest revision.
        transfers: in walk order.
        spool: makes a spool for records of a type.
    """
    first = next(filter(_is_small, transfers), None)
    prefix = _prefix(first) if isinstance(first, Upload) else None
    if prefix is None:
        return transfers
    files = sum(map(_is_small, transfers))
    try:
        current = _current_entries(stores, previous, prefix, files, spool)
    except QuiltError as error:
        _log.info("All files are sent, also those that the latest revision holds, since it cannot be read: %s", error)
        return transfers
    return (_attach(transfer, entry) for transfer, entry in merge_join(transfers, current) if transfer)


def _is_small(transfer: Transfer) -> bool:
    """Whether a file is sent in one piece; for larger ones the uploader asks the store one by one."""
    return isinstance(transfer, Upload) and transfer.source.size <= part_size(transfer.source.size)


def _prefix(upload: Upload) -> PhysicalKey | None:
    """Return the prefix below which files land under their logical keys, if they do."""
    key, logical_key = upload.destination.key, upload.logical_key
    return PhysicalKey(upload.destination.bucket, key.removesuffix(logical_key)) if key.endswith(logical_key) else None


def _attach(transfer: Transfer, entry: Entry | None) -> Transfer:
    if not entry or not isinstance(transfer, Upload) or not _is_small(transfer):
        return transfer
    object_key = PhysicalKey.parse(entry.physical_keys[0])
    is_same = object_key.at_version(None) == transfer.destination and entry.size == transfer.source.size
    return (
        msgspec.structs.replace(transfer, previous=entry)
        if is_same and entry.hash.type == transfer.source.hash_type
        else transfer
    )


def _current_entries(
    stores: Stores,
    previous: PreviousEntries,
    prefix: PhysicalKey,
    files: int,
    spool: Callable[[Any], Spool[Any]],
) -> Spool[Entry]:
    """Return the entries of the latest revision that name current versions of objects below a prefix."""
    current: Spool[Entry] = spool(Entry)
    # The first page of the listing comes beside the manifest; it is for nothing where the manifest is too large to be read.
    known, infos = at_once(
        lambda: previous.read(files),
        lambda: _begun(list_current(stores, prefix, files)),
        threads=stores.limits.max_concurrency,
    )
    if known is None:
        return current
    listed: Spool[_CurrentObject] = spool(_CurrentObject)
    listed.extend(_CurrentObject(LogicalKey(info.key.key.removeprefix(prefix.key)), info.key) for info in infos)

    def entries() -> Iterator[Entry]:
        for entry, there in merge_join(known, listed):
            if entry and there and there.key.is_immutable and entry.physical_keys == (str(there.key),):
                yield entry

    current.extend(entries())
    return current


def _begun(infos: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
    """Return a listing whose first request has been made."""
    return itertools.chain(list(itertools.islice(infos, 1)), infos)
