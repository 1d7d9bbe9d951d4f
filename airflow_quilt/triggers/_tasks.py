"""Tasks of this Airflow that published a revision: a watcher does not repeat the events that they emit (ADR 0030)."""

import logging
import re
import time
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from airflow_quilt.core.registry.attempt import RollbackTag, WriterTag

_log = logging.getLogger(__name__)

_LONGEST: Final = 1000
"""The most letters of a task in a writer tag: S3 keeps 2 KB of metadata with an object."""
_LONGEST_WAIT: Final = 24 * 60 * 60
"""Seconds after which an event does not wait any more for a task that has published and not ended: its DAG may be paused."""
_INDEX: Final = re.compile(r"-1|[0-9]{1,9}")
_UNFINISHED: Final = frozenset(
    {"scheduled", "queued", "running", "restarting", "deferred", "up_for_retry", "up_for_reschedule", "awaiting_input"}
)
"""The states of a task that has begun, and may succeed yet."""

Emission = Literal["emitted", "undecided", "none"]
"""Whether a task of this Airflow has emitted the event of a revision; undecided while it has not ended."""


@dataclass(frozen=True, slots=True)
class TaskName:
    """The name of a task instance in its Airflow, as the writer tag of a pointer carries it: ``dag/run/task/map_index``."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse the name in a writer tag; None for one of another form."""
        match text.split("/"):
            case [dag_id, run_id, task_id, index] if _INDEX.fullmatch(index):
                return cls(unquote(dag_id), unquote(run_id), unquote(task_id), int(index))
        return None

    def __str__(self) -> str:
        """Write the name in visible ASCII; empty where it would be too long."""
        text = "/".join(quote(str(part), safe=":+") for part in astuple(self))
        return text if len(text) <= _LONGEST else ""


class Tasks(Protocol):
    """The task instances of an Airflow."""

    def state(self, task: TaskName) -> str | None:
        """Return the state of a task instance; None where there is none, or no state."""

    def result(self, task: TaskName) -> Any:
        """Return the result of a task instance from XCom; None where it has none."""


class AirflowTasks:
    """The task instances of the Airflow whose triggerer this is; each call is one of its API's, on a thread."""

    def state(self, task: TaskName) -> str | None:
        """Return the state of a task instance; None where there is none, or no state."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        is_mapped = task.map_index >= 0
        found = RuntimeTaskInstance.get_task_states(
            dag_id=task.dag_id,
            task_ids=[task.task_id],
            run_ids=[task.run_id],
            map_index=task.map_index if is_mapped else None,
        )
        state = found.get(task.run_id, {}).get(f"{task.task_id}_{task.map_index}" if is_mapped else task.task_id)
        return None if state is None else str(state)

    def result(self, task: TaskName) -> Any:
        """Return the result of a task instance from XCom; None where it has none."""
        from airflow.sdk.execution_time.xcom import XCom

        return XCom.get_one(
            key="return_value", dag_id=task.dag_id, run_id=task.run_id, task_id=task.task_id, map_index=task.map_index
        )


def emission_of(tasks: Tasks, tag: "WriterTag | RollbackTag", top_hash: str) -> Emission:
    """Return whether a task of this Airflow has emitted the event of the revision that ``latest`` names.

    =====================================================  =========
    the task that the tag of ``latest`` names              the event
    =====================================================  =========
    none, or none of this Airflow                          none
    has not ended, or waits for a retry, for up to a day   undecided
    succeeded, and its result is this very revision        emitted
    failed, was skipped or cleared, or has another result  none
    =====================================================  =========

    The result decides, as another Airflow may have a task and a run of the same names. Where Airflow cannot be asked, the answer
    is none: an event too many is better than one too few.

    Args:
        tasks: those of this Airflow.
        tag: that of ``latest``.
        top_hash: the revision.
    """
    task = TaskName.parse(tag.task)
    if task is None:
        return "none"
    try:
        state = tasks.state(task)
        if state == "success" and _is_of(tasks.result(task), tag, top_hash):
            return "emitted"
    except Exception as error:  # noqa: BLE001  (of any kind: a watcher goes on watching)
        _log.warning("Airflow did not tell whether a task emitted the event of a revision, which may be repeated: %s", error)
        return "none"
    is_recent = abs(time.time() - tag.stamp) < _LONGEST_WAIT  # A forged one may lie in the future.
    return "undecided" if state in _UNFINISHED and is_recent else "none"


def _is_of(result: Any, tag: "WriterTag | RollbackTag", top_hash: str) -> bool:
    """Return whether a task made the revision with the pointer of a tag, or rolled back: then the event is in its success."""
    rolled_back_from: str | None = getattr(tag, "previous", None)
    match result:
        case {"top_hash": str(made), "created": True, "published_at": str(published_at)} if rolled_back_from is None:
            return made == top_hash and int(datetime.fromisoformat(published_at).timestamp()) == tag.stamp
        case {"top_hash": str(made), "previous": str(previous)} if rolled_back_from is not None:
            return made == top_hash != previous == rolled_back_from
    return False
