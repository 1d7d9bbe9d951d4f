"""Fixtures that every kind of test shares: a real S3 store, fresh buckets, and registries on each kind of storage."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.catalog import CatalogServer, running_catalog
from testbed.proxy import S3Proxy, running_proxy
from testbed.seaweedfs import seaweedfs
from testbed.server import S3Server

_LONGEST: Final = (
    "test_triggers.py",
    "test_operators.py",
    "test_hostile_environment.py",
    "test_sharded.py",
    "test_s3_crt.py",
    "test_login.py",
    "test_seaweedfs_faults.py",
)
_BUCKETS_AT_ONCE: Final = 8
_serial = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: at the end, one worker would wait for another that has just begun one of them."""
    order = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 store, one for all tests; each test takes buckets of its own from it."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as store:
        yield store


@pytest.fixture(scope="session")
def buckets(s3: S3Server) -> Iterator[str]:
    """Versioned buckets without end, each ready for its first write, for which SeaweedFS waits 200 ms until it has volumes."""
    return _make_buckets(s3)


def _make_buckets(s3: S3Server) -> Iterator[str]:
    client = s3.client()

    def create(name: str) -> str:
        client.create_bucket(Bucket=name)
        return name

    def prepare(name: str) -> str:
        client.put_object(Bucket=name, Key="first", Body=b"x")
        client.delete_object(Bucket=name, Key="first")
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    with ThreadPoolExecutor(_BUCKETS_AT_ONCE) as pool:
        while True:
            # Never both at once: SeaweedFS's master locks up for good when it lists its collections, which it does for each
            # new bucket, while it makes one, which it does for the first object (a read lock that is taken twice).
            names = [f"bucket-{next(_serial)}" for _ in range(_BUCKETS_AT_ONCE)]
            yield from list(pool.map(prepare, list(pool.map(create, names))))


@pytest.fixture
def bucket(buckets: Iterator[str]) -> str:
    """A versioned bucket that no other test uses."""
    return next(buckets)


@pytest.fixture
def other_bucket(buckets: Iterator[str]) -> str:
    """Another versioned bucket, where source objects lie."""
    return next(buckets)


@pytest.fixture
def plain_bucket(s3: S3Server) -> str:
    """A bucket without versions."""
    return s3.make_bucket(f"plain-{next(_serial)}", versioned=False)


@pytest.fixture
def catalog(s3: S3Server) -> Iterator[CatalogServer]:
    """A Quilt service that hands out credentials of the store."""
    with running_catalog(s3) as server:
        yield server


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[S3Proxy]:
    """A proxy in front of the store, which lets chosen requests go wrong."""
    with running_proxy(s3) as server:
        yield server


@pytest.fixture
def memory() -> MemoryStorage:
    """An object store in memory, with the buckets ``registry`` and ``source``."""
    return MemoryStorage(["registry", "source"])


@pytest.fixture
def registry(memory: MemoryStorage) -> Registry:
    """A registry in memory."""
    return Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))


@pytest.fixture
def local_registry(memory: MemoryStorage, tmp_path: Path) -> Registry:
    """A registry on the disk."""
    return Registry(resolve_registry(str(tmp_path / "local-registry")), Stores(LocalStorage(), memory))


@pytest.fixture
def s3_registry(s3: S3Server, bucket: str) -> Registry:
    """A registry on the real store."""
    return Registry(RegistryLocation.parse(f"s3://{bucket}"), Stores(LocalStorage(), S3Storage(s3.client())))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A writer of files below the test's directory, which returns their paths."""

    def write(name: str, data: bytes | str = b"") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return write
