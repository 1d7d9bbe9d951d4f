"""Threads, retries, progress and temporary space: the use of the machine, without knowledge of packages."""
