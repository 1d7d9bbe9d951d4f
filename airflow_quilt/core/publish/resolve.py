"""From a draft to the header, the files and the workflow of its revision."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from airflow_quilt.core.format.manifest import Entry, directory_line, header_line, make_header
from airflow_quilt.core.format.manifest_reader import Manifest
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.ordering import validate_order
from airflow_quilt.core.format.uris import QuiltUri
from airflow_quilt.core.plan.actions import Source
from airflow_quilt.core.plan.tree import Removal, SourceTree, updated
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Latest
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.sources.discover import FindOptions, SourceFinder
from airflow_quilt.core.sources.parse import parse_entries
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


def discover(registry: Registry, draft: Draft, found: Spool[Source]) -> SourceTree:
    """Find the files that a draft names.

    Args:
        registry: opens the packages among the sources.
        draft: names the sources.
        found: takes the files, unless they are in walk order already and are read only once.

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
    )
    finder = SourceFinder(registry.stores, _package_reader(registry), options)
    if draft.mode == "replace" and len(requests) == 1 and (tree := finder.stream(requests[0])):
        return tree
    return SourceTree(found, finder.find(requests, found))


def resolve(registry: Registry, package: PackageName, draft: Draft, added: SourceTree, latest: Latest | None) -> ResolvedRevision:
    """Return the content of a revision: the sources of a draft, merged with the revision that it updates.

    Args:
        registry: holds the revision that is updated, and the workflows config.
        package: the draft's.
        draft: says how to merge.
        added: the sources of the draft.
        latest: the latest revision, or None for a new package.

    Raises:
        InputError: a key or metadata cannot be published; for files it is raised while they are read.
        QuiltError: the registry cannot be read.
    """
    base, tree = None, added
    if draft.mode == "update":
        base = _read_base(registry, package, draft, latest)
        tree = _update(base.tree if base else SourceTree(), Removal(draft.remove), added)
    directories = {key: meta for key, meta in tree.directories.items() if meta}  # As quilt3, no line for none.
    workflow = load_workflow(draft.workflow, registry.workflows_config(), lambda key: registry.stores.of(key).get(key))
    meta = draft.meta
    if draft.own_meta:  # They join the given metadata, or that of the base.
        given = draft.meta if draft.meta is not None else base.header.get("user_meta") if base else None
        meta = {**(given if isinstance(given, dict) else {}), **draft.own_meta}
    header = make_header(draft.message, meta, workflow.record if workflow else None, base.header if base else None)
    # A record that is too large is an error now, before any byte moves.
    header_line(header)
    for key, directory_meta in directories.items():
        directory_line(key, directory_meta)
    sources = tree.sources if tree.is_checked else validate_order(tree.sources, tree.directories)
    return ResolvedRevision(header, SourceTree(sources, directories), workflow)


def _read_base(registry: Registry, package: PackageName, draft: Draft, latest: Latest | None) -> ResolvedRevision | None:
    """Read the revision that an update starts from; None where there is no package yet."""
    if draft.revision is None and latest is None:
        _log.info("There is no package %s in %s yet: the update starts from nothing", package, registry.location)
        return None
    manifest = registry.read(package, latest.top_hash if draft.revision is None and latest else draft.revision).begun()
    sources = (Source.of_entry(entry, hash_type=draft.hash_type) for entry in manifest.entries)
    if not registry.location.is_local:
        sources = (replace(source, movable=False) if source.is_local else source for source in sources)
    return ResolvedRevision(manifest.header, SourceTree(sources, manifest.directories))


def _update(base: SourceTree, removal: Removal, added: SourceTree) -> SourceTree:
    tree = updated(base, removal, added)

    def sources() -> Iterator[Source]:
        yield from tree.sources
        if absent := removal.absent:  # Known only when all files have passed.
            _log.warning("Not in the revision that is updated, so there is nothing to remove: %s", ", ".join(absent))

    return SourceTree(sources(), tree.directories)


def _package_reader(registry: Registry) -> Callable[[QuiltUri], Manifest]:
    return lambda uri: Registry(uri.registry, registry.stores).read(uri.package, uri.top_hash)
