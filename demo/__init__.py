"""The main job, from nothing: see ``python -m demo``."""
