"""The bounds of a piece of work on the machine that it runs on."""

import resource
import sys
from dataclasses import dataclass
from typing import Final

_DESCRIPTORS: Final = 4
"""Open files and connections that a call may need at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a piece of work.

    Attributes:
        max_concurrency: the most concurrent requests to the stores; transfers begin with 16, and
            take more where that brings more.
        max_bytes_in_flight: the transfer buffer: bytes of objects and parts in memory on their way to a store, the copies that
            sending makes included; a larger object or part goes alone.
        spill_entries: the entries of a package to hold in memory before the rest goes to a temporary file.
    """

    max_concurrency: int = 128
    max_bytes_in_flight: int = 64 * 1024 * 1024
    spill_entries: int = 100_000


def most_descriptors() -> int:
    """Return the number of descriptors that this process may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def most_calls() -> int:
    """Return the number of concurrent calls for which this process may have descriptors."""
    return max(1, most_descriptors() // _DESCRIPTORS)
