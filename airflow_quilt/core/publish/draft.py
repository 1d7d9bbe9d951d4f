"""The draft of a revision: all that a user says about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.arguments import (
    Conflict,
    MetaMode,
    Mode,
    check_conflict,
    check_meta_mode,
    check_mode,
    check_remove,
    check_together,
)
from airflow_quilt.core.format.hashes import CHUNKED, check_new_hash_type
from airflow_quilt.core.format.manifest import make_header
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.workflows.config import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A revision to be published.

    Attributes:
        package: ``namespace/name``.
        entries: a mapping of logical keys to sources, or one source for the whole package; see ``docs/entries.md``. None
            for none, with ``mode="update"``.
        meta: the package's metadata, a JSON object. None keeps that of the revision that an update starts from, or of the
            package that is the one source.
        meta_mode: ``"replace"``: ``meta``, and the metadata of the entries and directories that are given, take the place of
            the metadata that was there. ``"merge"``: their keys join the keys that were there, and override those of the same
            name.
        own_meta: keys that the metadata gets beside ``meta``, which must not have them.
        null_meta: where the package has no metadata, write ``user_meta: null``, as quilt3's ``set_dir`` at the root does, and not
            nothing: the two make different top hashes.
        message: the message that the history shows.
        mode: ``"replace"``: the package holds exactly the entries given. ``"update"``: it starts from a revision, loses
            ``remove``, and then the entries are added or take the place of those with the same logical key.
        revision: the revision that an update starts from (:meth:`Registry.resolve`); by default the latest one, or an empty
            package where there is none yet.
        remove: logical keys that an update takes out: of files, and of directories with all that is below them.
        workflow: the workflow of the registry that the package must satisfy; ``...`` is the registry's default. None is no
            workflow: it fails if the registry requires one, and, as in quilt3, if it has no workflows config.
        hash_type: the type of hash of new entries: ``sha2-256-chunked`` or ``CRC64NVME``.
        unversioned: leave the versions of S3 objects out of their physical keys.
        follow_symlinks: pack files behind links that lead out of the directory that is packed, and behind links to directories.
        conflict: ``"fail"`` when ``latest`` moves before the revision is published; ``"overwrite"`` publishes all the same;
            ``"rebase"`` merges an update with the newer revision, and publishes that. None: see :attr:`on_conflict`.
        dedupe: skip publishing if nothing changed. Message and metadata are part of the hash: a message with the date always
            makes a new revision.
        allow_empty: let a source, or the package, hold no file.
    """

    package: PackageName | str
    entries: object = None
    meta: Mapping[str, Any] | None = None
    meta_mode: MetaMode = "replace"
    own_meta: Mapping[str, Any] = field(default_factory=dict)
    null_meta: bool = False
    message: str | None = None
    mode: Mode = "replace"
    revision: str | None = None
    remove: Sequence[str] = ()
    workflow: Choice = ...
    hash_type: str = CHUNKED
    unversioned: bool = False
    follow_symlinks: bool = False
    conflict: Conflict | None = None
    dedupe: bool = True
    allow_empty: bool = False

    @property
    def on_conflict(self) -> Conflict:
        """The action when ``latest`` moves: ``conflict``, or else the default of this kind of work.

        That is ``"rebase"`` for updates of the latest revision that only add and remove, and ``"fail"`` for all other work.
        """
        if self.conflict is not None:
            return self.conflict
        keeps_meta = self.meta is None or self.meta_mode == "merge"
        return "rebase" if self.mode == "update" and self.revision is None and keeps_meta else "fail"

    def check(self) -> PackageName:
        """Check everything that needs no request; return the name of the package.

        Raises:
            InputError: something cannot be right.
        """
        check_conflict(self.conflict)
        check_mode(self.mode)
        check_meta_mode(self.meta_mode)
        check_remove(self.remove)
        check_together(self.mode, self.conflict, self.revision, self.remove)
        if isinstance(self.meta, dict) and (both := self.meta.keys() & self.own_meta.keys()):
            raise InputError(f"meta: the key {min(both)!r} is written here; leave it out")
        check_new_hash_type(self.hash_type)
        make_header(self.message, self.meta)
        return PackageName.parse(self.package)
