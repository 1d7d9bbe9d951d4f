"""QuiltPushOperator."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_quilt.operators.publish import QuiltPublishOperator

if TYPE_CHECKING:
    from airflow_quilt.core.plan.placement import CopyFunction, CopyRule, DestFunction
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

    def planner(self, target: "RegistryTarget", draft: "Draft") -> "Planner":
        """Return the planner of a push."""
        from airflow_quilt.core.push import push_planner

        return push_planner(target.registry, draft.package, self.dest or target.landing_prefix(draft.package), self.copy)
