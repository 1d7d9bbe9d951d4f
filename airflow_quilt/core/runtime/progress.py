"""The progress of long work, for the log: entries and bytes done, their rates, calls under way, time left."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_log = logging.getLogger(__name__)

_LINES: Final = 6
"""Rates are those since so many lines ago: of the last minute, in which an object of any size moves some bytes."""
_FAST: Final = 10
"""Entries a second from which a rate has no decimal place."""


class Progress:
    """Counts entries and bytes from any thread, and logs them at most once an interval.

    Args:
        verb: the first word of a line, such as ``"Pushing"``.
        interval: seconds between two lines.
        clock: seconds that only grow.
        say: receives each line.
    """

    def __init__(
        self,
        verb: str = "Working",
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = _log.info,
    ) -> None:
        self._verb = verb
        self._interval = interval
        self._clock = clock
        self._say = say
        self._lock = threading.Lock()
        self._calls: Callable[[], int] | None = None
        self.begin(0, 0)

    def begin(self, entries: int, size: int, *, kept: int = 0, kept_size: int = 0) -> None:
        """Begin to count, towards so many entries and bytes; those that are kept are done without work, and are in no rate."""
        self._entries, self._size = entries, size
        self._entries_done, self._bytes_done = kept, kept_size
        self._began = self._said = self._clock()
        self._points = deque([(self._began, kept, kept_size)], _LINES)

    def watch(self, calls: Callable[[], int]) -> None:
        """Show the number of calls under way, which is asked for each line only."""
        self._calls = calls

    def add(self, entries: int = 0, size: int = 0) -> None:
        """Count entries and bytes that are done now; log if it is time."""
        with self._lock:
            self._entries_done += entries
            self._bytes_done += size
            now = self._clock()
            if now - self._said < self._interval:
                return
            self._said = now
            line = self._line(now)
        self._say(line)

    @property
    def elapsed(self) -> str:
        """The time since the beginning, as in ``3 min 5 s``."""
        return duration(self._clock() - self._began)

    def _line(self, now: float) -> str:
        """Return the line of now, and keep its point for the rates of later ones."""
        then, entries, size = self._points[0]
        seconds = (now - then) or 1.0
        # Bytes that have to be sent again are taken back: a rate may be below 0 for a while.
        entry_rate = max(0.0, (self._entries_done - entries) / seconds)
        byte_rate = max(0.0, (self._bytes_done - size) / seconds)
        self._points.append((now, self._entries_done, self._bytes_done))
        missing, rate = self._entries - self._entries_done, entry_rate
        if self._size:
            missing, rate = self._size - self._bytes_done, byte_rate
        calls = f", {count(self._calls(), 'call', 'calls')} under way" if self._calls else ""
        left = f", about {duration(max(0, missing) / rate)} left" if rate else ""
        return (
            f"{self._verb}: {self._entries_done:,} of {self._entries:,} entries, "
            f"{human_size(self._bytes_done)} of {human_size(self._size)}, "
            f"{entry_rate:,.{0 if entry_rate >= _FAST else 1}f} entries/s, {human_size(byte_rate)}/s{calls}{left}"
        )


def count(number: int, one: str, many: str) -> str:
    """Return a number with its noun: ``1 entry``, ``2,000 entries``."""
    return f"{number:,} {one if number == 1 else many}"


def human_size(size: float) -> str:
    """Return a number of bytes in binary units: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def duration(seconds: float) -> str:
    """Return seconds in hours and minutes, or minutes and seconds: ``3 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
