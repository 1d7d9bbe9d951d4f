"""Build: publish a revision that names files where they are, without copying any."""

import logging
import threading
from collections.abc import Iterable, Iterator

from airflow_quilt.core.plan.actions import Action, Source, plan_build
from airflow_quilt.core.publish.commit import Planner
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.pipeline import PublishResult, publish
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry

_log = logging.getLogger(__name__)


def build(
    registry: Registry, draft: Draft, stop: threading.Event | None = None, *, attempt: Attempt | None = None
) -> PublishResult:
    """Build a package.

    Args:
        registry: a registry on S3 or on the local disk.
        draft: what to publish.
        stop: set it to end the build; nothing is published then.
        attempt: tells the tries of one piece of work from other work, so that it makes one revision however often it is run.

    Raises:
        InputError: what the draft says cannot be published; nothing was written.
        RevisionConflictError: ``latest`` moved meanwhile; nothing is visible.
        StorageError: a store refused or failed; nothing is visible.
    """
    return publish(registry, draft, build_planner(registry, draft), "Building", stop, attempt)


def build_planner(registry: Registry, draft: Draft) -> Planner:
    """Return what decides for a build what it takes to name each file where it is."""

    def plan(sources: Iterable[Source]) -> Iterator[Action]:
        return plan_build(sources if registry.location.is_local else _warned(sources, draft.package))

    return plan


def _warned(sources: Iterable[Source], package: str) -> Iterator[Source]:
    """Pass on sources, and say at their end how many of them others cannot read."""
    total = local = 0
    for source in sources:
        total += 1
        local += source.is_local
        yield source
    if local:
        _log.warning(
            "%s of the %s entries of %s are files of this machine, and only it can read them; push the package to copy them",
            local,
            total,
            package,
        )
