"""Uploads, copies and hashes files and objects concurrently; aborts open uploads when the work fails or is stopped."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, cast

import msgspec

from airflow_quilt.core.errors import UploadVanishedError
from airflow_quilt.core.format.hashes import Hash, algorithm, digest_of, hash_of, part_ranges, part_size
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Copy, HashInPlace, Source, Transfer, Upload
from airflow_quilt.core.runtime.executor import Executor, Steps
from airflow_quilt.core.runtime.progress import Progress
from airflow_quilt.core.storage.base import MultipartUpload
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.hashing import Reader, check_hash, damaged, hash_types, source_changed
from airflow_quilt.core.transfer.multipart import MultipartUploads

_ATTEMPTS: Final = 3
_COPIES: Final = 2
"""Copies of a part in memory: the common runtime makes one when it sends it."""


class Uploader:
    """Carries out transfers, each of which makes an entry.

    Args:
        stores: hold sources and destinations; with the limits of concurrency and memory.
        progress: counts finished files and bytes; its totals are the caller's to set.
        since: the unix seconds at which an earlier attempt of the work began, whose objects and parts are found and not sent
            again. None for a first attempt, which checks only destinations of objects with several parts.
    """

    def __init__(
        self,
        stores: Stores,
        *,
        progress: Progress | None = None,
        since: float | None = None,
    ) -> None:
        self._stores = stores
        self._executor = Executor(max_concurrency=stores.limits.max_concurrency, progress=progress, retry=stores.retry)
        self._progress = self._executor.progress
        self._reader = Reader(stores, self._executor)
        self._uploads = MultipartUploads(stores, since)
        self._since = since
        self._lock = threading.Lock()
        self.reused = self.bytes_reused = 0
        """Count of objects, and parts of objects, that were already in place; and their bytes."""

    def run(self, transfers: Iterable[Transfer]) -> Generator[tuple[Transfer, Entry]]:
        """Carry out transfers; yield each with its entry when it is done, in any order.

        Raises:
            CancelledError: the work was stopped.
            SourceChangedError: a source changed since it was listed.
            EntryDamagedError: an object does not hold the bytes that its package names.
            StorageError: a store refused or failed.
        """
        try:
            yield from self._executor.run((transfer, self._steps(transfer)) for transfer in transfers)
        except BaseException as error:
            self._uploads.abort(error)
            raise

    def _steps(self, transfer: Transfer) -> Steps[Entry]:
        match transfer:
            case HashInPlace():
                return self._hash_in_place(transfer)
            case Upload():
                return self._upload(transfer)
            case Copy():
                return self._copy(transfer)

    def _hash_in_place(self, transfer: HashInPlace) -> Steps[Entry]:
        source, origin = transfer.source, transfer.origin
        if source.hash:  # It stays where it is with the hash that its package gives, once that is shown to be true.
            (stat,) = yield [partial(self._reader.stat, source, origin)]
            yield from self._reader.check_origin(source, stat)
            self._progress.add(size=source.size)
            return source.entry(origin, source.hash)
        if not origin.is_local:
            (stat,) = yield [partial(self._reader.stat, source, origin)]
            source = msgspec.structs.replace(source, etag=stat.etag)
            if known := (yield from self._reader.proven(stat, source.hash_type)):
                self._progress.add(size=source.size)
                return source.entry(origin, known)
        return source.entry(origin, (yield from self._reader.hash_source(source, origin)))

    def _upload(self, transfer: Upload) -> Steps[Entry]:
        if reused := (yield from self._reuse(transfer)):
            return reused
        source = transfer.source
        if source.size <= part_size(source.size):
            (entry,) = yield [partial(self._send_whole, transfer)]
            return cast("Entry", entry)
        return (yield from self._repeat_if_vanished(transfer, partial(self._send_parts, source, transfer.destination)))

    def _repeat_if_vanished(self, transfer: Upload | Copy, steps: Callable[[], Steps[Entry]]) -> Steps[Entry]:
        """Send an object in parts; if another attempt ended the upload, take the object that it made, or send the parts again."""
        for _ in range(_ATTEMPTS):
            try:
                return (yield from steps())
            except UploadVanishedError as error:
                last = error
            if reused := (yield from self._reuse(transfer)):
                return reused
        raise last

    def _send_parts(self, source: Source, destination: PhysicalKey) -> Steps[Entry]:
        kinds = [algorithm(hash_type) for hash_type in hash_types(source)]
        by_parts = [kind for kind in kinds if kind.by_parts]
        before = None
        if isinstance(source.origin, PhysicalKey):  # A file.
            (before,) = yield [partial(self._reader.stat, source, source.origin)]
            source = msgspec.structs.replace(source, etag=before.etag)
        (upload,) = yield [partial(self._uploads.begin, destination, kinds[0].store)]
        digests = yield [
            partial(self._send_part, upload, number, source, start, stop)
            for number, (start, stop) in enumerate(part_ranges(source.size), 1)
        ]
        hashes = [kind.combine([part[kinds.index(kind)] for part in digests], source.size) for kind in by_parts]
        sent = hashes[0] if hashes else None
        if len(by_parts) < len(kinds):  # A hash of the whole: the digests of parts, which come in any order, do not give it.
            again = yield from self._hash_source(source)
            if kinds[0].by_parts and again != hashes[0]:
                raise damaged(source)  # Other bytes than those that were sent.
            hashes = [again]
        if before:
            yield from self._reader.check_at_rest(source, before, sent)
        for found in hashes:
            check_hash(source, found)
        (stat,) = yield [partial(self._uploads.complete, upload, destination, hashes[0])]
        return source.entry(stat.key, hashes[0])

    def _hash_source(self, source: Source) -> Steps[Hash]:
        if isinstance(source.origin, PhysicalKey):
            return (yield from self._reader.hash_source(source, source.origin))
        return (yield from self._reader.hash_content(source, source.origin))

    def _reuse(self, transfer: Upload | Copy) -> Steps[Entry | None]:
        """Return the entry if the object at the destination is already the right one, or None."""
        source = transfer.source
        if not (transfer.exact or self._since is not None or source.size > part_size(source.size)):
            return None  # The request would take as long as the transfer.
        (existing,) = yield [partial(self._stores.find, transfer.destination)]
        if existing is None or existing.size != source.size:
            return None
        expected = yield from self._expected(transfer, existing)
        if expected is None:
            return None
        is_right, was_read = existing.proves(expected), source.is_local and not transfer.exact
        if transfer.exact and not is_right and not existing.contradicts(expected):
            digest = yield from self._reader.hash(existing.key, existing.size, expected.type)
            is_right, was_read = expected == digest, True
        if is_right != was_read:  # Bytes that were read have been counted as done.
            self._progress.add(size=source.size if is_right else -source.size)
        if not is_right:
            return None
        self._count_reused(source.size)
        return source.entry(existing.key, expected)

    def _expected(self, transfer: Upload | Copy, existing: ObjectInfo) -> Steps[Hash | None]:
        """Return the hash that proves an existing object to be the right one; None where a new transfer costs less."""
        source = transfer.source
        if transfer.exact:
            return source.hash
        if isinstance(transfer, Copy):
            (origin,) = yield [partial(self._reader.stat, source, transfer.origin)]
            known: Hash | None = origin.proven(source.hash_type)
            if source.hash:  # Only a claim about the origin, until an object is shown to have it.
                known = (source.known or existing.proven(source.hash_type)) if existing.proves(source.hash) else None
            return known
        if existing.sha256 is None and existing.crc64nvme is None:
            return None  # The store has no checksum to compare it with.
        return (yield from self._hash_source(source))

    def _count_reused(self, size: int) -> None:
        with self._lock:
            self.reused += 1
            self.bytes_reused += size

    def _copy(self, transfer: Copy) -> Steps[Entry]:
        if reused := (yield from self._reuse(transfer)):
            return reused
        if transfer.source.size <= part_size(transfer.source.size):
            return (yield from self._copy_once(transfer))
        return (yield from self._repeat_if_vanished(transfer, partial(self._copy_once, transfer)))

    def _copy_once(self, transfer: Copy) -> Steps[Entry]:
        source = transfer.source
        (origin,) = yield [partial(self._reader.stat, source, transfer.origin)]
        if source.hash and origin.contradicts(source.hash):
            raise damaged(source)
        if source.size <= part_size(source.size):
            known = yield from self._reader.check_origin(source, origin)
            (copied,) = yield [partial(self._copy_whole, source, origin, transfer.destination)]
            proven = copied.proven(source.hash_type)
            _check_copy(source, known, proven)
        else:
            copied, known, proven = yield from self._copy_parts(source, origin, transfer.destination)
        digest = proven or (known if origin.key.is_immutable else None)
        if digest is None:  # No checksum of the store shows what was copied, so the copy is read.
            digest = yield from self._reader.hash_source(source, copied.key)
            self._progress.add(size=-source.size)  # They have been counted as copied.
            _check_copy(source, known, digest)
        return source.entry(copied.key, digest)

    def _copy_parts(
        self, source: Source, origin: ObjectInfo, destination: PhysicalKey
    ) -> Steps[tuple[ObjectInfo, Hash | None, Hash | None]]:
        """Let the store copy an object in parts; it appears once the hash that its package gives is shown to be right.

        Parts of an earlier attempt are reused only if the hash of all parts can be checked: the source may have changed between
        the attempts.

        Returns:
            The copy; its hash as far as the origin has shown it, and as far as the store's checksums of the parts prove it.
        """
        kind, ranges = algorithm(source.hash_type), dict(enumerate(part_ranges(source.size), 1))
        given = source.known if kind.by_parts else None  # The checksums of the parts will prove it, if the store states them.
        known = None if given else (yield from self._reader.check_origin(source, origin))
        expected = (given or known) if kind.by_parts else None
        (upload,) = yield [partial(self._uploads.begin, destination, kind.store, may_resume=expected is not None)]
        sizes = {number: stop - start for number, (start, stop) in ranges.items()}
        arrived = {number: digest for number, size in sizes.items() if (digest := upload.arrived(number, size))}
        missing = [number for number in ranges if number not in arrived]
        copied_digests = yield [partial(self._copy_part, upload, number, origin, *ranges[number]) for number in missing]
        digests = arrived | dict(zip(missing, copied_digests, strict=True))
        is_proven = kind.by_parts and all(copied_digests)
        proven = kind.combine([digests[number] for number in ranges], source.size) if is_proven else None
        if arrived and proven != expected:
            upload.abort()
            raise UploadVanishedError("the parts of an earlier attempt are not of this object", str(destination))
        if given and not proven:
            known = yield from self._reader.check_origin(source, origin)
        _check_copy(source, known, proven)
        (copied,) = yield [partial(self._uploads.complete, upload, destination, proven or known)]
        for number in arrived:
            self._count_reused(sizes[number])
            self._progress.add(size=sizes[number])
        return copied, known, proven

    def _send_whole(self, transfer: Upload) -> Entry:
        source, kind = transfer.source, algorithm(transfer.source.hash_type)
        with self._reader.memory.hold(_COPIES * source.size):
            data = self._reader.read(source, 0, source.size)
            self._reader.check_unchanged(source)
            digest = digest_of([data], kind.new())
            whole = kind.combine([digest for _ in kind.parts(source.size)], source.size)
            check_hash(source, whole)
            for other in hash_types(source)[1:]:
                check_hash(source, hash_of(data, other))
            if transfer.previous and transfer.previous.hash == whole:
                self._count_reused(source.size)
                return source.entry(PhysicalKey.parse(transfer.previous.physical_keys[0]), whole)
            with self._uncounted_on_error(source.size):
                return source.entry(self._stores.remote.upload(transfer.destination, data, digest, kind.store).key, whole)

    def _send_part(self, upload: MultipartUpload, number: int, source: Source, start: int, stop: int) -> list[bytes]:
        """Send a part; return its digests, one for each hash of the source."""
        with self._reader.memory.hold(_COPIES * (stop - start)):
            data = self._reader.read(source, start, stop)
            digests = [digest_of([data], algorithm(hash_type).new()) for hash_type in hash_types(source)]
            if upload.has(number, data, digests[0]):
                self._count_reused(len(data))
            else:
                with self._uncounted_on_error(len(data)):
                    upload.send(number, data, digests[0])
        return digests

    @contextmanager
    def _uncounted_on_error(self, size: int) -> Iterator[None]:
        """Take bytes off the progress if sending them fails, since they will be read once more."""
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


def _check_copy(source: Source, known: Hash | None, found: Hash | None) -> None:
    """Check a copy, or its parts, against the hash that its package gives and the one that its origin has shown."""
    check_hash(source, found)
    if known and found and known != found:
        raise damaged(source)
