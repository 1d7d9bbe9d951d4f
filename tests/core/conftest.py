"""Fixtures that the tests of the engine's parts share."""

import pytest

from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Recorder


@pytest.fixture
def stores(memory: MemoryStorage) -> Stores:
    """The local disk, and the store in memory."""
    return Stores(LocalStorage(), memory)


@pytest.fixture
def recorder() -> Recorder:
    """A recorder of the calls of storages."""
    return Recorder()
