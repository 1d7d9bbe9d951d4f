"""Conditional writes, on stores that support them and on stores that do not."""

import logging
from typing import Final

from airflow_quilt.core.errors import ObjectNotFoundError, PreconditionError, UnsupportedError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import IfMatch, ObjectInfo, Storage, WriteMode

_log = logging.getLogger(__name__)

_WEAK: Final = (
    "%s keeps no conditional writes (If-Match, If-None-Match): one writer at a time is safe there, but of several that publish "
    "or delete revisions of one package at the same moment one may undo the change of another"
)


class ConditionalWriter:
    """Writes small objects, each on a condition; where the store ignores conditions, a read checks it before the write.

    Args:
        storage: the store.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._is_weak = False

    def put(self, key: PhysicalKey, data: bytes, mode: WriteMode, writer_tag: str | None = None) -> ObjectInfo:
        """Write an object, if the condition of ``mode`` holds.

        Raises:
            PreconditionError: it does not.
        """
        if not self._is_weak and mode != "overwrite":
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
        if not self._is_weak and not self._storage.supports_conditional_writes(key, data):
            self._weaken(key)

    def _weaken(self, key: PhysicalKey) -> None:
        self._is_weak = True
        _log.warning(_WEAK, f"s3://{key.bucket}" if key.bucket else key)

    def _check(self, key: PhysicalKey, mode: WriteMode) -> None:
        if mode == "overwrite":
            return
        try:
            etag = self._storage.get(key).etag
        except ObjectNotFoundError:
            etag = None
        if etag != (mode.etag if isinstance(mode, IfMatch) else None):
            raise PreconditionError("the object is not in the state that was expected", str(key))
