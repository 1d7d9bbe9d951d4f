"""The success of a task, stored in Airflow's task state store for its later attempts (Airflow 3.3 and newer)."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from airflow_quilt.core.errors import QuiltError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_quilt.core.registry.registry import Registry

_log = logging.getLogger(__name__)

_KEY: Final = "quilt_published"


class PublishedState:
    """The stored success of a task instance.

    A worker may be lost right after it has published. The retry would read all sources again, only to find its revision in the
    history; from the stored success it returns that revision at once. Nothing else depends on it: without a store, or without a
    success in it, the retry reads the sources.

    Args:
        context: the context of the task.
        key: the same for all attempts of this task instance, and for no other work (:attr:`Attempt.key`).
        inputs: the rendered parameters of the task; with other parameters it is other work.
    """

    def __init__(self, context: "Context", key: str, inputs: Mapping[str, Any]) -> None:
        self._store: Any = context.get("task_state_store")
        self._work = _fingerprint([key, inputs]) if self._store is not None else None  # Content may be large.

    def read(self, registry: "Registry") -> dict[str, Any] | None:
        """Return the result of an earlier attempt, if the revision that it published still exists."""
        stored = self._stored()
        if not isinstance(stored, dict) or stored.get("work") != self._work or not _exists(registry, stored["result"]):
            return None
        result: dict[str, Any] = stored["result"]
        _log.info("An earlier attempt of this task published %s; its sources are not read again", result["quilt_uri"])
        return result

    def write(self, result: dict[str, Any]) -> None:
        """Store the result of this attempt."""
        if self._work is None:
            return
        try:
            self._store.set(_KEY, {"work": self._work, "result": result})
        except Exception as error:  # noqa: BLE001  (of any kind: it costs a retry time, no more)
            _log.warning("The success of this attempt could not be stored: %s", error)

    def _stored(self) -> Any:
        if self._work is None:
            return None
        try:
            return self._store.get(_KEY)
        except Exception as error:  # noqa: BLE001  (as above)
            _log.warning("The success of an earlier attempt could not be read: %s", error)
            return None


def _exists(registry: "Registry", result: Mapping[str, Any]) -> bool:
    from airflow_quilt.core.format.names import PackageName

    stamp = int(datetime.fromisoformat(result["published_at"]).timestamp())
    top_hash: str = result["top_hash"]
    try:
        return registry.resolve(PackageName.parse(result["package"]), str(stamp)) == top_hash
    except QuiltError:  # The work itself reports the fault.
        return False


def _fingerprint(value: Any) -> str | None:
    """Return a hash of a value; None for a value whose content JSON cannot hold, such as a data frame or a function."""
    try:
        return hashlib.sha256(json.dumps(value, sort_keys=True, default=_encode).encode()).hexdigest()
    except Exception:  # noqa: BLE001  (of any kind: reading the output of a task may call a function of the DAG's author)
        return None


def _encode(value: Any) -> Any:
    match value:
        case bytes() | bytearray() | memoryview():
            return {"bytes": hashlib.sha256(bytes(value)).hexdigest()}
        case Sequence():
            return list(value)  # The output of mapped tasks, an argument of a decorated function.
        case os.PathLike():
            return {"path": os.fspath(value)}
        case _ if value is ...:
            return "..."
    raise TypeError
