"""What push and build share: from a draft to a revision."""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from airflow_quilt.core.entries import parse_entries
from airflow_quilt.core.errors import InputError
from airflow_quilt.core.locations import PhysicalKey, QuiltUri, RegistryLocation
from airflow_quilt.core.manifest import Entry, Summary, header_line, make_header, write_manifest
from airflow_quilt.core.names import PackageName, TopHash
from airflow_quilt.core.plan import Action, Copy, Source, Upload
from airflow_quilt.core.pointers import Conflict, Latest, Revision
from airflow_quilt.core.progress import Progress, count, human_size
from airflow_quilt.core.registry import Registry
from airflow_quilt.core.sources import SourceFinder
from airflow_quilt.core.transfer import Transfer

_log = logging.getLogger(__name__)

_SPOOL: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A revision to be.

    Attributes:
        package: ``namespace/name``.
        entries: a mapping of logical keys to sources, or one source for the whole package; see ``docs/entries.md``.
        meta: the package's metadata, a JSON object.
        message: what a reader of the history sees.
        conflict: ``"fail"`` when ``latest`` moves while the revision is being made, ``"overwrite"`` to win regardless.
        dedupe: make no new revision when ``latest`` has the same top hash.
        allow_empty: let a source, or the package, hold no file.
    """

    package: str
    entries: object
    meta: Mapping[str, Any] | None = None
    message: str | None = None
    conflict: Conflict = "fail"
    dedupe: bool = True
    allow_empty: bool = False


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
    def uri(self) -> QuiltUri | None:
        """The Quilt+ URI of the revision; a local registry has none."""
        bucket = self.registry.root.bucket
        return QuiltUri(bucket=bucket, package=self.package, top_hash=self.top_hash) if bucket else None


Planner = Callable[[Iterable[Source]], Iterator[Action]]


def publish(registry: Registry, draft: Draft, plan: Planner, verb: str, stop: threading.Event | None = None) -> Published:
    """Make a draft a revision; ``plan`` decides what becomes of the bytes, ``verb`` tells the log what is being done.

    What can be checked is checked before any byte moves, and a reader sees nothing before everything is there.
    """
    if draft.conflict not in {"fail", "overwrite"}:
        raise InputError(f"conflict {draft.conflict!r}: expected 'fail' or 'overwrite'")
    name = PackageName.parse(draft.package)
    header = make_header(draft.message, draft.meta)
    header_line(header)
    requests = list(parse_entries(draft.entries))
    base = registry.latest(name)
    sources = SourceFinder(registry.stores, _reader(registry), allow_empty=draft.allow_empty).find(requests)
    actions = list(plan(sources))
    copied = sum(action.source.size for action in actions if isinstance(action, Upload | Copy))
    _log.info("%s %s to %s: %s, %s to copy", verb, name, registry.location, _amount(sources), human_size(copied))
    entries = Transfer(registry.stores, progress=Progress(f"{verb} {name}"), stop=stop).run(actions)
    _warn_of_overwriting(actions, entries)
    summary, revision, created = _commit(registry, name, draft, header, entries, base)
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
    _log.info("%s %s", "Published" if created else "Unchanged, no new revision:", published.uri or f"{name}@{summary.top_hash}")
    return published


def _warn_of_overwriting(actions: Iterable[Action], entries: Iterable[Entry]) -> None:
    """Say once where a bucket keeps no versions: then revisions share the objects of one key."""
    moved = (entry for action, entry in zip(actions, entries, strict=True) if isinstance(action, Upload | Copy))
    first = next(moved, None)
    if first and PhysicalKey.parse(first.physical_keys[0]).version_id is None:
        _log.warning("%s has no version: the next revision overwrites it; let the bucket keep versions", first.physical_keys[0])


def _commit(
    registry: Registry, name: PackageName, draft: Draft, header: Mapping[str, Any], entries: list[Entry], base: Latest | None
) -> tuple[Summary, Revision, bool]:
    """Write the manifest; make it a revision unless the latest one has the same top hash."""
    with tempfile.SpooledTemporaryFile(_SPOOL) as manifest:
        summary = write_manifest(header, entries, manifest)
        is_latest = base is not None and base.top_hash == summary.top_hash
        if draft.dedupe and is_latest and (unchanged := registry.find_revision(name, summary.top_hash)):
            return summary, unchanged, False
        manifest.seek(0)
        # A manifest that names files of one machine never takes the place of one that others can read.
        has_local = any(entry.physical_keys[0].startswith("file:") for entry in entries)
        mode: Literal["create", "overwrite"] = "create" if has_local and not registry.location.is_local else "overwrite"
        return summary, registry.commit(name, summary.top_hash, manifest, base, draft.conflict, mode), True


def _reader(registry: Registry) -> Callable[[QuiltUri], Iterator[Entry]]:
    def read(uri: QuiltUri) -> Iterator[Entry]:
        other = Registry(RegistryLocation.parse(f"s3://{uri.bucket}"), registry.stores)
        return other.read(uri.package, uri.top_hash).entries

    return read


def _amount(sources: list[Source]) -> str:
    return f"{count(len(sources), 'entry', 'entries')}, {human_size(sum(source.size for source in sources))}"
