"""Uploads in parts that are under way: begun, taken up, completed, and aborted when the work fails."""

import logging
from dataclasses import replace
from typing import Final

from airflow_quilt.core.errors import ChecksumMismatchError, QuiltError, UploadVanishedError
from airflow_quilt.core.format.hashes import Hash, StoreAlgorithm
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import MultipartUpload, ObjectInfo, Stores

_log = logging.getLogger(__name__)

_ABORTING: Final = 10.0
"""Seconds that are taken to abort an upload which the store does not let go at once."""


class MultipartUploads:
    """The uploads of one piece of work.

    Args:
        stores: where they go.
        since: the unix seconds from which on uploads may be of an earlier try; None where there was none.
    """

    def __init__(self, stores: Stores, since: float | None) -> None:
        self._stores = stores
        self._since = since
        self._open: dict[int, MultipartUpload] = {}

    def begin(self, destination: PhysicalKey, kind: StoreAlgorithm, *, takes_up: bool = True) -> MultipartUpload:
        """Begin an upload in parts, or take up the one that an earlier try, which was killed, left open."""
        left = list(self._stores.remote.unfinished(destination, self._since, kind)) if self._since is not None else []
        taken = left.pop(0) if left and takes_up else None
        for upload in left:
            upload.abort()
        upload = taken or self._stores.remote.begin(destination, kind)
        self._open[id(upload)] = upload
        return upload

    def complete(self, upload: MultipartUpload, destination: PhysicalKey, digest: Hash | None) -> ObjectInfo:
        """Put the parts together; ``digest`` is the hash of the whole, where it is known.

        Raises:
            UploadVanishedError: somebody else ended it; or a part is not what the store said of it.
        """
        try:
            stat = upload.complete()
        except UploadVanishedError:
            there = self._stores.find(destination)
            if there is None or digest is None or not there.proves(digest):
                raise
            stat = there  # It was completed, and only the answer was lost.
        except ChecksumMismatchError as error:  # A part is not what its answer said; the parts are sent again.
            upload.abort()
            raise UploadVanishedError(str(error), str(destination)) from error
        del self._open[id(upload)]
        return stat

    def abort(self) -> None:
        """Abort those that are not complete."""
        retry = replace(self._stores.retry, seconds=min(self._stores.retry.seconds, _ABORTING))
        for upload in self._open.values():
            try:
                retry.call(upload.abort)
            except UploadVanishedError:
                pass  # Somebody else ended it; or it was completed, and only the answer was lost.
            except QuiltError as error:
                _log.warning("An upload in parts could not be aborted; its parts cost storage until they expire: %s", error)
        self._open.clear()
