"""Operators, one verb each; imported on first use, so that this package costs nothing to import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_quilt.core.sources.entry import entry

if TYPE_CHECKING:
    from airflow_quilt.operators.build import QuiltBuildOperator
    from airflow_quilt.operators.delete import QuiltDeleteOperator
    from airflow_quilt.operators.install import QuiltInstallOperator
    from airflow_quilt.operators.push import QuiltPushOperator
    from airflow_quilt.operators.rollback import QuiltRollbackOperator
    from airflow_quilt.operators.verify import QuiltVerifyOperator

__all__ = [
    "QuiltBuildOperator",
    "QuiltDeleteOperator",
    "QuiltInstallOperator",
    "QuiltPushOperator",
    "QuiltRollbackOperator",
    "QuiltVerifyOperator",
    "entry",
]

_MODULES = {
    "QuiltBuildOperator": "airflow_quilt.operators.build",
    "QuiltDeleteOperator": "airflow_quilt.operators.delete",
    "QuiltInstallOperator": "airflow_quilt.operators.install",
    "QuiltPushOperator": "airflow_quilt.operators.push",
    "QuiltRollbackOperator": "airflow_quilt.operators.rollback",
    "QuiltVerifyOperator": "airflow_quilt.operators.verify",
}


def __getattr__(name: str) -> Any:
    if module := _MODULES.get(name):
        return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
