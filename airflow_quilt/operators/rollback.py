"""QuiltRollbackOperator."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_quilt.operators._base import QuiltOperator, airflow_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from openlineage.client.event_v2 import Dataset


class QuiltRollbackOperator(QuiltOperator):
    """Makes an older revision of a package the latest one again; nothing is copied or deleted.

    :param package: ``namespace/name``.
    :param revision: its top hash or the beginning of it (6 digits or more).
    :param registry: the registry, on S3 or a local directory; by default the connection's.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param max_concurrency: the most calls of S3 at a time; by default what the connection says.
    """

    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "revision")

    def __init__(self, *, revision: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.revision = revision

    def execute(self, context: "Context") -> dict[str, Any]:  # noqa: ARG002
        """Roll back, and return what is the latest revision now and what was before."""
        from airflow_quilt.core.rollback import rollback

        with airflow_errors(self):
            target = self.hook.open(self.registry)
            result = rollback(target.registry, self.package, self.revision)
            published_at = result.published_at.to_iso8601_string()
            return self.finish(target.to_xcom(self.package, result.top_hash, published_at=published_at, previous=result.previous))

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":
        """Return the package, at the revision that is the latest now."""
        from airflow_quilt.assets._lineage import dataset_of

        return [dataset_of(outcome["registry"], outcome["package"], outcome["top_hash"])]
