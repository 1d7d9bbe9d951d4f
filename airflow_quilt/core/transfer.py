"""Carries out a plan on a bounded number of threads, and cleans up after itself when it fails or is told to stop."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from airflow_quilt.core.checksums import Hash, algorithm, digest_of, part_ranges, part_size
from airflow_quilt.core.errors import EntryDamagedError, ObjectNotFoundError, QuiltError, SourceChangedError
from airflow_quilt.core.jobs import Jobs, Steps
from airflow_quilt.core.locations import PhysicalKey
from airflow_quilt.core.manifest import Entry
from airflow_quilt.core.plan import Action, Copy, HashInPlace, Keep, Source, Upload
from airflow_quilt.core.progress import Progress
from airflow_quilt.core.reading import Reader, source_changed
from airflow_quilt.core.storage.base import MultipartUpload, Stat, Stores
from airflow_quilt.core.threads import ByteBudget

_log = logging.getLogger(__name__)

_MEMORY: Final = 256 * 1024 * 1024


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
        self._jobs = Jobs(threads=threads, progress=progress, stop=stop)
        self._progress = self._jobs.progress
        self._reader = Reader(stores, self._jobs)
        self._memory = ByteBudget(_MEMORY)
        self._open: dict[int, MultipartUpload] = {}
        self.reused = 0
        """How many objects were right already where they were to go, of actions that are ``exact``."""

    def run(self, actions: Sequence[Action]) -> list[Entry]:
        """Carry out the actions; return their entries in the same order.

        Raises:
            CancelledError: the work was told to stop.
            SourceChangedError: a source is not what it was when it was listed.
            EntryDamagedError: an object does not hold the bytes that its package names.
            StorageError: a store refused or failed.
        """
        self._progress.begin(len(actions), sum(action.source.size for action in actions))
        done = {i: action.entry for i, action in enumerate(actions) if isinstance(action, Keep)}
        self._progress.add(len(done), sum(entry.size for entry in done.values()))
        jobs = ((i, self._steps(action)) for i, action in enumerate(actions) if not isinstance(action, Keep))
        try:
            done.update(self._jobs.run(jobs))
        except BaseException:
            self._abort_open()
            raise
        return [done[i] for i in range(len(actions))]

    def _steps(self, action: HashInPlace | Upload | Copy) -> Steps[Entry]:
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
            (stat,) = yield [partial(self._stat, source, origin)]
            source = replace(source, etag=stat.etag)
            if known := stat.proven(source.hash_type):
                self._progress.add(size=source.size)
                return source.entry(origin, known)
        return source.entry(origin, (yield from self._hash(source, origin)))

    def _upload(self, action: Upload) -> Steps[Entry]:
        if action.exact and (there := (yield from self._reuse(action))):
            return there
        return (yield from self._send(action))

    def _send(self, action: Upload) -> Steps[Entry]:
        source, destination = action.source, action.destination
        kind = algorithm(source.hash_type)
        if source.size <= part_size(source.size):
            ((stat, digest),) = yield [partial(self._send_whole, source, destination)]
            return source.entry(stat.key, digest)
        (upload,) = yield [partial(self._begin, source, destination)]
        digests = yield [
            partial(self._send_part, upload, number, source, start, stop)
            for number, (start, stop) in enumerate(part_ranges(source.size), 1)
        ]
        yield [partial(self._check_unchanged, source)]
        if kind.by_parts or isinstance(source.origin, bytes):
            digest = kind.combine(digests, source.size)
        else:
            digest = yield from self._hash(source, source.origin)
        _check_hash(source, digest)
        (stat,) = yield [partial(self._complete, upload)]
        return source.entry(stat.key, digest)

    def _reuse(self, action: Upload | Copy) -> Steps[Entry | None]:
        """Return the entry if what lies at its destination is right, or None."""
        source, expected = action.source, action.source.hash
        (there,) = yield [partial(self._stores.find, action.destination)]
        if there is None or expected is None or there.size != source.size:
            return None
        digest = there.proven(expected.type) or (yield from self._reader.hash(there.key, there.size, expected.type))
        if digest != expected:
            return None
        self.reused += 1
        return source.entry(there.key, expected)

    def _copy(self, action: Copy) -> Steps[Entry]:
        source, kind = action.source, algorithm(action.source.hash_type)
        if action.exact and (there := (yield from self._reuse(action))):
            return there
        (origin,) = yield [partial(self._stat, source, action.origin)]
        if source.hash and origin.contradicts(source.hash):
            raise _damaged(source)
        if source.size <= part_size(source.size):
            (copied,) = yield [partial(self._copy_whole, source, origin, action.destination)]
            proven = copied.proven(source.hash_type)
        else:
            (upload,) = yield [partial(self._begin, source, action.destination)]
            digests = yield [
                partial(self._copy_part, upload, number, origin, start, stop)
                for number, (start, stop) in enumerate(part_ranges(source.size), 1)
            ]
            proven = kind.combine(digests, source.size) if kind.by_parts and None not in digests else None
            _check_hash(source, proven)
            (copied,) = yield [partial(self._complete, upload)]
        known = source.hash if source.hash and source.hash.type == source.hash_type else None
        # Where the store tells no checksum and nobody else is believed, one way is left: to read what it copied.
        digest = proven or (None if action.exact else known) or (yield from self._hash(source, copied.key))
        _check_hash(source, digest)
        return source.entry(copied.key, digest)

    def _hash(self, source: Source, origin: PhysicalKey) -> Steps[Hash]:
        digest = yield from self._reader.hash(origin, source.size, source.hash_type)
        if origin == source.origin:
            yield [partial(self._check_unchanged, source)]
        return digest

    def _send_whole(self, source: Source, destination: PhysicalKey) -> tuple[Stat, Hash]:
        kind = algorithm(source.hash_type)
        with self._memory.hold(source.size):
            data = self._data(source, 0, source.size)
            self._check_unchanged(source)
            digest = digest_of([data], kind.new())
            whole = kind.combine([digest for _ in kind.parts(source.size)], source.size)
            _check_hash(source, whole)
            return self._stores.remote.upload(destination, data, digest, kind.store), whole

    def _send_part(self, upload: MultipartUpload, number: int, source: Source, start: int, stop: int) -> bytes:
        with self._memory.hold(stop - start):
            data = self._data(source, start, stop)
            digest = digest_of([data], algorithm(source.hash_type).new())
            upload.send(number, data, digest)
        return digest

    def _copy_whole(self, source: Source, origin: Stat, destination: PhysicalKey) -> Stat:
        with source_changed(origin.key):
            copied = self._stores.remote.copy(origin, destination, algorithm(source.hash_type).store)
        self._progress.add(size=origin.size)
        return copied

    def _copy_part(self, upload: MultipartUpload, number: int, origin: Stat, start: int, stop: int) -> bytes | None:
        with source_changed(origin.key):
            digest = upload.copy(number, origin, start, stop)
        self._progress.add(size=stop - start)
        return digest

    def _begin(self, source: Source, destination: PhysicalKey) -> MultipartUpload:
        upload = self._stores.remote.begin(destination, algorithm(source.hash_type).store)
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
        with _of_a_package(source):
            return b"".join(self._reader.stream(source.origin, start, stop))

    def _stat(self, source: Source, origin: PhysicalKey) -> Stat:
        """Look at an object again, and check that it still is what was listed."""
        with _of_a_package(source):
            with source_changed(origin):
                stat = self._stores.of(origin).stat(origin)
            if stat.size != source.size or (source.etag and stat.etag != source.etag):
                raise SourceChangedError(f"{origin}: changed since it was listed")
            return stat

    def _check_unchanged(self, source: Source) -> None:
        """Check after reading that a source which has no versions is still the one that was listed."""
        if isinstance(source.origin, PhysicalKey) and source.origin.version_id is None:
            self._stat(source, source.origin)


def _check_hash(source: Source, digest: Hash | None) -> None:
    """Check bytes against what the package that they come from says, before anybody sees them under their new name."""
    if source.hash and digest and source.hash.type == digest.type and source.hash != digest:
        raise _damaged(source)


@contextmanager
def _of_a_package(source: Source) -> Iterator[None]:
    """Tell an entry whose object is not what its manifest says from a file that changed since it was listed."""
    try:
        yield
    except SourceChangedError as error:
        if source.physical_keys:
            raise _damaged(source) from error
        raise


def _damaged(source: Source) -> EntryDamagedError:
    where = "its content" if isinstance(source.origin, bytes) else str(source.origin)
    return EntryDamagedError(f"entry {source.logical_key!r}: {where} is gone, or does not hold the bytes that its package names")
