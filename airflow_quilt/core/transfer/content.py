"""Content of a package, between its serialization and its upload: in a temporary file, so that little of it is in memory."""

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Final, Self

from msgspec.structs import replace

from airflow_quilt.core.errors import DiskError
from airflow_quilt.core.format.ordering import BATCH
from airflow_quilt.core.plan.actions import Action, Content, Upload
from airflow_quilt.core.runtime.spool import disk_full_as_error

_MOST_IN_MEMORY: Final = 1024
"""Bytes up to which content stays in memory, as that of tens of thousands of sources may."""
_MOST_IN_BATCH: Final = 8 * 1024 * 1024
"""Bytes of content from which on a batch of actions takes no more."""


class _File:
    """A temporary file without a name; it is closed when nothing refers to it any more, also by a thread that still reads."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())
        self.size = 0

    def append(self, data: bytes) -> int:
        start, view = self.size, memoryview(data)
        while view:
            written = os.pwrite(self.descriptor, view, self.size)
            self.size, view = self.size + written, view[written:]
        return start

    def __del__(self) -> None:
        os.close(self.descriptor)


_NUMBERS: Final = itertools.count()
_FILES: Final[dict[int, _File]] = {}


class ContentFile:
    """Takes content piece by piece, and holds all but small pieces in a temporary file."""

    def __init__(self) -> None:
        self._number = next(_NUMBERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _FILES.pop(self._number, None)

    def put(self, data: bytes) -> bytes | Content:
        """Return content as the origin of a source, which can be read until the context ends.

        Raises:
            DiskError: the directory for temporary files has no room.
        """
        if len(data) <= _MOST_IN_MEMORY:
            return data
        with disk_full_as_error():
            if self._number not in _FILES:
                _FILES[self._number] = _File()
            return Content(self._number, _FILES[self._number].append(data))

    def take(self, action: Action) -> Action:
        """Return an action whose content, if it has any, is held here."""
        if not isinstance(action, Upload) or not isinstance(action.source.origin, bytes):
            return action
        return replace(action, source=replace(action.source, origin=self.put(action.source.origin)))


def read_content(origin: bytes | Content, start: int, stop: int) -> bytes:
    """Return bytes of content.

    Raises:
        DiskError: the temporary file cannot be read, or its context has ended.
    """
    if isinstance(origin, bytes):
        return origin[start:stop]
    with disk_full_as_error():
        file = _FILES.get(origin.file)
        data = os.pread(file.descriptor, stop - start, origin.start + start) if file else b""
    if len(data) < stop - start:
        raise DiskError("content in a temporary file is gone", tempfile.gettempdir())
    return data


def with_content(actions: Iterable[Action]) -> Iterator[list[Action]]:
    """Yield actions for another process, in batches: with the content that is in temporary files of this one.

    A batch holds little content, unless one piece is large.
    """
    batch, weight = list[Action](), 0
    for action in actions:
        batch.append(_loaded(action))
        weight += action.source.size if isinstance(action, Upload) and action.source.is_content else 0
        if len(batch) >= BATCH or weight >= _MOST_IN_BATCH:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def _loaded(action: Action) -> Action:
    if not isinstance(action, Upload) or not isinstance(origin := action.source.origin, Content):
        return action
    return replace(action, source=replace(action.source, origin=read_content(origin, 0, action.source.size)))
