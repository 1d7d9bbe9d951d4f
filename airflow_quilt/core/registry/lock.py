"""A lock that a dead owner cannot keep: an object that exists while the lock is held (ADR 0007).

Deletions and rollbacks of one package take turns by it; publishing does not wait for it, and other clients ignore it.

=======  ======================================================  =======================================================
state    seen in the store                                       next
=======  ======================================================  =======================================================
free     no object                                               held: the first process whose create succeeds
held     the id of its owner, for less than half the lease time  free: the owner deletes the object
overdue  the same, for more than half of it, by the owner's      free, if the object is still the owner's; the owner
         clock                                                   begins nothing more under it (:meth:`StoredLock.check`)
expired  the same ETag for the whole lease time, by a waiter's   held: the first waiter that replaces that ETag
         clock
=======  ======================================================  =======================================================

Each process counts by its own clock, so the clocks of machines need not agree: a waiter from the moment at which it first read
this owner, the owner from before the request that made it the owner. So an owner stops half a lease time before it can expire.
"""

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from airflow_quilt.core.errors import ObjectNotFoundError, PreconditionError, StorageUnavailableError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.stop import sleep, unhurried
from airflow_quilt.core.storage.base import IfMatch, Storage, StoredObject
from airflow_quilt.core.storage.conditional import ConditionalWriter

_MOST_LEASES: Final = 10
"""Lease times after which a waiter gives up, although each of the owners before it is alive."""
_RELEASING: Final = 2.0
"""Seconds that work which is stopped still has to release the lock."""
_POLL_INTERVAL: Final = (0.01, 0.2)
"""Seconds between two attempts to take the lock, at least and at most; random, so that waiters do not keep step."""


class StoredLock:
    """A lock on something in a store.

    Args:
        storage: the store.
        writer: conditional writes to it.
        key: the object that stands for the lock.
        seconds: the lease time, after which an owner is replaced.
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
            # A store that ignores conditions gives this lock to several at once: the log warns before it is relied on.
            self._writer.probe(self._key, owner)
            yield
        finally:
            # Few stores delete on a condition. Once overdue, the object may be the next owner's, which must keep it.
            with unhurried(_RELEASING):
                if self._is_safe() or self._owner() == owner:
                    self._storage.delete([self._key])

    def check(self) -> None:
        """Check that no waiter can have replaced the owner.

        Raises:
            StorageUnavailableError: the lock is overdue.
        """
        if not self._is_safe():
            raise StorageUnavailableError(f"the work under this lock took more than {self._seconds / 2:g} s", str(self._key))

    def _is_safe(self) -> bool:
        # Half of the lease time is left for a request that is under way when this is asked.
        return self._clock() - self._taken < self._seconds / 2

    def _take(self, owner: bytes) -> None:
        began = self._clock()
        seen: StoredObject | None = None
        since = began
        while self._clock() - began < self._seconds * _MOST_LEASES:
            # Before the request: no waiter can read this owner, and begin to count, any earlier.
            self._taken = self._clock()
            if self._try_to_take(owner, seen if seen and self._clock() - since > self._seconds else None):
                return
            # Another ETag is another owner, which gets its whole lease time.
            there = self._read()
            if there and (not seen or there.etag != seen.etag):
                seen, since = there, self._clock()
            sleep(random.uniform(*_POLL_INTERVAL))  # noqa: S311  (no secret)
        raise StorageUnavailableError("other processes hold this lock all the time", str(self._key))

    def _try_to_take(self, owner: bytes, expired: StoredObject | None) -> bool:
        try:
            # If-Match: of several waiters that find the same owner expired, one replaces it.
            self._writer.put(self._key, owner, IfMatch(expired.etag) if expired else "create")
        except PreconditionError:
            # The answer to this very write may have been lost, and the client have repeated it.
            return self._owner() == owner
        return True

    def _owner(self) -> bytes | None:
        there = self._read()
        return there.data if there else None

    def _read(self) -> StoredObject | None:
        try:
            return self._storage.get(self._key)
        except ObjectNotFoundError:
            return None
