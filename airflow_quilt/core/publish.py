"""What push and build share: from a draft to a revision."""

import contextlib
import hashlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from airflow_quilt.core.attempt import Attempt
from airflow_quilt.core.batches import batched
from airflow_quilt.core.checkup import check_writable
from airflow_quilt.core.draft import Content, Draft, check_draft, find_sources, gather
from airflow_quilt.core.earlier import with_earlier
from airflow_quilt.core.errors import EmptyPackageError, RevisionConflictError
from airflow_quilt.core.locations import PhysicalKey, QuiltUri, RegistryLocation
from airflow_quilt.core.manifest import Entry, Summary, canonical_entry, canonical_json, write_manifest
from airflow_quilt.core.names import PackageName, TopHash
from airflow_quilt.core.patience import Patience
from airflow_quilt.core.plan import Action, Copy, Source, Task, Upload
from airflow_quilt.core.planned import Done, Entries, Planned
from airflow_quilt.core.pointers import Latest, Revision
from airflow_quilt.core.progress import Progress, count, human_size
from airflow_quilt.core.registry import Registry
from airflow_quilt.core.spool import Spool, temporary_room
from airflow_quilt.core.threads import check_stop
from airflow_quilt.core.transfer import Transfer
from airflow_quilt.core.tree import Tree
from airflow_quilt.core.walk import side_by_side

_log = logging.getLogger(__name__)

_SPOOL: Final = 8 * 1024 * 1024
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
    with contextlib.ExitStack() as lasting:
        work = _Work(registry, name, draft, plan, verb, stop or threading.Event(), attempt or Attempt(), lasting)
        latest = registry.latest(name)
        work.added = find_sources(registry, draft, work.lasting_spool(Source))
        published = _published(work, latest)
    _log.info("%s %s", "Published" if published.created else "Unchanged, no new revision:", published.uri)
    return published


def _published(work: "_Work", latest: Latest | None) -> Published:
    """Make a draft a revision; where somebody else publishes meanwhile, and the draft says so, on top of that."""
    began, failures = _REBASING.clock(), 0
    while True:
        try:
            return work.run(latest)
        except RevisionConflictError as error:
            failures += 1
            pause = _REBASING.pause(error, failures, began)
            if work.draft.conflict != "rebase" or pause is None or work.stop.wait(pause):
                raise
            _log.info("%s was published to meanwhile: merging with the latest revision, try %s", work.name, failures + 1)
            latest = work.registry.latest(work.name)
            work.since = work.attempt.began if work.since is None else work.since


