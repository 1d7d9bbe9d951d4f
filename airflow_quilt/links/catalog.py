"""QuiltCatalogLink."""

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator


class QuiltCatalogLink(BaseOperatorLink):
    """A button on a task instance, to the catalog's page of exactly the revision that the task was about.

    Airflow asks for the link at the end of the task, on the worker, and keeps it. Where the connection names no catalog, or the
    task failed before there was a revision, there is none.
    """

    name = "Quilt Catalog"

    def get_link(self, operator: "BaseOperator", *, ti_key: Any) -> str:  # noqa: ARG002  (Airflow's signature)
        """Return the URL of the page, or an empty text."""
        return getattr(operator, "catalog_url", None) or ""
