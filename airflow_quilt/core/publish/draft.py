"""What a revision is to say and hold: what a user asked for, the revision that it starts from, and the workflow's verdict."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec.structs import replace

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.hashes import CHUNKED, check_new_hash_type
from airflow_quilt.core.format.manifest import Entry, directory_line, header_line, make_header
from airflow_quilt.core.format.manifest_reader import Manifest
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.ordering import checked
from airflow_quilt.core.format.uris import QuiltUri
from airflow_quilt.core.plan.actions import Source
from airflow_quilt.core.plan.tree import Removal, SourceTree, updated
from airflow_quilt.core.registry.pointers import Conflict, Latest
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.sources.discover import FindOptions, SourceFinder
from airflow_quilt.core.sources.parse import parse_entries
from airflow_quilt.core.workflows.rules import Choice, Workflow, load_workflow

_log = logging.getLogger(__name__)

Mode = Literal["replace", "update"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A revision to be.

    Attributes:
        package: ``namespace/name``.
        entries: a mapping of logical keys to sources, or one source for the whole package; see ``docs/entries.md``. None
            for none, with ``mode="update"``.
        meta: the package's metadata, a JSON object; with ``mode="update"`` None leaves it as it is.
        own_meta: keys that the metadata gets beside those that a user gave, who may not give them.
        message: what a reader of the history sees.
        mode: ``"replace"``: the package holds exactly the entries given. ``"update"``: it starts from a revision, loses
            ``remove``, and then the entries are added or take the place of those with the same logical key.
        base: the revision that an update starts from (:meth:`Registry.resolve`); by default the latest one, or an empty
            package where there is none yet.
        remove: what an update takes out: keys of files, and of directories with all that is below them.
        workflow: the workflow of the registry that the package must satisfy; None for none, ``...`` for its default.
        hash_type: the type of hash that new entries get: ``sha2-256-chunked`` or ``CRC64NVME``.
        unversioned: name S3 objects without the versions that they have now.
        follow_symlinks: pack files behind links that lead out of the directory that is packed.
        conflict: ``"fail"`` when ``latest`` moves while the revision is being made, ``"overwrite"`` to win regardless;
            ``"rebase"`` to merge an update with what is the latest by then, and try again.
        dedupe: make no new revision when ``latest`` has the same top hash.
        allow_empty: let a source, or the package, hold no file.
    """

    package: str
    entries: object = None
    meta: Mapping[str, Any] | None = None
    own_meta: Mapping[str, Any] = field(default_factory=dict)
    message: str | None = None
    mode: Mode = "replace"
    base: str | None = None
    remove: Sequence[str] = ()
    workflow: Choice = ...
    hash_type: str = CHUNKED
    unversioned: bool = False
    follow_symlinks: bool = False
    conflict: Conflict = "fail"
    dedupe: bool = True
    allow_empty: bool = False


def check_draft(draft: Draft) -> PackageName:
    """Check what can be checked without looking anywhere; return the name of the package.

    Raises:
        InputError: something cannot be right.
    """
    for what, choices in (("conflict", ("fail", "overwrite", "rebase")), ("mode", ("replace", "update"))):
        if (value := getattr(draft, what)) not in choices:
            raise InputError(f"{what} {value!r}: expected {' or '.join(map(repr, choices))}")
    if not isinstance(draft.remove, list | tuple) or not all(isinstance(key, str) for key in draft.remove):
        raise InputError(f"remove {draft.remove!r}: expected a list of logical keys")
    if draft.mode == "replace" and (draft.base is not None or draft.remove):
        raise InputError("base and remove are for mode='update'; with mode='replace' the package holds the given entries only")
    if draft.conflict == "rebase" and (draft.mode == "replace" or draft.base is not None):
        raise InputError("conflict='rebase' merges with the latest revision: it is for mode='update', without base")
    if isinstance(draft.meta, dict) and (both := draft.meta.keys() & draft.own_meta.keys()):
        raise InputError(f"meta: the key {min(both)!r} is written here; leave it out")
    check_new_hash_type(draft.hash_type)
    make_header(draft.message, draft.meta)
    return PackageName.parse(draft.package)


@dataclass(frozen=True, slots=True)
class Content:
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


def find_sources(registry: Registry, draft: Draft, found: Spool[Source]) -> SourceTree:
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


def gather(registry: Registry, name: PackageName, draft: Draft, added: SourceTree, latest: Latest | None) -> Content:
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
    sources = tree.sources if tree.is_checked else checked(tree.sources, tree.directories)
    return Content(header, SourceTree(sources, directories), workflow)


def _meta(draft: Draft, base: Content | None) -> Mapping[str, Any] | None:
    """Return the metadata that the header gets, or None for that of the base."""
    if not draft.own_meta:
        return draft.meta
    given = draft.meta if draft.meta is not None else base.header.get("user_meta") if base else None
    return {**(given if isinstance(given, dict) else {}), **draft.own_meta}


def _read_base(registry: Registry, name: PackageName, draft: Draft, latest: Latest | None) -> Content | None:
    """Read the revision that an update starts from; None where there is no package yet."""
    if draft.base is None and latest is None:
        _log.info("There is no package %s in %s yet: the update starts from nothing", name, registry.location)
        return None
    manifest = registry.read(name, latest.top_hash if draft.base is None and latest else draft.base).begun()
    sources = (Source.of_entry(entry, hash_type=draft.hash_type) for entry in manifest.entries)
    if not registry.location.is_local:
        sources = (replace(source, movable=False) if source.is_local else source for source in sources)
    return Content(manifest.header, SourceTree(sources, manifest.directories))


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
