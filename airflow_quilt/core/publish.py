"""What push and build share: from a draft to a revision."""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from airflow_quilt.core.checkup import check_writable
from airflow_quilt.core.draft import Content, Draft, check_draft, gather
from airflow_quilt.core.locations import PhysicalKey, QuiltUri, RegistryLocation
from airflow_quilt.core.manifest import Entry, Summary, write_manifest
from airflow_quilt.core.names import PackageName, TopHash
from airflow_quilt.core.plan import Action, Copy, Source, Upload
from airflow_quilt.core.pointers import Latest, Revision
from airflow_quilt.core.progress import Progress, count, human_size
from airflow_quilt.core.registry import Registry
from airflow_quilt.core.transfer import Transfer

_log = logging.getLogger(__name__)

_SPOOL: Final = 64 * 1024 * 1024
_WORTH_A_CHECK: Final = 64 * 1024 * 1024
"""From so many bytes on it is worth two requests to learn that the manifest could not be written in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What came of a draft.

    Attributes:
        entries: the number of files.
        bytes: what they add up to.
        bytes_copied: how many of those bytes were moved to the registry's bucket.
        revision: the revision that holds them; made now, or found unchanged where ``created`` is false.
    """

    registry: RegistryLocation
    package: PackageName
    top_hash: TopHash
    entries: int
    bytes: int
    bytes_copied: int
    revision: Revision
    created: bool

    @property
    def uri(self) -> QuiltUri:
        """The Quilt+ URI of the revision."""
        return QuiltUri(registry=self.registry, package=self.package, top_hash=self.top_hash)


Planner = Callable[[Iterable[Source]], Iterator[Action]]


def publish(registry: Registry, draft: Draft, plan: Planner, verb: str, stop: threading.Event | None = None) -> Published:
    """Make a draft a revision; ``plan`` decides what becomes of the bytes, ``verb`` tells the log what is being done.

    What can be checked is checked before any byte moves, and a reader sees nothing before everything is there.
    """
    name = check_draft(draft)
    latest = registry.latest(name)
    content = gather(registry, name, draft, latest)
    actions = list(plan(content.tree.sources))
    copied = sum(action.source.size for action in actions if isinstance(action, Upload | Copy))
    if copied >= _WORTH_A_CHECK:
        check_writable(registry)
    amount = _amount(content.tree.sources)
    _log.info("%s %s to %s: %s, %s to copy", verb, name, registry.location, amount, human_size(copied))
    entries = Transfer(registry.stores, progress=Progress(f"{verb} {name}"), stop=stop).run(actions)
    _warn_of_overwriting(actions, entries)
    summary, revision, created = _commit(registry, name, draft, content, entries, latest)
    published = Published(
        registry=registry.location,
        package=name,
        top_hash=summary.top_hash,
        entries=summary.entries,
        bytes=summary.bytes,
        bytes_copied=copied,
        revision=revision,
        created=created,
    )
    _log.info("%s %s", "Published" if created else "Unchanged, no new revision:", published.uri)
    return published


def _warn_of_overwriting(actions: Iterable[Action], entries: Iterable[Entry]) -> None:
    """Say once where a bucket keeps no versions: then revisions share the objects of one key."""
    moved = (entry for action, entry in zip(actions, entries, strict=True) if isinstance(action, Upload | Copy))
    first = next(moved, None)
    if first and PhysicalKey.parse(first.physical_keys[0]).version_id is None:
        _log.warning("%s has no version: the next revision overwrites it; let the bucket keep versions", first.physical_keys[0])


def _commit(
    registry: Registry, name: PackageName, draft: Draft, content: Content, entries: list[Entry], base: Latest | None
) -> tuple[Summary, Revision, bool]:
    """Write the manifest; make it a revision unless the latest one has the same top hash."""
    with tempfile.SpooledTemporaryFile(_SPOOL) as manifest:
        summary = write_manifest(content.header, entries, manifest, content.tree.directories)
        is_latest = base is not None and base.top_hash == summary.top_hash
        if draft.dedupe and is_latest and (unchanged := registry.find_revision(name, summary.top_hash)):
            return summary, unchanged, False
        manifest.seek(0)
        # A manifest that names files of one machine never takes the place of one that others can read.
        has_local = any(entry.physical_keys[0].startswith("file:") for entry in entries)
        mode: Literal["create", "overwrite"] = "create" if has_local and not registry.location.is_local else "overwrite"
        return summary, registry.commit(name, summary.top_hash, manifest, base, draft.conflict, mode), True


def _amount(sources: list[Source]) -> str:
    return f"{count(len(sources), 'entry', 'entries')}, {human_size(sum(source.size for source in sources))}"
