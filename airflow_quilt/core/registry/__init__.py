"""Registries: revisions, pointers, and the rules by which they change."""
