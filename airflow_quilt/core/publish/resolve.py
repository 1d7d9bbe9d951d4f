"""From a draft to the header, the files and the workflow of its revision."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from typing import Any

from msgspec.structs import replace

from airflow_quilt.core.errors import InputError, SourceError, named_stream, quoted
from airflow_quilt.core.format.manifest import Entry, EntryBlock, directory_line, header_line, make_header
from airflow_quilt.core.format.manifest_reader import Manifest
from airflow_quilt.core.format.metadata import MERGE, lost_keys, merge_meta, name_lost
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.ordering import Block, records_of, validate_order
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.plan.actions import KnownBlock, Source, origin_of
from airflow_quilt.core.plan.tree import Additions, Removal, SourceTree, updated
from airflow_quilt.core.publish.changes import PreviousEntries
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Latest
from airflow_quilt.core.runtime.progress import count
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.runtime.together import at_once
from airflow_quilt.core.sources.discover import FindOptions, KeepContent, SourceFinder, in_memory
from airflow_quilt.core.sources.parse import parse_entries
from airflow_quilt.core.storage.objects import StoredObject
from airflow_quilt.core.workflows.config import load_workflow
from airflow_quilt.core.workflows.rules import Workflow

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResolvedRevision:
    """The content of a revision to be.

    Attributes:
        header: the header of its manifest.
        tree: its files, a stream that is checked to be a tree and can be read once, and its directories.
        workflow: the workflow that it must satisfy, if any.
    """

    header: Mapping[str, Any]
    tree: SourceTree = field(default_factory=SourceTree)
    workflow: Workflow | None = None

    def check_workflow(self, package: PackageName, files: Iterable[Source | Entry]) -> None:
        """Check the package against its workflow, once its files are known.

        Raises:
            WorkflowError: the package does not satisfy it.
        """
        if self.workflow:
            described = ({"logical_key": file.logical_key, "size": file.size, "meta": file.user_meta} for file in files)
            user_meta = self.header.get("user_meta", {})
            self.workflow.check(package=str(package), message=self.header["message"], user_meta=user_meta, entries=described)


def discover(registry: Registry, draft: Draft, found: Spool[Source], keep: KeepContent = in_memory) -> SourceTree:
    """Find the files that a draft names.

    Args:
        registry: opens the packages among the sources.
        draft: names the sources.
        found: takes the files, unless they are in walk order already and are read only once.
        keep: takes the content among them, a piece at a time.

    Raises:
        InputError: a source or a key cannot be published.
        QuiltError: a directory, prefix or package cannot be read.
    """
    requests = list(parse_entries(draft.entries)) if draft.entries is not None or draft.mode == "replace" else []
    options = FindOptions(
        allow_empty=draft.allow_empty,
        follow_symlinks=draft.follow_symlinks,
        unversioned=draft.unversioned,
        hash_type=draft.hash_type,
        target=registry.location,
        merges_meta=draft.meta_mode == "merge",
    )
    stores = registry.stores
    if stores.reach:  # The writers of the registry that takes the package are trusted.
        stores = replace_fields(stores, reach=stores.reach.trusting(registry.location))
    finder = SourceFinder(stores, _package_reader(registry), options, keep)
    if len(requests) == 1 and (tree := finder.stream(requests[0])):
        if draft.mode == "replace":
            return tree
        found.extend(records_of(tree.sources))  # An update may read them again, in its next round.
        return SourceTree(found, tree.directories, header=tree.header)
    return SourceTree(found, finder.find(requests, found))


def survey(
    registry: Registry, package: PackageName, draft: Draft, found: Spool[Source], keep: KeepContent
) -> tuple[Latest | None, StoredObject | None, SourceTree]:
    """Read ``latest`` and the workflows config, while the files of a draft are found; return the three.

    The arguments and errors are those of :meth:`Registry.latest`, :meth:`Registry.workflows_config` and :func:`discover`.
    """
    return at_once(
        lambda: registry.latest(package),
        registry.workflows_config,
        lambda: discover(registry, draft, found, keep),
        threads=registry.stores.limits.max_concurrency,
    )


def resolve(
    registry: Registry,
    package: PackageName,
    draft: Draft,
    config: StoredObject | None,
    added: SourceTree,
    previous: PreviousEntries,
) -> ResolvedRevision:
    """Return the content of a revision: the sources of a draft, merged with the revision that it updates.

    Args:
        registry: holds the revision that is updated.
        package: the draft's.
        draft: says how to merge.
        config: the workflows config of the registry.
        added: the sources of the draft.
        previous: the latest revision; keeps the files that an update of it changes, while the files of the result are read.

    Raises:
        InputError: a key or metadata cannot be published; for files it is raised while they are read.
        QuiltError: the registry cannot be read.
    """
    base, tree = added.header, added
    if draft.mode == "update":
        start = _read_base(registry, package, draft, previous)
        base = added.header if start.header is None else start.header
        tree = _update(start, Removal(draft.remove), Additions(added, merges=draft.meta_mode == "merge"), previous)
    directories = {key: meta for key, meta in tree.directories.items() if meta}  # As quilt3, no line for none.
    workflow = load_workflow(draft.workflow, config, registry.stores.text)
    record = workflow.record if workflow else None
    header = make_header(draft.message, _user_meta(draft, base), record, base, null_meta=draft.null_meta)
    # A record that is too large is an error now, before any byte moves.
    header_line(header)
    for key, directory_meta in directories.items():
        directory_line(key, directory_meta)
    sources = tree.sources if tree.is_checked else validate_order(tree.sources, tree.directories, origin_of)
    return ResolvedRevision(header, SourceTree(sources, directories), workflow)


def _user_meta(draft: Draft, base: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the metadata that a draft gives the package, beside that of its base; None to leave it as it is there.

    Raises:
        InputError: there is no metadata that the given one could be merged with, since the package has no base.
        MetadataError: the metadata of the base has no keys, and some are to join it.
    """
    there, given = (base or {}).get("user_meta"), draft.meta
    if draft.meta_mode == "merge" and draft.mode == "replace" and base is None and given is not None:
        raise InputError(
            "meta_mode='merge': leave it out, or give mode='update' or one package as entries; there is no other metadata to "
            "merge with"
        )
    if draft.meta_mode == "merge" and given is not None:
        given = merge_meta(there, given, "meta")
    if draft.own_meta:  # They join the given metadata, or that of the base.
        given = merge_meta(there if given is None else given, draft.own_meta, "meta")
    if given is not None and (lost := lost_keys(there, given)):
        _log.warning("meta replaces the metadata that was there, whose keys are gone: %s; %s", name_lost(lost), MERGE)
    return given


