"""Reads the bytes of sources and entries, hashes them, and compares them with their expected state."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from typing import Final

from airflow_quilt.core.errors import (
    ChecksumMismatchError,
    EntryDamagedError,
    ObjectNotFoundError,
    PreconditionError,
    QuiltError,
    SourceChangedError,
)
from airflow_quilt.core.format.hashes import Hash, algorithm, composite_hash, digest_of, part_ranges
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Source
from airflow_quilt.core.runtime.executor import Executor, Steps
from airflow_quilt.core.storage.base import ObjectInfo, Stores


@contextmanager
def source_changed(origin: PhysicalKey) -> Iterator[None]:
    """Tell a source that is gone, or no longer in the state that was seen, from a store that fails."""
    try:
        yield
    except (ObjectNotFoundError, PreconditionError) as error:
        raise SourceChangedError(f"{origin}: changed or vanished since it was listed") from error


class Reader:
    """Reads for jobs: stops when they are told to, and tells their progress of the bytes as they come.

    Args:
        stores: where the bytes are.
        jobs: for which they are read.
    """

    def __init__(self, stores: Stores, jobs: Executor) -> None:
        self._stores = stores
        self._jobs = jobs

    def stream(self, origin: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        """Read exactly the bytes from ``start`` up to ``stop``, in chunks.

        Raises:
            SourceChangedError: there are fewer, or there is no such file or object any more.
        """
        left = stop - start
        try:
            with source_changed(origin):
                for chunk in self._stores.of(origin).stream(origin, start, stop):
                    self._jobs.check_stop()
                    left -= len(chunk)
                    self._jobs.progress.add(size=len(chunk))
                    yield chunk
        except QuiltError:
            self._jobs.progress.add(size=left - (stop - start))  # They will be read once more.
            raise
        if left:
            raise SourceChangedError(f"{origin}: ended {left} bytes before its size")

    def hash(self, origin: PhysicalKey, size: int, hash_type: str) -> Steps[Hash]:
        """Return the steps that hash ``size`` bytes."""
        kind = algorithm(hash_type)
        parts = list(kind.parts(size))
        digests = (yield [partial(self.digest, origin, start, stop, hash_type) for start, stop in parts]) if parts else []
        return kind.combine(digests, size)

    def digest(self, origin: PhysicalKey, start: int, stop: int, hash_type: str) -> bytes:
        """Return the digest of a part."""
        return digest_of(self.stream(origin, start, stop), algorithm(hash_type).new())


_TRIES: Final = 3


class SourceReader:
    """Reads sources for jobs.

    Args:
        stores: where they are.
        jobs: for which they are read.
    """

    def __init__(self, stores: Stores, jobs: Executor) -> None:
        self._stores = stores
        self._jobs = jobs
        self._reader = Reader(stores, jobs)

    def hash_object(self, place: PhysicalKey, size: int, hash_type: str) -> Steps[Hash]:
        """Return the steps that hash an object as it is now."""
        return self._reader.hash(place, size, hash_type)

    def proven(self, source: Source, stat: ObjectInfo) -> Steps[Hash | None]:
        """Return the hash that the store's checksums prove, if any; of what was sent in parts, by the sizes of those."""
        known, composite = stat.proven(source.hash_type), composite_hash(stat.sha256, stat.size)
        if known or composite is None or composite.type != source.hash_type:
            return known
        (sizes,) = yield [partial(self._stores.remote.part_sizes, stat)]
        return composite if sizes == [stop - start for start, stop in part_ranges(stat.size)] else None

    def hash(self, source: Source, origin: PhysicalKey) -> Steps[Hash]:
        """Return the steps that hash a source, or what was made of it."""
        digest = yield from self._reader.hash(origin, source.size, source.hash_type)
        if not origin.is_local and not self._stores.remote.is_tls:
            digest = yield from self._confirmed(digest, origin, source)
        if origin == source.origin:
            yield [partial(self.check_unchanged, source)]
        return digest

    def _confirmed(self, digest: Hash, origin: PhysicalKey, source: Source) -> Steps[Hash]:
        """Read an object until it is the same twice: nothing else shows that no byte changed on its way without TLS."""
        for _ in range(_TRIES):
            self._jobs.progress.add(size=-source.size)
            again = yield from self._reader.hash(origin, source.size, source.hash_type)
            if again == digest:
                return digest
            digest = again
        raise ChecksumMismatchError(f"{origin}: each time that it is read other bytes come")

    def data(self, source: Source, start: int, stop: int) -> bytes:
        """Read the bytes from ``start`` up to ``stop``."""
        if isinstance(source.origin, bytes):
            self._jobs.progress.add(size=stop - start)
            return source.origin[start:stop]
        with _of_a_package(source), BytesIO() as data:
            data.writelines(self._reader.stream(source.origin, start, stop))  # To join them would hold them twice.
            return data.getvalue()

    def stat(self, source: Source, origin: PhysicalKey) -> ObjectInfo:
        """Look at an object again, and check that it still is what was listed."""
        with _of_a_package(source):
            with source_changed(origin):
                stat = self._stores.of(origin).stat(origin)
            if stat.size != source.size or (source.etag and stat.etag != source.etag):
                raise SourceChangedError(f"{origin}: changed since it was listed")
            return stat

    def check_unchanged(self, source: Source) -> None:
        """Check after reading that a source which has no versions is still the one that was listed."""
        if isinstance(source.origin, PhysicalKey) and source.origin.version_id is None:
            self.stat(source, source.origin)


def check_hash(source: Source, digest: Hash | None) -> None:
    """Check bytes against what the package that they come from says, before anybody sees them under their new name."""
    if source.hash and digest and source.hash.type == digest.type and source.hash != digest:
        raise damaged(source)


@contextmanager
def _of_a_package(source: Source) -> Iterator[None]:
    """Tell an entry whose object is not what its manifest says from a file that changed since it was listed."""
    try:
        yield
    except SourceChangedError as error:
        if source.physical_keys:
            raise damaged(source) from error
        raise


def damaged(source: Source) -> EntryDamagedError:
    """Return the error for an entry of a package whose bytes are others."""
    where = "its content" if isinstance(source.origin, bytes) else str(source.origin)
    return EntryDamagedError(f"entry {source.logical_key!r}: {where} is gone, or does not hold the bytes that its package names")
