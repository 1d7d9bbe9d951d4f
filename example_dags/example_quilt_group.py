"""Publish a package that is too large for one task: many task instances share the work, and each is retried alone.

Needs a connection `quilt_default` with a registry, and in the parameter `source` a prefix of a bucket of yours, or a directory
that all workers see.
"""

import pendulum
from airflow.sdk import dag, task

from airflow_quilt.task_groups import quilt_push_group


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    params={"source": "s3://amzn-s3-demo-bucket/microscope/", "package": "lab/images", "shards": 8},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_group() -> None:
    """Publish the images, and report the revision."""
    # [START howto_quilt_push_group]
    push = quilt_push_group(
        package="{{ params.package }}",
        entries="{{ params.source }}",
        message="Images of {{ ds }}",
        copy="all",
        shards="{{ params.shards }}",
        transfer={"retries": 3, "max_active_tis_per_dagrun": 4},
    )
    # [END howto_quilt_push_group]

    @task
    def report(published: dict[str, object]) -> str:
        """Return the Quilt+ URI of the revision."""
        return str(published["quilt_uri"])

    report(push.output)


example_quilt_group()
