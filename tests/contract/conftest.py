"""Fixtures for the contract on S3 servers; a test module gives its ``server``."""

import pytest

from airflow_quilt.core.storage.s3.crt.requests import Transport
from airflow_quilt.core.storage.s3.storage import S3Storage
from testbed.server import S3Server

pytest.register_assert_rewrite("tests.contract.storage_contract")


@pytest.fixture(scope="module", params=["auto", "boto3"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Both ways of the requests for objects and listings."""
    chosen: Transport = request.param
    return chosen


@pytest.fixture(scope="module")
def server_storage(server: S3Server, transport: Transport) -> S3Storage:
    return S3Storage(server.client(), transport=transport)


@pytest.fixture(scope="module")
def server_buckets(server: S3Server) -> tuple[str, str]:
    """Two buckets, with versions and without."""
    return server.make_bucket("contract-versioned"), server.make_bucket("contract-plain", versioned=False)
