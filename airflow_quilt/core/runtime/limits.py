"""How much a piece of work may take of the machine that it runs on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a piece of work.

    Attributes:
        max_concurrency: the most calls of storages at a time.
        max_bytes_in_flight: the most bytes of objects and parts in flight; one larger part goes alone.
        spill_entries: the most entries of a package that are held in memory before the rest goes to a temporary file.
    """

    max_concurrency: int = 16
    max_bytes_in_flight: int = 256 * 1024 * 1024
    spill_entries: int = 100_000
