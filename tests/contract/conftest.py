"""Fixtures for the contract on S3 servers; a test module gives its ``server``."""

import pytest

from airflow_quilt.core.storage.s3 import S3Storage
from testbed.server import S3Server

pytest.register_assert_rewrite("tests.contract.storage_contract")


@pytest.fixture(scope="module")
def server_storage(server: S3Server) -> S3Storage:
    return S3Storage(server.client())


@pytest.fixture(scope="module")
def server_buckets(server: S3Server) -> tuple[str, str]:
    """Two buckets, with versions and without."""
    return server.make_bucket("contract-versioned"), server.make_bucket("contract-plain", versioned=False)
