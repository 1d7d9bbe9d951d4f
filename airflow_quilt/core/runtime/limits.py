"""The bounds of a piece of work on the machine that it runs on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a piece of work.

    Attributes:
        max_concurrency: the most concurrent requests to the stores.
        max_bytes_in_flight: the transfer buffer: bytes of objects and parts in memory on their way to a store, the copies that
            sending makes included; a larger object or part goes alone.
        spill_entries: the entries of a package to hold in memory before the rest goes to a temporary file.
    """

    max_concurrency: int = 16
    max_bytes_in_flight: int = 64 * 1024 * 1024
    spill_entries: int = 100_000
