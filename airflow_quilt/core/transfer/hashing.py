"""Reads the bytes of sources and entries, hashes them, and compares them with their expected state."""

import itertools
import mmap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final, cast

import msgspec

from airflow_quilt.core.errors import (
    ChecksumMismatchError,
    EntryDamagedError,
    ObjectNotFoundError,
    PreconditionError,
    QuiltError,
    SourceChangedError,
    quoted,
)
from airflow_quilt.core.format.hashes import (
    Algorithm,
    Hash,
    RunningHash,
    algorithm,
    composite_hash,
    digest_of,
    part_ranges,
    part_size,
)
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Content, Source
from airflow_quilt.core.runtime.executor import Executor, Steps
from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.runtime.threads import ByteBudget
from airflow_quilt.core.storage.objects import CHUNK, Data, ObjectInfo
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.content import read_content

_ATTEMPTS: Final = 3
_COPIES: Final = 2
"""Copies of a chunk in memory while it is read: that of the transport, and the one that is used."""


@contextmanager
def source_changed(origin: PhysicalKey) -> Iterator[None]:
    """Raise SourceChangedError for a source that is gone or has another state than when it was listed."""
    try:
        yield
    except (ObjectNotFoundError, PreconditionError) as error:
        raise SourceChangedError(f"{origin}: changed or vanished since it was listed") from error


