"""The last step: entries become a manifest, and the manifest a revision."""

import contextlib
import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import IO, Any, Final, cast

import pendulum

from airflow_quilt.core.errors import short
from airflow_quilt.core.format.manifest import Entry, canonical_entry
from airflow_quilt.core.format.manifest_writer import Summary, write_manifest
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.ordering import Record, items_of, merge_blocks
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.publish.changes import UNCHANGED, UNKNOWN, Changes, PreviousEntries
from airflow_quilt.core.publish.spec import CommitSpec
from airflow_quilt.core.publish.stored import StoredManifest
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Latest, Revision
from airflow_quilt.core.registry.selection import warn_of_checksums
from airflow_quilt.core.runtime.progress import count, duration, human_size
from airflow_quilt.core.runtime.spool import disk_full_as_error
from airflow_quilt.core.runtime.together import at_once

_log = logging.getLogger(__name__)

_IN_MEMORY: Final = 8 * 1024 * 1024
"""Bytes of a manifest beyond which it is written to a temporary file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """The revision that a draft became.

    Attributes:
        registry: its location.
        package: its name.
        top_hash: of the revision.
        published_at: the time in its pointer, in whole seconds UTC.
        entries: the number of files.
        bytes: the sum of their sizes.
        bytes_copied: bytes that were moved to the registry's bucket.
        bytes_reused: bytes that were to be moved, and were there already.
        created: whether the revision was made now; false where nothing changed. Then its objects are known to exist: if some were
            gone and have been copied again, its manifest names the copies by now.
        previous: the top hash of the revision before one that was made now, if there is one.
        checksum_only: count of files whose hash is a CRC64NVME checksum, which finds damage but proves no intent.
        added: count of files (logical keys) that the revision before does not have; all of them where there is none.
        modified: count of files whose size, hash or metadata differ from those in the revision before.
        removed: count of files that only the revision before has. All three are 0 where nothing changed; and None where the
            revision before is so large that reading it for the count alone would cost as much as the work.
    """

    registry: RegistryLocation
    package: PackageName
    top_hash: TopHash
    published_at: pendulum.DateTime
    entries: int
    bytes: int
    bytes_copied: int
    bytes_reused: int
    created: bool
    previous: TopHash | None = None
    checksum_only: int = 0
    added: int | None = None
    modified: int | None = None
    removed: int | None = None

    @property
    def uri(self) -> QuiltUri:
        """The Quilt+ URI of the revision."""
        return QuiltUri(registry=self.registry, package=self.package, top_hash=self.top_hash)

    @property
    def revision(self) -> Revision:
        """The revision as the history shows it."""
        return Revision(self.published_at, self.top_hash)

    def to_xcom(self, catalog: str | None = None) -> dict[str, Any]:
        """Return the result as plain values, for XCom and for events; ``catalog`` is the URL of a Quilt catalog."""
        return {
            **self.uri.to_xcom(catalog),
            "published_at": self.published_at.to_iso8601_string(),
            "entries": self.entries,
            "bytes": self.bytes,
            "bytes_copied": self.bytes_copied,
            "bytes_reused": self.bytes_reused,
            "created": self.created,
            "previous": self.previous,
            "checksum_only": self.checksum_only,
            "added": self.added,
            "modified": self.modified,
            "removed": self.removed,
        }


@dataclass(slots=True)
class TransferStats:
    """Bytes that were moved to the registry's bucket, and bytes that were to be moved and were there already."""

    copied: int = 0
    reused: int = 0


