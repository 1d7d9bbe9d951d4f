"""Downloads the files of a package to a directory, and checks every byte on the way."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from airflow_quilt.core.errors import (
    EntryDamagedError,
    ObjectNotFoundError,
    PreconditionError,
    QuiltError,
    SourceChangedError,
    quoted,
)
from airflow_quilt.core.format.hashes import Digest, algorithm, part_size, verify_stream
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.executor import Executor, Steps
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.storage.base import PartialFile
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.hashing import Reader
from airflow_quilt.core.transfer.unfinished import Unfinished

_ATTEMPTS: Final = 2


@dataclass(frozen=True, slots=True)
class Download:
    """An entry, the location of its bytes, and the file to write; the links in its path are resolved."""

    entry: Entry
    origin: PhysicalKey
    target: PhysicalKey


class Downloader:
    """Writes entries to local files.

    Args:
        stores: hold the bytes and the files; with the limit of concurrency.
        progress: counts finished files and bytes.
    """

    def __init__(self, stores: Stores, *, progress: Progress | None = None) -> None:
        self._stores = stores
        self._executor = Executor(max_concurrency=stores.limits.max_concurrency, progress=progress, retry=stores.retry)
        self._reader = Reader(stores, self._executor)
        self._open = Unfinished[PartialFile](
            lambda file: file.abort(), "An incomplete file could not be removed", stores.limits.max_concurrency
        )

    def run(self, downloads: Iterable[Download]) -> Iterator[tuple[Download, bool]]:
        """Download missing and differing files; yield each when it is right, and whether it is new, in any order.

        Each file appears whole and verified, or not at all.

        Raises:
            CancelledError: the work was stopped.
            EntryDamagedError: an object is gone, or does not hold the bytes that its manifest names.
            HashTypeError: a hash is of an unknown type.
            StorageError: a store refused or failed.
        """
        try:
            yield from self._executor.run((download, self._steps(download)) for download in downloads)
        except BaseException as error:
            self._open.abort(error)
            raise
        finally:
            self._stores.local.forget_directories()

    def _steps(self, download: Download) -> Steps[bool]:
        entry = download.entry
        kind = algorithm(entry.hash.type)
        if entry.size <= part_size(entry.size):
            (is_new,) = yield [partial(self._download_small, download)]
            return bool(is_new)
        (is_right,) = yield [partial(self._is_right, download)]
        if is_right:
            return False
        (file,) = yield [partial(self._create, download)]
        for _ in range(_ATTEMPTS):  # A byte may change on its way.
            digests = yield [partial(self._download_part, file, download, start, stop) for start, stop in kind.parts(entry.size)]
            if kind.combine(digests, entry.size) == entry.hash:
                break
            self._executor.progress.add(size=-entry.size)
        else:
            raise _damaged(download)
        yield [partial(self._complete, file, download)]
        return True

    def _download_small(self, download: Download, *, is_last: bool = False) -> bool:
        if self._is_right(download):
            return False
        entry = download.entry
        file = self._create(download)
        chunks = self._chunks(download, 0, entry.size)
        checked = verify_stream(chunks, entry.size, entry.hash, f"entry {quoted(entry.logical_key)} ({download.origin})")
        try:
            with self._reader.room(entry.size):
                file.write(0, checked)
        except QuiltError as error:
            is_damaged = isinstance(error, EntryDamagedError)
            if error.transient or is_damaged:
                file.abort()  # The next attempt creates another one.
                self._open.remove(file)
            if is_last or not is_damaged:
                raise
            self._executor.progress.add(size=-entry.size)
            return self._download_small(download, is_last=True)  # A byte may change on its way.
        self._complete(file, download)
        return True

    def _is_right(self, download: Download) -> bool:
        """Whether the file exists and holds the right bytes; no link to such a file is one."""
        entry, local = download.entry, self._stores.local
        try:
            there = local.stat(download.target, follow=False)
            if there.size != entry.size:
                return False
            chunks = local.stream(download.target.at_version(there.etag), 0, entry.size)
            for _ in verify_stream(chunks, entry.size, entry.hash, str(download.target)):
                check_stop()
        except (ObjectNotFoundError, PreconditionError, EntryDamagedError):
            return False
        self._executor.progress.add(size=entry.size)
        return True

    def _download_part(self, file: PartialFile, download: Download, start: int, stop: int) -> bytes:
        digest = algorithm(download.entry.hash.type).new()
        with self._reader.room(stop - start):
            file.write(start, _digested(self._chunks(download, start, stop), digest))
        return digest.digest()

    def _chunks(self, download: Download, start: int, stop: int) -> Iterator[bytes]:
        try:
            yield from self._reader.stream(download.origin, start, stop)
        except SourceChangedError as error:
            raise _damaged(download) from error

    def _create(self, download: Download) -> PartialFile:
        return self._open.add(self._stores.local.create(download.target, download.entry.size))

    def _complete(self, file: PartialFile, download: Download) -> None:
        try:
            file.complete()
        except PreconditionError:  # Another installation may have been faster.
            if not self._is_right(download):
                raise
            self._executor.progress.add(size=-download.entry.size)
            file.abort()
        self._open.remove(file)


def _digested(chunks: Iterable[bytes], digest: Digest) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _damaged(download: Download) -> EntryDamagedError:
    entry, size = download.entry, f"{download.entry.size:,}"
    return EntryDamagedError(
        f"entry {quoted(entry.logical_key)}: let it be published again, or read another revision; {download.origin} is gone, or "
        f"does not hold the {size} bytes that the package names"
    )
