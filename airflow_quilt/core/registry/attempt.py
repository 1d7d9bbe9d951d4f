"""What a try of some work knows of the other tries of it, which may have been killed, or run at this very moment."""

import hashlib
import re
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Final, Self

_KEY_LETTERS: Final = 32
_SKEW: Final = 10 * 60
"""Seconds by which the clocks of two machines may differ."""
_STAMP: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a piece of work.

    Attributes:
        key: the same for all tries of one piece of work, and for no other work (an idempotency key); any text.
        since: on a retry, the unix seconds before which no try began: what earlier ones left is looked for. None for a first
            try.
        began: the unix seconds at which this try began.
    """

    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    since: float | None = None
    began: float = field(default_factory=time.time, compare=False)

    @property
    def earliest(self) -> float | None:
        """The unix seconds, by anybody's clock, before which no try began; None for a first try."""
        return None if self.since is None else self.since - _SKEW


@dataclass(frozen=True, slots=True)
class WriterTag:
    """What a try notes beside a pointer, and beside ``latest``: whose it is, and whether all of the revision is in place.

    Attributes:
        work: tells the tries of one piece of work from other work.
        writer: tells one try from all others.
        stamp: the unix seconds of the pointer.
        is_published: false until ``latest`` named the revision.
    """

    work: str
    writer: str
    stamp: int = 0
    is_published: bool = False

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """Return the mark of a try that begins to write, which has no pointer yet."""
        return cls(hashlib.sha256(attempt.key.encode()).hexdigest()[:_KEY_LETTERS], uuid.uuid4().hex)

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Read a mark; other writers leave none, or one that means nothing here."""
        match (text or "").split(" "):
            case ["pending" | "published" as state, work, writer, stamp] if _STAMP.fullmatch(stamp):
                return cls(work, writer, int(stamp), state == "published")
        return None

    def at(self, stamp: int) -> Self:
        """Return the same mark for the pointer of a second."""
        return replace(self, stamp=stamp)

    def published(self) -> Self:
        """Return the same mark for a revision that is in place."""
        return replace(self, is_published=True)

    def __str__(self) -> str:
        return f"{'published' if self.is_published else 'pending'} {self.work} {self.writer} {self.stamp}"
