"""How many requests a real S3 store gets for a package with more revisions than one page of a listing holds."""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.server import S3Server

NAME = PackageName("team", "package")
OLD = 1_600_000_000
OLDER = 1_001


class Requests:
    """A registry on a store, and the requests that it gets from processes that remember nothing of each other."""

    def __init__(self, s3: S3Server, bucket: str) -> None:
        self._seen: list[str] = []
        client = s3.client()
        client.meta.events.register("before-call.s3", lambda model, **_: self._seen.append(model.name))
        self._storage = S3Storage(client)
        self._location = RegistryLocation.parse(f"s3://{bucket}")

    @property
    def registry(self) -> Registry:
        return Registry(self._location, Stores(LocalStorage(), self._storage))

    def of(self, act: Callable[[], object]) -> Mapping[str, int]:
        """Return the requests that an act makes."""
        self._seen.clear()
        act()
        return Counter(self._seen)

    def publish(self, message: str, package: PackageName = NAME) -> PublishResult:
        return build(self.registry, Draft(package=str(package), entries={}, message=message, allow_empty=True))

    def put(self, pointer: int | str, top_hash: str) -> None:
        self._storage.put(self._location.root.join(layout.pointer(NAME, str(pointer))), top_hash.encode())


@pytest.fixture(params=["versions", "no versions"])
def requests(request: pytest.FixtureRequest, s3: S3Server, bucket: str, plain_bucket: str) -> Requests:
    """A registry whose package has old revisions of another client, and one more."""
    requests = Requests(s3, bucket if request.param == "versions" else plain_bucket)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: requests.put(OLD + number, f"{number:064x}"), range(OLDER)))
    requests.put(layout.LATEST, f"{OLDER - 1:064x}")
    requests.publish("the last")
    return requests


def test_two_pages_cost_little(requests: Requests) -> None:
    oldest = datetime.fromtimestamp(OLD, UTC)

    # Read: `latest`, the workflows, the newest pointer, and the manifest; and the one before, to count the changes.
    assert requests.of(lambda: requests.publish("the last")) == {"GetObject": 4, "ListObjectsV2": 1}
    assert requests.of(lambda: requests.publish("more")) == {"GetObject": 4, "ListObjectsV2": 1, "PutObject": 4}
    assert requests.of(lambda: requests.registry.resolve(NAME, oldest)) == {"ListObjectsV2": 2, "GetObject": 1}
    assert requests.of(lambda: list(requests.registry.revisions(NAME))) == {"ListObjectsV2": 2, "GetObject": OLDER + 2}
    assert requests.of(lambda: delete(requests.registry, str(NAME))) == {
        "GetObject": 3,
        "ListObjectsV2": 3,
        "PutObject": 1,
        "DeleteObject": 2,  # `latest` and the lock.
        "DeleteObjects": 2,
    }
    assert list(requests.registry.revisions(NAME)) == []


def test_foreign_pointer_is_found(requests: Requests) -> None:
    """Find it by its bytes after another client restored `latest`."""
    top_hash = requests.publish("first", PackageName("team", "other")).top_hash
    requests.put(OLD + 5, top_hash)
    requests.put(layout.LATEST, top_hash)

    # Read: `latest`, the workflows, the newest pointer, the wanted one, and the manifest.
    assert requests.of(lambda: requests.publish("first")) == {"GetObject": 5, "ListObjectsV2": 4}
