"""Attempts of a piece of work, and the writer tag by which each recognises the pointers of the others (ADR 0007).

Airflow runs a task instance again, or twice at the same time: other attempts may have been killed, or be alive.
"""

import hashlib
import re
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Final, Self

_KEY_LETTERS: Final = 32
_CLOCK_SKEW: Final = 10 * 60
"""Seconds by which the clocks of two machines may differ."""
_ROLLBACK: Final = "rolled-back"
_STAMP: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a piece of work.

    Attributes:
        key: the same for all attempts of one piece of work, and for no other work (an idempotency key); any `str`.
        since: on a retry, the unix seconds before which no attempt began; leftovers of earlier attempts are searched for from
            then on. None for a first attempt.
        task: the name of the work in the scheduler that runs it, in visible ASCII without spaces, which the tag carries for
            watchers (ADR 0030); empty for work without a scheduler. All who may read the pointer can read it.
        began: the unix seconds at which this attempt began.
    """

    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    since: float | None = None
    task: str = ""
    began: float = field(default_factory=time.time, compare=False)

    @property
    def earliest(self) -> float | None:
        """The unix seconds, by the clock of any machine, before which no attempt began; None for a first attempt."""
        return None if self.since is None else self.since - _CLOCK_SKEW


@dataclass(frozen=True, slots=True)
class WriterTag:
    """The identity of the writer of a pointer, and whether the revision of the pointer is published (ADR 0007).

    The tag lies beside the object, in its metadata on S3 and in an extended attribute on a disk: pointers keep the bytes that
    quilt3 gives them, and the same inputs keep the same top hash.
    Its form is ``<pending|published> <work> <writer> <stamp> [<task>]``.

    ``latest`` carries the tag of the pointer that it names. So a writer whose request was refused learns whether it was itself,
    another attempt of the same work, or other work that wrote first; and a retry finds the revision that its work published.

    Attributes:
        work: a hash of :attr:`Attempt.key`, the same for all attempts of one piece of work.
        writer: random, another one for each attempt.
        stamp: the unix seconds in the name of the pointer, by which one request finds it (ADR 0009); 0 until it has a name.
        is_published: True once ``latest`` has named the revision; until then it is pending.
        task: :attr:`Attempt.task`.
    """

    work: str
    writer: str
    stamp: int = 0
    is_published: bool = False
    task: str = ""

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """Return the tag of an attempt that begins to write, which has no pointer yet."""
        work = hashlib.sha256(attempt.key.encode()).hexdigest()[:_KEY_LETTERS]
        return cls(work, uuid.uuid4().hex, task=attempt.task)

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Parse a tag; None for the objects of other clients, which have none, or one of another form."""
        match (text or "").split(" "):
            case ["pending" | "published" as state, work, writer, stamp, *task] if _STAMP.fullmatch(stamp) and len(task) <= 1:
                return cls(work, writer, int(stamp), state == "published", *task)
        return None

    def at(self, stamp: int) -> Self:
        """Return the same tag for the pointer of a second."""
        return replace(self, stamp=stamp)

    def published(self) -> Self:
        """Return the same tag for a revision that is published."""
        return replace(self, is_published=True)

    def is_same_work(self, other: "WriterTag | None") -> bool:
        """Whether another tag is of an attempt of the same work, which may be the same attempt."""
        return other is not None and other.work == self.work

    def __str__(self) -> str:
        state = "published" if self.is_published else "pending"
        return " ".join(filter(None, (state, self.work, self.writer, str(self.stamp), self.task)))


@dataclass(frozen=True, slots=True)
class RollbackTag:
    """The tag of ``latest`` where a task rolled back, which made no pointer (ADR 0030).

    Its form is ``rolled-back <work> <stamp> <previous> <task>``.

    Attributes:
        work: as in a :class:`WriterTag`.
        stamp: the unix seconds of the rollback.
        previous: the top hash that ``latest`` named before.
        task: :attr:`Attempt.task`.
    """

    work: str
    stamp: int
    previous: str
    task: str

    @classmethod
    def of(cls, attempt: Attempt, stamp: int, previous: str) -> Self:
        """Return the tag of an attempt that moves ``latest`` back."""
        return cls(WriterTag.of(attempt).work, stamp, previous, attempt.task)

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Parse a tag; None where there is none, or another one."""
        match (text or "").split(" "):
            case [state, work, stamp, previous, task] if state == _ROLLBACK and _STAMP.fullmatch(stamp):
                return cls(work, int(stamp), previous, task)
        return None

    def is_of(self, attempt: Attempt) -> bool:
        """Whether an attempt of the same work rolled back."""
        return self.work == WriterTag.of(attempt).work

    def __str__(self) -> str:
        return f"{_ROLLBACK} {self.work} {self.stamp} {self.previous} {self.task}"
