"""Build: publish a revision that names files where they are, without copying any."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.ordering import Block
from airflow_quilt.core.plan.actions import Actions, KnownBlock, Source, Sources, plan_build
from airflow_quilt.core.plan.placement import Landing
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.pipeline import publish
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry

_log = logging.getLogger(__name__)


def build(
    registry: Registry, draft: Draft, *, stop: threading.Event | None = None, attempt: Attempt | None = None
) -> PublishResult:
    """Build a package.

    Args:
        registry: a registry on S3 or on the local disk.
        draft: the revision.
        stop: set it, from any thread, to end the build; nothing is published then.
        attempt: identifies the attempts of one piece of work, so that it makes one revision however often it is run.

    Raises:
        InputError: the draft cannot be published; nothing was written.
        RevisionConflictError: ``latest`` moved meanwhile; nothing is visible.
        StorageError: a store refused or failed; nothing is visible.
    """
    return publish(registry, draft, build_planner(registry, draft.package), stop=stop, attempt=attempt)


@dataclass(frozen=True, slots=True)
class BuildPlanner:
    """Names each source where it is, hashed in place if need be; :func:`build_planner` makes one."""

    package: PackageName
    may_name_files: bool

    @property
    def verb(self) -> str:
        """The work, as the log calls it."""
        return "Building"

    @property
    def landing(self) -> Landing:
        """``"nowhere"``, as files stay where they are."""
        return "nowhere"

    def plan(self, sources: Sources) -> Actions:
        """Yield the action for each source, in the same order."""
        return plan_build(sources if self.may_name_files else self._warned(sources))

    def _warned(self, sources: Sources) -> Iterator[Source | Block[Source]]:
        total = local = 0
        for item in sources:
            if isinstance(item, KnownBlock):
                total += len(item.entries.entries)
            elif not isinstance(item, Block):
                total += 1
                local += item.is_local
            yield item
        if local:
            _log.warning(
                "%s of the %s entries of %s are files of this machine, and only it can read them; push the package to copy them",
                local,
                total,
                self.package,
            )


def build_planner(registry: Registry, package: PackageName | str) -> BuildPlanner:
    """Return the planner of a build."""
    return BuildPlanner(PackageName.parse(package), registry.location.is_local)
