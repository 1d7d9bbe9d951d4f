"""Reads the bytes of files and objects, and hashes them by the grid of their kind of hash."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from airflow_quilt.core.errors import ObjectNotFoundError, PreconditionError, QuiltError, SourceChangedError
from airflow_quilt.core.format.hashes import Hash, algorithm, digest_of
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.executor import Executor, Steps
from airflow_quilt.core.storage.base import Stores


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
