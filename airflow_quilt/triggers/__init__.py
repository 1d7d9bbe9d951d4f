"""Triggers: wait for packages in Airflow's triggerer."""