@dataclass(slots=True)
class _Work:
    """A draft on its way: what its sources are, and what has been done for them.

    Attributes:
        lasting: closes, when the work is over, what must last until then.
        held: closes, at the end of each run, what was for that run.
    """

    registry: Registry
    name: PackageName
    draft: Draft
    plan: Planner
    verb: str
    stop: threading.Event
    attempt: Attempt
    lasting: contextlib.ExitStack
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    added: Tree = field(default_factory=Tree)
    done: Spool[Done] | None = None
    copied: int = 0
    reused: int = 0
    since: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.since = self.attempt.since

    def lasting_spool(self, kind: Any) -> Spool[Any]:
        """Return a place for records of a kind, until the work is over."""
        return self.lasting.enter_context(Spool(kind, self.registry.stores.limits.spill))

    def spool(self, kind: Any) -> Spool[Any]:
        """Return a place for records of a kind, until the end of this run."""
        return self.held.enter_context(Spool(kind, self.registry.stores.limits.spill))

    def run(self, latest: Latest | None) -> Published:
        """Make the draft a revision on top of ``latest``; what an earlier run sent is not sent again."""
        with self.held:
            content = gather(self.registry, self.name, self.draft, self.added, latest)
            planned = self._planned(content)
            before, self.done = self.done, self._carry_out(planned, latest)
            if before:
                before.close()
            return self._commit(content, planned, Entries(planned.kept, self.done), latest)

    def _planned(self, content: Content) -> Planned:
        """Decide what becomes of each file, before any byte moves."""
        planned = Planned(self.spool(Entry), self.spool(Task))
        for actions in batched(self.plan(content.tree.sources)):
            check_stop(self.stop)
            planned.add(actions)
        if not len(planned) and not self.draft.allow_empty:
            raise EmptyPackageError("the package has no entries; give allow_empty=True to publish it all the same")
        content.judge(self.name, planned.files())
        return planned

    def _carry_out(self, planned: Planned, latest: Latest | None) -> Spool[Done]:
        """Do what is to be done, but for what an earlier run did."""
        done, fresh = self.lasting_spool(Done), planned.tasks
        if self.done:
            fresh = self.spool(Task)
            done.extend(before for task, before in side_by_side(planned.tasks, self.done) if before and before.task == task)
            fresh.extend(task for task, before in side_by_side(planned.tasks, done) if task and not before)
        to_do = sum(task.source.size for task in fresh)
        to_move = sum(task.source.size for task in fresh if isinstance(task, Upload | Copy))
        if to_move >= _WORTH_A_CHECK:
            check_writable(self.registry)
        amount = f"{count(len(planned), 'entry', 'entries')}, {human_size(planned.size)}"
        _log.info("%s %s to %s: %s, %s to copy", self.verb, self.name, self.registry.location, amount, human_size(to_move))
        progress = Progress(f"{self.verb} {self.name}")
        progress.begin(len(planned), planned.size)
        progress.add(len(planned) - len(fresh), planned.size - to_do)
        tasks = with_earlier(self.registry, self.name, latest, fresh, self.spool) if latest and to_move else fresh
        self._transfer(tasks, done, progress)
        self.copied += to_move
        return done

    def _transfer(self, tasks: Iterable[Task], done: Spool[Done], progress: Progress) -> None:
        transfer = Transfer(self.registry.stores, progress=progress, stop=self.stop, since=self.attempt.earliest)
        with contextlib.closing(transfer.run(tasks)) as results:
            done.extend(Done.of(task, entry) for task, entry in results)
        if transfer.reused:
            what = count(transfer.reused, "object or part", "objects and parts")
            _log.info("Not sent again: %s that were there already, %s", what, human_size(transfer.bytes_reused))
        self.copied -= transfer.bytes_reused
        self.reused += transfer.bytes_reused
        _warn_of_overwriting(done)

    def _commit(self, content: Content, planned: Planned, entries: Entries, base: Latest | None) -> Published:
        """Write the manifest; make it a revision unless the latest one has the same top hash."""
        manifest, summary = _write(content, entries)
        with manifest:
            attempt = self._identified(summary.top_hash, entries)
            found = None
            if self.draft.dedupe and base and base.top_hash == summary.top_hash:
                found = self.registry.unchanged(self.name, base, attempt)
            if found is None:
                # A manifest that names files of one machine never takes the place of one that others can read.
                mode: Literal["create", "overwrite"] = (
                    "create" if planned.names_files and not self.registry.location.is_local else "overwrite"
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
            previous=self._previous(revision, base) if created else None,
        )

    def _previous(self, revision: Revision, base: Latest | None) -> TopHash | None:
        """Return what ``latest`` named before; where a try before this one published already, the history says it."""
        if base is None:
            return None
        is_new = self.attempt.since is None and base.top_hash != revision.top_hash
        return base.top_hash if is_new else self.registry.before(self.name, revision)

    def _identified(self, top_hash: TopHash, entries: Iterable[Entry]) -> Attempt:
        """Return the attempt with a key that tells its work from work of the same name with other content.

        The content of an update is what it adds and takes away: its revision depends on the one that it is merged with.
        """
        content: str = top_hash
        if self.draft.mode == "update":
            draft, directories = self.draft, dict(self.added.directories)
            said = [draft.message, draft.meta, draft.own_meta, list(draft.remove), draft.base, directories]
            digest = hashlib.sha256(canonical_json(said).encode())
            for source, entry in side_by_side(self.added.sources, entries):
                if source and entry:
                    digest.update(canonical_entry(entry).encode())
            content = digest.hexdigest()
        return Attempt(f"{self.attempt.key} {content}", self.since, self.attempt.began)


def _write(content: Content, entries: Iterable[Entry]) -> tuple[tempfile.SpooledTemporaryFile[bytes], Summary]:
    """Write the manifest to a temporary file, in memory while it is small, which the caller closes.

    Raises:
        DiskError: the directory for temporary files has no room for it.
    """
    with temporary_room(), contextlib.ExitStack() as on_failure:
        manifest = on_failure.enter_context(tempfile.SpooledTemporaryFile(_SPOOL))
        summary = write_manifest(content.header, entries, manifest, content.tree.directories)
        manifest.seek(0)  # Now all of it is on the disk.
        on_failure.pop_all()
    return manifest, summary


def _warn_of_overwriting(done: Iterable[Done]) -> None:
    """Say once where a bucket keeps no versions: then revisions share the objects of one key."""
    first = next((each.entry for each in done if isinstance(each.task, Upload | Copy)), None)
    if first and PhysicalKey.parse(first.physical_keys[0]).version_id is None:
        _log.warning("%s has no version: the next revision overwrites it; let the bucket keep versions", first.physical_keys[0])
