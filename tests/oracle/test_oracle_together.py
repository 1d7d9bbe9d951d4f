"""quilt3 and the core work on the same packages: each reads, deletes, finds unchanged, or collides with the other's."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import RevisionConflictError
from airflow_quilt.core.format.hashes import StoreAlgorithm
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import DeleteResult
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.objects import ObjectInfo, WriteMode
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.server import S3Server
from tests.oracle.quilt3_client import Directory, Quilt3, Quilt3Error, Spec, place, record

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """A small package with metadata on every level."""
    files = {"a.txt": b"a", "a b/\u00e9+%20.txt": b"b", "empty": b""}
    return Spec(
        files=place(tmp_path / "files", files),
        file_meta={"a.txt": {"n": 1e16}},
        meta={"week": 1},
        message="quilt3 and we",
    )


class TestQuilt3Package:
    @pytest.fixture
    def pushed(self, quilt3: Quilt3, bucket_url: str, spec: Spec, name: str) -> list[str]:
        """Three revisions that quilt3 pushed, newest first."""
        return [quilt3.push(bucket_url, name, replace(spec, message=text)) for text in ("first", "second", "third")][::-1]

    def test_history_is_listed(self, pushed: list[str], s3_registry: Registry, name: str) -> None:
        latest = s3_registry.latest(PackageName.parse(name))
        assert list(s3_registry.packages()).count(PackageName.parse(name)) == 1
        assert [revision.top_hash for revision in s3_registry.revisions(PackageName.parse(name))] == pushed
        assert latest
        assert latest.top_hash == pushed[0]

    def test_rollback_shows_in_quilt3(
        self, pushed: list[str], s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str
    ) -> None:
        rollback(s3_registry, name, pushed[-1][:8])

        assert quilt3.latest(bucket_url, name) == pushed[-1]
        assert quilt3.browse(bucket_url, name)["top_hash"] == pushed[-1]

    def test_entries_read_equally(
        self, pushed: list[str], s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str
    ) -> None:
        for top_hash in (None, pushed[0][:6], pushed[-1], pushed[-1][:8]):
            read = s3_registry.read(PackageName.parse(name), top_hash)
            found = quilt3.browse(bucket_url, name, top_hash)
            assert read.header == found["header"]
            assert [record(entry) for entry in read.entries] == found["entries"]

    def test_latest_goes_by_short_hash(
        self, pushed: list[str], s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str
    ) -> None:
        deleted = delete(s3_registry, name, pushed[0][:8])
        assert (deleted.top_hash, len(deleted.times)) == (pushed[0], 1)
        assert quilt3.latest(bucket_url, name) == pushed[1]
        assert quilt3.revisions(bucket_url, name) == pushed[1:]
        assert quilt3.browse(bucket_url, name)["header"]["message"] == "second"

    def test_old_revision_is_deleted(
        self, pushed: list[str], s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str
    ) -> None:
        delete(s3_registry, name, pushed[1])
        assert quilt3.latest(bucket_url, name) == pushed[0]
        assert quilt3.revisions(bucket_url, name) == [pushed[0], pushed[2]]

    def test_delete_keeps_data(
        self, pushed: list[str], s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str
    ) -> None:
        assert name in quilt3.packages(bucket_url)
        entries = quilt3.browse(bucket_url, name)["entries"]
        history = list(s3_registry.revisions(PackageName.parse(name)))
        assert [revision.top_hash for revision in history] == pushed
        assert delete(s3_registry, name) == DeleteResult(tuple(revision.published_at for revision in history))
        assert name not in quilt3.packages(bucket_url)
        assert quilt3.revisions(bucket_url, name) == []
        for top_hash in pushed:
            assert quilt3.browse(bucket_url, name, top_hash)["top_hash"] == top_hash
        stats = [s3_registry.stores.remote.stat(PhysicalKey.parse(each["physical_keys"][0])) for each in entries]
        assert [stat.size for stat in stats] == [each["size"] for each in entries]

    def test_package_is_a_source(
        self, pushed: list[str], s3_registry: Registry, quilt3: Quilt3, bucket_url: str, name: str
    ) -> None:
        uri = f"quilt+{bucket_url}#package={name}@{pushed[-1]}"
        push(s3_registry, Draft(package=f"{name}-2", entries=uri, meta={"week": 1}, message="first"))
        assert quilt3.browse(bucket_url, f"{name}-2") == quilt3.browse(bucket_url, name, pushed[-1])


def test_multipart_push_is_unchanged(quilt3: Quilt3, s3_registry: Registry, bucket_url: str, tmp_path: Path, name: str) -> None:
    spec = Spec(files=place(tmp_path, {"large": bytes(8 * 1024 * 1024) + b"end"}))
    theirs = quilt3.push(bucket_url, name, spec)
    assert [record(entry) for entry in s3_registry.read(PackageName.parse(name)).entries] == quilt3.browse(bucket_url, name)[
        "entries"
    ]
    published = push(s3_registry, spec.draft(name))
    assert [published.created, published.top_hash] == [False, theirs]


def test_directory_meta_is_skipped(quilt3: Quilt3, local_registry: Registry, spec: Spec, tmp_path: Path, name: str) -> None:
    root, files = local_registry.location.root.key, str(tmp_path / "files")
    directories = Directory("/", files), Directory("sub", files, {"a": 1}), Directory("sub/sub", files, {"logical_key": "x"})
    quilt3.build(root, name, replace(spec, meta=None), *directories)
    read = local_registry.read(PackageName.parse(name))
    found = quilt3.browse(root, name)
    assert read.header == found["header"]
    assert [record(entry) for entry in read.entries] == [each for each in found["entries"] if "physical_keys" in each]
    assert [each["logical_key"] for each in found["entries"] if "physical_keys" not in each] == ["sub/", "sub/sub/"]


class TestSameContent:
    def test_adds_none_after_quilt3(self, quilt3: Quilt3, s3_registry: Registry, bucket_url: str, spec: Spec, name: str) -> None:
        theirs = quilt3.push(bucket_url, name, spec)
        published = push(s3_registry, spec.draft(name))
        assert not published.created
        assert published.top_hash == published.revision.top_hash == theirs
        assert quilt3.revisions(bucket_url, name) == [theirs]

    def test_quilt3_adds_none_after_us(
        self, quilt3: Quilt3, s3_registry: Registry, bucket_url: str, spec: Spec, name: str
    ) -> None:
        ours = push(s3_registry, spec.draft(name))
        assert ours.created
        assert quilt3.push(bucket_url, name, spec, dedupe=True) == ours.top_hash
        assert quilt3.revisions(bucket_url, name) == [ours.top_hash]

    @pytest.mark.parametrize(
        "change",
        [
            {"message": None},
            {"message": ""},
            {"meta": None},
            {"meta": {}},
            {"meta": {"week": 1.0}},
            {"file_meta": {}},
            {"file_meta": {"a.txt": {}}},
        ],
        ids=str,
    )
    def test_other_header_adds_revision(
        self, change: dict[str, object], quilt3: Quilt3, s3_registry: Registry, bucket_url: str, spec: Spec, name: str
    ) -> None:
        spec = replace(spec, files={"a.txt": spec.files["a.txt"]})
        theirs = quilt3.push(bucket_url, name, spec)
        other = replace(spec, **change)
        published = push(s3_registry, other.draft(name))
        assert published.created
        assert published.top_hash == quilt3.top_hash(other)
        assert quilt3.revisions(bucket_url, name) == [published.top_hash, theirs]
        assert quilt3.latest(bucket_url, name) == published.top_hash


class InterruptedStorage(S3Storage):
    """A store on which something else happens right after a file, or right after a manifest, was written."""

    def __init__(self, client: "S3Client", after: str, interrupt: Callable[[], object]) -> None:
        super().__init__(client)
        self._after = after
        self._interrupts: Iterator[Callable[[], object]] = iter([interrupt])
        self._lock = threading.Lock()

    def upload(self, key: PhysicalKey, data: bytes, digest: bytes, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        stat = super().upload(key, data, digest, algorithm)
        self._happen("file")
        return stat

    def put(
        self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", writer_tag: str | None = None
    ) -> ObjectInfo:
        stat = super().put(key, body, mode, writer_tag)
        if key.key.startswith(".quilt/packages/"):
            self._happen("manifest")
        return stat

    def _happen(self, what: str) -> None:
        with self._lock:
            interrupt = next(self._interrupts, None) if what == self._after else None
            if interrupt:
                interrupt()


@pytest.mark.parametrize("after", ["file", "manifest"])
@pytest.mark.parametrize("exists", [False, True], ids=["new package", "existing package"])
class TestQuilt3PushesWhileWePush:
    @pytest.fixture
    def before(self, quilt3: Quilt3, bucket_url: str, spec: Spec, *, exists: bool, name: str) -> list[str]:
        """The revisions that were there at the start."""
        theirs = replace(
            spec, files={**spec.files, "a.txt": spec.files["empty"]}, message="before"
        )  # So that there is something to send.
        return [quilt3.push(bucket_url, name, theirs)] if exists else []

    @pytest.fixture
    def between(self) -> list[str]:
        """The revision that quilt3 makes meanwhile, once it has."""
        return []

    @pytest.fixture
    def raced_registry(
        self, after: str, s3: S3Server, s3_registry: Registry, quilt3: Quilt3, spec: Spec, between: list[str], *, name: str
    ) -> Registry:
        """The registry, on a store where quilt3 pushes in the middle of our push."""
        theirs = replace(spec, files={"a.txt": spec.files["a.txt"]}, message="between")

        def interrupt() -> None:
            between.append(quilt3.push(str(s3_registry.location), name, theirs))

        return Registry(s3_registry.location, Stores(LocalStorage(), InterruptedStorage(s3.client(), after, interrupt)))

    def test_racing_push_is_invisible(
        self,
        raced_registry: Registry,
        quilt3: Quilt3,
        bucket_url: str,
        spec: Spec,
        before: list[str],
        between: list[str],
        *,
        name: str,
    ) -> None:
        with pytest.raises(RevisionConflictError) as raised:
            push(raced_registry, spec.draft(name))
        assert [raised.value.expected, raised.value.found] == [before[0] if before else None, between[0]]
        assert quilt3.revisions(bucket_url, name) == between + before
        assert quilt3.latest(bucket_url, name) == between[0]
        assert quilt3.browse(bucket_url, name)["header"]["message"] == "between"

    def test_rerun_lands_on_quilt3s(
        self,
        raced_registry: Registry,
        quilt3: Quilt3,
        bucket_url: str,
        spec: Spec,
        before: list[str],
        between: list[str],
        *,
        name: str,
    ) -> None:
        with pytest.raises(RevisionConflictError):
            push(raced_registry, spec.draft(name))
        published = push(raced_registry, spec.draft(name))
        assert quilt3.revisions(bucket_url, name) == [published.top_hash, *between, *before]
        assert quilt3.latest(bucket_url, name) == published.top_hash

    def test_overwrite_keeps_history(
        self,
        raced_registry: Registry,
        quilt3: Quilt3,
        bucket_url: str,
        spec: Spec,
        before: list[str],
        between: list[str],
        *,
        name: str,
    ) -> None:
        published = push(raced_registry, spec.draft(name, conflict="overwrite"))
        assert len(between) == 1
        assert quilt3.revisions(bucket_url, name) == [published.top_hash, *between, *before]
        assert quilt3.latest(bucket_url, name) == published.top_hash


def test_quilt3_refuses_unseen_base(quilt3: Quilt3, s3_registry: Registry, bucket_url: str, spec: Spec, name: str) -> None:
    ours = push(s3_registry, spec.draft(name))
    with pytest.raises(Quilt3Error, match=f"QuiltConflictException: Package with hash '{ours.top_hash}' already exists"):
        quilt3.push(bucket_url, name, replace(spec, message="theirs"), force=False)
    assert quilt3.revisions(bucket_url, name) == [ours.top_hash]
