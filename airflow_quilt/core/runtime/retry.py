"""The one retry policy: which failures are repeated, how often, for how long, and after which pauses (ADR 0008)."""

import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from airflow_quilt.core.errors import (
    CancelledError,
    CatalogError,
    CredentialsExpiredError,
    DiskError,
    QuiltError,
    UploadVanishedError,
)
from airflow_quilt.core.runtime.stop import sleep

_FINAL: Final = (CancelledError, CatalogError, DiskError, UploadVanishedError)
"""Transient errors that the same call will not mend; those of the catalog, since its own policy has repeated the call by then."""
_MOST_RENEWALS: Final = 3
"""Credentials that renew themselves are fresh at once; others never are."""


class Retrying(Protocol):
    """An object with a retry policy for its own methods."""

    @property
    def _retry(self) -> "RetryPolicy": ...


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Retrying)


def retried(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Repeat a method until it succeeds, or raise its last error, by the policy that its object has in ``_retry``."""

    @functools.wraps(method)
    def repeat(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        failures = Failures()
        while True:
            try:
                return method(self, *args, **kwargs)
            except QuiltError as error:
                if not self._retry.wait(error, failures):
                    raise

    return repeat


@dataclass(slots=True)
class Failures:
    """The failures of one call so far.

    Attributes:
        count: how many; set it to 0 where a call makes progress in between.
        began: when the first one was, by the clock of the policy.
    """

    count: int = 0
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Repeats transient failures after pauses that grow, each a random part of its longest ("full jitter").

    Attributes:
        seconds: after the first failure no attempt begins later than this.
        shortest: the longest first pause, in seconds; each further one may be twice as long.
        longest: the longest pause of all, in seconds, also where the service asks for a longer one (``error.retry_after``).
        attempts: the most attempts, the first one included; None for any number.
        final: transient errors that are not repeated.
        clock: seconds that only grow.
        chance: a number from 0 to 1.
        sleep: waits for so many seconds, or raises ``CancelledError``.
    """

    seconds: float = 300.0
    shortest: float = 0.2
    longest: float = 20.0
    attempts: int | None = None
    final: tuple[type[QuiltError], ...] = _FINAL
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    sleep: Callable[[float], object] = sleep

    def pause(self, error: BaseException, failures: int, began: float) -> float | None:
        """Return the seconds to wait before the next attempt, or None if the failure is final.

        Args:
            error: the last failure.
            failures: how many there were.
            began: when the first one was, by the clock.
        """
        if not isinstance(error, QuiltError) or not error.transient or isinstance(error, self.final):
            return None
        if isinstance(error, CredentialsExpiredError) and failures > _MOST_RENEWALS:
            return None
        if self.attempts is not None and failures >= self.attempts:
            return None
        asked: float | None = getattr(error, "retry_after", None)
        if asked is None:
            pause = min(self.longest, self.shortest * 2 ** min(failures - 1, 30)) * self.chance()
        else:
            pause = min(self.longest, max(0.0, asked))
        return pause if self.clock() + pause - began <= self.seconds else None

    def wait(self, error: BaseException, failures: Failures) -> bool:
        """Count a failure, and sleep until the next attempt; return False, at once, if the failure is final."""
        failures.count += 1
        if failures.count == 1:
            failures.began = self.clock()
        pause = self.pause(error, failures.count, failures.began)
        if pause is not None:
            self.sleep(pause)
        return pause is not None

    @property
    def _retry(self) -> "RetryPolicy":
        return self

    @retried
    def call(self, function: Callable[[], R]) -> R:
        """Call a function until it succeeds, or raise its last error."""
        return function()


NO_RETRY: Final = RetryPolicy(attempts=1)
"""The policy of calls whose first failure is final."""
