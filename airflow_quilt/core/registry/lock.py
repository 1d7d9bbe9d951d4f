"""A lock that a dead owner cannot keep: an object that exists while the lock is held (ADR 0007).

Deletions and rollbacks of one package take turns by it; publishing does not wait for it, and other clients ignore it.

=======  ======================================================  =======================================================
state    seen in the store                                       next
=======  ======================================================  =======================================================
free     no object                                               held: the first process whose create succeeds
held     the id of its owner, for less than half the lease time  held: the owner renews it after a quarter of that time,
                                                                 and the object gets another ETag
                                                                 free: the owner deletes the object
overdue  the same, for more than half of it, by the owner's      held: the owner renews it, if the object is still its own;
         clock                                                   before that it begins nothing more under the lock, nor
                                                                 deletes the object (:meth:`StoredLock.check`)
expired  the same ETag for the whole lease time, by a waiter's   held: the first waiter that replaces that ETag
         clock
lost     the id of another owner, or no object                   for its former owner it stays lost: that one begins nothing
                                                                 more, and leaves the object alone
=======  ======================================================  =======================================================

Each process counts by its own clock, so the clocks of machines need not agree: a waiter from the moment at which it first read
this ETag, the owner from before the request that wrote it. So an owner stops half a lease time before it can expire.
"""

import contextlib
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from airflow_quilt.core.errors import (
    CancelledError,
    ObjectNotFoundError,
    PreconditionError,
    StorageError,
    StorageUnavailableError,
)
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.stop import Scope, become_worker, current, sleep, unhurried
from airflow_quilt.core.storage.base import Storage
from airflow_quilt.core.storage.conditional import ConditionalWriter
from airflow_quilt.core.storage.objects import IfMatch, StoredObject

_log = logging.getLogger(__name__)

_MOST_LEASES: Final = 10
"""Lease times after which a waiter gives up, although each of the owners before it is alive."""
_RELEASING: Final = 2.0
"""Seconds that work which is stopped still has to release the lock."""
_POLL_INTERVAL: Final = (0.01, 0.2)
"""Seconds between two attempts to take the lock, at least and at most; random, so that waiters do not keep step."""
_RENEW_AFTER: Final = 1 / 4
_SAFE_FOR: Final = 1 / 2
"""Parts of the lease time. Half of it is left for a request that is under way when the lock is checked."""
_ATTEMPTS: Final = 2
"""Attempts to renew the lock, and to release it: the answer to an earlier renewal may have been lost."""


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
        self._id = b""
        self._etag = ""
        self._taken = 0.0
        self._renewals = 0
        self._is_lost = False
        self._renewing = threading.Lock()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock; a thread renews it meanwhile, however long the work takes.

        Raises:
            StorageUnavailableError: others hold it, one after the other, for too long.
        """
        self._id = uuid.uuid4().hex.encode()
        self._take()
        released = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(released, current()), name="quilt-lock", daemon=True)
        try:
            # A store that ignores conditions gives this lock to several at once: the log warns before it is relied on.
            self._writer.probe(self._key, self._content())
            keeper.start()
            yield
        finally:
            with unhurried(_RELEASING):
                released.set()
                if keeper.is_alive():  # A store that hangs must not keep the work from its end.
                    keeper.join(_RELEASING / 2)
                self._release()

    def check(self) -> None:
        """Check that no waiter can have replaced the owner; renew the lock if it is overdue.

        Raises:
            StorageUnavailableError: the lock is lost.
        """
        if not self._is_safe():
            self._renew(self._seconds * _SAFE_FOR)
        if not self._is_safe():
            lost = f"another process took this lock, which had not been renewed for {self._seconds:g} s; run again to finish"
            raise StorageUnavailableError(lost, str(self._key))

    def _is_safe(self) -> bool:
        return not self._is_lost and self._clock() - self._taken < self._seconds * _SAFE_FOR

    def _content(self) -> bytes:
        """Return the bytes of the object, which differ from those of other owners and of other renewals."""
        return b"%s %d" % (self._id, self._renewals)

    def _keep(self, released: threading.Event, scope: Scope | None) -> None:
        become_worker(scope)
        while not released.wait(self._seconds * _RENEW_AFTER) and not self._is_lost:
            # The next attempt may succeed. The work under the lock finds out by its own check if none does.
            with contextlib.suppress(StorageError, CancelledError):
                self._renew(self._seconds)

    def _renew(self, patience: float) -> None:
        """Write the object once more, if it is still this owner's; wait so many seconds for a renewal that is under way."""
        if not self._renewing.acquire(timeout=patience):
            return
        try:
            for _ in range(_ATTEMPTS):
                taken = self._clock()
                self._renewals += 1
                # If-Match: a waiter that found this owner expired may have been faster.
                try:
                    self._etag = self._writer.put(self._key, self._content(), IfMatch(self._etag)).etag
                except PreconditionError:
                    there = self._read()
                    self._is_lost = there is None or not there.data.startswith(self._id)
                    if there is None or self._is_lost:
                        return
                    self._etag = there.etag
                else:
                    self._taken = taken
                    return
        finally:
            self._renewing.release()

    def _release(self) -> None:
        for number in range(1, _ATTEMPTS + 1):
            try:
                # Few stores delete on a condition. Once overdue, the object may be the next owner's, which must keep it; a
                # renewal, which has a condition, shows that it is not, and gives the delete its time.
                if not self._is_safe():
                    self._renew(_RELEASING / 2)
                if self._is_safe():
                    self._storage.delete([self._key])
            except StorageError as error:
                # The work is done: an error from here on must not make the task report that it is not.
                if number == _ATTEMPTS:
                    _log.warning("The lock was not released, and expires in %g s: %s", self._seconds, error)
            else:
                return

    def _take(self) -> None:
        began = self._clock()
        seen: StoredObject | None = None
        since = began
        while self._clock() - began < self._seconds * _MOST_LEASES:
            # Before the request: no waiter can read this owner, and begin to count, any earlier.
            self._taken = self._clock()
            if self._try_to_take(seen if seen and self._clock() - since > self._seconds else None):
                return
            # Another ETag is another owner, or the same one that is alive: it gets its whole lease time.
            there = self._read()
            if there and (not seen or there.etag != seen.etag):
                seen, since = there, self._clock()
            sleep(random.uniform(*_POLL_INTERVAL))  # noqa: S311  (no secret)
        raise StorageUnavailableError("other processes hold this lock all the time", str(self._key))

    def _try_to_take(self, expired: StoredObject | None) -> bool:
        try:
            # If-Match: of several waiters that find the same owner expired, one replaces it.
            self._etag = self._writer.put(self._key, self._content(), IfMatch(expired.etag) if expired else "create").etag
        except PreconditionError:
            # The answer to this very write may have been lost, and the client have repeated it.
            there = self._read()
            if there is None or there.data != self._content():
                return False
            self._etag = there.etag
        return True

    def _read(self) -> StoredObject | None:
        try:
            return self._storage.get(self._key)
        except ObjectNotFoundError:
            return None