def commit(  # noqa: PLR0913  (the parts of a commit)
    registry: Registry,
    spec: CommitSpec,
    entries: Iterable[Entry],
    *,
    added: Iterable[Record],
    unseen: Iterable[Entry],
    stats: TransferStats,
    base: Latest | None,
    previous: PreviousEntries,
    attempt: Attempt,
    since: float | None,
) -> PublishResult:
    """Write the manifest, and make it a revision unless the latest one has the same top hash.

    Args:
        registry: takes the revision.
        spec: the revision, apart from its entries.
        entries: all entries, in walk order; they are read once more for an update, and to count changes.
        added: the files that an update adds, in walk order.
        unseen: those of the entries whose objects this work has neither requested nor written.
        stats: the bytes that were moved; read after the entries.
        base: ``latest`` as it was when the work began.
        previous: ``latest`` as it is now, if it was read again; otherwise the same as ``base``.
        attempt: identifies the work.
        since: the unix seconds since when earlier attempts, or earlier rounds of this one, may have published; None if there
            was none.

    Raises:
        EntryDamagedError: nothing has changed, and objects of the revision are gone.
        RevisionConflictError: ``latest`` has moved; nothing is visible.
        StorageError: a store refused or failed.
    """
    package, latest = PackageName.parse(spec.package), previous.latest
    manifest, summary = _write(spec, entries)
    changes, is_counted = UNKNOWN, False
    keeps_objects = spec.names_files and not registry.location.is_local
    stored = StoredManifest(registry, package, summary.top_hash, keeps_objects=keeps_objects)
    with manifest:
        work = replace(attempt, key=f"{attempt.key} {_content_of(spec, summary, entries, added)}", since=since)
        # 1. An earlier attempt may have published; its revision may be the base of others by now.
        if latest != base and since is not None and (made := registry.published_by(package, latest, work)):
            revision, created = made, True
            if made.top_hash == summary.top_hash:
                stored.settle(manifest, entries, unseen)
        # 2. Nothing has changed: no new revision.
        elif (
            spec.dedupe
            and latest
            and latest.top_hash == summary.top_hash
            and (found := _unchanged(registry, package, latest, work, lambda: stored.settle(manifest, entries, unseen)))
        ):
            revision, created = found
        # 3. Manifest, pointer, latest.
        else:
            # Counted now, while an error leaves nothing visible.
            changes, is_counted = previous.changes(summary.top_hash, entries, summary.entries), True
            revision, created = registry.commit(
                package,
                summary.top_hash,
                manifest,
                base,
                overwrite=spec.overwrite,
                manifest_mode=stored.mode(entries),
                attempt=work,
            )
    before = _previous(registry, package, revision, latest, attempt) if created else None
    if not created:
        changes = UNCHANGED
    elif not (is_counted and before == previous.top_hash):  # An earlier attempt made it.
        is_same = revision.top_hash == summary.top_hash
        changes = previous.at(before).changes(summary.top_hash, entries, summary.entries) if is_same else UNKNOWN
    result = PublishResult(
        registry=registry.location,
        package=package,
        top_hash=revision.top_hash,
        published_at=revision.published_at,
        entries=summary.entries,
        bytes=summary.bytes,
        bytes_copied=stats.copied,
        bytes_reused=stats.reused,
        created=created,
        previous=before,
        checksum_only=warn_of_checksums(package, summary.checksum_only, summary.entries),
        added=changes.added,
        modified=changes.modified,
        removed=changes.removed,
    )
    _log.info("%s", _report(result, changes, time.time() - attempt.began))
    return result


def _unchanged(
    registry: Registry, package: PackageName, latest: Latest, attempt: Attempt, settle: Callable[[], None]
) -> tuple[Revision, bool] | None:
    """Return the revision as :meth:`Registry.unchanged`, and settle its manifest at the same time."""
    threads = registry.stores.limits.max_concurrency
    found, _ = at_once(lambda: registry.unchanged(package, latest, attempt), settle, threads=threads)
    return found


def _report(result: PublishResult, changes: Changes, seconds: float) -> str:
    """Return the lines of the log on a revision: its name, its changes, its size, the bytes that were moved, the first files."""
    if result.created:
        since = f"since {short(result.previous)}" if result.previous else "in its first revision"
        first = f"Published {result.package}@{short(result.top_hash)} in {result.registry}: {changes} {since}"
    else:
        at = result.published_at.format("YYYY-MM-DD HH:mm:ss [UTC]")
        first = f"Nothing changed since {at}: {result.package}@{short(result.top_hash)} in {result.registry} stays"
    files = f"{count(result.entries, 'file', 'files')}, {human_size(result.bytes)}"
    moved = f"{human_size(result.bytes_copied)} copied, {human_size(result.bytes_reused)} reused; {duration(max(seconds, 0))}"
    left = [f"... and {changes.more:,} more"] if changes.more else []
    return "\n".join([first, f"{files}; {moved}", *changes.first, *left])


def _write(spec: CommitSpec, entries: Iterable[Entry]) -> tuple[IO[bytes], Summary]:
    """Write the manifest to a temporary file, which the caller closes.

    Raises:
        DiskError: the directory for temporary files has no room for it.
    """
    with disk_full_as_error(), contextlib.ExitStack() as on_failure:
        manifest = on_failure.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY))
        file = cast("IO[bytes]", manifest)
        summary = write_manifest(spec.header, entries, file, spec.directories)
        manifest.seek(0)  # Now all of it is on the disk.
        on_failure.pop_all()
    return file, summary


def _content_of(spec: CommitSpec, summary: Summary, entries: Iterable[Entry], added: Iterable[Record]) -> str:
    """Return a digest that tells the content of this work from other content published under the same key.

    That is the top hash. For an update it is its arguments and the entries that it adds: its top hash depends on the revision
    that it is merged with.
    """
    if spec.update is None:
        return summary.top_hash
    digest = hashlib.sha256(spec.update.encode())
    for entry, source in merge_blocks(items_of(entries), added):
        if source and isinstance(entry, Entry):
            digest.update(canonical_entry(entry).encode())
    return digest.hexdigest()


def _previous(
    registry: Registry, package: PackageName, revision: Revision, latest: Latest | None, attempt: Attempt
) -> TopHash | None:
    """Return the top hash of the revision before; where an earlier attempt published, only the history shows it."""
    if latest is None:
        return None
    is_first = attempt.since is None and latest.top_hash != revision.top_hash
    return latest.top_hash if is_first else registry.previous(package, revision)
