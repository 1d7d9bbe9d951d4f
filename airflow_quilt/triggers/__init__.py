"""Triggers: what waits for packages in Airflow's triggerer."""
