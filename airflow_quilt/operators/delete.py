"""QuiltDeleteOperator."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_quilt.operators._base import QuiltOperator, airflow_errors
from airflow_quilt.operators._checks import OF_DELETIONS, Check
from airflow_quilt.operators._values import flag

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context
    from openlineage.client.event_v2 import Dataset


class QuiltDeleteOperator(QuiltOperator):
    """Delete a package, or one of its revisions, from a registry; manifests and data stay.

    When the latest revision is deleted, the newest remaining one becomes the latest.

    :param package: ``namespace/name``; also one that no client should have made, such as one with a newline at its end.
    :param revision: the top hash of a revision or the beginning of one (6 digits or more); by default the whole package.
    :param registry: the registry, on S3 or a local directory; by default the connection's.
    :param missing_ok: succeed if there is no such package or revision.
    :param quilt_conn_id: the ID of a connection of type ``quilt``; None for no connection.
    :param max_concurrency: the most concurrent S3 requests; overrides the connection's.
    """

    checks: ClassVar[Mapping[str, Check]] = OF_DELETIONS
    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "revision", "missing_ok")

    def __init__(self, *, revision: str | None = None, missing_ok: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.revision = revision
        self.missing_ok = missing_ok

    def render_template(
        self,
        content: Any,
        context: "Context",
        jinja_env: "jinja2.Environment | None" = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render templates; keep a newline at the end of the package's name, without which another one would be deleted."""
        rendered = super().render_template(content, context, jinja_env, seen_oids)
        is_cut = content is self.package and str(content).endswith("\n")  # As Jinja does.
        return f"{rendered}\n" if is_cut else rendered

    def execute(self, context: "Context") -> dict[str, Any]:  # noqa: ARG002
        """Delete; return the package, and the number of deleted revisions."""
        from airflow_quilt.core.delete import delete
        from airflow_quilt.core.format.names import PackageName

        with airflow_errors(self):
            package, target = PackageName.parse_listed(self.package), self.hook.open(self.registry)
            deleted = delete(target.registry, package, self.revision, missing_ok=flag("missing_ok", self.missing_ok))
            # The manifest of a deleted revision stays, and the catalog shows it.
            return self.finish(target.to_xcom(package, deleted.top_hash, revisions_deleted=len(deleted.times)))

    def writes(self, outcome: Mapping[str, Any]) -> "list[Dataset]":
        """Return the package, if a revision was deleted; without a version, as none was made."""
        from airflow_quilt.assets._lineage import dataset_of, output_dataset

        if not outcome["revisions_deleted"]:
            return []
        return [output_dataset(dataset_of(outcome["registry"], outcome["package"]), "ALTER" if outcome["top_hash"] else "DROP")]
