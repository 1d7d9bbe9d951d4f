"""``python -m airflow_quilt.cli``."""

import sys

from airflow_quilt.cli._run import main

sys.exit(main())