def _read_base(registry: Registry, package: PackageName, draft: Draft, previous: PreviousEntries) -> SourceTree:
    """Read the revision that an update starts from; an empty tree where there is no package yet."""
    latest = previous.latest if draft.revision is None else None
    if draft.revision is None and latest is None:
        message = "There is no package %s in %s yet: the update starts from nothing%s"
        _log.info(message, package, registry.location, registry.hint(package))
        return SourceTree()
    manifest = registry.read(package, latest.top_hash if latest else draft.revision).begun()
    blocks = previous.updated(manifest.blocks, draft.hash_type) if latest else manifest.blocks
    found = _sources_of(blocks, draft.hash_type, may_name_files=registry.location.is_local)
    return SourceTree(named_stream(manifest.where, found, SourceError), manifest.directories, header=manifest.header)


def _sources_of(blocks: Iterable[EntryBlock], hash_type: str, *, may_name_files: bool) -> Iterator[Source | Block[Source]]:
    for block in blocks:
        if known := KnownBlock.of(block, hash_type):
            yield known
            continue
        for entry in block.entries:
            source = Source.of_entry(entry, hash_type=hash_type)
            yield replace(source, movable=False) if source.is_local and not may_name_files else source


def _update(base: SourceTree, removal: Removal, additions: Additions, previous: PreviousEntries) -> SourceTree:
    tree = updated(base, removal, additions, previous.note)

    def sources() -> Iterator[Source | Block[Source]]:
        yield from tree.sources
        if absent := removal.absent:  # Known only when all files have passed.
            _log.warning("Not in the revision that is updated, so there is nothing to remove: %s", ", ".join(absent))
        if lost := additions.lost:
            shown = "; ".join(f"{quoted(key)}: {name_lost(keys)}" for key, keys in lost.items())
            entries = count(additions.losses, "entry", "entries")
            _log.warning("%s replaced without keys of the metadata that was there: %s; %s", entries, shown, MERGE)

    return SourceTree(sources(), tree.directories)


def _package_reader(registry: Registry) -> Callable[[QuiltUri], Manifest]:
    return lambda uri: Registry(uri.registry, registry.stores).read(uri.package, uri.pin)
