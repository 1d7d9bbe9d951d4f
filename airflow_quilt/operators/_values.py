"""Conversion of Airflow's values to values of the core."""

import os
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from airflow.sdk import Asset, ObjectStoragePath

from airflow_quilt.core.errors import InputError, SourceError, quoted

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_quilt.core.registry.attempt import Attempt

_LOCATIONS: Final = frozenset({"dest", "src", "staging"})
_TIMES: Final = frozenset({"revision", "newer_than"})
_FUNCTIONS: Final = frozenset({"dest", "copy"})
TEXTS: Final = (
    _LOCATIONS
    | _TIMES
    | _FUNCTIONS
    | {"package", "registry", "quilt_conn_id", "path", "logical_key", "message", "partition_key"}
    | {"mode", "meta_mode", "conflict", "workflow", "hash_type"}
)
"""The arguments that are text; some of them may also be a location, a time, a function, or ``...`` for the default."""


def text(name: str, value: object) -> Any:
    """Return the value of a text argument as a `str`; times, functions and ``...`` unchanged where the argument takes them.

    Raises:
        InputError: the value is empty, or of another type. A float may have lost digits of a text such as ``12e4``.
    """
    converted = _as_text(name, value)
    if converted == "" and name != "message":
        raise InputError(f"{name} is empty: give a value, or leave it out")
    if converted is not None:
        return converted
    if isinstance(value, float):
        raise InputError(f"{name} {value!r}: a float may have lost digits of it; return it as a str")
    raise InputError(f"{name}: expected a str, got a value of type {type(value).__name__}")


def _as_text(name: str, value: object) -> Any:
    match value:
        case datetime() if name in _TIMES:
            return value
        case str() | Integral() | date():
            return str(value)
        case Asset() | ObjectStoragePath() if name in _LOCATIONS:
            return plain(value)
        case os.PathLike() if isinstance(path := os.fspath(value), str):
            return path
    takes_it = name == "workflow" if value is ... else callable(value) and name in _FUNCTIONS
    return value if takes_it else None


def flag(name: str, value: object) -> bool:
    """Return a `bool`, which a template renders as the `str` ``true`` or ``false``.

    Raises:
        InputError: the value is neither; ``bool()`` would read the `str` ``False`` as true.
    """
    match value:
        case bool():
            return value
        case str() if value.strip().lower() in {"true", "false"}:
            return value.strip().lower() == "true"
    raise InputError(f"{name} {quoted(value)}: expected true or false")


def plain(value: Any) -> Any:
    """Convert Airflow's own values for the core: assets and storage paths to URLs, lazy sequences to lists.

    Raises:
        SourceError: an asset has no URI of its own.
    """
    match value:
        case Asset():
            return _asset_url(value)
        case ObjectStoragePath():
            return _path_url(value)
        case str() | bytes() | bytearray() | memoryview():
            return value
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case Sequence():
            return [plain(item) for item in value]  # Never a slice: Airflow's mapped and zipped outputs have none.
        case _:
            return value


def _asset_url(asset: Asset) -> str:
    if "://" not in asset.uri:
        raise SourceError(f"asset {asset.name!r}: it has no URI; give it that of a file or object, such as s3://bucket/key")
    return asset.uri


def _path_url(path: ObjectStoragePath) -> str:
    """Return the URL of a storage path; it is read with the registry's connection, not with its own."""
    if path.protocol == "s3":
        return "s3://" + quote(path.path)
    return path.path if path.protocol in {"", "file", "local"} else str(path)


def attempt_of(context: "Context") -> "Attempt":
    """Return this attempt of a task instance, by which the core recognises the other ones (ADR 0007).

    A retry, a zombie and its replacement share the key. A cleared run is new work.
    """
    from airflow_quilt.core.registry.attempt import Attempt
    from airflow_quilt.triggers._tasks import TaskName

    if not (instance := context.get("ti")):
        return Attempt()
    cleared = getattr(context.get("dag_run"), "clear_number", 0)
    key = f"{instance.dag_id} {instance.run_id} {instance.task_id} {instance.map_index} {cleared}"
    index = -1 if instance.map_index is None else instance.map_index
    task = TaskName(instance.dag_id, instance.run_id, instance.task_id, index)
    return Attempt(key, began_of(context) if instance.try_number > 1 else None, task=str(task))


def began_of(context: "Context") -> float:
    """Return the unix seconds at which the run began, or 0 if Airflow does not report it."""
    began = getattr(context.get("dag_run"), "start_date", None)
    return began.timestamp() if began else 0.0
