"""Helpers for packages: objects with checksums, and revisions with the manifests that a test wants."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, SHA256, StoreAlgorithm, algorithm, digest_of, hash_of, to_s3
from airflow_quilt.core.format.manifest import Entry, make_header
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey, PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.memory import MemoryStorage

PART: Final = 8 * 1024 * 1024
HASH_TYPES: Final = (CHUNKED, SHA256, CRC64NVME)


def checksum(data: bytes, kind: StoreAlgorithm) -> str:
    """Return S3's checksum of a whole object."""
    return to_s3(digest_of([data], algorithm(kind).new()))


def put(memory: MemoryStorage, url: str, data: bytes, *told: StoreAlgorithm) -> PhysicalKey:
    """Store an object with reported checksums of some kinds; return its key at its version."""
    return memory.store(PhysicalKey.parse(url), data, "overwrite", {kind: checksum(data, kind) for kind in told}).key


def entry_of(key: str, data: bytes, *places: PhysicalKey | str, hash_type: str = CHUNKED, **meta: Any) -> Entry:
    """Return the entry of some bytes that lie somewhere."""
    return Entry(LogicalKey(key), tuple(map(str, places)), len(data), hash_of(data, hash_type), meta)


def commit(
    registry: Registry,
    name: PackageName,
    entries: Iterable[Entry],
    header: Mapping[str, Any] | None = None,
    directories: Mapping[str, Any] | None = None,
) -> TopHash:
    """Make a revision of exactly these entries, in walk order, as another client may."""
    manifest = io.BytesIO()
    metas = {DirectoryKey(key): meta for key, meta in (directories or {}).items()}
    top_hash = write_manifest(header or make_header(None, None), entries, manifest, metas).top_hash
    manifest.seek(0)
    registry.commit(name, top_hash, manifest, None, overwrite=True)
    return top_hash


def files_below(directory: Path) -> dict[str, bytes]:
    """Return all files below a directory, hidden and temporary ones too, and their bytes."""
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
