"""The storages that a piece of work uses, with the policies and bounds of that work."""

from dataclasses import dataclass, field

from airflow_quilt.core.errors import ObjectNotFoundError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.reach import Reach
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.storage.base import FileStore, ObjectStore, Storage
from airflow_quilt.core.storage.objects import MOST_TEXT, ObjectInfo, StoredObject


@dataclass(frozen=True, slots=True)
class Stores:
    """The storages of one piece of work.

    Attributes:
        local: the files of this machine.
        remote: the objects of S3.
        retry: the policy for calls of the storages that fail for now.
        limits: the bounds of the work.
        without_conditions: the buckets that are known to keep no conditional writes
            (:class:`~airflow_quilt.core.storage.conditional.ConditionalWriter`).
        reach: the buckets that packages of other registries may name; None for any.
    """

    local: FileStore
    remote: ObjectStore
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    limits: Limits = field(default_factory=Limits)
    without_conditions: set[str | None] = field(default_factory=set, repr=False, compare=False)
    reach: Reach | None = None

    def of(self, key: PhysicalKey) -> Storage:
        """Return the storage that holds ``key``."""
        return self.local if key.is_local else self.remote

    def text(self, key: PhysicalKey) -> StoredObject:
        """Read a text that people write.

        Raises:
            ObjectTooLargeError: it has more than :data:`~airflow_quilt.core.storage.objects.MOST_TEXT` bytes, which are not read.
        """
        return self.of(key).get(key, MOST_TEXT)

    def find(self, key: PhysicalKey) -> ObjectInfo | None:
        """Return the metadata of a file or object; None if there is none."""
        try:
            return self.of(key).stat(key)
        except ObjectNotFoundError:
            return None
