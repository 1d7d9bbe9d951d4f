"""Quilt's format and registry, usable from any Python program; nothing here imports Airflow.

Start with :class:`airflow_quilt.core.registry.registry.Registry` and the stories :func:`airflow_quilt.core.push.push`,
:func:`airflow_quilt.core.build.build` and :func:`airflow_quilt.core.delete.delete`; ``docs/engine.md`` shows them at work.
"""
