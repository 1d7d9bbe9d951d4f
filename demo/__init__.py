"""The demo of the example DAGs: ``python -m demo``."""
