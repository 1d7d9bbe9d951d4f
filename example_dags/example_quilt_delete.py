"""Delete a revision that should not have been published from a registry; its data stays.

Needs a connection `quilt_default` with a registry. Trigger it with the package and the top hash, or the beginning of it.
"""

import pendulum
from airflow.sdk import dag

from airflow_quilt.operators import QuiltDeleteOperator


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    params={"package": "penguins/weekly", "top_hash": "0000000"},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_delete() -> None:
    """Delete one revision of a package."""
    # [START howto_operator_quilt_delete]
    QuiltDeleteOperator(
        task_id="retire",
        package="{{ params.package }}",
        revision="{{ params.top_hash }}",
    )
    # [END howto_operator_quilt_delete]


example_quilt_delete()
