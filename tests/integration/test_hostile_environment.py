"""Full disks, missing rights, few file descriptors, wrong clocks: work ends right, or fails with nothing half done."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.server import S3Server
from tests.chaos import environment
from tests.chaos.environment import MIB, NAME, Sweep, broken, in_child
from tests.support import Clock

# A full disk.


def check(sweep: Sweep, least_failed: int) -> None:
    """Check that some of the work failed for want of room, some had enough, and nothing was wrong at any time."""
    assert sweep.problems == []
    assert sweep.succeeded
    assert sweep.failed >= least_failed or not sweep.is_real


@pytest.mark.parametrize("kind", ["pages", "inodes"])
def test_full_disk_leaves_no_build(tmp_path: Path, kind: str) -> None:
    check(in_child(environment.build_on_a_full_disk, tmp_path, kind, 16), 6)


def test_full_disk_loses_no_revision(tmp_path: Path) -> None:
    check(in_child(environment.change_on_a_full_disk, tmp_path), 2)


@pytest.mark.parametrize("kind", ["pages", "inodes"])
def test_full_disk_install_is_clean(tmp_path: Path, kind: str) -> None:
    check(in_child(environment.install_on_a_full_disk, tmp_path, kind, 14), 8)


def test_full_disk_leaves_no_file(tmp_path: Path) -> None:
    result, left = in_child(environment.install_a_large_file_on_a_full_disk, tmp_path, 20 * MIB, 1000)

    assert (result.succeeded, result.is_clean, left) == (False, True, [])
    assert str(tmp_path / "disk/out/large") in result.message


def test_full_tmpdir_is_named(tmp_path: Path) -> None:
    result, left = in_child(environment.push_with_a_full_temporary_directory, tmp_path, 75)

    assert (result.error, left) == ("DiskError", []), result
    assert str(tmp_path / "disk") in result.message
    assert "TMPDIR" in result.message


# Missing rights.


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user of this machine can reach."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    for path in place.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(place)


def test_read_only_disk_serves(tmp_path: Path) -> None:
    if not in_child(environment.may_have_a_disk, tmp_path / "try"):
        pytest.skip("this user may not mount anything")
    results = in_child(environment.work_on_a_read_only_disk, tmp_path)
    reads = {"read", "install elsewhere", "install what is there", "verify", "build the same again"}

    assert {what: result for what, result in results.items() if not result.is_clean} == {}
    assert {what for what, result in results.items() if result.succeeded} == reads
    writes = [result.message for what, result in results.items() if what not in reads]
    assert [message for message in writes if str(tmp_path / "disk") not in message] == []


def test_denied_file_is_named(public: Path) -> None:
    result, found = in_child(environment.install_where_not_all_may_be_written, public)
    expected = environment.write_files(public / "again", {"a": 10, "b/x": 20, "c": 30})

    assert result.error == "AccessDeniedError"
    assert str(public / "out/b/x") in result.message
    assert found.items() <= expected.items()
    assert "b/x" not in found


@pytest.mark.parametrize("closed", [".quilt/packages", f".quilt/named_packages/{NAME}"])
def test_denied_build_leaves_nothing(public: Path, closed: str) -> None:
    result, problems = in_child(environment.build_where_not_all_may_be_written, public, closed)

    assert result.error == "AccessDeniedError"
    assert str(public / "registry" / closed) in result.message
    assert problems == []


@pytest.mark.parametrize(("to", "closed"), [("s3", "b/x"), ("s3", "b"), ("s3", "c"), ("local", "b/x"), ("local", "b")])
def test_unreadable_is_not_published(s3: S3Server, bucket: str, public: Path, to: str, closed: str) -> None:
    server = s3 if to == "s3" else None
    result, visible = in_child(environment.publish_what_may_not_all_be_read, public, server, bucket, closed)

    assert result.error == "AccessDeniedError"
    assert str(public / "in" / closed) in result.message
    assert visible == []


# Few file descriptors.


@pytest.mark.parametrize("limit", [32, 64])
def test_few_descriptors_suffice(s3: S3Server, bucket: str, tmp_path: Path, limit: int) -> None:
    result = in_child(environment.work_with_few_descriptors, s3, bucket, tmp_path, 500, limit)

    assert result.problems == []
    assert (result.pushed.is_clean, result.installed.is_clean) == (True, True), result
    assert limit < 64 or (result.pushed.succeeded and result.installed.succeeded), result


# Wrong clocks.


@pytest.fixture(params=["memory", "local", "s3"])
def timed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Registry, Clock]:
    """A registry whose clock the test sets."""
    clock = Clock(1_700_000_000)
    stores = Stores(LocalStorage(), MemoryStorage(["registry"]))
    location = {"memory": "s3://registry", "local": str(tmp_path / "registry")}.get(request.param)
    if location is None:
        location = f"s3://{request.getfixturevalue('bucket')}"
        stores = Stores(LocalStorage(), S3Storage(request.getfixturevalue("s3").client()))
    return Registry(resolve_registry(location), stores, clock=clock), clock


def publish(registry: Registry, tmp_path: Path, message: str) -> str:
    (tmp_path / "file").write_bytes(b"x")
    return build(registry, Draft(package=str(NAME), entries={"file": str(tmp_path / "file")}, message=message)).top_hash


def newest_first(registry: Registry) -> list[str]:
    return [revision.top_hash for revision in registry.revisions(NAME)]


def made_at(timed: tuple[Registry, Clock], tmp_path: Path, seconds: list[float]) -> list[str]:
    """Publish a revision at each of the times; return those that were not refused, newest first."""
    registry, clock = timed
    made: list[str] = []
    for number, clock.now in enumerate(seconds):
        with contextlib.suppress(QuiltError):
            made.insert(0, publish(registry, tmp_path, str(number)))
    return made


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param([1_700_000_000, 1_700_000_000, 1_700_000_000.9], id="one second"),
        pytest.param([1_700_000_000, 1_699_999_000, 1_600_000_000], id="backwards"),
        pytest.param([1_700_000_000, 0, 1_700_000_000], id="to the beginning of time"),
        pytest.param([1_700_000_000, 1_900_000_000, 1_700_000_001], id="ahead and back"),
    ],
)
def test_clock_jump_keeps_history(timed: tuple[Registry, Clock], tmp_path: Path, seconds: list[float]) -> None:
    made = made_at(timed, tmp_path, seconds)

    assert len(made) == len(seconds)
    assert newest_first(timed[0]) == made
    assert broken(timed[0]) == []
    assert timed[0].resolve(NAME) == made[0]


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param([0, 0, 1_700_000_000], id="a clock that was never set"),
        pytest.param([1, 999_999_999, 1_000_000_000], id="before seconds had ten digits"),
        pytest.param([9_999_999_999, 1_700_000_000, 1_700_000_000], id="the last second of ten digits"),
        pytest.param([10_000_000_000, 1_700_000_000, 1_700_000_000], id="after seconds have ten digits"),
    ],
)
def test_odd_time_keeps_history(timed: tuple[Registry, Clock], tmp_path: Path, seconds: list[float]) -> None:
    made = made_at(timed, tmp_path, seconds)

    assert newest_first(timed[0]) == made
    assert broken(timed[0]) == []
    assert made == [] or timed[0].resolve(NAME) == made[0]


def test_future_pointer_hides_none(timed: tuple[Registry, Clock], tmp_path: Path) -> None:
    registry, _ = timed
    first = publish(registry, tmp_path, "first")
    storage = registry.stores.of(registry.location.root)
    storage.put(registry.location.root.join(f".quilt/named_packages/{NAME}/9999999999"), first.encode())
    try:
        made = [publish(registry, tmp_path, "second"), publish(registry, tmp_path, "third")]
    except QuiltError:
        made = []

    assert newest_first(registry)[: len(made)] == made[::-1]
    assert set(newest_first(registry)) == {first, *made}
    assert broken(registry) == []


# Many files.


def test_tiny_files_round_trip(tmp_path: Path) -> None:
    packed = in_child(environment.pack_tiny_files, tmp_path, 2_000)

    assert (packed.built.result, packed.installed.result, packed.verified.result) == (2_000, 2_000, 2_000)
    assert packed.built.memory < 256


def test_memory_stays_in_its_bound(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    """The transfer buffer bounds the process, not only the parts that Python holds."""
    sizes = [96 * MIB, *[8 * MIB] * 8]  # Parts of one file, and files of one part.

    assert in_child(environment.push_and_install, s3, bucket, tmp_path, sizes) <= 200


# The format's own numbers.


@pytest.mark.parametrize("size", [8 * MIB, 8 * MIB + 1, 64 * MIB])
def test_sparse_file_has_true_hash(tmp_path: Path, size: int) -> None:
    built = in_child(environment.build_a_sparse_file, tmp_path, size)

    assert (built.result.size, built.result.hash.value) == (size, environment.hash_of_zeros(size))
    assert PhysicalKey.parse(built.result.physical_keys[0]).key == str(tmp_path / "sparse")
