"""QuiltBuildOperator."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from airflow_quilt.operators._checks import OF_BUILDS, Check
from airflow_quilt.operators.publish import QuiltPublishOperator

if TYPE_CHECKING:
    from airflow_quilt.core.publish.draft import Draft
    from airflow_quilt.core.publish.planned import Planner
    from airflow_quilt.hooks._target import RegistryTarget


class QuiltBuildOperator(QuiltPublishOperator):
    """Publish a revision that names files where they are, without a copy.

    Takes the parameters of :class:`~airflow_quilt.operators.publish.QuiltPublishOperator`; the registry may be an S3 bucket or
    a local directory (``file:///…`` or a path). Sources must be files or objects: content has no location to name.
    """

    checks: ClassVar[Mapping[str, Check]] = OF_BUILDS

    def planner(self, target: "RegistryTarget", draft: "Draft") -> "Planner":
        """Return the planner of a build."""
        from airflow_quilt.core.build import build_planner

        return build_planner(target.registry, draft.package)
