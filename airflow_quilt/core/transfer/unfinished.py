"""The uploads and files that were begun and are not complete: aborted when the work fails, while threads may still begin some."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from airflow_quilt.core.errors import CancelledError, QuiltError
from airflow_quilt.core.runtime.stop import shielded
from airflow_quilt.core.runtime.threads import map_concurrently

_log = logging.getLogger(__name__)

T = TypeVar("T")

_FAILED: Final = 10.0
"""Seconds for the clean-up of work that failed."""
_STOPPED: Final = 1.3
"""Seconds for the clean-up of work that was stopped: Airflow kills a task five seconds after SIGTERM."""


class Unfinished(Generic[T]):
    """A set of things to abort.

    Args:
        abort: aborts one; it may take seconds.
        leftover: the sentence for the log where one could not be aborted.
        threads: the most that are aborted at once.
    """

    def __init__(self, abort: Callable[[T], object], leftover: str, threads: int) -> None:
        self._abort = abort
        self._leftover = leftover
        self._threads = threads
        self._lock = threading.Lock()
        self._things: list[T] = []
        self._is_over = False

    def add(self, thing: T) -> T:
        """Add one that has begun, and return it; abort it if the work ended while it began, since nobody else will."""
        with self._lock:
            self._things.append(thing)
            is_over = self._is_over
        if is_over:
            self._abort_all(_STOPPED)
        return thing

    def remove(self, thing: T) -> None:
        """Remove one that is complete, or aborted."""
        with self._lock:
            self._things = [other for other in self._things if other is not thing]

    def abort(self, error: BaseException) -> None:
        """Abort all, and those that are added later; soon, unless the error is one of work that failed by itself."""
        has_failed = isinstance(error, Exception) and not isinstance(error, CancelledError)
        self._abort_all(_FAILED if has_failed else _STOPPED)

    def _abort_all(self, seconds: float) -> None:
        with self._lock:
            things, self._things, self._is_over = self._things, [], True
        try:
            with shielded(seconds):
                deque(map_concurrently(self._abort_one, things, self._threads), 0)
        except CancelledError:
            _log.warning("%s: no end within %g seconds", self._leftover, seconds)

    def _abort_one(self, thing: T) -> None:
        try:
            self._abort(thing)
        except CancelledError:  # The time is over, for all of them.
            raise
        except QuiltError as error:
            _log.warning("%s: %s", self._leftover, error)
