"""The steps in which a draft becomes a revision: plan, transfer, commit; one process takes them all, or each its own."""

import contextlib
import hashlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import msgspec

from airflow_quilt.core.errors import EmptyPackageError
from airflow_quilt.core.format.manifest import Entry, Summary, canonical_entry, canonical_json, write_manifest
from airflow_quilt.core.format.names import DirectoryKey, PackageName, TopHash
from airflow_quilt.core.format.ordering import Record, batched, merge_join
from airflow_quilt.core.format.uris import PhysicalKey, QuiltUri, RegistryLocation
from airflow_quilt.core.plan.actions import Action, Copy, Source, Transfer, Upload
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.planned import PlannedRevision, TransferredEntry
from airflow_quilt.core.publish.resolve import ResolvedRevision
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.pointers import Latest, Revision
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.executor import check_stop
from airflow_quilt.core.runtime.progress import Progress, count, human_size
from airflow_quilt.core.runtime.spool import Spool, disk_full_as_error
from airflow_quilt.core.storage.base import Stores
from airflow_quilt.core.transfer.upload import Uploader

_log = logging.getLogger(__name__)

_SPOOL: Final = 8 * 1024 * 1024
_WORTH_A_CHECK: Final = 64 * 1024 * 1024
"""From so many bytes on it is worth two requests to learn that the manifest could not be written in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """What came of a draft.

    Attributes:
        entries: the number of files.
        bytes: what they add up to.
        bytes_copied: how many of those bytes were moved to the registry's bucket.
        bytes_reused: how many were to be moved, and were there already.
        revision: the revision that holds them; made now, or found unchanged where ``created`` is false.
        previous: the top hash of the revision before one that was made now, where there is one.
    """

    registry: RegistryLocation
    package: PackageName
    top_hash: TopHash
    entries: int
    bytes: int
    bytes_copied: int
    bytes_reused: int
    revision: Revision
    created: bool
    previous: TopHash | None = None

    @property
    def uri(self) -> QuiltUri:
        """The Quilt+ URI of the revision."""
        return QuiltUri(registry=self.registry, package=self.package, top_hash=self.top_hash)


@dataclass(slots=True)
class TransferStats:
    """Bytes that were moved to the registry's bucket, and those that were to be moved and were there already."""

    copied: int = 0
    reused: int = 0


Planner = Callable[[Iterable[Source]], Iterator[Action]]


class CommitSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a revision says beside its entries, and how it takes its place.

    Attributes:
        header: the header of its manifest.
        directories: the metadata of directories.
        names_files: whether it names files of this machine.
        dedupe: make none when ``latest`` has the same top hash.
        overwrite: win when ``latest`` has moved.
        update: what an update says of itself beside the files that it adds, as canonical text; None where it is none.
    """

    header: Mapping[str, Any]
    directories: Mapping[DirectoryKey, Any]
    names_files: bool
    dedupe: bool
    overwrite: bool
    update: str | None = None

    @classmethod
    def of(cls, draft: Draft, content: ResolvedRevision, planned: PlannedRevision, added: Mapping[DirectoryKey, Any]) -> Self:
        """Return those of a draft that has been planned, and adds metadata of directories."""
        said = [draft.message, draft.meta, draft.own_meta, list(draft.remove), draft.base, dict(added)]
        return cls(
            header=content.header,
            directories=content.tree.directories,
            names_files=planned.names_files,
            dedupe=draft.dedupe,
            overwrite=draft.conflict == "overwrite",
            update=canonical_json(said) if draft.mode == "update" else None,
        )


def decide(
    draft: Draft,
    name: PackageName,
    content: ResolvedRevision,
    actions: Iterable[Action],
    planned: PlannedRevision,
    stop: threading.Event,
) -> None:
    """Put into ``planned`` what becomes of each file, before any byte moves, and let the workflow judge.

    Raises:
        EmptyPackageError: there is no file, and the draft does not allow that.
        WorkflowError: the package does not satisfy the workflow.
        InputError: something cannot be published.
    """
    for batch in batched(actions):
        check_stop(stop)
        planned.add(batch)
    if not len(planned) and not draft.allow_empty:
        raise EmptyPackageError("the package has no entries; give allow_empty=True to publish it all the same")
    content.judge(name, planned.files())


def bytes_of(tasks: Iterable[Transfer]) -> tuple[int, int]:
    """Return the bytes that tasks read, and those of them that move to the registry's bucket."""
    to_do = to_move = 0
    for task in tasks:
        to_do += task.source.size
        to_move += task.source.size if isinstance(task, Upload | Copy) else 0
    return to_do, to_move


def check_target(registry: Registry, to_move: int) -> None:
    """Check, where many bytes are about to move, that the manifest could be written in the end.

    Raises:
        StorageError: it could not.
    """
    if to_move >= _WORTH_A_CHECK:
        registry.check_writable()


def announce(registry: Registry, what: str, planned: PlannedRevision, to_move: int) -> None:
    """Log what is about to be done."""
    amount = f"{count(len(planned), 'entry', 'entries')}, {human_size(planned.size)}"
    _log.info("%s to %s: %s, %s to copy", what, registry.location, amount, human_size(to_move))


