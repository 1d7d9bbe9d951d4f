"""The contract of an object store, on an S3 server: the module of a subclass gives the server as a fixture."""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.s3.crt.requests import Transport
from airflow_quilt.core.storage.s3.storage import S3Storage
from testbed.server import S3Server
from tests.contract.storage_contract import ObjectStoreContract

_serial = itertools.count(1)


class S3Contract(ObjectStoreContract):
    """Each test has a prefix of its own in two buckets that it shares: a bucket with data costs SeaweedFS volumes."""

    @pytest.fixture
    def storage(self, server_storage: S3Storage) -> S3Storage:
        return server_storage

    @pytest.fixture
    def tight(self, server: S3Server, transport: Transport) -> S3Storage:
        return S3Storage(server.client(), most=10, transport=transport)

    @pytest.fixture
    def root(self, server_buckets: tuple[str, str]) -> PhysicalKey:
        return PhysicalKey(server_buckets[0], f"test-{next(_serial):04}/")

    @pytest.fixture
    def plain_root(self, server_buckets: tuple[str, str]) -> PhysicalKey:
        return PhysicalKey(server_buckets[1], f"test-{next(_serial):04}/")

    @pytest.fixture
    def late_root(self, server: S3Server) -> PhysicalKey:
        return PhysicalKey(server.make_bucket(f"contract-late-{next(_serial)}", versioned=False), "test/")

    @pytest.fixture
    def set_versioning(self, server: S3Server, late_root: PhysicalKey) -> Callable[[Literal["Enabled", "Suspended"]], None]:
        return lambda status: server.set_versioning(str(late_root.bucket), status)

    @pytest.fixture
    def open_uploads(self, server: S3Server, root: PhysicalKey) -> Callable[[], Sequence[object]]:
        client = server.client()
        return lambda: [
            upload
            for upload in client.list_multipart_uploads(Bucket=str(root.bucket)).get("Uploads", [])
            if upload["Key"].startswith(root.key)
        ]
