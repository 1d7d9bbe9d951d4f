"""Follow all packages of a namespace by the events of a Quilt stack, from an SQS queue.

Needs a connection `quilt_default`, the environment variables `QUILT_REGISTRY` and `QUILT_QUEUE_URL`, and Airflow's triggerer.
Without the variables nothing is watched.
"""

import os

import pendulum
from airflow.sdk import dag, task

from airflow_quilt.assets import quilt_asset

REGISTRY = os.environ.get("QUILT_REGISTRY", "s3://amzn-s3-demo-bucket")  # AWS reserves this name; no bucket has it.
QUEUE = os.environ.get("QUILT_QUEUE_URL")
WATCH = {"queue_url": QUEUE, "poll_interval": 3600} if QUEUE and "QUILT_REGISTRY" in os.environ else False

# [START howto_quilt_queue]
PUBLISHED = quilt_asset("lab/*", REGISTRY, watch=WATCH)
# [END howto_quilt_queue]


@dag(schedule=[PUBLISHED], start_date=pendulum.datetime(2026, 1, 1), doc_md=__doc__, tags=["example", "quilt"])
def example_quilt_queue() -> None:
    """Report the revisions."""

    @task
    def report(triggering_asset_events: dict[object, list[object]]) -> list[str]:
        """Return the Quilt+ URIs of the revisions that started the run."""
        events = [event for events in triggering_asset_events.values() for event in events]
        return [event.extra["payload"]["quilt_uri"] for event in events]  # type: ignore[attr-defined]

    report()


example_quilt_queue()
