"""Wait for a package: for any revision, for one that is newer than a given time, for a file in it.

Needs a connection `quilt_default` with a registry.
"""

import pendulum
from airflow.sdk import dag

from airflow_quilt.operators import QuiltVerifyOperator
from airflow_quilt.sensors import QuiltPackageSensor


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    params={"package": "lab/measurements", "newer_than": "2026-01-01"},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_sensor() -> None:
    """Verify a package as soon as it is there."""
    # [START howto_sensor_quilt_package]
    arrived = QuiltPackageSensor(
        task_id="arrived",
        package="{{ params.package }}",
        newer_than="{{ params.newer_than }}",
        path="room.json",
        deferrable=True,
        poke_interval=60,
    )
    # [END howto_sensor_quilt_package]
    arrived >> QuiltVerifyOperator(task_id="verify", package="{{ ti.xcom_pull(task_ids='arrived')['quilt_uri'] }}")


example_quilt_sensor()
