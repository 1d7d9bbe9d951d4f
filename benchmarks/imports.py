"""Time of imports in a fresh interpreter; see :mod:`benchmarks.client`."""

import importlib
import runpy
from pathlib import Path
from typing import Any, Final

from benchmarks.client import main, timed

EVERY_OPERATOR: Final = Path(__file__).with_name("every_operator.py")


def airflow() -> dict[str, Any]:
    """Import the Airflow SDK as every DAG file does, and make a DAG with a task of Airflow's own."""
    sdk = importlib.import_module("airflow.sdk")
    with sdk.DAG("empty", schedule=None):
        sdk.BaseOperator(task_id="nothing")
    return {}


def every_operator() -> dict[str, Any]:
    """Parse a DAG file that uses every operator; Airflow's own import comes before and is not measured."""
    airflow()
    _, took = timed(lambda: runpy.run_path(str(EVERY_OPERATOR)))
    return {**took}


def quilt3() -> dict[str, Any]:
    """Import quilt3."""
    importlib.import_module("quilt3")
    return {}


if __name__ == "__main__":
    main(globals())
