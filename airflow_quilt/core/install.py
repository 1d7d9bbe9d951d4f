"""Install: bring the files of a revision to a directory or to a prefix on S3, checked."""

import logging
import threading
from dataclasses import dataclass

from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import TopHash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Copy, Source, Upload
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference, Selection, parse_destination, select
from airflow_quilt.core.runtime.progress import Progress, count, human_size
from airflow_quilt.core.runtime.stop import stoppable
from airflow_quilt.core.transfer.download import Download, Downloader
from airflow_quilt.core.transfer.places import find_places, in_own_area
from airflow_quilt.core.transfer.upload import Uploader

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallResult:
    """The result of an installation.

    Attributes:
        top_hash: the revision.
        paths: the files, or the URLs of the objects, in walk order of their entries.
        bytes: their total size.
        reused: count of those that were already in place.
        checksum_only: count of those whose hash is a CRC64NVME checksum, which finds damage but proves no intent.
    """

    top_hash: TopHash
    paths: list[str]
    bytes: int
    reused: int
    checksum_only: int = 0


def install(
    registry: Registry,
    reference: Reference,
    dest: str,
    *,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> InstallResult:
    """Install files of a package to a directory or an S3 prefix.

    Every byte is checked against the manifest's hash before a file or object takes its name. Files that are already right are
    not downloaded again. Other files are left alone.

    Args:
        registry: a registry on S3 or on the local disk.
        reference: the files. A single one lands under its name, the files of a directory under their paths below it.
        dest: a directory, or an ``s3://`` prefix; it need not exist.
        stop: set it to end the installation.
        attempt: on a retry, the uploads that an earlier attempt left open are resumed.

    Raises:
        PackageNotFoundError: there is no such package or revision.
        EntryNotFoundError: the revision has nothing at the path.
        EntryDamagedError: an object is gone, or does not hold the bytes that the manifest names.
        HashTypeError: a hash is of an unknown type; nothing was installed.
        LocationError: an entry would land outside of the directory, in a registry's own area or where another one lands, also
            because the disk takes their names for one another, or is a file of another machine; or ``dest`` is a file.
        StorageError: a store refused or failed.
    """
    with stoppable(stop):
        return _install(registry, reference, parse_destination(dest), attempt)


def _install(registry: Registry, reference: Reference, root: PhysicalKey, attempt: Attempt | None) -> InstallResult:
    selection = select(registry, reference)
    files = f"{count(len(selection.files), 'file', 'files')}, {human_size(selection.bytes)}"
    _log.info("Installing %s to %s: %s", selection, root, files)
    progress = Progress(f"Installing {selection.package}")
    progress.begin(len(selection.files), selection.bytes)
    with selection.named_errors():
        selection.check_hash_types()
        if root.is_local:
            paths, reused = _to_directory(registry, root, selection, Downloader(registry.stores, progress=progress))
        else:
            uploader = Uploader(registry.stores, progress=progress, since=attempt.earliest if attempt else None)
            paths, reused = _to_prefix(registry, root, selection, uploader)
    _log.info("Installed %s to %s: %s; %s of them there already; %s", selection, root, files, f"{reused:,}", progress.elapsed)
    return InstallResult(
        top_hash=selection.top_hash,
        paths=paths,
        bytes=selection.bytes,
        reused=reused,
        checksum_only=selection.warn_of_checksums(),
    )


def _to_directory(registry: Registry, root: PhysicalKey, selection: Selection, downloader: Downloader) -> tuple[list[str], int]:
    place_of = find_places(registry.stores.local, root, selection.files)
    downloads = (Download(entry, registry.origin(entry), place_of(relative)) for relative, entry in selection.files)
    reused = sum(not is_new for _, is_new in downloader.run(downloads))
    return [root.join(relative).key for relative, _ in selection.files], reused


def _to_prefix(registry: Registry, root: PhysicalKey, selection: Selection, uploader: Uploader) -> tuple[list[str], int]:
    def transfer(relative: str, entry: Entry) -> Upload | Copy:
        origin, target = registry.origin(entry), root.join(relative)
        if target.key.startswith(layout.OWN):
            raise in_own_area(entry, target)
        source = Source.of_entry(entry, hash_type=entry.hash.type)
        return Upload(source, target, exact=True) if origin.is_local else Copy(source, origin, target, exact=True)

    transfers = [transfer(relative, entry) for relative, entry in selection.files]
    places = {entry.logical_key: entry.physical_keys[0] for _, entry in uploader.run(transfers)}
    return [places[entry.logical_key] for _, entry in selection.files], uploader.reused