class Reader:
    """Reads bytes for the jobs of an executor: counts the bytes in its progress.

    Args:
        stores: hold the bytes.
        executor: runs the jobs.
    """

    def __init__(self, stores: Stores, executor: Executor) -> None:
        self._stores = stores
        self._executor = executor
        self.memory = ByteBudget(stores.limits.max_bytes_in_flight)
        """The bytes of objects in memory."""

    def room(self, size: int) -> AbstractContextManager[None]:
        """Wait until there is memory to read so many bytes in chunks, and hold it."""
        return self.memory.hold(_COPIES * min(size, CHUNK))

    def stream(self, origin: PhysicalKey, start: int, stop: int, etag: str | None = None) -> Iterator[bytes]:
        """Read exactly the bytes from ``start`` up to ``stop``, in chunks; of a file with an ETag, of no other one.

        Raises:
            SourceChangedError: the file or object is shorter or gone, or it is another file.
        """
        left = stop - start
        pinned = origin.at_version(etag) if origin.is_local else origin
        try:
            with source_changed(origin):
                for chunk in self._stores.of(origin).stream(pinned, start, stop):
                    check_stop()
                    left -= len(chunk)
                    self._executor.progress.add(size=len(chunk))
                    yield chunk
        except QuiltError:
            self._executor.progress.add(size=left - (stop - start))  # They will be read once more.
            raise
        if left:
            raise SourceChangedError(f"{origin}: ended {left} bytes before its size")

    def hash(self, origin: PhysicalKey, size: int, hash_type: str, etag: str | None = None) -> Steps[Hash]:
        """Return the steps that hash a file or object of ``size`` bytes; of a file with an ETag, no other one."""
        (found,) = yield from self._hashes(origin, size, [hash_type], etag)
        return found

    def _hashes(self, origin: PhysicalKey, size: int, types: Sequence[str], etag: str | None = None) -> Steps[list[Hash]]:
        """Return the steps that hash a file or object by several algorithms, in one pass over its bytes."""
        kinds = [algorithm(hash_type) for hash_type in types]
        if not all(kind.by_parts for kind in kinds):
            (whole,) = yield [partial(self._hashes_of_whole, origin, size, types, etag)]
            return cast("list[Hash]", whole)
        parts = list(part_ranges(size))
        digests = (yield [partial(self._digests, origin, start, stop, kinds, etag) for start, stop in parts]) if parts else []
        return [kind.combine([part[at] for part in digests], size) for at, kind in enumerate(kinds)]

    def _digests(self, origin: PhysicalKey, start: int, stop: int, kinds: Sequence[Algorithm], etag: str | None) -> list[bytes]:
        digests = [kind.new() for kind in kinds]
        with self.room(stop - start):
            for chunk in self.stream(origin, start, stop, etag):
                for digest in digests:
                    digest.update(chunk)
        return [digest.digest() for digest in digests]

    def _hashes_of_whole(self, origin: PhysicalKey, size: int, types: Sequence[str], etag: str | None) -> list[Hash]:
        running = [RunningHash(hash_type, size) for hash_type in types]
        with self.room(size):
            for chunk in self.stream(origin, 0, size, etag):
                for each in running:
                    each.update(chunk)
        return [each.hash() for each in running]

    def hash_source(self, source: Source, origin: PhysicalKey) -> Steps[Hash]:
        """Return the steps that hash a source, or its copy, and check it against the hash that its package gives, of any type.

        Over a connection without TLS they read it until the given hash comes out; at least twice where none is given.

        Raises:
            EntryDamagedError: the bytes do not have the given hash.
            SourceChangedError: the source changed while it was read.
            ChecksumMismatchError: without TLS, no two readings are equal.
        """
        types = hash_types(source)
        if origin.is_local and source.size <= part_size(source.size):
            (hashes,) = yield [partial(self._hashes_of_file, source, origin, types)]
        elif origin.is_local:
            (before,) = yield [partial(self.stat, source, origin)]
            hashes = yield from self._hashes(origin, source.size, types, before.etag)
            yield from self.check_at_rest(source, before, hashes[0])
        else:
            hashes = yield from self._hashes(origin, source.size, types)
            if not self._stores.remote.is_tls:
                hashes = yield from self._confirm(hashes, source, origin)
        for found in hashes:
            check_hash(source, found)
        if not origin.is_local and origin == source.origin:
            yield [partial(self.check_unchanged, source)]
        return cast("Hash", hashes[0])

    def _hashes_of_file(self, source: Source, origin: PhysicalKey, types: Sequence[str]) -> list[Hash]:
        hashes = self._hashes_of_whole(origin, source.size, types, source.etag)
        self.check_unchanged(source)
        return hashes

    def check_at_rest(self, source: Source, before: ObjectInfo, digest: Hash | None) -> Steps[None]:
        """Check after the parts of a file were read, each by itself, that they are of one state of one file.

        A file that was only touched, as by ``chmod`` or a hard link, is read again and must have the same hash: the time of its
        last change is the one that no program can set.

        Args:
            source: the file.
            before: its state before the first part was read.
            digest: the hash of the parts that were read; None where it was not computed from them.

        Raises:
            SourceChangedError: it is another file, or it changed.
        """
        origin = before.key
        (after,) = yield [partial(self.stat, msgspec.structs.replace(source, etag=before.etag), origin)]
        if after.written == before.written:
            return
        with _entry_as_damaged(source):
            self._executor.progress.add(size=-source.size if digest else 0)
            if digest is None or (yield from self.hash(origin, source.size, digest.type, before.etag)) != digest:
                raise SourceChangedError(f"{origin}: changed while it was read")

    def _confirm(self, hashes: list[Hash], source: Source, origin: PhysicalKey) -> Steps[list[Hash]]:
        """Read an object until it has its hash, or is the same twice: without TLS nothing else shows that no byte changed."""
        for _ in range(_ATTEMPTS):
            if source.hash in hashes:
                return hashes
            self._executor.progress.add(size=-source.size)
            again = yield from self._hashes(origin, source.size, hash_types(source))
            if again == hashes:
                return hashes
            hashes = again
        raise ChecksumMismatchError(f"{origin}: each time that it is read other bytes come")

    def proven(self, stat: ObjectInfo, hash_type: str) -> Steps[Hash | None]:
        """Return the hash that the store's checksums prove, or None.

        A composite checksum proves it only if the parts have the sizes that the hash type demands.
        """
        known, composite = stat.proven(hash_type), composite_hash(stat.sha256, stat.size)
        if known or composite is None or composite.type != hash_type:
            return known
        (sizes,) = yield [partial(self._stores.remote.part_sizes, stat)]
        return composite if sizes == [stop - start for start, stop in part_ranges(stat.size)] else None

    def check_origin(self, source: Source, origin: ObjectInfo) -> Steps[Hash | None]:
        """Check an object against the hash that its package gives, of any type, before it is copied (ADR 0024).

        The checksums of the store prove it; where they do not, the bytes are read, once for both hashes.

        Returns:
            The hash of the type ``source.hash_type``, as far as this has shown it.

        Raises:
            EntryDamagedError: the object does not have the given hash.
        """
        if source.hash is None:
            return origin.proven(source.hash_type)
        if (proven := (yield from self.proven(origin, source.hash.type))) is None:
            found = yield from self.hash_source(source, origin.key)
            self._executor.progress.add(size=-source.size)  # They are counted when they have been copied.
            return found
        check_hash(source, proven)
        return origin.proven(source.hash_type) or source.known

    def read(self, source: Source, start: int, stop: int) -> Data:
        """Return the bytes of a source from ``start`` up to ``stop``; more than a chunk of them in pages of their own."""
        if isinstance(source.origin, bytes):
            self._executor.progress.add(size=stop - start)
            return memoryview(source.origin)[start:stop]
        with _entry_as_damaged(source):
            if isinstance(source.origin, Content):
                self._executor.progress.add(size=stop - start)
                chunks = _pieces(source.origin, start, stop)
            else:
                chunks = self.stream(source.origin, start, stop, source.etag)
            if stop - start <= CHUNK:
                return b"".join(chunks)
            # Not of the allocator: it keeps the freed blocks of each thread, which come to more than the bytes in flight.
            data, at = memoryview(mmap.mmap(-1, stop - start)), 0
            for chunk in chunks:
                data[at : at + len(chunk)] = chunk
                at += len(chunk)
            return data

    def hash_content(self, source: Source, origin: bytes | Content) -> Steps[Hash]:
        """Return the steps that hash the content of a source, a part at a time; they count no progress."""
        kind = algorithm(source.hash_type)
        parts = list(kind.parts(source.size))

        def digest(start: int, stop: int) -> bytes:
            return digest_of(_pieces(origin, start, stop), kind.new())

        digests = (yield [partial(digest, start, stop) for start, stop in parts]) if parts else []
        return kind.combine(digests, source.size)

    def stat(self, source: Source, origin: PhysicalKey) -> ObjectInfo:
        """Return the state of a file or object, after checking that it is still the listed one."""
        with _entry_as_damaged(source):
            with source_changed(origin):
                stat = self._stores.of(origin).stat(origin)
            if stat.size != source.size or (source.etag and stat.etag != source.etag):
                raise SourceChangedError(f"{origin}: changed since it was listed")
            return stat

    def check_unchanged(self, source: Source) -> None:
        """Check after reading that a source whose bytes may be replaced is still the listed one."""
        if isinstance(source.origin, PhysicalKey) and not source.origin.is_immutable:
            self.stat(source, source.origin)


