"""Conditional writes, on stores that support them and on stores that do not: every conditional write is made here.

=========================================  ============================================================================
the store                                  a conditional write
=========================================  ============================================================================
keeps conditions                           one request; refused with ``PreconditionError`` where the condition fails
answers that it does not know them (501)   the condition is checked by a request before the write, from then on without
                                           asking the store again
ignores them                               the same, once :meth:`ConditionalWriter.probe` found it out
=========================================  ============================================================================
"""

import logging
from typing import IO, Final

from airflow_quilt.core.errors import ObjectNotFoundError, PreconditionError, UnsupportedError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import Storage
from airflow_quilt.core.storage.objects import IfMatch, ObjectInfo, WriteMode

_log = logging.getLogger(__name__)

_WEAK: Final = (
    "%s keeps no conditional writes (If-Match, If-None-Match): one writer at a time is safe there, but of several that publish "
    "or delete revisions of one package at the same moment one may undo the change of another"
)


class ConditionalWriter:
    """Writes objects, each on a condition; where the store keeps none, a request checks it before the write.

    Args:
        storage: the store.
        weak: the buckets that are known to keep no conditions; all writers of the same stores share the set
            (:attr:`~airflow_quilt.core.storage.stores.Stores.without_conditions`), so that it is found out, and logged, once.
    """

    def __init__(self, storage: Storage, weak: set[str | None] | None = None) -> None:
        self._storage = storage
        self._weak: set[str | None] = set() if weak is None else weak

    def put(self, key: PhysicalKey, data: bytes | IO[bytes], mode: WriteMode, writer_tag: str | None = None) -> ObjectInfo:
        """Write an object, if the condition of ``mode`` holds; the arguments are those of :meth:`Storage.put`.

        Raises:
            PreconditionError: it does not.
        """
        if mode != "overwrite":
            if key.bucket not in self._weak:
                try:
                    return self._storage.put(key, data, mode, writer_tag)
                except UnsupportedError:
                    self._weaken(key)
            self._check(key, mode)
        return self._storage.put(key, data, "overwrite", writer_tag)

    def probe(self, key: PhysicalKey, data: bytes) -> None:
        """Check whether the store keeps conditions; log a warning if it does not.

        Args:
            key: an object of this writer, which may be written again with the same bytes.
            data: its bytes.
        """
        if key.bucket not in self._weak and not self._storage.supports_conditional_writes(key, data):
            self._weaken(key)

    def _weaken(self, key: PhysicalKey) -> None:
        self._weak.add(key.bucket)
        _log.warning(_WEAK, f"s3://{key.bucket}" if key.bucket else key)

    def _check(self, key: PhysicalKey, mode: WriteMode) -> None:
        try:
            etag = self._storage.stat(key).etag
        except ObjectNotFoundError:
            etag = None
        if etag != (mode.etag if isinstance(mode, IfMatch) else None):
            raise PreconditionError("the object is not in the state that was expected", str(key))
