"""Push: copy the files of a package to a registry's bucket and publish a revision that names the copies."""

import threading
from collections.abc import Iterable, Iterator

from airflow_quilt.core.errors import LocationError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.plan.actions import Action, Source, plan_push
from airflow_quilt.core.plan.placement import CopyFunction, CopyRule, DestFunction, copy_policy, landing
from airflow_quilt.core.publish.commit import Planner
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.pipeline import PublishResult, publish
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry


def push(
    registry: Registry,
    draft: Draft,
    dest: str | DestFunction | None = None,
    stop: threading.Event | None = None,
    *,
    copy: CopyRule | CopyFunction = "if-outside",
    attempt: Attempt | None = None,
) -> PublishResult:
    """Push a package.

    Args:
        registry: an S3 registry.
        draft: what to publish.
        dest: an ``s3://`` prefix in the registry's bucket, by default ``s3://<registry>/<namespace>/<name>``; or a function
            of the logical key and a :class:`~airflow_quilt.core.plan.placement.EntryInfo` that returns an ``s3://`` URL.
        copy: what is copied to ``dest``: ``"if-outside"`` the registry's bucket, ``"all"``, ``"local-only"``, ``"none"``, or a
            function of the same two that returns a truth value.
        attempt: tells the tries of one piece of work from other work, so that it makes one revision however often it is run.
        stop: set it to end the push; nothing is published then.

    Raises:
        InputError: what the draft says cannot be published; nothing was written.
        RevisionConflictError: ``latest`` moved meanwhile; nothing is visible.
        StorageError: a store refused or failed; nothing is visible.
    """
    return publish(registry, draft, push_planner(registry, draft, dest, copy), "Pushing", stop, attempt)


def push_planner(
    registry: Registry, draft: Draft, dest: str | DestFunction | None = None, copy: CopyRule | CopyFunction = "if-outside"
) -> Planner:
    """Return what decides for a push which bytes move, and where to; the arguments are those of :func:`push`.

    Raises:
        InputError: something is wrong with them.
    """
    if registry.location.is_local:
        raise LocationError(f"registry {registry.location}: push needs an S3 registry, s3://bucket; use build for a local one")
    name = PackageName.parse(draft.package)
    copies = copy_policy(copy, registry.location)
    landing(dest, registry.location, name)  # What is wrong with it is told before anything is looked at.

    def plan(sources: Iterable[Source]) -> Iterator[Action]:
        return plan_push(sources, copies, landing(dest, registry.location, name))

    return plan
