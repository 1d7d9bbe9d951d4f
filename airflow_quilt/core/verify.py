"""Verify: compare files or objects with the bytes that a revision names."""

import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from airflow_quilt.core.errors import VerificationError
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import TopHash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference, Selection, parse_destination, select
from airflow_quilt.core.runtime.executor import Executor, Steps
from airflow_quilt.core.runtime.progress import Progress, count, human_size
from airflow_quilt.core.runtime.stop import stoppable
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.hashing import Reader

_log = logging.getLogger(__name__)

_Finding = Literal["missing", "modified"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The differences, as logical keys in walk order; ``extra`` has sorted paths below the directory or prefix.

    Attributes:
        top_hash: the revision.
        entries: count of compared entries.
        bytes: their total size.
        missing: entries without a file or object.
        modified: entries whose file or object has another size or hash.
        extra: files or objects that no entry names; in a directory everything that is no directory, such as links and pipes.
        checksum_only: count of entries whose hash is a CRC64NVME checksum, which finds damage but proves no intent.
    """

    top_hash: TopHash
    entries: int
    bytes: int
    missing: list[str] = field(default_factory=list)
    modified: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    checksum_only: int = 0

    def check(self, *, extra_files_ok: bool = False) -> None:
        """Raise an error if there is a difference.

        Raises:
            VerificationError: there are differences; the message lists them.
        """
        differences = {"missing": self.missing, "modified": self.modified, "extra": [] if extra_files_ok else self.extra}
        if any(differences.values()):
            raise VerificationError(self.top_hash, differences)

    def __str__(self) -> str:
        return f"{len(self.missing):,} missing, {len(self.modified):,} modified, {len(self.extra):,} extra"


def verify(
    registry: Registry,
    reference: Reference,
    src: str | None = None,
    *,
    read_all: bool = False,
    stop: threading.Event | None = None,
) -> Verification:
    """Compare files or objects with a package.

    Args:
        registry: a registry on S3 or on the local disk.
        reference: the files, laid out as :func:`~airflow_quilt.core.install.install` does.
        src: a directory or an ``s3://`` prefix; None for the objects that the package itself names.
        read_all: read every byte; without it, the checksum that a store keeps of an object is proof enough. Local files are
            always read.
        stop: set it to end the work.

    Raises:
        PackageNotFoundError: there is no such package or revision.
        EntryNotFoundError: the revision has nothing at the path.
        HashTypeError: a hash is of an unknown type.
        LocationError: an entry is a file of another machine, or ``src`` is a file.
        StorageError: a store refused or failed.
    """
    with stoppable(stop):
        return _verify(registry, reference, src, read_all=read_all)


def _verify(registry: Registry, reference: Reference, src: str | None, *, read_all: bool) -> Verification:
    selection = select(registry, reference)
    with selection.named_errors():
        selection.check_hash_types()
        places, extra = _places(registry, selection, src)
    progress = Progress(f"Verifying {selection.package}")
    progress.begin(len(selection.files), selection.bytes)
    stores = registry.stores
    jobs = Executor(max_concurrency=stores.limits.max_concurrency, progress=progress, retry=stores.retry)
    checker = _Checker(stores, jobs, read_all=read_all)
    with selection.named_errors():
        findings = dict(checker.run(places))
    found = Verification(
        top_hash=selection.top_hash,
        entries=len(selection.files),
        bytes=selection.bytes,
        missing=[entry.logical_key for entry, _ in places if findings.get(entry.logical_key) == "missing"],
        modified=[entry.logical_key for entry, _ in places if findings.get(entry.logical_key) == "modified"],
        extra=extra,
        checksum_only=selection.warn_of_checksums(),
    )
    files = f"{count(found.entries, 'file', 'files')}, {human_size(found.bytes)}"
    _log.info("Verified %s: %s: %s; %s", selection, files, found, progress.elapsed)
    return found


def _places(registry: Registry, selection: Selection, src: str | None) -> tuple[list[tuple[Entry, PhysicalKey]], list[str]]:
    """Return the expected location of each entry, and the paths of extra files."""
    if src is None:
        return [(entry, registry.origin(entry)) for _, entry in selection.files], []
    root = parse_destination(src)
    extra = set(_relative_items(registry.stores, root)).difference(relative for relative, _ in selection.files)
    return [(entry, root.join(relative)) for relative, entry in selection.files], sorted(extra)


def _relative_items(stores: Stores, root: PhysicalKey) -> Iterator[str]:
    if root.is_local:
        yield from stores.local.list_items(root)
        return
    directory = root.join("")
    for stat in stores.of(root).list_objects(directory):
        if stat.size or not stat.key.is_prefix:  # Empty objects stand for directories.
            yield stat.key.key.removeprefix(directory.key) or "/"


class _Checker:
    """Compares entries with files or objects."""

    def __init__(self, stores: Stores, jobs: Executor, *, read_all: bool) -> None:
        self._stores = stores
        self._jobs = jobs
        self._reader = Reader(stores, jobs)
        self._read_all = read_all

    def run(self, places: Iterable[tuple[Entry, PhysicalKey]]) -> Iterator[tuple[str, _Finding]]:
        """Yield the key of each entry that differs, with the kind of difference."""
        jobs = ((entry.logical_key, self._steps(entry, place)) for entry, place in places)
        return ((key, finding) for key, finding in self._jobs.run(jobs) if finding)

    def _steps(self, entry: Entry, place: PhysicalKey) -> Steps[_Finding]:
        (stat,) = yield [partial(self._stores.find, place)]
        if stat is None:
            return "missing"
        if stat.size != entry.size:
            return "modified"
        if not self._read_all and (stat.proves(entry.hash) or stat.contradicts(entry.hash)):
            self._jobs.progress.add(size=entry.size)
            return "modified" if stat.contradicts(entry.hash) else None
        digest = yield from self._reader.hash(stat.key, entry.size, entry.hash.type)
        return None if digest == entry.hash else "modified"
