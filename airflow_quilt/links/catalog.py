"""QuiltCatalogLink."""

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator


class QuiltCatalogLink(BaseOperatorLink):
    """A button on a task instance, to the catalog's page of exactly the revision that the task read or made.

    Airflow gets the link at the end of the task, on the worker, and stores it. There is none if the connection names no catalog,
    or if the task failed before its revision was known.
    """

    name = "Quilt Catalog"

    def get_link(self, operator: "BaseOperator", *, ti_key: Any) -> str:  # noqa: ARG002  (Airflow's signature)
        """Return the URL of the page, or an empty `str`, also for a URL that is no web page's."""
        url = getattr(operator, "catalog_url", None)
        return url if isinstance(url, str) and url.startswith(("https://", "http://")) else ""
