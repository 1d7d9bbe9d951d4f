"""How long to try again what fails for now, and how long to wait in between."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from airflow_quilt.core.errors import (
    CancelledError,
    CatalogError,
    CredentialsExpiredError,
    DiskError,
    QuiltError,
    UploadVanishedError,
)

R = TypeVar("R")

_FINAL: Final = (CancelledError, CatalogError, DiskError, UploadVanishedError)
"""What the same call will not mend; and the catalog, which has been asked several times by then."""
_MOST_RENEWALS: Final = 3
"""Credentials that renew themselves are fresh at once; others never are."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Tries again what failed for now, after pauses that grow, each a random part of its longest ("full jitter").

    Attributes:
        seconds: after the first failure nothing is begun again later than this.
        shortest: the longest first pause, in seconds; each further one may be twice as long.
        longest: where that ends.
        clock: seconds that only grow.
        chance: a number from 0 to 1.
        sleep: waits.
    """

    seconds: float = 300.0
    shortest: float = 0.2
    longest: float = 20.0
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    sleep: Callable[[float], object] = time.sleep

    def pause(self, error: BaseException, failures: int, began: float) -> float | None:
        """Return the seconds to wait before the next try, or None if there should be none.

        Args:
            error: the last failure.
            failures: how many there were.
            began: when the first one was, by the clock.
        """
        if not isinstance(error, QuiltError) or not error.transient or isinstance(error, _FINAL):
            return None
        if isinstance(error, CredentialsExpiredError) and failures > _MOST_RENEWALS:
            return None
        longest: float = min(self.longest, self.shortest * 2 ** min(failures - 1, 30))
        pause = longest * self.chance()
        return pause if self.clock() + pause - began <= self.seconds else None

    def call(self, function: Callable[[], R]) -> R:
        """Call a function until it succeeds, or raise its last error."""
        failures, began = 0, 0.0
        while True:
            try:
                return function()
            except QuiltError as error:
                failures += 1
                began = began or self.clock()
                pause = self.pause(error, failures, began)
                if pause is None:
                    raise
                self.sleep(pause)


NO_RETRY: Final = RetryPolicy(seconds=0)
"""For work whose first failure is its last."""
