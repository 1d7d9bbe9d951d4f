"""TaskFlow: ``@task.quilt_push`` and ``@task.quilt_build``, imported on first use, as the operators are.

Airflow finds them as attributes of ``task``; imported from here, type checkers and editors know their parameters.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_quilt.decorators._quilt import quilt_build_task as quilt_build
    from airflow_quilt.decorators._quilt import quilt_push_task as quilt_push

__all__ = ["quilt_build", "quilt_push"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("airflow_quilt.decorators._quilt"), f"{name}_task")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
