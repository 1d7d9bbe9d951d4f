"""Facts about buckets that stay true, remembered by the process for all clients of the same store (ADR 0035)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from airflow_quilt.core.runtime.stop import call_apart
from airflow_quilt.core.storage.s3.crt.route import frozen_credentials, why_not

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BUCKETS: Final = 1024


@dataclass(slots=True)
class BucketFacts:
    """Facts about a bucket, each of which is true for good once it is.

    Attributes:
        keeps_conditions: whether the store has refused conditional writes that it had to refuse.
    """

    keeps_conditions: bool = False


def facts_of(client: "S3Client", bucket: str | None) -> BucketFacts:
    """Return the facts about a bucket as a client sees it; the caller may set those that are not known.

    They are shared by the clients of one endpoint and access key: another key may mean a bucket of another tenant. A client
    that reaches its store in a way of its own, such as by handlers of others, shares none.
    """
    if why_not(client):
        return BucketFacts()
    credentials = call_apart(lambda: frozen_credentials(client))
    return _facts(client.meta.endpoint_url, credentials[0], bucket) if credentials else BucketFacts()


@lru_cache(_BUCKETS)
def _facts(endpoint: str, access_key: str, bucket: str | None) -> BucketFacts:  # noqa: ARG001  (they are the key)
    return BucketFacts()
