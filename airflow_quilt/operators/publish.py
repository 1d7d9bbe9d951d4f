"""The base of the operators that make a revision."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_quilt.operators._base import QuiltOperator, airflow_errors
from airflow_quilt.operators._checks import OF_PUBLICATIONS, Check, check_given
from airflow_quilt.operators._events import check_partition, emit_event
from airflow_quilt.operators._known import Known
from airflow_quilt.operators._outlets import add_outlets
from airflow_quilt.operators._values import attempt_of, flag, plain

if TYPE_CHECKING:
    from types import EllipsisType

    from airflow.sdk import Context
    from openlineage.client.event_v2 import Dataset

    from airflow_quilt.core.format.arguments import Conflict, MetaMode, Mode
    from airflow_quilt.core.publish.draft import Draft
    from airflow_quilt.core.publish.planned import Planner
    from airflow_quilt.hooks._target import RegistryTarget


class QuiltRevisionOperator(QuiltOperator):
    """An operator that makes a revision, or another one the latest, and emits the event of the package's asset."""

    is_outlet = True
    """Whether the task makes a revision, so that it emits the event of its asset."""

    message: str | None = None
    partition_key: str | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; declare the outlets again when the task is added to its DAG later, whose ID the alias has."""
        super().__setattr__(name, value)
        if name == "_dag" and value is not None and "registry" in vars(self):
            self.declare()

    def declare(self) -> None:
        """Declare the outlet: the package's asset, or an alias where package or registry are unknown while the DAG is parsed."""
        if self.is_outlet:
            add_outlets(self, [(self.package, self.registry)])

    def emit(self, context: "Context", result: dict[str, Any]) -> dict[str, Any]:
        """Emit the event of the package's asset; keep the result for other tasks, the link and the lineage; return it."""
        from airflow_quilt.operators._outputs import push_outputs

        is_new = result.get("created", result["previous"] != result["top_hash"])  # A rollback makes no revision.
        emit_event(self, context, {**result, "created": is_new, "message": self.message}, self.partition_key)
        push_outputs(self, context, result)
        return self.finish(result)

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":
        """Return the package, at the revision that was made or reused."""
        from airflow_quilt.assets._lineage import published_dataset

        return [published_dataset(outcome)]


