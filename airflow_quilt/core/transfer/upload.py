"""Carries out a plan on a bounded number of threads, and cleans up after itself when it fails or is told to stop."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, cast

import msgspec

from airflow_quilt.core.errors import (
    UploadVanishedError,
)
from airflow_quilt.core.format.hashes import Hash, algorithm, digest_of, hash_of, part_ranges, part_size
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Copy, HashInPlace, Source, Transfer, Upload
from airflow_quilt.core.runtime.executor import ByteBudget, Executor, Steps
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.storage.base import MultipartUpload, ObjectInfo, Stores
from airflow_quilt.core.transfer.hashing import SourceReader, check_hash, damaged, source_changed
from airflow_quilt.core.transfer.multipart import MultipartUploads

_TRIES: Final = 3


class Uploader:
    """Carries out tasks, which become entries.

    Args:
        stores: where sources are and destinations go, and how much is done at a time.
        progress: is told what is done; how much there is to do it has been told by whoever made it.
        stop: set it from any thread, or from a signal handler, to end the work with :class:`CancelledError`.
        since: the unix seconds at which an earlier try of the work began: what it sent is looked for, and not sent again. None
            for a first try, which looks only for what has several parts.
    """

    def __init__(
        self,
        stores: Stores,
        *,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        since: float | None = None,
    ) -> None:
        self._stores = stores
        self._jobs = Executor(max_concurrency=stores.limits.max_concurrency, progress=progress, stop=stop, retry=stores.retry)
        self._progress = self._jobs.progress
        self._sources = SourceReader(stores, self._jobs)
        self._memory = ByteBudget(stores.limits.max_bytes_in_flight)
        self._uploads = MultipartUploads(stores, since)
        self._since = since
        self._lock = threading.Lock()
        self.reused = self.bytes_reused = 0
        """How many objects, and parts of objects, were right already where they were to go; and their bytes."""

    def run(self, tasks: Iterable[Transfer]) -> Generator[tuple[Transfer, Entry]]:
        """Carry out tasks; yield each and its entry as it is done, in any order.

        Raises:
            CancelledError: the work was told to stop.
            SourceChangedError: a source is not what it was when it was listed.
            EntryDamagedError: an object does not hold the bytes that its package names.
            StorageError: a store refused or failed.
        """
        try:
            yield from self._jobs.run((task, self._steps(task)) for task in tasks)
        except BaseException:
            self._uploads.abort()
            raise

    def _steps(self, action: Transfer) -> Steps[Entry]:
        match action:
            case HashInPlace():
                return self._hash_in_place(action)
            case Upload():
                return self._upload(action)
            case Copy():
                return self._copy(action)

    def _hash_in_place(self, action: HashInPlace) -> Steps[Entry]:
        source, origin = action.source, action.origin
        if not origin.is_local:
            (stat,) = yield [partial(self._sources.stat, source, origin)]
            source = msgspec.structs.replace(source, etag=stat.etag)
            if known := (yield from self._sources.proven(source, stat)):
                self._progress.add(size=source.size)
                return source.entry(origin, known)
        return source.entry(origin, (yield from self._sources.hash(source, origin)))

    def _upload(self, action: Upload) -> Steps[Entry]:
        if there := (yield from self._reuse(action)):
            return there
        source = action.source
        if source.size <= part_size(source.size):
            (entry,) = yield [partial(self._send_whole, action)]
            return cast("Entry", entry)
        return (yield from self._again_if_it_vanishes(action, partial(self._send_parts, source, action.destination)))

    def _again_if_it_vanishes(self, action: Upload | Copy, steps: Callable[[], Steps[Entry]]) -> Steps[Entry]:
        """Send an object in parts; if another try of the same work ended the upload, take what it made, or send it again."""
        for _ in range(_TRIES):
            try:
                return (yield from steps())
            except UploadVanishedError as error:
                last = error
            if there := (yield from self._reuse(action)):
                return there
        raise last

    def _send_parts(self, source: Source, destination: PhysicalKey) -> Steps[Entry]:
        kind = algorithm(source.hash_type)
        (upload,) = yield [partial(self._uploads.begin, destination, kind.store)]
        digests = yield [
            partial(self._send_part, upload, number, source, start, stop)
            for number, (start, stop) in enumerate(part_ranges(source.size), 1)
        ]
        yield [partial(self._sources.check_unchanged, source)]
        if kind.by_parts or isinstance(source.origin, bytes):
            digest = kind.combine(digests, source.size)
        else:
            digest = yield from self._sources.hash(source, source.origin)
        check_hash(source, digest)
        (stat,) = yield [partial(self._uploads.complete, upload, destination, digest)]
        return source.entry(stat.key, digest)

    def _reuse(self, action: Upload | Copy) -> Steps[Entry | None]:
        """Return the entry if what lies at its destination is right, or None."""
        source = action.source
        if not (action.exact or self._since is not None or source.size > part_size(source.size)):
            return None  # To look would take as long as to send.
        (there,) = yield [partial(self._stores.find, action.destination)]
        if there is None or there.size != source.size:
            return None
        expected = yield from self._expected(action, there)
        if expected is None:
            return None
        is_right, was_read = there.proves(expected), source.is_local and not action.exact
        if action.exact and not is_right and not there.contradicts(expected):
            is_right, was_read = expected == (yield from self._sources.hash_object(there.key, there.size, expected.type)), True
        if is_right != was_read:  # What was read has been counted as done.
            self._progress.add(size=source.size if is_right else -source.size)
        if not is_right:
            return None
        self._count_reused(source.size)
        return source.entry(there.key, expected)

    def _expected(self, action: Upload | Copy, there: ObjectInfo) -> Steps[Hash | None]:
        """Return the hash that an object must have in order to be right, where it is worth the while to find out."""
        source = action.source
        if action.exact:
            return source.hash
        if isinstance(action, Copy):
            (origin,) = yield [partial(self._sources.stat, source, action.origin)]
            return origin.proven(source.hash_type) or source.known
        if there.sha256 is None and there.crc64nvme is None:
            return None  # Nothing would prove it.
        if isinstance(source.origin, bytes):
            return hash_of(source.origin, source.hash_type)
        return (yield from self._sources.hash(source, source.origin))

    def _count_reused(self, size: int) -> None:
        with self._lock:
            self.reused += 1
            self.bytes_reused += size

    def _copy(self, action: Copy) -> Steps[Entry]:
        if there := (yield from self._reuse(action)):
            return there
        if action.source.size <= part_size(action.source.size):
            return (yield from self._copy_once(action))
        return (yield from self._again_if_it_vanishes(action, partial(self._copy_once, action)))

    def _copy_once(self, action: Copy) -> Steps[Entry]:
        source = action.source
        (origin,) = yield [partial(self._sources.stat, source, action.origin)]
        if source.hash and origin.contradicts(source.hash):
            raise damaged(source)
        if source.size <= part_size(source.size):
            (copied,) = yield [partial(self._copy_whole, source, origin, action.destination)]
            proven = copied.proven(source.hash_type)
        else:
            copied, proven = yield from self._copy_parts(source, origin, action.destination)
        # Where the store tells no checksum and nobody else is believed, one way is left: to read what it copied.
        digest = proven or (None if action.exact else source.known) or (yield from self._sources.hash(source, copied.key))
        check_hash(source, digest)
        return source.entry(copied.key, digest)

    def _copy_parts(self, source: Source, origin: ObjectInfo, destination: PhysicalKey) -> Steps[tuple[ObjectInfo, Hash | None]]:
        """Let the store copy an object in parts; return the copy, and its hash where the store's checksums prove it.

        Parts that an earlier try let copy are taken only where all of them together can be checked: nobody knows in which state
        their source was.
        """
        kind, ranges = algorithm(source.hash_type), dict(enumerate(part_ranges(source.size), 1))
        expected = (origin.proven(source.hash_type) or source.known) if kind.by_parts else None
        (upload,) = yield [partial(self._uploads.begin, destination, kind.store, takes_up=expected is not None)]
        sizes = {number: stop - start for number, (start, stop) in ranges.items()}
        arrived = {number: digest for number, size in sizes.items() if (digest := upload.arrived(number, size))}
        missing = [number for number in ranges if number not in arrived]
        told = yield [partial(self._copy_part, upload, number, origin, *ranges[number]) for number in missing]
        digests = arrived | dict(zip(missing, told, strict=True))
        proven = kind.combine([digests[number] for number in ranges], source.size) if kind.by_parts and all(told) else None
        if arrived and proven != expected:
            upload.abort()
            raise UploadVanishedError("the parts that an earlier try let copy are not of this object", str(destination))
        check_hash(source, proven)
        (copied,) = yield [partial(self._uploads.complete, upload, destination, proven)]
        for number in arrived:
            self._count_reused(sizes[number])
            self._progress.add(size=sizes[number])
        return copied, proven

    def _send_whole(self, action: Upload) -> Entry:
        source, kind = action.source, algorithm(action.source.hash_type)
        with self._memory.hold(source.size):
            data = self._sources.data(source, 0, source.size)
            self._sources.check_unchanged(source)
            digest = digest_of([data], kind.new())
            whole = kind.combine([digest for _ in kind.parts(source.size)], source.size)
            check_hash(source, whole)
            if action.earlier and action.earlier.hash == whole:
                self._count_reused(source.size)
                return source.entry(PhysicalKey.parse(action.earlier.physical_keys[0]), whole)
            with self._taken_back(source.size):
                return source.entry(self._stores.remote.upload(action.destination, data, digest, kind.store).key, whole)

    def _send_part(self, upload: MultipartUpload, number: int, source: Source, start: int, stop: int) -> bytes:
        with self._memory.hold(stop - start):
            data = self._sources.data(source, start, stop)
            digest = digest_of([data], algorithm(source.hash_type).new())
            if upload.has(number, data, digest):
                self._count_reused(len(data))
            else:
                with self._taken_back(len(data)):
                    upload.send(number, data, digest)
        return digest

    @contextmanager
    def _taken_back(self, size: int) -> Iterator[None]:
        """Count bytes as not done again where to send them fails: they will be read once more."""
        try:
            yield
        except BaseException:
            self._progress.add(size=-size)
            raise

    def _copy_whole(self, source: Source, origin: ObjectInfo, destination: PhysicalKey) -> ObjectInfo:
        with source_changed(origin.key):
            copied = self._stores.remote.copy(origin, destination, algorithm(source.hash_type).store)
        self._progress.add(size=origin.size)
        return copied

    def _copy_part(self, upload: MultipartUpload, number: int, origin: ObjectInfo, start: int, stop: int) -> bytes | None:
        with source_changed(origin.key):
            digest = upload.copy(number, origin, start, stop)
        self._progress.add(size=stop - start)
        return digest
