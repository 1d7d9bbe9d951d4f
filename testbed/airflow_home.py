"""An Airflow of its own: a home directory, sqlite, and connections to a store, all given by environment variables."""

import json
from pathlib import Path

from testbed.server import Identity, S3Server


def airflow_environment(home: Path, dags: Path) -> dict[str, str]:
    """Return the variables with which Airflow uses ``home`` and reads ``dags``; set them before Airflow is imported."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    }


def connections(store: S3Server, registry: str, identity: Identity | None = None) -> dict[str, str]:
    """Return the variables that hold the connections ``aws_default`` and ``quilt_default``."""
    who = identity or store.admin
    aws = {
        "conn_type": "aws",
        "login": who.access_key,
        "password": who.secret_key,
        "extra": {"endpoint_url": store.endpoint, "region_name": "us-east-1"},
    }
    quilt = {"conn_type": "quilt", "extra": {"registry": registry}}
    return {"AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws), "AIRFLOW_CONN_QUILT_DEFAULT": json.dumps(quilt)}
