"""The progress of long work, for the log: entries and bytes done, rate, time left."""

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


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
        self.begin(0, 0)

    def begin(self, entries: int, size: int) -> None:
        """Begin to count, towards so many entries and bytes."""
        self._entries, self._size = entries, size
        self._entries_done = self._bytes_done = 0
        self._began = self._said = self._clock()

    def add(self, entries: int = 0, size: int = 0) -> None:
        """Count entries and bytes that are done now; log if it is time."""
        with self._lock:
            self._entries_done += entries
            self._bytes_done += size
            now = self._clock()
            due = now - self._said >= self._interval
            if due:
                self._said = now
        if due:
            self._say(self._line(now - self._began))

    @property
    def elapsed(self) -> str:
        """The time since the beginning, as in ``3 min 5 s``."""
        return duration(self._clock() - self._began)

    def _line(self, elapsed: float) -> str:
        share = self._bytes_done / self._size if self._size else self._entries_done / max(self._entries, 1)
        left = f", about {duration(max(0, elapsed / share - elapsed))} left" if share else ""
        return (
            f"{self._verb}: {self._entries_done:,} of {self._entries:,} entries, "
            f"{human_size(self._bytes_done)} of {human_size(self._size)}, {human_size(self._bytes_done / (elapsed or 1))}/s{left}"
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
