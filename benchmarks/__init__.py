"""The speed of airflow_quilt beside quilt3 and s5cmd, in one run on one machine: ``make bench``."""
