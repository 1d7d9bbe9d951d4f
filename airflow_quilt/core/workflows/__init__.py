"""Workflows: the rules of a registry for its packages."""
