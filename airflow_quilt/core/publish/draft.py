"""What a revision is to say and hold: what a user asked for, the revision that it starts from, and the workflow's verdict."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.hashes import CHUNKED, check_new_hash_type
from airflow_quilt.core.format.manifest import make_header
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.pointers import Conflict
from airflow_quilt.core.workflows.config import Choice

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
