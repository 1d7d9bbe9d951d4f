"""Packages as assets: one DAG publishes, another installs each revision, a third follows the revisions of other writers.

Needs a connection `quilt_default`, and its registry in the environment variable `QUILT_REGISTRY`, since no connection is read
while a DAG is parsed. Without the variable nothing is watched. Watching a package for the revisions of other writers needs
Airflow's triggerer.
"""

import os
import tempfile
from pathlib import Path

import pendulum
from airflow.sdk import dag

from airflow_quilt.assets import quilt_asset
from airflow_quilt.operators import QuiltInstallOperator, QuiltPushOperator, entry

REGISTRY = os.environ.get("QUILT_REGISTRY", "s3://amzn-s3-demo-bucket")  # AWS reserves this name; no bucket has it.
WATCH = {"poll_interval": 60} if "QUILT_REGISTRY" in os.environ else False
WORKDIR = str(Path(tempfile.gettempdir(), "measurements"))

# [START howto_quilt_asset]
MEASUREMENTS = quilt_asset("lab/measurements", REGISTRY)
NOTES = quilt_asset("lab/notes", REGISTRY, watch=WATCH)
# [END howto_quilt_asset]


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), params={"celsius": 21.5}, doc_md=__doc__, tags=["example", "quilt"])
def example_quilt_assets_publish() -> None:
    """Publish a measurement; the package's asset gets an event, unless nothing changed."""
    QuiltPushOperator(
        task_id="publish",
        package="lab/measurements",
        registry=REGISTRY,
        entries={"room.json": entry(content={"celsius": "{{ params.celsius }}"})},
        message="{{ params.celsius }} °C",
    )


@dag(
    schedule=[MEASUREMENTS],
    start_date=pendulum.datetime(2026, 1, 1),
    params={"workdir": WORKDIR},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_assets_report() -> None:
    """Install exactly the revision in the event, also if there is a newer one by now."""
    # [START howto_quilt_asset_event]
    QuiltInstallOperator(
        task_id="install",
        package="{{ (triggering_asset_events.values() | first | last).extra.quilt_uri }}",
        dest="{{ params.workdir }}/{{ run_id }}",
    )
    # [END howto_quilt_asset_event]


@dag(
    schedule=[NOTES],
    start_date=pendulum.datetime(2026, 1, 1),
    params={"workdir": WORKDIR},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_assets_follow() -> None:
    """Install a revision that was published with quilt3, in the catalog, or from another Airflow."""
    # [START howto_quilt_watcher_event]
    QuiltInstallOperator(
        task_id="install",
        package="{{ (triggering_asset_events.values() | first | last).extra.payload.quilt_uri }}",
        dest="{{ params.workdir }}/{{ run_id }}",
    )
    # [END howto_quilt_watcher_event]


example_quilt_assets_publish()
example_quilt_assets_report()
example_quilt_assets_follow()
