"""The versioning of buckets, which decides on ``null``: a version in a bucket that has versioning, or had it, and else none.

Listings state ``null`` in all buckets, and Amazon S3's answers to writes state it in none, not even while versioning is suspended
("Using versioning in S3 buckets" and "Adding objects to versioning-suspended buckets", Amazon S3 User Guide).
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_quilt.core.errors import AccessDeniedError, ObjectNotFoundError, StorageError, UnsupportedError
from airflow_quilt.core.format.uris import NULL_VERSION, PhysicalKey
from airflow_quilt.core.runtime.retry import RetryPolicy, retried
from airflow_quilt.core.storage.s3.errors import translated
from airflow_quilt.core.storage.s3.fields import address, bucket_of, version_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)


class Versioning:
    """Asks buckets for their versioning; remembers those that have it, or had it: no bucket loses that.

    Args:
        client: a boto3 S3 client.
        retry: the policy for failures that botocore does not repeat.
    """

    def __init__(self, client: "S3Client", retry: RetryPolicy) -> None:
        self._client = client
        self._retry = retry
        self._found: dict[str | None, bool | None] = {}

    @retried
    def status(self, key: PhysicalKey) -> str | None:
        """Return the versioning status of the bucket of a key, ``Enabled`` or ``Suspended``; None where it never had any.

        A store that does not know the request has none.

        Raises:
            AccessDeniedError: this user may not ask for it (``s3:GetBucketVersioning``).
        """
        try:
            with translated(key):
                return self._client.get_bucket_versioning(Bucket=bucket_of(key)).get("Status")
        except UnsupportedError:
            return None

    def is_null_listed(self, key: PhysicalKey) -> bool:
        """Return whether the version ``null``, which a listing states for an object, is one; True if nothing shows it."""
        if not self._found.get(key.bucket):
            self._found[key.bucket] = self._ask(key)
        return self._found[key.bucket] is not False

    def of_written(self, key: PhysicalKey, answer: Mapping[str, Any]) -> PhysicalKey:
        """Return the key of an object that was just written at its version; the bucket is asked once if the answer names none."""
        version = version_of(answer)
        if version is None and key.bucket not in self._found:
            try:
                self._found[key.bucket] = self._ask(key)
            except StorageError as error:  # It is written: a failure now would make it be sent again.
                _log.info("The versioning of the bucket is not known, so no version is named: %s", error)
        return key.at_version(NULL_VERSION if version is None and self._found.get(key.bucket) else version)

    def _ask(self, key: PhysicalKey) -> bool | None:
        """Return whether a bucket has versioning, or had it; where that may not be asked, the headers of an object show it."""
        try:
            return self.status(key) is not None
        except AccessDeniedError as error:  # Fewer users may ask for the bucket's settings than may read its objects.
            if error.transient:
                raise
            return self._states_version(key)

    @retried
    def _states_version(self, key: PhysicalKey) -> bool | None:
        """Return whether the headers of an object state its version; None where they may not be read."""
        try:
            with translated(key):
                return version_of(self._client.head_object(**address(key.at_version(None)))) is not None
        except (AccessDeniedError, ObjectNotFoundError) as error:
            if error.transient:
                raise
            return None
