"""How much a piece of work may take of the machine that it runs on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a piece of work.

    Attributes:
        threads: the most calls of storages at a time.
        memory: the most bytes of objects and parts in flight; one larger part goes alone.
        spill: the most entries of a package that are held in memory before the rest goes to a temporary file.
    """

    threads: int = 16
    memory: int = 256 * 1024 * 1024
    spill: int = 100_000
