"""QuiltRollbackOperator."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_quilt.operators._base import QuiltOperator, airflow_errors
from airflow_quilt.operators._checks import OF_ROLLBACKS, Check
from airflow_quilt.operators._values import attempt_of
from airflow_quilt.operators.publish import QuiltRevisionOperator

if TYPE_CHECKING:
    from airflow.sdk import Context
    from openlineage.client.event_v2 import Dataset


class QuiltRollbackOperator(QuiltRevisionOperator):
    """Make an older revision of a package the latest one again; nothing is copied or deleted.

    The package's asset has an event, unless that revision is the latest already.

    :param package: ``namespace/name``.
    :param revision: the top hash of the revision or the beginning of one (6 digits or more).
    :param registry: the registry, on S3 or a local directory; by default the connection's.
    :param quilt_conn_id: the ID of a connection of type ``quilt``; None for no connection.
    :param max_concurrency: the most concurrent S3 requests; overrides the connection's.
    """

    required: ClassVar[frozenset[str]] = QuiltOperator.required | {"revision"}
    checks: ClassVar[Mapping[str, Check]] = OF_ROLLBACKS
    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "revision")

    def __init__(self, *, revision: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.revision = revision
        self.declare()

    def execute(self, context: "Context") -> dict[str, Any]:
        """Roll back; return the latest revision, and the previous one."""
        from airflow_quilt.core.rollback import rollback

        with airflow_errors(self):
            target = self.hook.open(self.registry)
            result = rollback(target.registry, self.package, self.revision, attempt=attempt_of(context))
            published_at = result.published_at.to_iso8601_string()
            outcome = target.to_xcom(self.package, result.top_hash, published_at=published_at, previous=result.previous)
            return self.emit(context, outcome)

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":
        """Return the package, at its latest revision."""
        from airflow_quilt.assets._lineage import dataset_of

        return [dataset_of(outcome["registry"], outcome["package"], outcome["top_hash"])]
