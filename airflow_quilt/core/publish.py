"""What push and build share: from a draft to a revision."""

import contextlib
import hashlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from airflow_quilt.core.attempt import Attempt
from airflow_quilt.core.checkup import check_writable
from airflow_quilt.core.draft import Content, Draft, check_draft, find_sources, gather
from airflow_quilt.core.errors import DiskError, RevisionConflictError
from airflow_quilt.core.locations import PhysicalKey, QuiltUri, RegistryLocation
from airflow_quilt.core.manifest import Entry, Summary, canonical_entry, canonical_json, write_manifest
from airflow_quilt.core.names import LogicalKey, PackageName, TopHash
from airflow_quilt.core.patience import Patience
from airflow_quilt.core.plan import Action, Copy, Source, Upload
from airflow_quilt.core.pointers import Latest, Revision
from airflow_quilt.core.progress import Progress, count, human_size
from airflow_quilt.core.registry import Registry
from airflow_quilt.core.transfer import Transfer
from airflow_quilt.core.tree import Tree

_log = logging.getLogger(__name__)

_SPOOL: Final = 64 * 1024 * 1024
_WORTH_A_CHECK: Final = 64 * 1024 * 1024
"""From so many bytes on it is worth two requests to learn that the manifest could not be written in the end."""
_REBASING: Final = Patience(seconds=600.0, shortest=0.1, longest=2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What came of a draft.

    Attributes:
        entries: the number of files.
        bytes: what they add up to.
        bytes_copied: how many of those bytes were moved to the registry's bucket.
        bytes_reused: how many were to be moved, and were there already.
        revision: the revision that holds them; made now, or found unchanged where ``created`` is false.
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

    @property
    def uri(self) -> QuiltUri:
        """The Quilt+ URI of the revision."""
        return QuiltUri(registry=self.registry, package=self.package, top_hash=self.top_hash)


Planner = Callable[[Iterable[Source]], Iterator[Action]]


def publish(
    registry: Registry,
    draft: Draft,
    plan: Planner,
    verb: str,
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> Published:
    """Make a draft a revision; ``plan`` decides what becomes of the bytes, ``verb`` tells the log what is being done.

    What can be checked is checked before any byte moves, and a reader sees nothing before everything is there.
    """
    name = check_draft(draft)
    work = _Work(registry, name, draft, plan, verb, stop or threading.Event(), attempt or Attempt())
    latest = registry.latest(name)
    work.added = find_sources(registry, draft)
    began, failures = _REBASING.clock(), 0
    while True:
        try:
            published = work.run(latest)
        except RevisionConflictError as error:
            failures += 1
            pause = _REBASING.pause(error, failures, began)
            if draft.conflict != "rebase" or pause is None or work.stop.wait(pause):
                raise
            _log.info("%s was published to meanwhile: merging with the latest revision, try %s", name, failures + 1)
            latest = registry.latest(name)
            work.since = work.attempt.began if work.since is None else work.since
        else:
            _log.info("%s %s", "Published" if published.created else "Unchanged, no new revision:", published.uri)
            return published


@dataclass(slots=True)
class _Work:
    """A draft on its way: what its sources are, and what has been sent of them."""

    registry: Registry
    name: PackageName
    draft: Draft
    plan: Planner
    verb: str
    stop: threading.Event
    attempt: Attempt
    added: Tree = field(default_factory=Tree)
    done: dict[LogicalKey, tuple[Action, Entry]] = field(default_factory=dict)
    copied: int = 0
    reused: int = 0
    since: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.since = self.attempt.since

    def run(self, latest: Latest | None) -> Published:
        """Make the draft a revision on top of ``latest``; what an earlier run sent is not sent again."""
        content = gather(self.registry, self.name, self.draft, self.added, latest)
        actions = list(self.plan(content.tree.sources))
        entries = self._transfer(actions)
        return self._commit(content, entries, latest)

    def _transfer(self, actions: list[Action]) -> list[Entry]:
        fresh = [action for action in actions if self.done.get(action.source.logical_key, (None,))[0] != action]
        to_move = sum(action.source.size for action in fresh if isinstance(action, Upload | Copy))
        if to_move >= _WORTH_A_CHECK:
            check_writable(self.registry)
        amount = f"{count(len(actions), 'entry', 'entries')}, {human_size(sum(action.source.size for action in actions))}"
        _log.info("%s %s to %s: %s, %s to copy", self.verb, self.name, self.registry.location, amount, human_size(to_move))
        transfer = Transfer(
            self.registry.stores,
            progress=Progress(f"{self.verb} {self.name}"),
            stop=self.stop,
            since=self.attempt.earliest,
        )
        entries = transfer.run(fresh)
        if transfer.reused:
            what = count(transfer.reused, "object or part", "objects and parts")
            _log.info("Not sent again: %s that were there already, %s", what, human_size(transfer.bytes_reused))
        self.copied += to_move - transfer.bytes_reused
        self.reused += transfer.bytes_reused
        _warn_of_overwriting(fresh, entries)
        self.done |= {action.source.logical_key: (action, entry) for action, entry in zip(fresh, entries, strict=True)}
        return [self.done[action.source.logical_key][1] for action in actions]

    def _commit(self, content: Content, entries: list[Entry], base: Latest | None) -> Published:
        """Write the manifest; make it a revision unless the latest one has the same top hash."""
        manifest, summary = _write(content, entries)
        with manifest:
            attempt = self._identified(summary.top_hash, entries)
            found = None
            if self.draft.dedupe and base and base.top_hash == summary.top_hash:
                found = self.registry.unchanged(self.name, base, attempt)
            if found is None:
                # A manifest that names files of one machine never takes the place of one that others can read.
                has_local = any(entry.physical_keys[0].startswith("file:") for entry in entries)
                mode: Literal["create", "overwrite"] = (
                    "create" if has_local and not self.registry.location.is_local else "overwrite"
                )
                found = self.registry.commit(
                    self.name,
                    summary.top_hash,
                    manifest,
                    base,
                    overwrite=self.draft.conflict == "overwrite",
                    manifest_mode=mode,
                    attempt=attempt,
                )
        revision, created = found
        return Published(
            registry=self.registry.location,
            package=self.name,
            top_hash=revision.top_hash,
            entries=summary.entries,
            bytes=summary.bytes,
            bytes_copied=self.copied,
            bytes_reused=self.reused,
            revision=revision,
            created=created,
        )

    def _identified(self, top_hash: TopHash, entries: Iterable[Entry]) -> Attempt:
        """Return the attempt with a key that tells its work from work of the same name with other content.

        The content of an update is what it adds and takes away: its revision depends on the one that it is merged with.
        """
        content: str = top_hash
        if self.draft.mode == "update":
            keys = {source.logical_key for source in self.added.sources}
            said = [self.draft.message, self.draft.meta, list(self.draft.remove), self.draft.base, dict(self.added.directories)]
            digest = hashlib.sha256(canonical_json(said).encode())
            for entry in entries:
                if entry.logical_key in keys:
                    digest.update(canonical_entry(entry).encode())
            content = digest.hexdigest()
        return Attempt(f"{self.attempt.key} {content}", self.since, self.attempt.began)


def _write(content: Content, entries: list[Entry]) -> tuple[tempfile.SpooledTemporaryFile[bytes], Summary]:
    """Write the manifest to a temporary file, in memory while it is small, which the caller closes.

    Raises:
        DiskError: the directory for temporary files has no room for it.
    """
    try:
        with contextlib.ExitStack() as on_failure:
            manifest = on_failure.enter_context(tempfile.SpooledTemporaryFile(_SPOOL))
            summary = write_manifest(content.header, entries, manifest, content.tree.directories)
            manifest.seek(0)  # Now all of it is on the disk.
            on_failure.pop_all()
    except OSError as error:
        reason = f"{error.strerror or error}; free space there, or let TMPDIR name a directory that has more"
        raise DiskError(reason, tempfile.tempdir or "temporary files") from error
    return manifest, summary


def _warn_of_overwriting(actions: Iterable[Action], entries: Iterable[Entry]) -> None:
    """Say once where a bucket keeps no versions: then revisions share the objects of one key."""
    moved = (entry for action, entry in zip(actions, entries, strict=True) if isinstance(action, Upload | Copy))
    first = next(moved, None)
    if first and PhysicalKey.parse(first.physical_keys[0]).version_id is None:
        _log.warning("%s has no version: the next revision overwrites it; let the bucket keep versions", first.physical_keys[0])
