"""QuiltDeleteOperator."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_quilt.operators._base import QuiltOperator, airflow_errors
from airflow_quilt.operators._values import flag

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from openlineage.client.event_v2 import Dataset


class QuiltDeleteOperator(QuiltOperator):
    """Takes a package, or one revision of it, out of a registry; manifests and data stay.

    When the latest revision is deleted, the newest remaining one becomes the latest.

    :param package: ``namespace/name``.
    :param revision: its top hash or the beginning of it (6 digits or more); by default the whole package.
    :param registry: the registry, on S3 or a local directory; by default the connection's.
    :param missing_ok: succeed when the package or revision is gone already.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param max_concurrency: the most calls of S3 at a time; by default what the connection says.
    """

    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "revision", "missing_ok")

    def __init__(self, *, revision: str | None = None, missing_ok: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.revision = revision
        self._is_for_package = revision is None
        self.missing_ok = missing_ok

    def execute(self, context: "Context") -> dict[str, Any]:  # noqa: ARG002
        """Delete, and return what was deleted."""
        from airflow_quilt.core.delete import delete
        from airflow_quilt.core.errors import TopHashError

        with airflow_errors(self):
            if self.revision is None and not self._is_for_package:
                raise TopHashError("revision came as None from another task; that is not taken for the whole package")
            target = self.hook.open(self.registry)
            deleted = delete(target.registry, self.package, self.revision, missing_ok=flag("missing_ok", self.missing_ok))
            # The manifest of a revision that is deleted stays, and the catalog shows it.
            return self.finish(target.to_xcom(self.package, deleted.top_hash, revisions_deleted=len(deleted.times)))

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":
        """Return the package, if anything was deleted; without a version, as none was made."""
        from airflow_quilt.assets._lineage import dataset_of, written

        if not outcome["revisions_deleted"]:
            return []
        return [written(dataset_of(outcome["registry"], outcome["package"]), "ALTER" if outcome["top_hash"] else "DROP")]
