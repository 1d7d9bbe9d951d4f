"""Fixtures for the contract on S3 servers; a test module gives its ``server``."""

import pytest

from airflow_quilt.core.storage.s3.storage import S3Storage
from testbed.server import S3Server

pytest.register_assert_rewrite("tests.contract.storage_contract")


@pytest.fixture(scope="module", params=[True, False], ids=["crt", "boto3"])
def crt(request: pytest.FixtureRequest) -> bool:
    """Whether the bytes of objects may go through the common runtime."""
    return bool(request.param)


@pytest.fixture(scope="module")
def server_storage(server: S3Server, crt: bool) -> S3Storage:  # noqa: FBT001
    return S3Storage(server.client(), crt=crt)


@pytest.fixture(scope="module")
def server_buckets(server: S3Server) -> tuple[str, str]:
    """Two buckets, with versions and without."""
    return server.make_bucket("contract-versioned"), server.make_bucket("contract-plain", versioned=False)
