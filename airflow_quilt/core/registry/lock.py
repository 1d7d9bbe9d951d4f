"""A lock that a dead owner cannot keep: an object that exists for as long as somebody holds it.

Who finds it waits; an owner that has not let go after the time of the lease is taken for dead. That time is counted by
each waiter's own clock, from when it first saw the owner, so the clocks of machines need not agree.
"""

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from airflow_quilt.core.errors import ObjectNotFoundError, PreconditionError, StorageUnavailableError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import IfMatch, Storage, StoredObject
from airflow_quilt.core.storage.conditional import ConditionalWriter

_MOST_LEASES: Final = 10
"""So many leases long somebody waits for others that are alive."""
_POLL: Final = (0.01, 0.2)


class StoredLock:
    """A lock on something in a store.

    Args:
        storage: where.
        writer: writes there on conditions.
        key: the object that stands for the lock.
        seconds: after which the owner is taken for dead.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        storage: Storage,
        writer: ConditionalWriter,
        key: PhysicalKey,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._writer = writer
        self._key = key
        self._seconds = seconds
        self._clock = clock
        self._taken = 0.0

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            StorageUnavailableError: others hold it, one after the other, for too long.
        """
        owner = uuid.uuid4().hex.encode()
        self._take(owner)
        try:
            self._writer.probe(self._key, owner)
            yield
        finally:
            if self._is_safe() or self._found() == owner:
                self._storage.delete([self._key])

    def check(self) -> None:
        """Check that nobody can have taken the owner for dead.

        Raises:
            StorageUnavailableError: somebody can.
        """
        if not self._is_safe():
            raise StorageUnavailableError(f"what was done under this lock took more than {self._seconds / 2:g} s", str(self._key))

    def _is_safe(self) -> bool:
        return self._clock() - self._taken < self._seconds / 2

    def _take(self, owner: bytes) -> None:
        began = self._clock()
        seen: StoredObject | None = None
        since = began
        while self._clock() - began < self._seconds * _MOST_LEASES:
            self._taken = self._clock()
            if self._put(owner, seen if seen and self._clock() - since > self._seconds else None):
                return
            there = self._blob()
            if there and (not seen or there.etag != seen.etag):
                seen, since = there, self._clock()
            time.sleep(random.uniform(*_POLL))  # noqa: S311  (no secret)
        raise StorageUnavailableError("others hold this lock all the time", str(self._key))

    def _put(self, owner: bytes, dead: StoredObject | None) -> bool:
        try:
            self._writer.put(self._key, owner, IfMatch(dead.etag) if dead else "create")
        except PreconditionError:
            return self._found() == owner  # The answer to its first try was lost.
        return True

    def _found(self) -> bytes | None:
        there = self._blob()
        return there.data if there else None

    def _blob(self) -> StoredObject | None:
        try:
            return self._storage.get(self._key)
        except ObjectNotFoundError:
            return None
