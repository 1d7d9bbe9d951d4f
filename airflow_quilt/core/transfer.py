"""Carries out a plan on a bounded number of threads, and cleans up after itself when it fails or is told to stop.

Each action is a generator that yields batches of calls to make on threads and is sent their results: it reads as the
steps of one file, and all of its state is touched by one thread only.
"""

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from airflow_quilt.core.checksums import Hash, combine, digest_part, from_s3_sha256, part_ranges, part_size
from airflow_quilt.core.errors import CancelledError, ObjectNotFoundError, PreconditionError, QuiltError, SourceChangedError
from airflow_quilt.core.locations import PhysicalKey
from airflow_quilt.core.manifest import Entry
from airflow_quilt.core.plan import Action, Copy, HashInPlace, Keep, Source, Upload
from airflow_quilt.core.progress import Progress
from airflow_quilt.core.storage.base import MultipartUpload, Stat, Stores
from airflow_quilt.core.threads import ByteBudget

_log = logging.getLogger(__name__)

_MEMORY: Final = 256 * 1024 * 1024
_TICK: Final = 1.0

Call = Callable[[], Any]
Steps = Generator[Sequence[Call], list[Any], Entry]


@dataclass(slots=True)
class _Job:
    """An action under way: its generator, and the results that its last batch of calls has so far."""

    index: int
    steps: Steps
    results: list[Any] = field(default_factory=list)
    missing: int = 0


