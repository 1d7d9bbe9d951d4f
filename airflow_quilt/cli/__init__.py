"""The command line ``airflow-quilt``: reads packages with the connections of Airflow (docs/reading.md).

A console script of its own: commands of a provider in ``airflow`` itself are imported at each of its starts.
"""

from airflow_quilt.cli._run import main

__all__ = ["main"]
