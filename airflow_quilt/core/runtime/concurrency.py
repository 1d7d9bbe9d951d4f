"""The number of calls at once finds its own level: more while that brings more, fewer when a store throttles (ADR 0034)."""

import logging
import time
from collections.abc import Callable
from typing import Final

_log = logging.getLogger(__name__)

_FIRST: Final = 16
"""Calls at first: enough to be as fast as more of them where the store is near."""
_SURPLUS: Final = 16
"""The most calls that wait for a thread."""
_SHARE: Final = 0.25
"""The part of the possible gain that a higher level must bring; all of it is twice the rate for twice the calls."""
_WINDOW: Final = 0.05
"""Seconds, at least, over which a rate is measured."""
_REST: Final = 0.25
_LONGEST_REST: Final = 60.0
"""Seconds before the next trial, after one that brought too little: twice as many each time, up to the second number."""
_HALVINGS: Final = 1.0
"""Seconds, at least, between two halvings of the level."""


class Concurrency:
    """The level: the number of calls that may run at once.

    The rate at which calls end is measured at each level, over a multiple of as many calls as it allows: they may end in bunches
    of so many. Then the level is doubled as a trial. It stays where it brought enough, and is doubled again; otherwise the level
    of before is taken up again, and the next trial waits. A store that throttles halves the level (ADR 0008); it returns to
    where it was by steps of one call, and only then are there trials again.

    Args:
        most: the highest level.
        clock: returns monotonic seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._usual = min(most, _FIRST)
        self._before: tuple[int, float] | None = None
        self._rest, self._rests_until = _REST, float("-inf")
        self._halved = float("-inf")
        self._since = 0.0
        self.is_busy = True
        """Whether as many calls are submitted as the level asks for."""
        self._set(self._usual)

    @property
    def queued(self) -> int:
        """The calls to submit at the present level: those that run, and those that wait for a thread."""
        return self.now + min(self.now, _SURPLUS)

    def succeed(self) -> None:
        """Count a call that has ended."""
        if self.now >= self._usual and not self.is_busy:  # Its rate is not that of the level.
            self._set(self.now)
            return
        self._ended += 1
        if self._ended == 0:
            self._since = self._clock()
        elif self._ended > 0 and self._ended % self.now == 0:
            if self.now < self._usual:
                self._set(self.now + 1)
            elif (seconds := self._clock() - self._since) >= _WINDOW:
                self._judge(self._ended / seconds)

    def halve(self) -> None:
        """Halve the level, since the store asks to slow down."""
        # All calls that run when the store throttles are refused together: they count as one refusal.
        if self._clock() - self._halved < _HALVINGS:
            return
        self._end_trial()
        self._halved, self._usual = self._clock(), self.now
        self._set(max(1, self.now // 2))
        _log.info("The store asks to slow down: at most %s concurrent requests now", self.now)

    def _judge(self, rate: float) -> None:
        """Compare the rate of a level with that of the one before, and choose the next one."""
        if self._before:
            level, slower = self._before
            if rate < slower * (1 + _SHARE * (self.now / level - 1)):
                self._end_trial()
                return
            self._before, self._rest = None, _REST
        if self.now < self._most and self._clock() >= self._rests_until:
            self._before = self.now, rate
            self._set(min(self._most, 2 * self.now))
        else:
            self._set(self.now)
        self._usual = self.now

    def _end_trial(self) -> None:
        if self._before:
            self._usual, self._before = self._before[0], None
            self._set(self._usual)
            self._rests_until, self._rest = self._clock() + self._rest, min(_LONGEST_REST, 2 * self._rest)

    def _set(self, level: int) -> None:
        """Take up a level, and measure once the calls that are under way have ended."""
        self.now, self._ended = level, -level
