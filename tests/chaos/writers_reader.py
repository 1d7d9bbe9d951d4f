"""A reader that polls a package while others write it."""

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Latest

_HEADS: Final = 3
_PAUSE: Final = 0.005
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """A state that no reader should see, and the reads before it, step by step."""

    what: str
    seen: list[str]


class Reader:
    """Reads ``latest``, the history, and the latest revision."""

    def __init__(self, registry: Registry, name: PackageName) -> None:
        self._registry = registry
        self._name = name
        self._has_seen_one = False
        self._seen: list[str] = []

    def watch(self, until: Path) -> dict[str, Any]:
        """Poll until a file appears; count the polls and the wrong ones, and report some of the violations."""
        looks = wrong = 0
        told: list[Violation] = []
        while not until.exists():
            violations = self.look()
            looks += 1
            wrong += bool(violations)
            told += violations[: _MOST_TOLD - len(told)]
            time.sleep(_PAUSE)
        return {"looks": looks, "wrong": wrong, "violations": [asdict(each) for each in told]}

    def look(self) -> list[Violation]:
        """Poll once; return the violations."""
        self._seen = []
        try:
            latest = self._latest()
            if latest is None:
                return [self._violation("there is no latest")] if self._has_seen_one else []
            self._has_seen_one = True
            return [*self._beyond_history(latest), *self._unreadable(latest)]
        except QuiltError as error:
            return [self._violation(f"a pointer could not be read: {error!r}")]

    def _beyond_history(self, latest: Latest) -> Iterator[Violation]:
        """Search the history for a revision; where it is missing, and ``latest`` names it still, read it once more."""
        if self._is_in_history(latest) or self._latest() != latest:
            return
        is_there_now = self._is_in_history(latest, whole=True)
        is_latest_still = self._latest() == latest
        after = "when it was read again it was there" if is_there_now else "nor when it was read again"
        still = "latest named it still" if is_latest_still else "latest named another then"
        yield self._violation(f"latest named {latest.top_hash}, which was not in the history; {after}, and {still}")

    def _unreadable(self, latest: Latest) -> Iterator[Violation]:
        try:
            entries = list(self._registry.read(self._name, latest.top_hash).entries)
            for entry in random.sample(entries, min(_HEADS, len(entries))):
                origin = self._registry.origin(entry)
                self._registry.stores.of(origin).stat(origin)
        except QuiltError as error:
            yield self._violation(f"latest named {latest.top_hash}, which could not be read: {error!r}")

    def _latest(self) -> Latest | None:
        latest = self._registry.latest(self._name)
        self._note(f"latest {latest}")
        return latest

    def _is_in_history(self, latest: Latest, *, whole: bool = False) -> bool:
        seen = []
        for revision in self._registry.revisions(self._name):
            seen.append(f"{revision.published_at.int_timestamp} {revision.top_hash}")
            if not whole and revision.top_hash == latest.top_hash:
                break
        self._note(f"history {seen}")
        return any(each.endswith(latest.top_hash) for each in seen)

    def _note(self, what: str) -> None:
        self._seen.append(f"{time.time():.6f} {what}")

    def _violation(self, what: str) -> Violation:
        return Violation(what, list(self._seen))