def transfer(
    stores: Stores,
    tasks: Iterable[Transfer],
    done: Spool[TransferredEntry],
    progress: Progress,
    stop: threading.Event,
    since: float | None,
) -> int:
    """Carry out tasks, and put what came of them into ``done``; return how many bytes were there already.

    Raises:
        QuiltError: as :meth:`airflow_quilt.core.transfer.upload.Uploader.run`.
    """
    work = Uploader(stores, progress=progress, stop=stop, since=since)
    with contextlib.closing(work.run(tasks)) as results:
        done.extend(TransferredEntry.of(task, entry) for task, entry in results)
    if work.reused:
        what = count(work.reused, "object or part", "objects and parts")
        _log.info("Not sent again: %s that were there already, %s", what, human_size(work.bytes_reused))
    _warn_of_overwriting(done)
    return work.bytes_reused


def _warn_of_overwriting(done: Iterable[TransferredEntry]) -> None:
    """Say once where a bucket keeps no versions: then revisions share the objects of one key."""
    first = next((each.entry for each in done if isinstance(each.task, Upload | Copy)), None)
    if first and PhysicalKey.parse(first.physical_keys[0]).version_id is None:
        _log.warning("%s has no version: the next revision overwrites it; let the bucket keep versions", first.physical_keys[0])


@dataclass(frozen=True, slots=True)
class Commit:
    """The last step: entries become a revision.

    Attributes:
        base: what ``latest`` named when the work began.
        latest: what it names now, where that was read anew.
        attempt: whose work it is.
        since: as that of the attempt; or when that began, where an earlier run of it may have left something.
    """

    registry: Registry
    name: PackageName
    terms: CommitSpec
    base: Latest | None
    latest: Latest | None
    attempt: Attempt
    since: float | None

    def make(self, entries: Iterable[Entry], added: Iterable[Record], moved: TransferStats) -> PublishResult:
        """Write the manifest; make it a revision unless the latest one has the same top hash.

        Args:
            entries: all of them, in walk order; they are read twice for an update.
            added: the files that an update adds, in walk order.
            moved: what was done for them; read when they have been.

        Raises:
            RevisionConflictError: ``latest`` has moved; nothing is visible.
            StorageError: a store refused or failed.
        """
        manifest, summary = _write(self.terms, entries)
        with manifest:
            attempt = self._identified(summary.top_hash, entries, added)
            revision, created = self._found(summary.top_hash, attempt) or self.registry.commit(
                self.name,
                summary.top_hash,
                manifest,
                self.base,
                overwrite=self.terms.overwrite,
                manifest_mode=self._manifest_mode,
                attempt=attempt,
            )
        published = PublishResult(
            registry=self.registry.location,
            package=self.name,
            top_hash=revision.top_hash,
            entries=summary.entries,
            bytes=summary.bytes,
            bytes_copied=moved.copied,
            bytes_reused=moved.reused,
            revision=revision,
            created=created,
            previous=self._previous(revision) if created else None,
        )
        _log.info("%s %s", "PublishResult" if created else "Unchanged, no new revision:", published.uri)
        return published

    def _found(self, top_hash: TopHash, attempt: Attempt) -> tuple[Revision, bool] | None:
        """Return the revision that is there already, if one is, and whether a try of this piece of work published it."""
        if (
            self.latest != self.base
            and attempt.since is not None
            and (made := self.registry.made(self.name, self.latest, attempt))
        ):
            return made, True  # And maybe it is the base of others by now.
        if self.terms.dedupe and self.latest and self.latest.top_hash == top_hash:
            return self.registry.unchanged(self.name, self.latest, attempt)
        return None

    @property
    def _manifest_mode(self) -> Literal["create", "overwrite"]:
        """A manifest that names files of one machine never takes the place of one that others can read."""
        return "create" if self.terms.names_files and not self.registry.location.is_local else "overwrite"

    def _previous(self, revision: Revision) -> TopHash | None:
        """Return what ``latest`` named before; where a try before this one published already, the history says it."""
        if self.latest is None:
            return None
        is_new = self.attempt.since is None and self.latest.top_hash != revision.top_hash
        return self.latest.top_hash if is_new else self.registry.before(self.name, revision)

    def _identified(self, top_hash: TopHash, entries: Iterable[Entry], added: Iterable[Record]) -> Attempt:
        """Return the attempt with a key that tells its work from work of the same name with other content.

        The content of an update is what it adds and takes away: its revision depends on the one that it is merged with.
        """
        content: str = top_hash
        if self.terms.update is not None:
            digest = hashlib.sha256(self.terms.update.encode())
            for source, entry in merge_join(added, entries):
                if source and entry:
                    digest.update(canonical_entry(entry).encode())
            content = digest.hexdigest()
        return Attempt(f"{self.attempt.key} {content}", self.since, self.attempt.began)


def _write(terms: CommitSpec, entries: Iterable[Entry]) -> tuple[tempfile.SpooledTemporaryFile[bytes], Summary]:
    """Write the manifest to a temporary file, in memory while it is small, which the caller closes.

    Raises:
        DiskError: the directory for temporary files has no room for it.
    """
    with disk_full_as_error(), contextlib.ExitStack() as on_failure:
        manifest = on_failure.enter_context(tempfile.SpooledTemporaryFile(_SPOOL))
        summary = write_manifest(terms.header, entries, manifest, terms.directories)
        manifest.seek(0)  # Now all of it is on the disk.
        on_failure.pop_all()
    return manifest, summary


def spool(held: contextlib.ExitStack, registry: Registry, kind: Any) -> Spool[Any]:
    """Return a place for records of a kind, until what holds it is closed."""
    return held.enter_context(Spool(kind, registry.stores.limits.spill_entries))
