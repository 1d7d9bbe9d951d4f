"""What a try of a task notes of its success in Airflow's task state store, which later tries read (Airflow 3.3 and newer)."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from airflow_quilt.core.errors import QuiltError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_quilt.core.registry.registry import Registry

_log = logging.getLogger(__name__)

_KEY: Final = "quilt_published"


class PublishedState:
    """The note of a task instance.

    A worker that is lost right after it has published is followed by a retry, which would look at all sources again only to find
    its revision there. With the note it finds it at once. Nothing else depends on it: where there is no store, or no note, the
    retry looks.

    Args:
        context: of the task.
        key: tells the work of this task instance from other work.
        inputs: the rendered parameters of the task; where they are others, it is other work.
    """

    def __init__(self, context: "Context", key: str, inputs: Mapping[str, Any]) -> None:
        self._store: Any = context.get("task_state_store")
        self._work = _fingerprint([key, inputs]) if self._store is not None else None  # Content may be large.

    def read(self, registry: "Registry") -> dict[str, Any] | None:
        """Return what an earlier try returned, if the revision that it published is still there."""
        noted = self._noted()
        if not isinstance(noted, dict) or noted.get("work") != self._work or not _is_there(registry, noted["result"]):
            return None
        result: dict[str, Any] = noted["result"]
        _log.info("An earlier try of this task published %s; its sources are not looked at again", result["quilt_uri"])
        return result

    def write(self, result: dict[str, Any]) -> None:
        """Note down what this try returns."""
        if self._work is None:
            return
        try:
            self._store.set(_KEY, {"work": self._work, "result": result})
        except Exception as error:  # noqa: BLE001  (whatever it is: only what a note saves is lost)
            _log.warning("That this try has published could not be noted: %s", error)

    def _noted(self) -> Any:
        if self._work is None:
            return None
        try:
            return self._store.get(_KEY)
        except Exception as error:  # noqa: BLE001  (as above)
            _log.warning("Whether an earlier try has published could not be read: %s", error)
            return None


def _is_there(registry: "Registry", result: Mapping[str, Any]) -> bool:
    from airflow_quilt.core.format.names import PackageName

    stamp = int(datetime.fromisoformat(result["published_at"]).timestamp())
    top_hash: str = result["top_hash"]
    try:
        return registry.resolve(PackageName.parse(result["package"]), str(stamp)) == top_hash
    except QuiltError:  # The work itself will tell what is wrong.
        return False


def _fingerprint(value: Any) -> str | None:
    """Return what tells values apart; None for those that do not tell what they hold, such as data frames and functions."""
    try:
        return hashlib.sha256(json.dumps(value, sort_keys=True, default=_spelled).encode()).hexdigest()
    except (TypeError, ValueError):
        return None


def _spelled(value: Any) -> Any:
    match value:
        case bytes() | bytearray() | memoryview():
            return {"bytes": hashlib.sha256(bytes(value)).hexdigest()}
        case Sequence():
            return list(value[:])  # The output of mapped tasks, an argument of a decorated function, comes with one request.
        case os.PathLike():
            return {"path": os.fspath(value)}
        case _ if value is ...:
            return "..."
    raise TypeError
