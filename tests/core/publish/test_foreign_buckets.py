"""Packages of other registries name the allowed buckets only; a package of checksums warns that it proves no intent."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import LocationError
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, SHA256
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import install
from airflow_quilt.core.plan.reach import Reach
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import verify
from tests.core.faulty import Recorder, tapped
from tests.core.packages import commit, entry_of, put

THEIRS: Final = PackageName("their", "package")
REFERENCE: Final = Reference(THEIRS)
BUCKETS: Final = ("ours", "theirs", "shared", "secrets")
Use = Callable[[Registry, Registry, Path], object]
URI: Final = f"quilt+s3://theirs#package={THEIRS}"


def entries(path: str = "") -> object:
    return {"in/": URI + path}


USES: Final[dict[str, Use]] = {
    "install": lambda theirs, _, out: install(theirs, REFERENCE, str(out)),
    "install to a prefix": lambda theirs, _, __: install(theirs, REFERENCE, "s3://ours/out/"),
    "verify": lambda theirs, _, __: verify(theirs, REFERENCE),
    "read": lambda theirs, _, __: theirs.read_bytes(theirs.entry(THEIRS, "x")),
    "promote": lambda _, ours, __: push(ours, Draft(package="our/copy", entries=URI)),
    "push a file": lambda _, ours, __: push(ours, Draft(package="our/copy", entries={"y": f"{URI}&path=x"})),
    "push a directory": lambda _, ours, __: push(ours, Draft(package="our/copy", entries=entries())),
    "build": lambda _, ours, __: build(ours, Draft(package="our/copy", entries=URI)),
    "update": lambda _, ours, __: push(ours, Draft(package="our/copy", mode="update", entries=entries())),
}


def world(named: Sequence[str], allowed: Reach | None, *taps: Recorder) -> tuple[Registry, Registry, MemoryStorage]:
    """Return their registry, whose package has a file in each of some buckets, and ours."""
    memory = MemoryStorage(BUCKETS)
    stores = replace(tapped(Stores(LocalStorage(), memory), *taps), reach=allowed)
    theirs, ours = (Registry(RegistryLocation.parse(f"s3://{name}"), stores) for name in ("theirs", "ours"))
    keys = ["a" * number + "x" for number in range(len(named))]
    places = [put(memory, f"s3://{bucket}/data", bucket.encode(), "SHA256") for bucket in named]
    found = [entry_of(key, bucket.encode(), place) for key, bucket, place in zip(keys, named, places, strict=True)]
    commit(theirs, THEIRS, sorted(found, key=lambda entry: entry.logical_key))
    return theirs, ours, memory


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_other_bucket_is_refused(tmp_path: Path, use: Use) -> None:
    own = RegistryLocation.parse("s3://ours")
    for number, allowed in enumerate((Reach(frozenset()), Reach(frozenset({"shared"}), frozenset({own})))):
        recorder = Recorder()
        theirs, ours, memory = world(["secrets"], allowed, recorder)
        with pytest.raises(LocationError, match="an object in the bucket 'secrets', which is not among the allowed_buckets"):
            use(theirs, ours, tmp_path / str(number))
        assert [call for call in recorder.calls if call.key.bucket == "secrets"] == []
        assert ours.latest("our/copy") is None
        assert [info.key.key for info in memory.list_objects(PhysicalKey("ours", ""))] == []

    for number, (named, right) in enumerate(
        (
            ("secrets", None),  # By default any.
            ("secrets", Reach(frozenset({"secrets"}))),
            ("theirs", Reach(frozenset())),
            ("secrets", Reach(frozenset()).trusting(RegistryLocation.parse("s3://theirs"))),
        )
    ):
        theirs, ours, _ = world([named], right)
        use(theirs, ours, tmp_path / f"right{number}")


def test_only_used_entries_count(tmp_path: Path) -> None:
    """A part of a package may be used although the rest names other buckets; a package of the target may name any."""
    theirs, ours, memory = world(["shared", "secrets"], Reach(frozenset({"shared"})))
    assert install(theirs, Reference(THEIRS, path="x"), str(tmp_path)).bytes == len("shared")
    push(ours, Draft(package="our/copy", entries={"y": f"{URI}&path=x"}))

    place = put(memory, "s3://secrets/other", b"1")
    commit(ours, PackageName("our", "index"), [entry_of("z", b"1", place)])
    push(ours, Draft(package="our/index", mode="update", entries={"new": b"2"}))
    assert push(ours, Draft(package="our/index2", entries="quilt+s3://ours#package=our/index")).entries == 2


@given(st.text("abc.-", min_size=1, max_size=5), st.frozensets(st.text("abc.-", max_size=5)), st.booleans(), st.booleans())
def test_no_bucket_but_the_allowed(bucket: str, allowed: frozenset[str], is_trusted: bool, is_own: bool) -> None:  # noqa: FBT001
    registry = RegistryLocation(PhysicalKey(bucket if is_own else "registry", ""))
    reach = Reach(allowed).trusting(registry) if is_trusted else Reach(allowed)
    if is_trusted or is_own or bucket in allowed:
        reach.check("x", PhysicalKey(bucket, "key"), registry)
    else:
        with pytest.raises(LocationError):
            reach.check("x", PhysicalKey(bucket, "key"), registry)
    reach.check("x", PhysicalKey(None, "/file"), registry)


def test_checksums_prove_no_intent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours, memory = world([], None)
    place = put(memory, "s3://shared/data", b"1")
    kinds = {"a": CRC64NVME, "b": CRC64NVME, "c": SHA256, "d": CHUNKED}
    commit(theirs, THEIRS, [entry_of(key, b"1", place, hash_type=kind) for key, kind in kinds.items()])
    for work, expected in (
        (lambda: install(theirs, REFERENCE, str(tmp_path)), 2),
        (lambda: verify(theirs, REFERENCE), 2),
        (lambda: install(theirs, Reference(THEIRS, path="c"), str(tmp_path)), 0),
        (lambda: push(ours, Draft(package="our/copy", entries=URI)), 0),  # They get hashes of ours.
        (lambda: build(ours, Draft(package="our/index", entries=URI)), 2),
        (lambda: push(ours, Draft(package="our/new", entries={"x": b"1", "y": b"2"}, hash_type=CRC64NVME)), 2),
    ):
        caplog.clear()
        caplog.set_level(logging.WARNING)
        result = work()
        lines = [message for message in caplog.messages if "prove no intent" in message]

        assert result.checksum_only == expected  # type: ignore[attr-defined]
        assert len(lines) == bool(expected)
        assert all("2 of its " in line and "'sha2-256-chunked'" in line for line in lines)
