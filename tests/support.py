"""Helpers for tests of several folders."""

import re
import threading
from collections.abc import Collection

from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.registry.registry import Registry
from tests.core.faulty import Tap, tapped


class Clock:
    """Seconds that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def through(registry: Registry, *taps: Tap) -> Registry:
    """Return the same registry, its calls going through taps."""
    return Registry(registry.location, tapped(registry.stores, *taps))


def read(registry: Registry, published: PublishResult) -> dict[str, Entry]:
    """Return the entries of a revision by their logical keys."""
    return {entry.logical_key: entry for entry in registry.read(published.package, published.top_hash).entries}


def workers_since(before: Collection[threading.Thread]) -> list[threading.Thread]:
    """Return the core's threads that have begun since; other tests of the process may have left theirs behind."""
    return [each for each in threading.enumerate() if each not in before and each.name.startswith("quilt")]


def timeless(text: str) -> str:
    """Return a text of the log without the time that its work took, which differs on a busy machine."""
    return re.sub(r"; \d+ (s|min \d+ s)$", "; <time>", text, flags=re.MULTILINE)
