"""The request to end a piece of work, heard by all of its threads wherever they are (ADR 0017).

A verb opens a scope with :func:`stoppable`; its threads adopt it. Nothing below takes the request as an argument: a loop calls
:func:`check_stop`, a pause is :func:`sleep`, and a wait for another thread is :func:`await_result`. Each raises
:class:`~airflow_quilt.core.errors.CancelledError` within :data:`TICK` of the request.

Work that must not be cut in half goes on for a moment: clean-up for its own time (:func:`shielded`), a change of the history
until it is whole (:func:`unhurried`).

====================  =======================================================================================================
scope                 its work has to end
====================  =======================================================================================================
:func:`stoppable`     when its event is set, or the scope around it has to end; its threads also when the block has ended
:func:`unhurried`     some seconds after the scope around it
:func:`shielded`      after some seconds, whatever happens around it
====================  =======================================================================================================
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, TypeVar

from airflow_quilt.core.errors import CancelledError

R = TypeVar("R")

TICK: Final = 0.2
"""Seconds between two checks for a stop, where nothing else wakes a thread."""
_NEVER: Final = float("inf")


class Interruption(BaseException):
    """Raised by :func:`interrupt` where the work is, as ``KeyboardInterrupt`` is; its verb raises ``CancelledError`` instead."""


@dataclass(slots=True, eq=False)
class Scope:
    """A piece of work that can be ended.

    Attributes:
        outer: the scope around it, if that ends this one.
        event: set from outside to end it.
        delay: seconds by which this scope hears of the end of the outer one later.
        deadline: the monotonic time at which it ends by itself.
        may_interrupt: whether :func:`interrupt` may end it at any line.
        has_ended: whether the block is over: threads that it left behind end too.
    """

    outer: "Scope | None" = None
    event: threading.Event | None = None
    delay: float = 0.0
    deadline: float = _NEVER
    may_interrupt: bool = True
    has_ended: bool = False

    @property
    def is_stopped(self) -> bool:
        """Whether the work has to end."""
        if self.has_ended or (self.event is not None and self.event.is_set()):
            return True
        if self.delay and self.deadline == _NEVER and self.outer and self.outer.is_stopped:
            self.deadline = time.monotonic() + self.delay
        if self.deadline != _NEVER:
            return time.monotonic() >= self.deadline
        return self.outer is not None and self.outer.is_stopped


_current: Final[ContextVar[Scope | None]] = ContextVar("airflow_quilt_stop", default=None)


def current() -> Scope | None:
    """Return the innermost scope of this thread."""
    return _current.get()


def adopt(scope: Scope | None) -> None:
    """Make a scope that of this thread, which works for it."""
    _current.set(scope)


@contextlib.contextmanager
def _entered(scope: Scope) -> Iterator[None]:
    token = _current.set(scope)
    try:
        yield
    finally:
        scope.has_ended = True
        _current.reset(token)


@contextlib.contextmanager
def stoppable(event: threading.Event | None = None, *, may_interrupt: bool | None = True) -> Iterator[None]:
    """Open a scope.

    Args:
        event: set it, from any thread or a signal handler, to end the work with ``CancelledError``.
        may_interrupt: whether :func:`interrupt` may end the work at any line; not where it talks to others than the stores. None:
            as in the scope around it.
    """
    outer = current()
    if may_interrupt is None:
        may_interrupt = outer is None or outer.may_interrupt
    scope = Scope(outer, event, may_interrupt=may_interrupt)
    try:
        with _entered(scope):
            yield
    except Interruption:
        raise _cancelled() from None


def shielded(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Open a scope for clean-up, which no stop ends, but its own time."""
    return _entered(Scope(deadline=time.monotonic() + seconds, may_interrupt=False))


def unhurried(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Open a scope for a change that is to become whole: it hears of a stop so many seconds later."""
    return _entered(Scope(current(), delay=seconds, may_interrupt=False))


def check_stop() -> None:
    """Return if the work may go on.

    Raises:
        CancelledError: a stop was requested.
    """
    scope = current()
    if scope and scope.is_stopped:
        raise _cancelled()


def interrupt() -> None:
    """End the work of this thread where it is; call it in a signal handler, after the event of the scope is set.

    It returns where no work of the core is under way here, or clean-up is: that ends by itself.
    """
    scope = current()
    if scope and scope.may_interrupt and scope.is_stopped:
        raise Interruption


def sleep(seconds: float) -> None:
    """Sleep.

    Raises:
        CancelledError: a stop was requested.
    """
    end = time.monotonic() + seconds
    check_stop()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, TICK))
        check_stop()


def await_result(future: "Future[R]", seconds: float = _NEVER) -> R:
    """Wait for the result of another thread, and return it, or raise its error.

    Raises:
        CancelledError: a stop was requested.
        TimeoutError: it is not there after so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return future.result(max(0.0, min(TICK, end - time.monotonic())))
        except TimeoutError:
            if future.done():  # Just now; or the error is its own.
                return future.result()
        check_stop()
        if time.monotonic() >= end:
            raise TimeoutError(f"no result within {seconds:g} seconds")


def settle(future: "Future[R]", function: Callable[[], R]) -> None:
    """Call a function, and give its result or its error to the thread that waits for it."""
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001  (raised again by the thread that waits)
        future.set_exception(error)
    finally:
        del future, function  # The traceback of an error refers to this frame, which is to hold no bytes.


def _cancelled() -> CancelledError:
    return CancelledError("stopped on request: the work ended before it was complete")


def call_apart(function: Callable[[], R], seconds: float = _NEVER) -> R:
    """Call a function that cannot be ended, such as a request of boto3; on a stop, leave it to a thread of its own.

    On a thread that its pool would leave behind the call is made directly, and so is one outside of any scope; but none that is
    bounded in seconds.

    Raises:
        CancelledError: a stop was requested; the call may still be under way.
        TimeoutError: it has not ended after so many seconds; it is still under way.
    """
    scope = current()
    if seconds == _NEVER and (scope is None or getattr(_thread, "is_worker", False)):
        return function()
    check_stop()
    future: Future[R] = Future()

    def call() -> None:
        become_worker(scope)
        settle(future, function)

    threading.Thread(target=call, name="quilt-call", daemon=True).start()
    return await_result(future, seconds)


_thread: Final = threading.local()


def become_worker(scope: Scope | None) -> None:
    """Make this thread one that works for a scope, and that others leave behind if it hangs."""
    adopt(scope)
    _thread.is_worker = True
