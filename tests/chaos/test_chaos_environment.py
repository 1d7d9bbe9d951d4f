"""The limits of disks, descriptors and formats, at full size."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from testbed.seaweedfs import seaweedfs
from testbed.server import S3Server
from tests.chaos import environment
from tests.chaos.conftest import Figures
from tests.chaos.environment import GIB, MIB, has_room, in_child

BOUNDARY: Final = 5 * GIB
LIMITS: Final = (16, 24, 32, 40, 64)
MOST_PARTS: Final = 10_000


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that does not stay: its files are large."""
    (tmp_path / "place").mkdir()
    yield tmp_path / "place"
    subprocess.run(["/bin/rm", "-rf", tmp_path / "place"], check=True)  # Much faster than Python where there are many files.


@pytest.fixture
def store(place: Path) -> Iterator[S3Server]:
    """A store whose data go with the test."""
    with seaweedfs(place / "store") as server:
        yield server


# Disks.


def test_small_disk_leaves_nothing(place: Path, figures: Figures) -> None:
    size, pages = 20 * MIB, range(1, 20 * MIB // environment.PAGE, 250)
    for number in pages:
        (place / str(number)).mkdir()
        result, left = in_child(environment.install_a_large_file_on_a_full_disk, place / str(number), size, number)
        assert (result.succeeded, result.is_clean, left) == (False, True, [])
    figures(f"{len(pages)} sizes of a disk that is too small for a file of 20 MiB: {len(pages)} clean errors, no file left")


# File descriptors.


def test_few_descriptors_are_safe(store: S3Server, place: Path, figures: Figures) -> None:
    enough = {}
    for limit in LIMITS:
        bucket = store.make_bucket(f"limit-{limit}")
        (place / str(limit)).mkdir()
        result = in_child(environment.work_with_few_descriptors, store, bucket, place / str(limit), 500, limit)
        assert result.problems == [], limit
        assert (result.pushed.is_clean, result.installed.is_clean) == (True, True), (limit, result)
        enough[limit] = result.pushed.succeeded, result.installed.succeeded
    for what, done in zip(("push", "installation"), zip(*enough.values(), strict=True), strict=True):
        sufficient = [limit for limit, is_done in zip(LIMITS, done, strict=True) if is_done]
        figures(f"{what} of 500 files: enough with {sufficient}, a clean error with the rest of {list(LIMITS)} file descriptors")
    assert enough[LIMITS[-1]] == (True, True)


# Sizes.


@pytest.mark.parametrize("size", [BOUNDARY - 1, BOUNDARY, BOUNDARY + 1])
def test_5_gib_file_has_true_hash(place: Path, size: int, figures: Figures) -> None:
    built = in_child(environment.build_a_sparse_file, place, size)
    figures(f"build of a sparse file of {size:,} bytes: {built}")

    assert (built.result.size, built.result.hash.value) == (size, environment.hash_of_zeros(size))
    assert built.memory < 256


def test_many_parts_become_larger(place: Path, figures: Figures) -> None:
    size = MOST_PARTS * 8 * MIB + 1
    built = in_child(environment.build_a_sparse_file, place, size)
    part = environment.part_size_of(size)
    figures(f"build of a sparse file of {size:,} bytes, by parts of {part // MIB} MiB: {built}")

    assert part == 16 * MIB
    assert built.result.hash.value == environment.hash_of_zeros(size)


def test_large_object_moves_in_parts(store: S3Server, place: Path, figures: Figures) -> None:
    size = BOUNDARY + 1
    if not has_room(place, 2 * size):
        pytest.skip("the disk has no room for two such objects")
    buckets = store.make_bucket("first"), store.make_bucket("second")
    results = in_child(environment.push_a_sparse_file, store, *buckets, place, size)

    for what, (took, requests) in zip(("push", "server-side copy"), results, strict=True):
        figures(f"{what} of {size:,} bytes: {requests.parts} parts of {requests.largest_part // MIB} MiB at most, {took}")
        assert took.result == (size, environment.hash_of_zeros(size))
        assert requests.whole == []
        assert requests.parts == -(-size // environment.part_size_of(size)) <= MOST_PARTS
        assert requests.largest_part <= BOUNDARY
        assert took.memory < 200
    uploads = [store.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) for bucket in buckets]
    assert uploads == [[], []]


# Numbers.


def test_100_000_files_round_trip(place: Path, figures: Figures) -> None:
    packed = in_child(environment.pack_tiny_files, place, 100_000)
    for what, took in (("build", packed.built), ("install", packed.installed), ("verify", packed.verified)):
        figures(f"{what} of {took.result:,} files on the local disk: {took}")

    assert (packed.built.result, packed.installed.result, packed.verified.result) == (100_000,) * 3
    assert packed.built.memory < 1024


def test_20_000_files_are_pushed(store: S3Server, place: Path, figures: Figures) -> None:
    pushed, installed = in_child(environment.push_tiny_files, store, store.make_bucket("tiny"), place, 20_000)
    figures(f"push of {pushed.result:,} files: {pushed}")
    figures(f"installation of {installed.result:,} files: {installed}")

    assert (pushed.result, installed.result) == (20_000, 20_000)
    assert pushed.memory < 512
