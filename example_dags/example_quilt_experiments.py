"""Publish packages with names from the run's parameters: an alias covers their assets, and their metadata names the run.

Needs a connection `quilt_default` with a registry.
"""

import pendulum
from airflow.sdk import AssetAlias, dag

from airflow_quilt.operators import QuiltPushOperator, entry

# [START howto_quilt_alias]
EXPERIMENTS = AssetAlias("experiments")
# [END howto_quilt_alias]


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    params={"name": "run-1", "reading": 3},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_experiments_publish() -> None:
    """Publish the readings of an experiment under its own name."""
    # [START howto_quilt_provenance]
    QuiltPushOperator(
        task_id="publish",
        package="experiments/{{ params.name }}",
        entries={"reading.json": entry(content={"reading": "{{ params.reading }}"})},
        outlets=[EXPERIMENTS],
        provenance=True,
    )
    # [END howto_quilt_provenance]


@dag(schedule=[EXPERIMENTS], start_date=pendulum.datetime(2026, 1, 1), doc_md=__doc__, tags=["example", "quilt"])
def example_quilt_experiments_count() -> None:
    """Run for each experiment that is published, of any name."""


example_quilt_experiments_publish()
example_quilt_experiments_count()
