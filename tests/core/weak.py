"""Stores in memory without conditional writes, or without tags of writers."""

from typing import IO

from airflow_quilt.core.errors import UnsupportedError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import ObjectInfo, WriteMode


class IgnoringStorage(MemoryStorage):
    """A store that ignores conditions and writes always."""

    def put(
        self,
        key: PhysicalKey,
        body: bytes | IO[bytes],
        mode: WriteMode = "overwrite",  # noqa: ARG002
        writer_tag: str | None = None,
    ) -> ObjectInfo:
        return super().put(key, body, "overwrite", writer_tag)

    def supports_conditional_writes(self, key: PhysicalKey, data: bytes) -> bool:  # noqa: ARG002
        return False


class RefusingStorage(MemoryStorage):
    """A store that refuses conditional writes as unknown."""

    def put(
        self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", writer_tag: str | None = None
    ) -> ObjectInfo:
        if mode != "overwrite":
            raise UnsupportedError("the store does not know this request", str(key))
        return super().put(key, body, mode, writer_tag)


class TaglessStorage(MemoryStorage):
    """A store that keeps no tags of writers, as a disk without extended attributes."""

    def put(
        self,
        key: PhysicalKey,
        body: bytes | IO[bytes],
        mode: WriteMode = "overwrite",
        writer_tag: str | None = None,  # noqa: ARG002
    ) -> ObjectInfo:
        return super().put(key, body, mode)
