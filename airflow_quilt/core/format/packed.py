"""Metadata of manifests as text while it waits: as values it has up to 30 times the bytes of its line."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec.structs import replace

from airflow_quilt.core.errors import LogicalKeyError, ManifestError, quoted
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import DirectoryKey

MAX_DIRECTORIES: Final = 64 * 1024 * 1024
"""Maximum bytes of the metadata of all directories of a manifest: it is held in memory, that of entries is not."""


class DirectoryMetadata(Mapping[DirectoryKey, Any]):
    """Metadata of directories by their keys; each value is decoded when it is read."""

    def __init__(self) -> None:
        self._texts: dict[DirectoryKey, str] = {}
        self._size = 0

    def add(self, key: DirectoryKey, meta: object) -> None:
        """Add the metadata of a directory.

        Raises:
            LogicalKeyError: that directory has some already.
            ManifestError: there is more metadata than :data:`MAX_DIRECTORIES`.
        """
        if key in self._texts:
            raise LogicalKeyError(f"the metadata of {quoted(key)} is given twice")
        text = json.dumps(meta)
        self._size += len(key) + len(text)
        if self._size > MAX_DIRECTORIES:
            raise ManifestError(f"the directories have more than {MAX_DIRECTORIES:,} bytes of metadata")
        self._texts[key] = text

    def __getitem__(self, key: DirectoryKey) -> Any:
        return json.loads(self._texts[key])

    def __contains__(self, key: object) -> bool:
        return key in self._texts

    def __iter__(self) -> Iterator[DirectoryKey]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)})"


def pack(entry: Entry) -> Entry:
    """Return an entry with its metadata as text, for :func:`unpack` alone; one without metadata is returned as it is."""
    return replace(entry, meta=json.dumps(entry.meta)) if entry.meta else entry


def unpack(entry: Entry) -> Entry:
    """Return the entry that :func:`pack` was given."""
    return replace(entry, meta=json.loads(entry.meta)) if entry.meta else entry