def _pieces(origin: bytes | Content, start: int, stop: int) -> Iterator[bytes]:
    for first, last in itertools.pairwise([*range(start, stop, CHUNK), stop]):
        check_stop()
        yield read_content(origin, first, last)


def hash_types(source: Source) -> list[str]:
    """Return the types of the hashes of a source: that of its future entry, and that of the hash that is given, if it differs."""
    return [source.hash_type, *([source.hash.type] if source.hash and source.hash.type != source.hash_type else [])]


def check_hash(source: Source, digest: Hash | None) -> None:
    """Check bytes against the hash that their package names, before they appear under their new name."""
    if source.hash and digest and source.hash.type == digest.type and source.hash != digest:
        raise damaged(source)


@contextmanager
def _entry_as_damaged(source: Source) -> Iterator[None]:
    """Raise EntryDamagedError for a changed source that is an entry of a package: its manifest names other bytes."""
    try:
        yield
    except SourceChangedError as error:
        if source.physical_keys:
            raise damaged(source) from error
        raise


def damaged(source: Source) -> EntryDamagedError:
    """Return the error for an entry of a package that has lost its bytes."""
    where = "its content" if source.is_content else str(source.origin)
    return EntryDamagedError(
        f"entry {quoted(source.logical_key)}: let its package be published again; {where} is gone, or does not hold the bytes "
        "that it names"
    )
