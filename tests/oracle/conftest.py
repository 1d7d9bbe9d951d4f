"""Fixtures of the tests in which the reference client judges ours."""

import itertools
from collections.abc import Iterator

import pytest

from airflow_quilt.core.registry.registry import Registry
from testbed.server import S3Server
from tests.oracle.quilt3_client import Quilt3, running_quilt3, s3_registry_in

_serial = itertools.count(1)


@pytest.fixture(scope="session")
def quilt3(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quilt3]:
    """The real quilt3, one process for all tests, on the tests' own S3 store."""
    with running_quilt3(tmp_path_factory.mktemp("quilt3"), s3) as client:
        yield client


@pytest.fixture(scope="session")
def bucket(s3: S3Server) -> str:
    """A versioned bucket for all registries: the store grows slowly with each new bucket, so tests differ in ``name``."""
    return s3.make_bucket("oracle-registry")


@pytest.fixture(scope="session")
def other_bucket(s3: S3Server) -> str:
    """Another versioned bucket, where source objects lie, each test's below its ``namespace``."""
    return s3.make_bucket("oracle-source")


@pytest.fixture(scope="session")
def plain_bucket(s3: S3Server) -> str:
    """A bucket without versions, where source objects and packages lie."""
    return s3.make_bucket("oracle-plain", versioned=False)


@pytest.fixture
def namespace() -> str:
    """A namespace of packages, or a prefix of objects, that no other test uses."""
    return f"team-{next(_serial)}"


@pytest.fixture
def name(namespace: str) -> str:
    """The name of a package that no other test uses."""
    return f"{namespace}/data"


@pytest.fixture
def bucket_url(bucket: str) -> str:
    """The registry on the real store, as quilt3 names it."""
    return f"s3://{bucket}"


@pytest.fixture
def plain_registry(s3: S3Server, plain_bucket: str) -> Registry:
    """A registry in a bucket without versions."""
    return s3_registry_in(s3, plain_bucket)
