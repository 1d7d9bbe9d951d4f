"""Writing of manifests from streams of entries, whose text may have been made already (docs/format.md, "Manifest")."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Self

from airflow_quilt.core.format.manifest import (
    Entry,
    canonical_json,
    canonical_text,
    count_checksums,
    directory_line,
    entry_lines,
    header_line,
)
from airflow_quilt.core.format.names import DirectoryKey, TopHash, walk_order
from airflow_quilt.core.format.ordering import Block, grouped, items_of


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals of a manifest that was written.

    Attributes:
        top_hash: its top hash.
        entries: count of files.
        bytes: the sum of their sizes.
        checksum_only: count of files whose hash is a CRC64NVME (:func:`~airflow_quilt.core.format.manifest.count_checksums`).
    """

    top_hash: TopHash
    entries: int
    bytes: int
    checksum_only: int = 0


@dataclass(frozen=True, slots=True)
class WrittenEntries:
    """Some entries as text, with their totals.

    Attributes:
        lines: their lines, each with its newline.
        canonical: their canonical JSON, concatenated.
        count: their number.
        size: the sum of their sizes in bytes.
        checksum_only: count of those whose hash is a CRC64NVME.
    """

    lines: bytes
    canonical: bytes
    count: int
    size: int
    checksum_only: int

    @classmethod
    def of(cls, entries: Sequence[Entry], canonical: bytes | None = None, lines: bytes | None = None) -> Self:
        """Return entries as text, which is given if it has been made already; raises as :func:`write_manifest`."""
        return cls(
            lines=entry_lines(entries) if lines is None else lines,
            canonical=canonical_text(entries) if canonical is None else canonical,
            count=len(entries),
            size=sum([entry.size for entry in entries]),
            checksum_only=count_checksums(entries),
        )


class WrittenBlock(Block[Entry]):
    """A block of entries that has its text; a base class."""

    def text(self) -> WrittenEntries:
        """Return the entries as text."""
        raise NotImplementedError


def write_manifest(
    header: Mapping[str, Any],
    entries: Iterable[Entry],
    out: IO[bytes],
    directories: Mapping[DirectoryKey, Any] | None = None,
) -> Summary:
    """Write a manifest, and return its top hash and totals.

    Args:
        header: the header, from :func:`~airflow_quilt.core.format.manifest.make_header` or from a manifest that was read.
        entries: the entries, in walk order (:func:`airflow_quilt.core.format.names.walk_order`).
        out: a binary file.
        directories: the metadata of directories, in any order; the top hash does not cover it.

    Raises:
        RecordSizeError: a line is longer than :data:`~airflow_quilt.core.format.manifest.MAX_RECORD_SIZE`.
        MetadataError: a value is not JSON, or is nested too deeply.
    """
    out.write(header_line(header) + b"\n")
    digest = hashlib.sha256(canonical_json(header).encode())
    for key, meta in sorted((directories or {}).items(), key=lambda item: walk_order(item[0])):
        out.write(directory_line(key, meta) + b"\n")
    count = size = checksum_only = 0
    for group in grouped(items_of(entries)):
        if isinstance(group, WrittenBlock):
            text = group.text()
        else:
            text = WrittenEntries.of(list(group.records()) if isinstance(group, Block) else group)
        out.write(text.lines)
        digest.update(text.canonical)
        count += text.count
        size += text.size
        checksum_only += text.checksum_only
    return Summary(TopHash(digest.hexdigest()), count, size, checksum_only)
