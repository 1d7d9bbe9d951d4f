"""Multipart uploads under way: begun, resumed, completed, and aborted when the work fails."""

import contextlib

from airflow_quilt.core.errors import ChecksumMismatchError, UploadVanishedError
from airflow_quilt.core.format.hashes import Hash, StoreAlgorithm
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import MultipartUpload
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.unfinished import Unfinished


class MultipartUploads:
    """The multipart uploads of one piece of work.

    Args:
        stores: the remote one receives them.
        since: the unix seconds at which an earlier attempt began, whose uploads may be resumed; None for a first attempt.
    """

    def __init__(self, stores: Stores, since: float | None) -> None:
        self._stores = stores
        self._since = since
        leftover = "A multipart upload could not be aborted; its parts cost storage until they expire"
        self._open = Unfinished(self._abort, leftover, stores.limits.max_concurrency)

    def begin(self, destination: PhysicalKey, kind: StoreAlgorithm, *, may_resume: bool = True) -> MultipartUpload:
        """Begin a multipart upload, or resume the leftover of an earlier attempt; abort other leftovers."""
        leftovers = list(self._stores.remote.unfinished(destination, self._since, kind)) if self._since is not None else []
        resumed = leftovers.pop(0) if leftovers and may_resume else None
        for upload in leftovers:
            upload.abort()
        return self._open.add(resumed or self._stores.remote.begin(destination, kind))

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
        self._open.remove(upload)
        return stat

    def abort(self, error: BaseException) -> None:
        """Abort the uploads that are not complete, after an error of the work."""
        self._open.abort(error)

    def _abort(self, upload: MultipartUpload) -> None:
        with contextlib.suppress(UploadVanishedError):  # Another process ended it; or it is complete, and the answer was lost.
            self._stores.retry.call(upload.abort)
