"""QuiltPushOperator."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_quilt.operators._checks import OF_PUSHES, Check
from airflow_quilt.operators._known import Known
from airflow_quilt.operators.publish import QuiltPublishOperator

if TYPE_CHECKING:
    from airflow_quilt.core.format.arguments import CopyRule
    from airflow_quilt.core.plan.placement import CopyFunction, DestFunction
    from airflow_quilt.core.publish.draft import Draft
    from airflow_quilt.core.publish.planned import Planner
    from airflow_quilt.hooks._target import RegistryTarget


class QuiltPushOperator(QuiltPublishOperator):
    """Copy the files of a package to a registry's bucket, and publish a revision that names the copies.

    Takes the parameters of :class:`~airflow_quilt.operators.publish.QuiltPublishOperator`; the registry must be on S3.

    :param dest: the destination of the files: an ``s3://`` prefix in the registry's bucket; or a function of the logical key and
        an :class:`~airflow_quilt.core.plan.placement.EntryInfo` that returns an ``s3://`` URL. By default the connection's
        ``dest`` with the package's name added, or else ``s3://<registry>/<namespace>/<name>``.
    :param copy: the sources that are copied there: ``"if-outside"`` the registry's bucket; ``"all"``; ``"local-only"``, files and
        content but no objects; ``"none"``, for objects only; or a function of the same two that returns a `bool`. Other objects
        stay where they are.
    """

    callbacks: ClassVar[frozenset[str]] = frozenset({"dest", "copy"})
    checks: ClassVar[Mapping[str, Check]] = OF_PUSHES
    template_fields: Sequence[str] = (*QuiltPublishOperator.template_fields, "dest", "copy")

    def __init__(
        self,
        *,
        dest: "str | DestFunction | None" = None,
        copy: "CopyRule | CopyFunction" = "if-outside",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dest = dest
        self.copy: CopyRule | CopyFunction = copy

    @classmethod
    def check_together(cls, given: Mapping[str, Any], known: Known) -> None:
        """Check that the destination is in the registry's bucket too.

        Raises:
            InputError: as for every publication; or the destination is elsewhere.
        """
        from airflow_quilt.core.format.arguments import parse_dest
        from airflow_quilt.core.format.uris import RegistryLocation

        super().check_together(given, known)
        dest, registry = given.get("dest"), given.get("registry")
        if registry is not None and isinstance(dest, str) and known(dest) and known(registry):
            parse_dest(dest, RegistryLocation.parse(registry))

    def planner(self, target: "RegistryTarget", draft: "Draft") -> "Planner":
        """Return the planner of a push."""
        from airflow_quilt.core.push import push_planner

        return push_planner(target.registry, draft.package, self.dest or target.landing_prefix(draft.package), self.copy)
