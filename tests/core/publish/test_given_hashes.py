"""The hash that a stranger's manifest gives is a claim: its bytes neither move nor get a hash of ours until it is shown to be true."""

import base64
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import EntryDamagedError, HashTypeError, QuiltError
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, SHA256, Hash, StoreAlgorithm, hash_of
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import install
from airflow_quilt.core.plan.actions import Copy, Source, Upload
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import ShardingOptions, plan_shards, transfer_shard
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.upload import Uploader
from airflow_quilt.core.verify import verify
from tests.core.faulty import Before, Recorder, SilentStorage, objects, tapped
from tests.core.packages import HASH_TYPES, PART, commit, put
from tests.support import read, through

THEIRS: Final = PackageName("their", "package")
SMALL: Final = b"a secret that the author of the package may not read"
LARGE: Final = SMALL * (PART // len(SMALL) + 1)
FALSE: Final[Mapping[str, str]] = {
    SHA256: "0" * 64,
    CHUNKED: base64.b64encode(bytes(32)).decode(),
    CRC64NVME: base64.b64encode(bytes(8)).decode(),
}
STORES: Final = {"telling": MemoryStorage, "silent": SilentStorage}
TOLD: Final[tuple[tuple[StoreAlgorithm, ...], ...]] = ((), ("SHA256",), ("CRC64NVME",))


class World:
    """A registry of a stranger, on S3 or in a directory; ours; and a place that only we may read."""

    def __init__(self, home: Path, kind: str = "telling", theirs: str = "s3://theirs") -> None:
        self.memory = STORES[kind](["theirs", "ours", "secrets", "target"])
        self.stores = Stores(LocalStorage(), self.memory)
        self.theirs = Registry(RegistryLocation.parse(theirs), self.stores)
        self.ours = Registry(RegistryLocation.parse("s3://ours"), self.stores)
        self.home = home
        self.recorder = Recorder()

    @property
    def uri(self) -> str:
        return f"quilt+{self.theirs.location}#package={THEIRS}"

    def moved(self) -> dict[str, bytes]:
        """Return the objects that came to be at a destination of ours, apart from the files of the registry."""
        found = objects(self.memory, "ours", "target")
        return {url: data for url, data in found.items() if not url.startswith("s3://ours/.quilt/")}


Use = Callable[[World, Registry], object]


def shard(world: World, ours: Registry) -> object:
    """Push as one of many workers does."""
    draft, staging = Draft(package="our/copy", entries=world.uri), PhysicalKey("theirs", f"staging/1700000000-{'0' * 32}/")
    plan = plan_shards(ours, draft, push_planner(ours, draft.package), staging, ShardingOptions(shards=1)).location
    return transfer_shard(ours, draft.package, plan, 0)


USES: Final[dict[str, Use]] = {
    "push": lambda world, ours: push(ours, Draft(package="our/copy", entries=world.uri)),
    "push again": lambda world, ours: push(ours, Draft(package="our/copy", entries=world.uri), attempt=Attempt("work", 1.0)),
    "push a directory": lambda world, ours: push(ours, Draft(package="our/copy", entries={"in/": world.uri})),
    "update": lambda world, ours: push(ours, Draft(package="our/copy", entries={"in/": world.uri}, mode="update")),
    "push with CRC64NVME": lambda world, ours: push(ours, Draft(package="our/c", entries=world.uri, hash_type=CRC64NVME)),
    "shard": shard,
    "install": lambda world, _: install(through(world.theirs, world.recorder), Reference(THEIRS), "s3://target/out/"),
    "install to disk": lambda world, _: install(world.theirs, Reference(THEIRS), str(world.home / "out")),
}


def used(use: Use, world: World) -> object:
    """Use the package; return the result, or the error."""
    try:
        return use(world, through(world.ours, world.recorder))
    except QuiltError as error:
        return error


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("kind", STORES)
def test_false_hash_moves_no_byte(tmp_path: Path, kind: str, use: Use) -> None:
    for number, (hash_type, told, data) in enumerate((t, c, d) for t in HASH_TYPES for c in TOLD for d in (SMALL, LARGE)):
        if data is LARGE and told:  # A checksum of the whole of an object that was sent in parts is rare.
            continue
        world = World(tmp_path / str(number), kind)
        secret = put(world.memory, "s3://secrets/key", data, *told)
        commit(world.theirs, THEIRS, [Entry(LogicalKey("x"), (str(secret),), len(data), Hash(hash_type, FALSE[hash_type]))])
        result = used(use, world)

        assert isinstance(result, EntryDamagedError), (hash_type, told, len(data))
        assert "entry 'x'" in str(result) or "entry 'in/x'" in str(result)
        assert (world.moved(), world.memory.uploads) == ({}, [])
        assert world.ours.latest("our/copy") is None
        assert not any(path.is_file() for path in world.home.rglob("*"))


@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_false_hash_of_worker_file(tmp_path: Path, hash_type: str) -> None:
    """A registry in a shared directory may name any file of the worker, with its right hash only."""
    for number, (data, use) in enumerate((data, use) for data in (SMALL, LARGE) for use in USES.values()):
        world = World(tmp_path / str(number), theirs=(tmp_path / f"shared{number}").as_uri())
        (world.home / "worker").mkdir(parents=True)
        (world.home / "worker/secret").write_bytes(data)
        place = (world.home / "worker/secret").as_uri()
        commit(world.theirs, THEIRS, [Entry(LogicalKey("x"), (place,), len(data), Hash(hash_type, FALSE[hash_type]))])
        # The same object is there already, as by an earlier attempt: its right hash is not lent to the entry either.
        put(world.memory, "s3://ours/our/copy/x", data, "SHA256", "CRC64NVME")
        before = world.moved()

        assert isinstance(used(use, world), EntryDamagedError), use
        assert (world.moved(), world.memory.uploads) == (before, [])
        assert world.ours.latest("our/copy") is None
        assert [path.name for path in world.home.rglob("*") if path.is_file()] == ["secret"]


def test_unknown_type_moves_no_byte(tmp_path: Path) -> None:
    """One entry of an unknown type: those beside it stay where they are too."""
    for number, (use, local) in enumerate((use, local) for use in USES.values() for local in (False, True)):
        theirs = (tmp_path / f"shared{number}").as_uri() if local else "s3://theirs"
        world = World(tmp_path / str(number), theirs=theirs)
        place = put(world.memory, "s3://secrets/key", SMALL, "SHA256")
        right = Entry(LogicalKey("a"), (str(place),), len(SMALL), hash_of(SMALL))
        commit(world.theirs, THEIRS, [right, Entry(LogicalKey("x"), right.physical_keys, len(SMALL), Hash("BLAKE" * 100, "0"))])
        result = used(use, world)

        assert isinstance(result, HashTypeError)
        assert "entry 'x'" in str(result) or "entry 'in/x'" in str(result)
        assert "unknown type 'BLAKE" in str(result)
        assert len(str(result)) < 700
        assert world.moved() == {}
        assert world.recorder.of("upload", "copy", "begin") == []
        assert not (world.home / "out").exists()
    with pytest.raises(HashTypeError, match="entry 'x'"):
        verify(world.theirs, Reference(THEIRS))


@pytest.mark.parametrize("hash_type", [SHA256, CHUNKED])
def test_old_package_is_promoted(tmp_path: Path, hash_type: str) -> None:
    """The figures of docs/performance.md: an object is read once, where no checksum of the store proves its hash."""
    for kind, told, data, requests in (
        ("telling", ("SHA256",), SMALL, 0),
        ("telling", ("CRC64NVME",), SMALL, 1),
        ("telling", (), SMALL, 1),
        ("silent", (), SMALL, 1),
        ("telling", (), LARGE, 1 if hash_type == SHA256 else 0),  # Checksums of parts prove a chunked hash.
        ("silent", (), LARGE, 1 if hash_type == SHA256 else 2),
    ):
        world = World(tmp_path, kind)
        place = put(world.memory, "s3://secrets/key", data, *told)
        commit(world.theirs, THEIRS, [Entry(LogicalKey("x"), (str(place),), len(data), hash_of(data, hash_type))])
        published = push(through(world.ours, world.recorder), Draft(package="our/copy", entries=world.uri))
        reads = [call for call in world.recorder.of("stream") if not call.key.key.startswith(".quilt/")]

        assert read(world.ours, published)["x"].hash == hash_of(data)
        assert {call.key.bucket for call in reads} <= {"secrets"}
        assert (len(reads), sum(call.size for call in reads)) == (requests, len(data) if requests else 0), (kind, told, len(data))
        assert list(world.moved().values()) == [data]

        # Again with nothing new: the entry is kept, and its object is not read.
        again = Recorder()
        unchanged = push(through(world.ours, again), Draft(package="our/copy", mode="update"))
        assert (unchanged.created, [call for call in again.of("stream") if not call.key.key.startswith(".quilt/")]) == (False, [])


@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_claim_on_own_object_is_checked(tmp_path: Path, hash_type: str) -> None:
    """An entry that stays in our bucket keeps its hash, which another registry gives, once it is shown to be true."""
    for data, told, verb, is_true in itertools.product((SMALL, LARGE), TOLD, (push, build), (True, False)):
        world = World(tmp_path)
        place = put(world.memory, "s3://ours/our/copy/x", data, *told)
        right = hash_of(data, hash_type)
        claim = Entry(LogicalKey("x"), (str(place),), len(data), right if is_true else Hash(hash_type, FALSE[hash_type]))
        top_hash = commit(world.theirs, THEIRS, [claim])
        ours, draft = through(world.ours, world.recorder), Draft(package="our/copy", entries=world.uri)
        if not is_true:
            with pytest.raises(EntryDamagedError, match="entry 'x'"):
                verb(ours, draft)
            assert world.ours.latest("our/copy") is None
            continue
        published = verb(ours, draft)
        stat = world.memory.stat(place)
        reads = [call for call in world.recorder.of("stream") if call.key == place]

        assert (published.top_hash, read(world.ours, published)) == (top_hash, {"x": claim})
        assert sum(call.size for call in reads) == (0 if stat.proves(right) else len(data))
        assert len([call for call in world.recorder.of("stat") if call.key == place]) == 1
        # The package of the own registry is trusted: no request for it.
        again = Recorder()
        verb(through(world.ours, again), Draft(package="our/other", entries="quilt+s3://ours#package=our/copy"))
        assert [call for call in again.calls if call.key.key == place.key] == []


def test_swapped_file_is_not_lent_hash(tmp_path: Path) -> None:
    """A file that is sent, and then written over in place with the right bytes and the old times, is noticed."""
    world = World(tmp_path, theirs=(tmp_path / "shared").as_uri())
    path, right = tmp_path / "file", bytes(len(LARGE))
    path.write_bytes(LARGE)
    times = path.stat()
    commit(world.theirs, THEIRS, [Entry(LogicalKey("x"), (path.as_uri(),), len(LARGE), hash_of(right, SHA256))])

    def swap() -> None:
        path.write_bytes(right)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    swapping = Before(lambda call: call.operation == "stream" and call.size == len(LARGE), swap)
    with pytest.raises(EntryDamagedError, match="entry 'x'"):
        push(through(world.ours, swapping), Draft(package="our/copy", entries=world.uri))
    assert swapping.done
    assert (world.moved(), world.memory.uploads) == ({}, [])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_right_hash_or_no_byte(draws: st.DataObject) -> None:
    """Any source, store, type of hash and claim: the entry gets the hash of its bytes if the claim is true, or nothing moves."""
    size = draws.draw(st.sampled_from([0, 1, 9, 9, 9, PART, PART + 5]), "size")
    data = (b"0123456789" * (size // 10 + 1))[:size]
    told = {kind for kind in ("SHA256", "CRC64NVME") if draws.draw(st.booleans(), f"the store states {kind}")}
    store = STORES[draws.draw(st.sampled_from(sorted(STORES)), "store")]
    memory = store(["registry", "source"], versioned=draws.draw(st.booleans(), "versioned"))
    place = put(memory, "s3://source/key", data, *sorted(told))  # type: ignore[arg-type]
    claimed = draws.draw(st.sampled_from(HASH_TYPES), "type of the claim")
    is_true = draws.draw(st.booleans(), "the claim is true")
    claim = hash_of(data if is_true else b"other" + data, claimed)
    exact = draws.draw(st.booleans(), "install")
    hash_type = claimed if exact else draws.draw(st.sampled_from([CHUNKED, CRC64NVME]), "type of the entry")
    is_local = draws.draw(st.booleans(), "a file")
    since = draws.draw(st.sampled_from([None, 1.0]), "an earlier attempt")
    destination = PhysicalKey("registry", "there")
    if draws.draw(st.booleans(), "the destination has the bytes"):
        put(memory, str(destination), data, *sorted(told))  # type: ignore[arg-type]
    before = objects(memory, "registry")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "file")
        path.write_bytes(data)
        origin = PhysicalKey.of_path(str(path)) if is_local else place
        source = Source(
            logical_key=LogicalKey("x"),
            origin=origin,
            size=size,
            hash=claim,
            hash_type=hash_type,
            physical_keys=(str(origin),),
        )
        transfer = Upload(source, destination, exact) if is_local else Copy(source, origin, destination, exact)
        uploader = Uploader(replace(tapped(Stores(LocalStorage(), memory))), since=since)
        if is_true:
            ((_, entry),) = uploader.run([transfer])
            assert (entry.hash, entry.size) == (hash_of(data, hash_type), size)
            assert memory.get(PhysicalKey.parse(entry.physical_keys[0])).data == data
        else:
            with pytest.raises(EntryDamagedError):
                list(uploader.run([transfer]))
            assert objects(memory, "registry") == before
        assert memory.uploads == []
