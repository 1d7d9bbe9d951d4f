"""Temporary credentials that stay fresh: fetched once for all threads, before they expire or after a store refused them."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from airflow_quilt.core.catalog.client import TemporaryCredentials
from airflow_quilt.core.errors import CatalogError

_log = logging.getLogger(__name__)

_MARGIN: Final = 10 * 60
"""Seconds before the end of their life at which credentials are fetched anew,"""
_MARGIN_SHARE: Final = 0.25
"""or this part of their life, where that is less."""
_AGAIN: Final = 30.0
"""Seconds until the next attempt, when it failed while the old credentials were still valid."""


class CredentialSource:
    """Holds credentials, and fetches new ones when it is time.

    New ones are fetched ten minutes before the old ones expire, or when a quarter of their life is left where that is less.
    The clock only grows, so setting the clock of the machine does no harm.

    Args:
        fetch: fetches new credentials.
        clock: seconds that only grow.
    """

    def __init__(self, fetch: Callable[[], TemporaryCredentials], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._held: TemporaryCredentials | None = None
        self._due = self._end = 0.0

    def current(self) -> TemporaryCredentials:
        """Return credentials that are valid for a while; one thread fetches, the others wait for it.

        Raises:
            CatalogError: none can be fetched, and none are valid any more.
        """
        with self._lock:
            held = self._held
            if held is None or self._clock() >= self._due:
                held = self._held = self._refreshed(held)
            return held

    def reject(self, access_key: str) -> None:
        """Drop the credentials with an access key, which a store refused as expired; newer ones are kept."""
        with self._lock:
            if self._held and self._held.access_key == access_key:
                self._held = None

    def _refreshed(self, held: TemporaryCredentials | None) -> TemporaryCredentials:
        try:
            fresh = self._fetch()
        except CatalogError as error:
            left = self._end - self._clock()
            if held is None or not error.transient or left <= 0:
                raise
            _log.warning("The S3 credentials are not refreshed yet, they live for %.0f seconds more: %s", left, error)
            self._due = self._clock() + min(_AGAIN, left / 2)
            return held
        if fresh.lifetime <= 0:
            raise CatalogError(f"the Quilt service handed out credentials that expired {-fresh.lifetime:,.0f} seconds ago")
        now = self._clock()
        self._end = now + fresh.lifetime
        self._due = self._end - min(_MARGIN, fresh.lifetime * _MARGIN_SHARE)
        _log.info("Got S3 credentials of the Quilt service for %.0f minutes", fresh.lifetime / 60)
        return fresh
