"""Install: bring the files of a revision to a directory or to a prefix on S3, checked."""

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from airflow_quilt.core import layout
from airflow_quilt.core.errors import LocationError
from airflow_quilt.core.fetch import Fetch, Wanted
from airflow_quilt.core.locations import PhysicalKey
from airflow_quilt.core.manifest import Entry
from airflow_quilt.core.names import TopHash
from airflow_quilt.core.plan import Copy, Source, Upload
from airflow_quilt.core.progress import Progress, count, human_size
from airflow_quilt.core.registry import Registry
from airflow_quilt.core.selection import Reference, Selection, parse_place, select
from airflow_quilt.core.transfer import Transfer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What came of an installation.

    Attributes:
        top_hash: the revision.
        paths: the files, or the URLs of the objects, in walk order of their entries.
        bytes: what they add up to.
        reused: how many were there already and right.
    """

    top_hash: TopHash
    paths: list[str]
    bytes: int
    reused: int


def install(registry: Registry, what: Reference, dest: str, stop: threading.Event | None = None) -> Installed:
    """Bring files of a package to where they are needed.

    Every byte is checked against the manifest's hash before a file takes its name; an object on S3 takes its name first where
    only the copy itself can be checked. What is there and right is not fetched again. Other files are left alone.

    Args:
        registry: a registry on S3 or on the local disk.
        what: the files. A single one lands under its name, what is below a directory under its path from there.
        dest: a directory, or an ``s3://`` prefix; it need not exist.
        stop: set it to end the installation.

    Raises:
        PackageNotFoundError: there is no such package or revision.
        EntryNotFoundError: the revision has nothing at the path.
        EntryDamagedError: an object is gone, or does not hold the bytes that the manifest names.
        LocationError: an entry would land outside of the directory or in a registry's own area, or is a file of another
            machine; or ``dest`` is a file.
        StorageError: a store refused or failed.
    """
    root = parse_place(dest)
    selection = select(registry, what)
    files = count(len(selection.files), "file", "files")
    _log.info("Installing %s to %s: %s, %s", selection, root, files, human_size(selection.bytes))
    progress = Progress(f"Installing {selection.package}")
    progress.begin(len(selection.files), selection.bytes)
    work = _to_directory if root.is_local else _to_prefix
    paths, reused = work(registry, root, selection, progress, stop)
    _log.info("Installed %s: %s, of which %s were there already", selection, files, f"{reused:,}")
    return Installed(top_hash=selection.top_hash, paths=paths, bytes=selection.bytes, reused=reused)


def _target(registry: Registry, root: PhysicalKey, relative: str) -> PhysicalKey:
    """Return where a file goes: never into a registry's own area, whatever a package calls its files."""
    target = root.join(relative)
    own = registry.location.root.join(layout.OWN).key if root.is_local else layout.OWN
    if target.key.startswith(own):
        raise LocationError(f"{target}: this is the registry's own area, {layout.OWN}; install somewhere else")
    return target


def _to_directory(
    registry: Registry, root: PhysicalKey, selection: Selection, progress: Progress, stop: threading.Event | None
) -> tuple[list[str], int]:
    @cache
    def is_inside(directory: str) -> bool:
        return f"{os.path.realpath(directory)}/".startswith(f"{root.key.rstrip('/')}/")

    def wanted() -> Iterator[Wanted]:
        for relative, entry in selection.files:
            target = _target(registry, root, relative)
            if not is_inside(target.key.rpartition("/")[0]):
                raise LocationError(f"entry {entry.logical_key!r}: a link in {root} leads out of it, and the file would go there")
            yield Wanted(entry, registry.origin(entry), target)

    fetch = Fetch(registry.stores, progress=progress, stop=stop)
    reused = sum(not is_new for _, is_new in fetch.run(wanted()))
    return [root.join(relative).key for relative, _ in selection.files], reused


def _to_prefix(
    registry: Registry, root: PhysicalKey, selection: Selection, progress: Progress, stop: threading.Event | None
) -> tuple[list[str], int]:
    def action(relative: str, entry: Entry) -> Upload | Copy:
        origin, target = registry.origin(entry), _target(registry, root, relative)
        source = Source.of_entry(entry, hash_type=entry.hash.type)
        return Upload(source, target, exact=True) if origin.is_local else Copy(source, origin, target, exact=True)

    transfer = Transfer(registry.stores, progress=progress, stop=stop)
    entries = transfer.run([action(relative, entry) for relative, entry in selection.files])
    return [entry.physical_keys[0] for entry in entries], transfer.reused
