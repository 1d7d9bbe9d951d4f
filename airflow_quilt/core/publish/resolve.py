"""From a draft to the header, the tree and the workflow of its revision."""

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
from airflow_quilt.core.registry.pointers import Latest
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.sources.discover import FindOptions, SourceFinder
from airflow_quilt.core.sources.parse import parse_entries
from airflow_quilt.core.workflows.config import load_workflow
from airflow_quilt.core.workflows.rules import Workflow

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResolvedRevision:
    """What a revision will say and hold.

    Attributes:
        header: the header of its manifest.
        tree: its files, as a stream that is checked to be a tree and can be read once, and its directories.
        workflow: what it must satisfy.
    """

    header: Mapping[str, Any]
    tree: SourceTree = field(default_factory=SourceTree)
    workflow: Workflow | None = None

    def judge(self, name: PackageName, files: Iterable[Source | Entry]) -> None:
        """Let the workflow judge, when it is known which files there are.

        Raises:
            WorkflowError: the package does not satisfy it.
        """
        if self.workflow:
            told = ({"logical_key": file.logical_key, "size": file.size, "meta": file.user_meta} for file in files)
            user_meta = self.header.get("user_meta", {})
            self.workflow.check(package=str(name), message=self.header["message"], user_meta=user_meta, entries=told)


def discover(registry: Registry, draft: Draft, found: Spool[Source]) -> SourceTree:
    """Find the sources that a draft names, and put them into ``found``, unless they are in order and read only once.

    Raises:
        InputError: a source or a key cannot be published.
        QuiltError: what they come from cannot be read.
    """
    requests = list(parse_entries(draft.entries)) if draft.entries is not None or draft.mode == "replace" else []
    options = FindOptions(
        allow_empty=draft.allow_empty,
        follow_symlinks=draft.follow_symlinks,
        unversioned=draft.unversioned,
        hash_type=draft.hash_type,
    )
    finder = SourceFinder(registry.stores, _reader(registry), options)
    if draft.mode == "replace" and len(requests) == 1 and (tree := finder.stream(requests[0])):
        return tree
    return SourceTree(found, finder.find(requests, found))


def resolve(registry: Registry, name: PackageName, draft: Draft, added: SourceTree, latest: Latest | None) -> ResolvedRevision:
    """Merge sources with the revision that is updated, and find the workflow that is to judge.

    Raises:
        InputError: a key or metadata cannot be published; of the files, while they are read.
        QuiltError: the registry cannot be read.
    """
    base = _read_base(registry, name, draft, latest) if draft.mode == "update" else None
    tree = _updated(base.tree if base else SourceTree(), Removal(draft.remove), added) if draft.mode == "update" else added
    directories = {key: meta for key, meta in tree.directories.items() if meta}  # As quilt3, no line for none.
    workflow = load_workflow(draft.workflow, registry.workflows_config(), lambda key: registry.stores.of(key).get(key))
    header = make_header(draft.message, _meta(draft, base), workflow.record if workflow else None, base.header if base else None)
    header_line(header)
    for key, meta in directories.items():
        directory_line(key, meta)
    sources = tree.sources if tree.is_checked else validate_order(tree.sources, tree.directories)
    return ResolvedRevision(header, SourceTree(sources, directories), workflow)


def _meta(draft: Draft, base: ResolvedRevision | None) -> Mapping[str, Any] | None:
    """Return the metadata that the header gets, or None for that of the base."""
    if not draft.own_meta:
        return draft.meta
    given = draft.meta if draft.meta is not None else base.header.get("user_meta") if base else None
    return {**(given if isinstance(given, dict) else {}), **draft.own_meta}


def _read_base(registry: Registry, name: PackageName, draft: Draft, latest: Latest | None) -> ResolvedRevision | None:
    """Read the revision that an update starts from; None where there is no package yet."""
    if draft.base is None and latest is None:
        _log.info("There is no package %s in %s yet: the update starts from nothing", name, registry.location)
        return None
    manifest = registry.read(name, latest.top_hash if draft.base is None and latest else draft.base).begun()
    sources = (Source.of_entry(entry, hash_type=draft.hash_type) for entry in manifest.entries)
    if not registry.location.is_local:
        sources = (replace(source, movable=False) if source.is_local else source for source in sources)
    return ResolvedRevision(manifest.header, SourceTree(sources, manifest.directories))


def _updated(base: SourceTree, removal: Removal, added: SourceTree) -> SourceTree:
    tree = updated(base, removal, added)
    return SourceTree(_warned(tree.sources, removal), tree.directories)


def _warned(sources: Iterable[Source], removal: Removal) -> Iterator[Source]:
    """Pass on what is left, and say at its end what could not be removed."""
    yield from sources
    if absent := removal.absent:
        _log.warning("Not in the revision that is updated, so there is nothing to remove: %s", ", ".join(absent))


def _reader(registry: Registry) -> Callable[[QuiltUri], Manifest]:
    def read(uri: QuiltUri) -> Manifest:
        return Registry(uri.registry, registry.stores).read(uri.package, uri.top_hash)

    return read
