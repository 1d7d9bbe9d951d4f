"""Storages: the disk, memory, and S3, behind one protocol (:mod:`~airflow_quilt.core.storage.base`)."""
