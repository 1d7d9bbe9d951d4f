"""Operators: one verb each. They are imported when they are named, so that this package costs nothing to import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "QuiltBuildOperator": "airflow_quilt.operators.build",
    "QuiltDeleteOperator": "airflow_quilt.operators.delete",
    "QuiltInstallOperator": "airflow_quilt.operators.install",
    "QuiltPushOperator": "airflow_quilt.operators.push",
    "QuiltRollbackOperator": "airflow_quilt.operators.rollback",
    "QuiltVerifyOperator": "airflow_quilt.operators.verify",
}


def entry(*, path: object = None, content: object = None, meta: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a source with metadata, for use as a value of ``entries``; plain data, so a task may return it.

    :param path: a path or URL.
    :param content: bytes, text, a data frame, or a JSON value under a key that ends in ``.json``.
    :param meta: the metadata of the entry, a JSON object.
    """
    given = {"path": path, "content": content, "meta": meta}
    return {name: value for name, value in given.items() if value is not None}


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
