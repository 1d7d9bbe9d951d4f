"""Multipart uploads under way: begun, resumed, completed, and aborted when the work fails."""

import logging
from dataclasses import replace
from typing import Final

from airflow_quilt.core.errors import ChecksumMismatchError, QuiltError, UploadVanishedError
from airflow_quilt.core.format.hashes import Hash, StoreAlgorithm
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import MultipartUpload, ObjectInfo, Stores

_log = logging.getLogger(__name__)

_ABORTING: Final = 10.0
"""Seconds for the attempts to abort one upload."""


class MultipartUploads:
    """The multipart uploads of one piece of work.

    Args:
        stores: the remote one receives them.
        since: the unix seconds at which an earlier attempt began, whose uploads may be resumed; None for a first attempt.
    """

    def __init__(self, stores: Stores, since: float | None) -> None:
        self._stores = stores
        self._since = since
        self._open: dict[int, MultipartUpload] = {}

    def begin(self, destination: PhysicalKey, kind: StoreAlgorithm, *, may_resume: bool = True) -> MultipartUpload:
        """Begin a multipart upload, or resume the leftover of an earlier attempt; abort other leftovers."""
        leftovers = list(self._stores.remote.unfinished(destination, self._since, kind)) if self._since is not None else []
        resumed = leftovers.pop(0) if leftovers and may_resume else None
        for upload in leftovers:
            upload.abort()
        upload = resumed or self._stores.remote.begin(destination, kind)
        self._open[id(upload)] = upload
        return upload

    def complete(self, upload: MultipartUpload, destination: PhysicalKey, digest: Hash | None) -> ObjectInfo:
        """Complete an upload; ``digest`` is the hash of the whole, if known.

        Raises:
            UploadVanishedError: another process ended the upload, or the store holds a part with another checksum than it
                confirmed.
        """
        try:
            stat = upload.complete()
        except UploadVanishedError:
            existing = self._stores.find(destination)
            if existing is None or digest is None or not existing.proves(digest):
                raise
            stat = existing  # The upload was completed; only the response was lost.
        except ChecksumMismatchError as error:  # The parts are sent again.
            upload.abort()
            raise UploadVanishedError(str(error), str(destination)) from error
        del self._open[id(upload)]
        return stat

    def abort(self) -> None:
        """Abort the uploads that are not complete."""
        retry = replace(self._stores.retry, seconds=min(self._stores.retry.seconds, _ABORTING))
        for upload in self._open.values():
            try:
                retry.call(upload.abort)
            except UploadVanishedError:
                pass  # Another process ended it; or it was completed, and only the response was lost.
            except QuiltError as error:
                _log.warning("A multipart upload could not be aborted; its parts cost storage until they expire: %s", error)
        self._open.clear()
