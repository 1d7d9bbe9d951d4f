"""Sensors: tasks that wait for packages. Like the operators, they are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_quilt.sensors.package import QuiltPackageSensor

__all__ = ["QuiltPackageSensor"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("airflow_quilt.sensors.package"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