class QuiltPublishOperator(QuiltRevisionOperator):
    """An operator that makes a revision.

    :param package: ``namespace/name``.
    :param entries: logical keys and their sources, or one source for the whole package: paths, URLs, assets, the output of
        tasks, or content. An update may have none.
    :param meta: the package's metadata, a JSON object; by default that of the revision that an update starts from, or of the
        package that is the one source.
    :param meta_mode: ``"replace"``: the given metadata, also of entries and directories, takes the place of the metadata that was
        there. ``"merge"``: its keys join those that were there, and override those of the same name.
    :param null_meta: where the package has no metadata, write ``user_meta: null``, as quilt3's ``set_dir("/", …)`` does, and not
        nothing: so a pipeline that moves over from quilt3 makes no new revision of what has not changed.
    :param message: the message of the revision in the history.
    :param registry: the registry that takes the revision; by default the connection's.
    :param mode: ``"replace"``: the package holds exactly the given entries. ``"update"``: it starts from a revision, loses
        ``remove``, and then the entries are added, each in place of the one with the same logical key.
    :param revision: the revision that an update starts from: a top hash or the beginning of one (6 digits or more), or a time; by
        default the latest.
    :param remove: logical keys that an update removes: of files, and of directories with all files below them.
    :param workflow: the workflow of the registry that the package must satisfy; by default the connection's, or else the
        registry's default. None is no workflow: it fails if the registry requires one, and, as in quilt3, if it has no workflows
        config.
    :param hash_type: the hash type of new entries, ``"sha2-256-chunked"`` or ``"CRC64NVME"``.
    :param unversioned: name S3 objects without their current versions.
    :param follow_symlinks: pack files behind links that lead out of the packed directory, and behind links to directories.
    :param conflict: the action when ``latest`` moves before the revision is published. ``"fail"``: an error, which a retry
        resolves. ``"overwrite"``: publish all the same. ``"rebase"``: merge an update with the newer revision, and publish that.
        By default ``"rebase"`` for updates that only add and remove (without ``revision``, and without a ``meta`` that replaces),
        and ``"fail"`` for all other work.
    :param dedupe: skip publishing if nothing changed. Message and metadata are part of the hash: a message with the date always
        makes a new revision.
    :param allow_empty: let a source, or the package, hold no file.
    :param provenance: write the DAG, task and run that published the package, and the triggers of the run, into its metadata
        under the key ``airflow``; overrides the connection's. The top hash then differs from run to run.
    :param partition_key: the partition of the asset that the revision belongs to (Airflow 3.3 and newer).
    :param quilt_conn_id: the ID of a connection of type ``quilt``; None for no connection.
    :param max_concurrency: the most concurrent S3 requests; overrides the connection's.
    """

    template_fields: Sequence[str] = (
        *QuiltOperator.template_fields,
        "entries",
        "meta",
        "meta_mode",
        "message",
        "mode",
        "revision",
        "remove",
        "workflow",
        "hash_type",
        "unversioned",
        "follow_symlinks",
        "conflict",
        "dedupe",
        "allow_empty",
        "provenance",
        "null_meta",
        "partition_key",
    )
    checks: ClassVar[Mapping[str, Check]] = OF_PUBLICATIONS
    template_fields_renderers = {"entries": "py", "meta": "json"}  # noqa: RUF012  (Airflow's own declaration has no ClassVar)

    _given_entries: Any = None
    """The entries as plain values: some of Airflow's own can be resolved only while the task runs."""

    def __init__(  # noqa: PLR0913  (the parameters of a task)
        self,
        *,
        entries: Any = None,
        meta: Any = None,
        meta_mode: "MetaMode" = "replace",
        message: str | None = None,
        mode: "Mode" = "replace",
        revision: str | None = None,
        remove: "Sequence[str]" = (),
        workflow: "str | EllipsisType | None" = ...,
        hash_type: str = "sha2-256-chunked",
        unversioned: bool = False,
        follow_symlinks: bool = False,
        conflict: "Conflict | None" = None,
        dedupe: bool = True,
        allow_empty: bool = False,
        provenance: bool | None = None,
        null_meta: bool = False,
        partition_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.entries = entries
        self.meta = meta
        self.meta_mode: MetaMode = meta_mode
        self.message = message
        self.mode: Mode = mode
        self.revision = revision
        self.remove = remove
        self.workflow = workflow
        self.hash_type = hash_type
        self.unversioned = unversioned
        self.follow_symlinks = follow_symlinks
        self.conflict: Conflict | None = conflict
        self.dedupe = dedupe
        self.allow_empty = allow_empty
        self.provenance = provenance
        self.null_meta = null_meta
        self.partition_key = partition_key
        self.declare()

    def execute(self, context: "Context") -> dict[str, Any]:
        """Publish; return the revision, the counts and the bytes as plain values."""
        from airflow_quilt.core.publish.pipeline import publish
        from airflow_quilt.operators._state import PublishedState

        with airflow_errors(self):
            check_partition(self.partition_key)
            target, attempt, given = self.hook.open(self.registry), attempt_of(context), self.inputs()
            self._given_entries = given.get("entries")
            state = PublishedState(context, attempt.key, given)
            if attempt.since is not None and (earlier := state.read(target.registry)):
                return self.emit(context, earlier)
            draft = self._draft(given, context, target)
            planner = self.planner(target, draft)
            result = publish(target.registry, draft, planner, attempt=attempt).to_xcom(target.catalog)
            state.write(result)
            return self.emit(context, result)

    @classmethod
    def check_together(cls, given: Mapping[str, Any], known: Known) -> None:
        """Check that there are entries, and that the arguments are for one kind of work.

        Raises:
            InputError: entries are missing; or some arguments are for other work than the others.
        """
        from airflow_quilt.core.format.arguments import check_together

        mode, conflict, revision, remove = (given.get(name) for name in ("mode", "conflict", "revision", "remove"))
        if mode == "replace" and "entries" in given:
            check_given(given["entries"], given.get("allow_empty"))
        if all(map(known, (mode, conflict, revision, remove))):
            check_together(mode, conflict, revision, remove)

    def inputs(self) -> dict[str, Any]:
        """Return the rendered parameters, as values of the core."""
        return {name: plain(getattr(self, name)) for name in self.template_fields}

    def reads(self, outcome: Mapping[str, Any]) -> "list[Dataset]":  # noqa: ARG002
        """Return the objects, prefixes and packages that the entries name."""
        from airflow_quilt.assets._lineage import sources_of

        return sources_of(self._given_entries)

    def _draft(self, given: Mapping[str, Any], context: "Context", target: "RegistryTarget") -> "Draft":
        from airflow_quilt.core.publish.draft import Draft
        from airflow_quilt.operators._provenance import KEY, provenance_of

        provenance = self.hook.settings.provenance if self.provenance is None else flag("provenance", self.provenance)
        return Draft(
            package=self.package,
            entries=given["entries"],
            meta=given["meta"],
            meta_mode=self.meta_mode,
            own_meta={KEY: provenance_of(context)} if provenance else {},
            null_meta=flag("null_meta", self.null_meta),
            message=self.message,
            mode=self.mode,
            revision=self.revision,
            remove=given["remove"],
            workflow=target.workflow if self.workflow is ... else self.workflow,
            hash_type=self.hash_type,
            unversioned=flag("unversioned", self.unversioned),
            follow_symlinks=flag("follow_symlinks", self.follow_symlinks),
            conflict=self.conflict,
            dedupe=flag("dedupe", self.dedupe),
            allow_empty=flag("allow_empty", self.allow_empty),
        )

    def planner(self, target: "RegistryTarget", draft: "Draft") -> "Planner":
        """Return the planner, which chooses upload, copy or hash-in-place for each source: push and build differ here alone."""
        raise NotImplementedError
