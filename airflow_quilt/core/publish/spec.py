"""The specification of a commit, which may be carried out by another process than the one that planned it."""

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from airflow_quilt.core.format.manifest import canonical_json
from airflow_quilt.core.format.names import DirectoryKey, PackageName
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.planned import PlannedRevision
from airflow_quilt.core.publish.resolve import ResolvedRevision


class CommitSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A revision, apart from its entries, and the conditions on which it is published.

    Attributes:
        package: ``namespace/name``.
        header: the header of its manifest.
        directories: the metadata of directories.
        names_files: whether it names files of this machine.
        dedupe: skip publishing when ``latest`` has the same top hash.
        overwrite: publish also when ``latest`` has moved.
        update: the arguments of an update, apart from the files that it adds, as canonical text; None for a replacement.
    """

    package: str
    header: Mapping[str, Any]
    directories: Mapping[DirectoryKey, Any]
    names_files: bool
    dedupe: bool
    overwrite: bool
    update: str | None = None

    @classmethod
    def of(
        cls,
        draft: Draft,
        package: PackageName,
        revision: ResolvedRevision,
        planned: PlannedRevision,
        added: Mapping[DirectoryKey, Any],
    ) -> Self:
        """Return the specification for a draft that has been planned; ``added`` is the metadata of its own directories."""
        arguments = [draft.message, draft.meta, draft.meta_mode, draft.own_meta, list(draft.remove), draft.revision, dict(added)]
        arguments += ["null_meta"] if draft.null_meta else []
        return cls(
            package=str(package),
            header=revision.header,
            directories=revision.tree.directories,
            names_files=planned.names_files,
            dedupe=draft.dedupe,
            overwrite=draft.on_conflict == "overwrite",
            update=canonical_json(arguments) if draft.mode == "update" else None,
        )
