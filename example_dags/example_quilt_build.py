"""Give the objects below a prefix a name, a version and a hash, without copying any of them.

Needs a connection `quilt_default` with a registry, and the prefix of a bucket of yours in the parameter `prefix`.
"""

import pendulum
from airflow.sdk import dag, task

from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import QuiltBuildOperator


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    params={"prefix": "s3://amzn-s3-demo-bucket/measurements/", "package": "lab/measurements"},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_build() -> None:
    """Publish the current objects below a prefix as a package."""
    # [START howto_operator_quilt_build]
    index = QuiltBuildOperator(
        task_id="index",
        package="{{ params.package }}",
        entries="{{ params.prefix }}",
        message="Objects below {{ params.prefix }}",
    )
    # [END howto_operator_quilt_build]

    # [START howto_hook_quilt]
    @task
    def largest(published: dict[str, str]) -> str:
        """Return the key of the largest entry, read through the hook."""
        manifest = QuiltHook().registry().read(published["package"], published["top_hash"])
        return max(manifest.entries, key=lambda entry: entry.size).logical_key

    # [END howto_hook_quilt]

    largest(index.output)


example_quilt_build()
