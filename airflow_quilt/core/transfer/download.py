"""Brings the files of a package to a directory, and checks every byte on the way."""

import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from airflow_quilt.core.errors import (
    EntryDamagedError,
    ObjectNotFoundError,
    QuiltError,
    SourceChangedError,
    StorageUnavailableError,
)
from airflow_quilt.core.format.hashes import Digest, algorithm, part_size, verify_stream
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.executor import Executor, Steps
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.storage.base import PartialFile, Stores
from airflow_quilt.core.transfer.hashing import Reader

_log = logging.getLogger(__name__)

_TRIES: Final = 2


@dataclass(frozen=True, slots=True)
class Download:
    """An entry, where its bytes are, and the file that is to hold them."""

    entry: Entry
    origin: PhysicalKey
    target: PhysicalKey


class Downloader:
    """Makes local files hold the bytes of entries.

    Args:
        stores: where the bytes are and where the files go, and how much is done at a time.
        progress: is told what is done.
        stop: set it to end the work with :class:`CancelledError`.
    """

    def __init__(self, stores: Stores, *, progress: Progress | None = None, stop: threading.Event | None = None) -> None:
        self._stores = stores
        self._jobs = Executor(max_concurrency=stores.limits.max_concurrency, progress=progress, stop=stop, retry=stores.retry)
        self._reader = Reader(stores, self._jobs)
        self._open: dict[int, PartialFile] = {}

    def run(self, wanted: Iterable[Download]) -> Iterator[tuple[Download, bool]]:
        """Fetch what is not there yet; yield each file when it is right, and whether it is new, in any order.

        Each file appears whole and verify_stream, or not at all.

        Raises:
            CancelledError: the work was told to stop.
            EntryDamagedError: an object is gone, or does not hold the bytes that its manifest names.
            HashTypeError: a hash is of an unknown type.
            StorageError: a store refused or failed.
        """
        try:
            yield from self._jobs.run((each, self._steps(each)) for each in wanted)
        finally:
            self._abort_open()

    def _abort_open(self) -> None:
        """Drop the files that are not complete: none unless something failed."""
        for file in self._open.values():
            try:
                file.abort()
            except QuiltError as error:
                _log.warning("A file that is not complete could not be removed: %s", error)
        self._open.clear()

    def _steps(self, wanted: Download) -> Steps[bool]:
        entry = wanted.entry
        kind = algorithm(entry.hash.type)
        if entry.size <= part_size(entry.size):
            (is_new,) = yield [partial(self._fetch_small, wanted)]
            return bool(is_new)
        (is_right,) = yield [partial(self._is_right, wanted)]
        if is_right:
            return False
        (file,) = yield [partial(self._create, wanted)]
        for _ in range(_TRIES):  # A byte may have changed on its way.
            digests = yield [partial(self._fetch_part, file, wanted, start, stop) for start, stop in kind.parts(entry.size)]
            if kind.combine(digests, entry.size) == entry.hash:
                break
            self._jobs.progress.add(size=-entry.size)
        else:
            raise _damaged(wanted)
        yield [partial(self._complete, file)]
        return True

    def _fetch_small(self, wanted: Download, *, is_last: bool = False) -> bool:
        if self._is_right(wanted):
            return False
        entry = wanted.entry
        file = self._create(wanted)
        chunks = self._chunks(wanted, 0, entry.size)
        try:
            file.write(0, verify_stream(chunks, entry.size, entry.hash, f"entry {entry.logical_key!r} ({wanted.origin})"))
        except (StorageUnavailableError, EntryDamagedError) as error:
            file.abort()  # The next try begins another one.
            del self._open[id(file)]
            if is_last or isinstance(error, StorageUnavailableError):
                raise
            self._jobs.progress.add(size=-entry.size)
            return self._fetch_small(wanted, is_last=True)  # A byte may have changed on its way.
        self._complete(file)
        return True

    def _is_right(self, wanted: Download) -> bool:
        """Tell whether the file is there and holds the right bytes."""
        entry, target = wanted.entry, wanted.target
        try:
            if self._stores.local.stat(target).size != entry.size:
                return False
            for _ in verify_stream(self._stores.local.stream(target, 0, entry.size), entry.size, entry.hash, str(target)):
                self._jobs.check_stop()
        except (ObjectNotFoundError, EntryDamagedError):
            return False
        self._jobs.progress.add(size=entry.size)
        return True

    def _fetch_part(self, file: PartialFile, wanted: Download, start: int, stop: int) -> bytes:
        digest = algorithm(wanted.entry.hash.type).new()
        file.write(start, _digested(self._chunks(wanted, start, stop), digest))
        return digest.digest()

    def _chunks(self, wanted: Download, start: int, stop: int) -> Iterator[bytes]:
        try:
            yield from self._reader.stream(wanted.origin, start, stop)
        except SourceChangedError as error:
            raise _damaged(wanted) from error

    def _create(self, wanted: Download) -> PartialFile:
        file = self._stores.local.create(wanted.target, wanted.entry.size)
        self._open[id(file)] = file
        return file

    def _complete(self, file: PartialFile) -> None:
        file.complete()
        del self._open[id(file)]


def _digested(chunks: Iterable[bytes], digest: Digest) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _damaged(wanted: Download) -> EntryDamagedError:
    entry = wanted.entry
    return EntryDamagedError(
        f"entry {entry.logical_key!r}: {wanted.origin} is gone, or does not hold the {entry.size:,} bytes that the package names"
    )
