"""Push: copy the files of a package to a registry's bucket and publish a revision that names the copies."""

import threading
from collections.abc import Iterable, Iterator

from airflow_quilt.core.errors import LocationError
from airflow_quilt.core.names import PackageName
from airflow_quilt.core.plan import Action, Source, default_dest, parse_dest, plan_push
from airflow_quilt.core.publish import Draft, Published, publish
from airflow_quilt.core.registry import Registry


def push(registry: Registry, draft: Draft, dest: str | None = None, stop: threading.Event | None = None) -> Published:
    """Push a package.

    Objects that already lie in the registry's bucket stay where they are; everything else is copied to ``dest``.

    Args:
        registry: an S3 registry.
        draft: what to publish.
        dest: an ``s3://`` prefix in the registry's bucket; by default ``s3://<registry>/<namespace>/<name>``.
        stop: set it to end the push; nothing is published then.

    Raises:
        InputError: what the draft says cannot be published; nothing was written.
        RevisionConflictError: ``latest`` moved meanwhile; nothing is visible.
        StorageError: a store refused or failed; nothing is visible.
    """
    if registry.location.is_local:
        raise LocationError(f"registry {registry.location}: push needs an S3 registry, s3://bucket; use build for a local one")
    name = PackageName.parse(draft.package)
    target = default_dest(registry.location, name) if dest is None else parse_dest(dest, registry.location)

    def plan(sources: Iterable[Source]) -> Iterator[Action]:
        return plan_push(sources, target)

    return publish(registry, draft, plan, "Pushing", stop)
