"""Listings of S3 buckets, page by page."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow_quilt.core.errors import UnsupportedError
from airflow_quilt.core.format.uris import NULL_VERSION, PhysicalKey
from airflow_quilt.core.runtime.retry import RetryPolicy, retried
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.s3.crt.listing import OBJECTS, VERSIONS, Listing
from airflow_quilt.core.storage.s3.crt.requests import CommonRuntime
from airflow_quilt.core.storage.s3.errors import translated
from airflow_quilt.core.storage.s3.fields import bucket_of, stats_of, version_of
from airflow_quilt.core.storage.s3.pages import Pages, check_items
from airflow_quilt.core.storage.s3.versioning import Versioning

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PAGE: Final = 1000
"""The most keys or versions that an answer lists."""


class BucketListings:
    """Lists the objects of buckets.

    Args:
        client: a boto3 S3 client.
        runtime: makes the requests for pages, or leaves them to the client.
        versioning: decides on the version ``null``.
        retry: the policy for failures that botocore does not repeat.
    """

    def __init__(self, client: "S3Client", runtime: CommonRuntime, versioning: Versioning, retry: RetryPolicy) -> None:
        self._client = client
        self._runtime = runtime
        self._retry = retry
        self._versioning = versioning

    def objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        """List the objects below a prefix, without versions."""
        begin = {"StartAfter": prefix.key + after} if after else {}
        for page in self._pages(OBJECTS, self._client.list_objects_v2, prefix, **begin):
            yield from stats_of(prefix.bucket, page)

    def names(self, prefix: PhysicalKey) -> Iterator[str]:
        """List the names one level below a prefix, up to 1000 with one request; those of prefixes end in ``/``."""
        for page in self._pages(OBJECTS, self._client.list_objects_v2, prefix, Delimiter="/"):
            keys = (item["Key"] for item in page.get("Contents", ()))
            prefixes = (item["Prefix"] for item in page.get("CommonPrefixes", ()))
            yield from filter(None, (key.removeprefix(prefix.key) for key in itertools.chain(keys, prefixes)))

    def versions(self, prefix: PhysicalKey, most: int | None = None) -> Iterator[ObjectInfo]:
        """List the objects below a prefix at their current versions; a store that has none lists them without."""
        try:
            yield from self._current_versions(prefix, most)
        except UnsupportedError:  # Raised by the first page, if at all.
            yield from itertools.islice(self.objects(prefix), most)

    def _current_versions(self, prefix: PhysicalKey, most: int | None) -> Iterator[ObjectInfo]:
        pages = None if most is None else -(-most // _PAGE)
        is_null_a_version: bool | None = None
        for page in itertools.islice(self._pages(VERSIONS, self._client.list_object_versions, prefix), pages):
            for item in page.get("Versions", ()):
                if not item["IsLatest"]:
                    continue
                key = PhysicalKey(prefix.bucket, item["Key"], version_of(item))
                if key.version_id == NULL_VERSION:
                    if is_null_a_version is None:
                        is_null_a_version = self._versioning.is_null_listed(key)
                    if not is_null_a_version:
                        key = key.at_version(None)
                # For objects without a version of their own SeaweedFS lists other ETags than it answers elsewhere.
                yield ObjectInfo(key, item["Size"], item["ETag"] if key.is_immutable else "")

    def _pages(self, listing: Listing, call: Callable[..., Any], prefix: PhysicalKey, **begin: str) -> Iterator[Any]:
        """List page by page; unlike boto's paginators this can repeat the request for one page."""
        request = {"Bucket": bucket_of(prefix), "Prefix": prefix.key, **begin}
        pages = Pages(prefix)
        while True:
            page = self._page(listing, call, prefix, request)
            yield page
            if not page.get("IsTruncated"):
                return
            next_page = listing.next_page(page)
            pages.check(next_page, page.get(listing.field) or page.get("CommonPrefixes", ()))
            request |= next_page

    @retried
    def _page(self, listing: Listing, call: Callable[..., Any], prefix: PhysicalKey, request: Mapping[str, str]) -> Any:
        with translated(prefix):
            page: Any = self._runtime.page(listing, request) or call(**request)
            check_items(prefix, page.get(listing.field, ()), [item["Prefix"] for item in page.get("CommonPrefixes", ())])
            return page
