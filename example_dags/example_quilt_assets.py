"""Packages as assets: one DAG publishes, another installs each revision, a third follows the revisions of other writers.

Needs a connection `quilt_default` with the registry of the environment variable `QUILT_REGISTRY`. Watching a package for the
revisions of other writers needs Airflow's triggerer.
"""

import os
import tempfile
from pathlib import Path

import pendulum
from airflow.sdk import dag

from airflow_quilt.assets import quilt_asset
from airflow_quilt.operators import QuiltInstallOperator, QuiltPushOperator, entry

REGISTRY = os.environ.get("QUILT_REGISTRY", "s3://example-registry")
WORKDIR = str(Path(tempfile.gettempdir(), "measurements"))

# [START howto_quilt_asset]
MEASUREMENTS = quilt_asset("lab/measurements", REGISTRY)
NOTES = quilt_asset("lab/notes", REGISTRY, watch={"poll_interval": 60})
# [END howto_quilt_asset]


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), params={"celsius": 21.5}, tags=["example", "quilt"])
def measurements_publish() -> None:
    """Publish a measurement; the package's asset gets an event, unless nothing changed."""
    QuiltPushOperator(
        task_id="publish",
        package="lab/measurements",
        registry=REGISTRY,
        entries={"room.json": entry(content={"celsius": "{{ params.celsius }}"})},
        message="{{ params.celsius }} °C",
    )


@dag(schedule=[MEASUREMENTS], start_date=pendulum.datetime(2026, 1, 1), params={"workdir": WORKDIR}, tags=["example", "quilt"])
def measurements_report() -> None:
    """Install exactly the revision in the event, also if there is a newer one by now."""
    # [START howto_quilt_asset_event]
    QuiltInstallOperator(
        task_id="install",
        package="{{ (triggering_asset_events.values() | first | last).extra.quilt_uri }}",
        dest="{{ params.workdir }}/{{ run_id }}",
    )
    # [END howto_quilt_asset_event]


@dag(schedule=[NOTES], start_date=pendulum.datetime(2026, 1, 1), params={"workdir": WORKDIR}, tags=["example", "quilt"])
def notes_follow() -> None:
    """Install a revision that was published with quilt3, in the catalog, or from another Airflow."""
    # [START howto_quilt_watcher_event]
    QuiltInstallOperator(
        task_id="install",
        package="{{ (triggering_asset_events.values() | first | last).extra.payload.quilt_uri }}",
        dest="{{ params.workdir }}/{{ run_id }}",
    )
    # [END howto_quilt_watcher_event]


measurements_publish()
measurements_report()
notes_follow()