class Transfer:
    """Turns actions into entries.

    Args:
        stores: where sources are and destinations go.
        threads: the most calls at a time.
        progress: is told what is done.
        stop: set it from any thread, or from a signal handler, to end the work with :class:`CancelledError`.
    """

    def __init__(
        self, stores: Stores, *, threads: int = 16, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> None:
        self._stores = stores
        self._threads = threads
        self._progress = progress or Progress()
        self._stop = stop or threading.Event()
        self._memory = ByteBudget(_MEMORY)
        self._open: dict[int, MultipartUpload] = {}

    def run(self, actions: Sequence[Action]) -> list[Entry]:
        """Carry out the actions; return their entries in the same order.

        Raises:
            CancelledError: the work was told to stop.
            SourceChangedError: a source is not what it was when it was listed.
            StorageError: a store refused or failed.
        """
        self._progress.begin(len(actions), sum(action.source.size for action in actions))
        done = {i: action.entry for i, action in enumerate(actions) if isinstance(action, Keep)}
        jobs = (_Job(i, self._steps(action)) for i, action in enumerate(actions) if not isinstance(action, Keep))
        self._progress.add(len(done), sum(entry.size for entry in done.values()))
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="quilt-transfer")
        try:
            done.update(self._schedule(pool, jobs))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            self._abort_open()
            raise
        pool.shutdown()
        self._check_stop()
        return [done[i] for i in range(len(actions))]

    def _schedule(self, pool: ThreadPoolExecutor, jobs: Iterable[_Job]) -> Iterator[tuple[int, Entry]]:
        """Keep the pool busy; yield each finished job's index and entry."""
        fresh = iter(jobs)
        ready: deque[tuple[_Job, int, Call]] = deque()
        running: dict[Future[Any], tuple[_Job, int]] = {}
        while True:
            while len(ready) + len(running) < 2 * self._threads and (job := next(fresh, None)):
                yield from self._advance(job, ready)
            while ready and len(running) < 2 * self._threads:
                job, slot, call = ready.popleft()
                running[pool.submit(call)] = job, slot
            if not running:
                return
            finished, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
            self._check_stop()
            self._progress.add()
            for future in finished:
                job, slot = running.pop(future)
                job.results[slot] = future.result()
                job.missing -= 1
                if not job.missing:
                    yield from self._advance(job, ready)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise CancelledError("told to stop: the transfer was ended and nothing was published")

    def _advance(self, job: _Job, ready: deque[tuple[_Job, int, Call]]) -> Iterator[tuple[int, Entry]]:
        """Hand a job the results of its calls; queue its next ones, or yield its entry."""
        try:
            calls = job.steps.send(job.results) if job.results else next(job.steps)
        except StopIteration as finished:
            self._progress.add(entries=1)
            yield job.index, finished.value
            return
        job.results, job.missing = [None] * len(calls), len(calls)
        ready.extend((job, slot, call) for slot, call in enumerate(calls))

    def _steps(self, action: HashInPlace | Upload | Copy) -> Steps:
        match action:
            case HashInPlace():
                return self._hash_in_place(action)
            case Upload():
                return self._upload(action)
            case Copy():
                return self._copy(action)

    def _hash_in_place(self, action: HashInPlace) -> Steps:
        source, origin = action.source, action.origin
        if not origin.is_local:
            (stat,) = yield [partial(self._stat, source, origin)]
            source = replace(source, etag=stat.etag)
            if known := from_s3_sha256(stat.sha256, stat.size):
                self._progress.add(size=source.size)
                return source.entry(origin, known)
        return source.entry(origin, (yield from self._hash(source, origin)))

    def _upload(self, action: Upload) -> Steps:
        source, destination = action.source, action.destination
        if source.size <= part_size(source.size):
            ((stat, digest),) = yield [partial(self._send_whole, source, destination)]
            return source.entry(stat.key, combine([digest] if source.size else []))
        (upload,) = yield [partial(self._begin, destination)]
        digests = yield [
            partial(self._send_part, upload, number, source, start, stop)
            for number, (start, stop) in enumerate(part_ranges(source.size), 1)
        ]
        yield [partial(self._check_unchanged, source)]
        (stat,) = yield [partial(self._complete, upload)]
        return source.entry(stat.key, combine(digests))

    def _copy(self, action: Copy) -> Steps:
        source = action.source
        (origin,) = yield [partial(self._stat, source, action.origin)]
        if source.size <= part_size(source.size):
            (copied,) = yield [partial(self._copy_whole, origin, action.destination)]
            proven = from_s3_sha256(copied.sha256, source.size)
        else:
            (upload,) = yield [partial(self._begin, action.destination)]
            digests = yield [
                partial(self._copy_part, upload, number, origin, start, stop)
                for number, (start, stop) in enumerate(part_ranges(source.size), 1)
            ]
            (copied,) = yield [partial(self._complete, upload)]
            proven = combine(digests) if None not in digests else None
        if proven and source.hash and proven.type == source.hash.type and proven != source.hash:
            raise SourceChangedError(f"{action.origin}: its bytes do not have the hash that its package says")
        # Where the store tells no checksum and nobody else does, one way is left: to read what it copied.
        return source.entry(copied.key, proven or source.hash or (yield from self._hash(source, copied.key)))

    def _hash(self, source: Source, origin: PhysicalKey) -> Generator[Sequence[Call], list[Any], Hash]:
        ranges = list(part_ranges(source.size))
        digests = (yield [partial(self._digest, origin, start, stop) for start, stop in ranges]) if ranges else []
        if origin == source.origin:
            yield [partial(self._check_unchanged, source)]
        return combine(digests)

    def _digest(self, origin: PhysicalKey, start: int, stop: int) -> bytes:
        return digest_part(self._read(origin, start, stop))

    def _send_whole(self, source: Source, destination: PhysicalKey) -> tuple[Stat, bytes]:
        with self._memory.hold(source.size):
            data = self._data(source, 0, source.size)
            self._check_unchanged(source)
            digest = hashlib.sha256(data).digest()
            return self._stores.remote.upload(destination, data, digest), digest

    def _send_part(self, upload: MultipartUpload, number: int, source: Source, start: int, stop: int) -> bytes:
        with self._memory.hold(stop - start):
            data = self._data(source, start, stop)
            digest = hashlib.sha256(data).digest()
            upload.send(number, data, digest)
        return digest

    def _copy_whole(self, origin: Stat, destination: PhysicalKey) -> Stat:
        with _changed(origin.key):
            copied = self._stores.remote.copy(origin, destination)
        self._progress.add(size=origin.size)
        return copied

    def _copy_part(self, upload: MultipartUpload, number: int, origin: Stat, start: int, stop: int) -> bytes | None:
        with _changed(origin.key):
            digest = upload.copy(number, origin, start, stop)
        self._progress.add(size=stop - start)
        return digest

    def _begin(self, destination: PhysicalKey) -> MultipartUpload:
        upload = self._stores.remote.begin(destination)
        self._open[id(upload)] = upload
        return upload

    def _complete(self, upload: MultipartUpload) -> Stat:
        stat = upload.complete()
        del self._open[id(upload)]
        return stat

    def _abort_open(self) -> None:
        for upload in self._open.values():
            try:
                upload.abort()
            except ObjectNotFoundError:
                pass  # It was completed, and only the answer was lost.
            except QuiltError as error:
                _log.warning("An upload in parts could not be aborted; its parts cost storage until they expire: %s", error)
        self._open.clear()

    def _data(self, source: Source, start: int, stop: int) -> bytes:
        if isinstance(source.origin, bytes):
            self._progress.add(size=stop - start)
            return source.origin[start:stop]
        return b"".join(self._read(source.origin, start, stop))

    def _read(self, origin: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read exactly the range, and tell of the bytes as they come."""
        left = stop - start
        with _changed(origin):
            for chunk in self._stores.of(origin).stream(origin, start, stop):
                self._check_stop()
                left -= len(chunk)
                self._progress.add(size=len(chunk))
                yield chunk
        if left:
            raise SourceChangedError(f"{origin}: ended {left} bytes before its size")

    def _stat(self, source: Source, origin: PhysicalKey) -> Stat:
        """Look at an object again, and check that it still is what was listed."""
        with _changed(origin):
            stat = self._stores.of(origin).stat(origin)
        if stat.size != source.size or (source.etag and stat.etag != source.etag):
            raise SourceChangedError(f"{origin}: changed since it was listed")
        return stat

    def _check_unchanged(self, source: Source) -> None:
        """Check after reading that a source which has no versions is still the one that was listed."""
        if isinstance(source.origin, PhysicalKey) and source.origin.version_id is None:
            self._stat(source, source.origin)


@contextmanager
def _changed(origin: PhysicalKey) -> Iterator[None]:
    """Tell a source that is gone, or no longer in the state that was seen, from a store that fails."""
    try:
        yield
    except (ObjectNotFoundError, PreconditionError) as error:
        raise SourceChangedError(f"{origin}: changed or vanished since it was listed") from error
