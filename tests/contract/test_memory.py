from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from airflow_quilt.core.errors import BucketNotFoundError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.contract.storage_contract import ObjectStoreContract, digest, raised


class TestMemoryStorage(ObjectStoreContract):
    @pytest.fixture
    def storage(self, memory: MemoryStorage) -> MemoryStorage:
        return memory

    @pytest.fixture
    def tight(self) -> MemoryStorage:
        return MemoryStorage(["source"], most=10)

    @pytest.fixture
    def root(self) -> PhysicalKey:
        return PhysicalKey("source", "")

    @pytest.fixture
    def open_uploads(self, storage: MemoryStorage) -> Callable[[], Sequence[object]]:
        return lambda: storage.uploads

    @pytest.fixture
    def plain_root(self) -> PhysicalKey:
        return PhysicalKey("plain", "")

    @pytest.fixture
    def late_root(self) -> PhysicalKey:
        return PhysicalKey("late", "")

    @pytest.fixture
    def late(self) -> MemoryStorage:
        return MemoryStorage(["late"], versioned=False)

    @pytest.fixture
    def set_versioning(self, late: MemoryStorage) -> Callable[[Literal["Enabled", "Suspended"]], None]:
        return late.set_versioning

    def test_null_is_a_version(
        self,
        storage: MemoryStorage,
        late_root: PhysicalKey,
        set_versioning: Callable[[Literal["Enabled", "Suspended"]], None],
        late: MemoryStorage,
    ) -> None:
        del storage
        super().test_null_is_a_version(late, late_root, set_versioning)

    def test_unversioned_has_no_ids(self, storage: MemoryStorage, plain_root: PhysicalKey) -> None:
        del storage
        super().test_unversioned_has_no_ids(MemoryStorage(["plain"], versioned=False), plain_root)

    def test_unversioned_delete_is_final(self, storage: MemoryStorage, plain_root: PhysicalKey) -> None:
        del storage
        super().test_unversioned_delete_is_final(MemoryStorage(["plain"], versioned=False), plain_root)


NOWHERE = PhysicalKey("nowhere", "object")


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda storage: storage.get(NOWHERE), id="get"),
        pytest.param(lambda storage: storage.stream(NOWHERE, 0, 1), id="stream"),
        pytest.param(lambda storage: storage.put(NOWHERE, b"x"), id="put"),
        pytest.param(lambda storage: storage.upload(NOWHERE, b"x", digest(b"x")), id="upload"),
        pytest.param(lambda storage: storage.list_objects(NOWHERE), id="scan"),
        pytest.param(lambda storage: storage.list_versions(NOWHERE), id="scan-current"),
        pytest.param(lambda storage: storage.delete([NOWHERE]), id="delete"),
        pytest.param(lambda storage: storage.begin(NOWHERE), id="begin"),
    ],
)
def test_missing_bucket_is_named(memory: MemoryStorage, call: Callable[[MemoryStorage], object]) -> None:
    with pytest.raises(BucketNotFoundError, match="s3://nowhere"):
        raised(lambda: call(memory))
