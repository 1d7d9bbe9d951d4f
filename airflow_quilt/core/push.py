"""Push: copy the files of a package to a registry's bucket and publish a revision that names the copies."""

import threading
from dataclasses import dataclass

from airflow_quilt.core.errors import LocationError
from airflow_quilt.core.format.arguments import CopyRule
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.ordering import records_of
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.plan.actions import Actions, Sources, plan_push
from airflow_quilt.core.plan.placement import (
    CopyFunction,
    DestFunction,
    Landing,
    copy_policy,
    landing,
    landing_prefix,
)
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.pipeline import publish
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry


def push(
    registry: Registry,
    draft: Draft,
    dest: str | DestFunction | None = None,
    *,
    copy: CopyRule | CopyFunction = "if-outside",
    stop: threading.Event | None = None,
    attempt: Attempt | None = None,
) -> PublishResult:
    """Push a package.

    Args:
        registry: a registry on S3.
        draft: the revision.
        dest: an ``s3://`` prefix in the registry's bucket, by default ``s3://<registry>/<namespace>/<name>``; or a function
            of the logical key and an :class:`~airflow_quilt.core.plan.placement.EntryInfo` that returns an ``s3://`` URL.
        copy: the files that are copied to ``dest``: ``"if-outside"`` the registry's bucket, ``"all"``, ``"local-only"``,
            ``"none"``, or a function of the same two that returns a `bool`.
        stop: set it, from any thread, to end the push; nothing is published then.
        attempt: identifies the attempts of one piece of work, so that it makes one revision however often it is run.

    Raises:
        InputError: the draft cannot be published; nothing was written.
        RevisionConflictError: ``latest`` moved meanwhile; nothing is visible.
        StorageError: a store refused or failed; nothing is visible.
    """
    return publish(registry, draft, push_planner(registry, draft.package, dest, copy), stop=stop, attempt=attempt)


@dataclass(frozen=True, slots=True)
class PushPlanner:
    """Chooses upload, server-side copy or hash-in-place for each source of a push; :func:`push_planner` makes one."""

    registry: RegistryLocation
    package: PackageName
    dest: str | DestFunction | None
    copy: CopyRule | CopyFunction

    @property
    def verb(self) -> str:
        """The work, as the log calls it."""
        return "Pushing"

    @property
    def landing(self) -> Landing:
        """The prefix of the copies, or ``"anywhere"`` for a function."""
        return "anywhere" if callable(self.dest) else landing_prefix(self.dest, self.registry, self.package)

    def plan(self, sources: Sources) -> Actions:
        """Yield the action for each source, in the same order."""
        if callable(self.copy):  # It decides for each file; the rules decide by bucket.
            sources = records_of(sources)
        return plan_push(sources, copy_policy(self.copy, self.registry), landing(self.dest, self.registry, self.package))


def push_planner(
    registry: Registry,
    package: PackageName | str,
    dest: str | DestFunction | None = None,
    copy: CopyRule | CopyFunction = "if-outside",
) -> PushPlanner:
    """Return the planner of a push; the arguments are those of :func:`push`.

    Raises:
        InputError: an argument cannot be right.
    """
    if registry.location.is_local:
        raise LocationError(f"registry {registry.location}: give s3://bucket, or use build; push needs an S3 registry")
    planner = PushPlanner(registry.location, PackageName.parse(package), dest, copy)
    planner.plan(())  # A wrong argument is an error before any request.
    return planner
