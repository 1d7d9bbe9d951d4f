"""The contract on LocalStack, where it is installed."""

from collections.abc import Iterator

import pytest

from airflow_quilt.core.format.hashes import hash_of
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.localstack import PYTHON, localstack
from testbed.server import S3Server
from tests.contract.s3_contract import S3Contract
from tests.contract.storage_contract import MIB, pattern
from tests.core.faulty import Recorder, tapped

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="LocalStack is installed on Python 3.11 only")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with localstack(tmp_path_factory.mktemp("localstack")) as server:
        yield server


class TestLocalStack(S3Contract):
    """The contract on LocalStack, but for two races: it checks the condition of a write before it takes its lock."""

    test_one_writer_creates = None
    test_one_writer_replaces = None


@pytest.mark.parametrize("size", [5, 8 * MIB, 20 * MIB])
def test_server_checksum_is_used(server: S3Server, server_storage: S3Storage, server_buckets: tuple[str, str], size: int) -> None:
    """SeaweedFS returns no checksum of a copy; this server does, as S3."""
    source, target = server_buckets[1], server_buckets[0]
    data = pattern(size)
    server.client().put_object(Bucket=source, Key="copied/data.bin", Body=data)
    recorder = Recorder()
    registry = Registry(RegistryLocation.parse(f"s3://{target}"), tapped(Stores(LocalStorage(), server_storage), recorder))

    push(registry, Draft(package=f"copies/of-{size}", entries=f"s3://{source}/copied/"))

    (entry,) = registry.read(PackageName("copies", f"of-{size}")).entries
    assert entry.hash == hash_of(data)
    assert not [call for call in recorder.calls if call.operation == "stream" and call.key.key.endswith("data.bin")]
