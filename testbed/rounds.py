"""Counts of round trips: how many requests follow one another because each needs an earlier answer."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from testbed.loopback import Exchange

_PAUSE: Final = 0.002
_PAUSES: Final = 5
"""Looks in a row, and seconds between them, in which all other threads sleep when a round is complete."""
_LONGEST: Final = 5.0


class Rounds:
    """Counts the rounds of requests, not their seconds.

    A request belongs to the round after the last one of which an answer had been returned when it began. So those that begin
    without waiting for each other share a round. Each is held back until every thread of the process waits, so that no further
    one of its round can begin, however busy the machine is.

    Attributes:
        made: the requests, each with its round, counted from 1, in the order in which they began.
    """

    def __init__(self) -> None:
        self.made: list[tuple[int, str]] = []
        self._answered = [0]
        self._complete: dict[int, threading.Event] = {}
        self._lock = threading.Lock()

    @contextmanager
    def request(self, name: str) -> Iterator[Callable[[], None]]:
        """Count the request of the block, which may call the function that it gets when its answer begins, before its end."""
        with self._lock:
            answered = self._answered
            number = answered[0] + 1
            self.made.append((number, name))
            is_first = number not in self._complete
            complete = self._complete.setdefault(number, threading.Event())
        if is_first:
            _wait_for_others(lambda: len(self.made))
            complete.set()
        complete.wait()

        def answer() -> None:
            with self._lock:
                answered[0] = max(answered[0], number)

        try:
            yield answer
        finally:
            answer()

    def respond(self, exchange: Exchange, respond: Callable[[Exchange], None]) -> None:
        """Let a server respond to a request, and count it."""
        path = urlsplit(exchange.path)
        name = f"{exchange.command} {unquote(path.path)}{'?' if path.query else ''}{path.query}"
        if exchange.headers.get("Expect"):  # The body waits for an answer too.
            with self.request(f"{name} (100 Continue)"):
                pass
        with self.request(name) as answer:
            out = exchange.wfile
            exchange.wfile = _Answers(out, answer)
            try:
                respond(exchange)
            finally:
                exchange.wfile = out

    @property
    def count(self) -> int:
        """The number of rounds."""
        return max((number for number, _ in self.made), default=0)

    def clear(self) -> None:
        """Begin anew; no request may be under way, but for the rest of an answer."""
        self.made, self._answered, self._complete = [], [0], {}

    def __str__(self) -> str:
        return "\n".join(f"{number:3} {name}" for number, name in sorted(self.made))


class _Answers(io.BufferedIOBase):
    """A stream that notes the first bytes of an answer, after which its client may go on."""

    def __init__(self, out: Any, note: Callable[[], None]) -> None:
        self._out = out
        self._note = note

    def write(self, data: Any, /) -> int:
        self._note()
        return int(self._out.write(data))

    def flush(self) -> None:
        self._out.flush()


def _wait_for_others(begun: Callable[[], int]) -> None:
    """Wait until all other threads of this process wait, none of them for the processor, and no more requests have begun.

    Threads that wait for Python's lock, which one look takes after another, sleep as well: their requests show that they do not.
    """
    end, quiet, before = time.monotonic() + _LONGEST, 0, 0
    while quiet < _PAUSES and time.monotonic() < end:
        time.sleep(_PAUSE)
        now = begun()
        quiet = quiet + 1 if now == before and all(map(_sleeps, Path("/proc/self/task").iterdir())) else 0
        before = now


def _sleeps(thread: Path) -> bool:
    if thread.name == str(threading.get_native_id()):
        return True
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "S"
    except (FileNotFoundError, ProcessLookupError):  # It has ended.
        return True
