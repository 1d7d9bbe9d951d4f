"""Records of a package, in memory up to a bound, and in a temporary file beyond it."""

import contextlib
import heapq
import itertools
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Generic, Self, TypeVar

from airflow_quilt.core.errors import DiskError
from airflow_quilt.core.format.ordering import Record, batched, sort_key
from airflow_quilt.core.runtime.codec import Decoder, encode
from airflow_quilt.core.runtime.stop import check_stop

T = TypeVar("T", bound=Record)

_CHUNK: Final = 1024 * 1024
"""Bytes of a temporary file that are read at once."""


@contextlib.contextmanager
def disk_full_as_error(directory: Path | None = None) -> Iterator[None]:
    """Name the directory for temporary files, by default the system's, in the error where it has no room.

    Raises:
        DiskError: it has none.
    """
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}; free space there, or let TMPDIR name a directory that has more"
        raise DiskError(reason, str(directory or tempfile.tempdir or "temporary files")) from error


class Replay:
    """Chunks of bytes that come once and are read twice: on their way they are copied to a temporary file.

    The file has no name, so it ends with the process, however that ends; or else with the second reading, or with the first one
    if that does not come to its end.

    Args:
        chunks: the bytes.
        directory: of the file; by default the system's for temporary files.
    """

    def __init__(self, chunks: Iterable[bytes], directory: Path | None = None) -> None:
        self._chunks = iter(chunks)
        self._directory = directory
        self._file: IO[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks: the first time from the stream, the second time from the file.

        Raises:
            DiskError: the directory for temporary files has no room.
        """
        return self._copied() if self._file is None else self._again(self._file)

    def _copied(self) -> Iterator[bytes]:
        with contextlib.ExitStack() as on_failure:
            with disk_full_as_error(self._directory):
                self._file = on_failure.enter_context(tempfile.TemporaryFile(dir=self._directory))
            for chunk in self._chunks:
                check_stop()
                with disk_full_as_error(self._directory):
                    self._file.write(chunk)
                yield chunk
            with disk_full_as_error(self._directory):
                self._file.flush()
            on_failure.pop_all()

    @staticmethod
    def _again(file: IO[bytes]) -> Iterator[bytes]:
        with file:
            file.seek(0)
            while chunk := file.read(_CHUNK):
                check_stop()
                yield chunk


@dataclass(slots=True)
class _Run:
    """Records in order, in blocks of a file.

    Attributes:
        file: the file.
        last: the sort key of the last record.
        blocks: offset and size of each block, in bytes.
    """

    file: IO[bytes]
    last: str
    blocks: list[tuple[int, int]] = field(default_factory=list)


class Spool(Generic[T]):
    """Takes records in any order, from any thread, and yields them in walk order, any number of times.

    The file has no name, so it ends with the process, however that ends.

    Args:
        kind: the type of the records, for msgspec.
        most: the records to hold in memory before they are written to the file.
        directory: of the file; by default the system's for temporary files.
    """

    def __init__(self, kind: Any, most: int, directory: Path | None = None) -> None:
        self._most = most
        self._directory = directory
        self._decoder = Decoder(list[kind])
        self._lock = threading.Lock()
        self._fresh: list[T] = []
        self._runs: list[_Run] = []
        self._file: IO[bytes] | None = None
        self._count = 0

    def extend(self, records: Iterable[T]) -> int:
        """Add records; return their number.

        Raises:
            DiskError: the directory for temporary files has no room.
        """
        count = 0
        for batch in batched(records):
            check_stop()
            count += len(batch)
            with self._lock:
                self._count += len(batch)
                self._fresh += batch
                if len(self._fresh) > self._most:
                    self._spill()
        return count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        fresh = sorted(self._fresh, key=sort_key)
        if len(self._runs) <= 1 and (not self._runs or not fresh or self._runs[0].last <= sort_key(fresh[0])):
            return itertools.chain(*map(self._read, self._runs), _stoppable(fresh))
        return heapq.merge(*map(self._read, self._runs), _stoppable(fresh), key=sort_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release memory and file."""
        self._fresh, self._runs = [], []
        if self._file:
            self._file.close()

    def _spill(self) -> None:
        """Write the records in memory to the file, in order: as a new run, unless they follow those of the last run."""
        self._fresh.sort(key=sort_key)
        first, last = sort_key(self._fresh[0]), sort_key(self._fresh[-1])
        with disk_full_as_error(self._directory):
            self._file = self._file or tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  (closed with the spool)
            if not self._runs or self._runs[-1].last > first:
                self._runs.append(_Run(self._file, first))
            for batch in batched(self._fresh):
                self._runs[-1].blocks.append((self._file.tell(), self._file.write(encode(batch))))
            self._file.flush()
        self._runs[-1].last = last
        self._fresh = []

    def _read(self, run: _Run) -> Iterator[T]:
        for start, size in run.blocks:
            check_stop()
            yield from self._decoder.decode(os.pread(run.file.fileno(), size, start))


def _stoppable(records: Iterable[T]) -> Iterator[T]:
    for batch in batched(records):
        check_stop()
        yield from batch
