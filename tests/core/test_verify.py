"""Verification reports exactly the differences from a revision, and reads no more than it must."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import (
    CancelledError,
    EntryNotFoundError,
    HashTypeError,
    LocationError,
    ManifestError,
    PackageNotFoundError,
    QuiltError,
    StorageUnavailableError,
    VerificationError,
)
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, SHA256, Hash, StoreAlgorithm
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey, PackageName, TopHash, walk_order
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import Verification, verify
from tests.core.faulty import Before, Fault, FaultMode, Recorder, SilentStorage
from tests.core.packages import HASH_TYPES, PART, checksum, commit, entry_of, put
from tests.support import through

NAME = PackageName("team", "package")
PREFIX = "s3://source/out/"
LARGE = os.urandom(2 * PART + 5)
TREE = {
    "README.md": b"read me",
    "data.csv": b"1,2,3",
    "data/empty": b"",
    "data/large.bin": LARGE,
    "data/ä ö/%20 #?&+.txt": b"odd name",
}
BYTES = sum(map(len, TREE.values()))
ALL: tuple[StoreAlgorithm, ...] = ("SHA256", "CRC64NVME")


@pytest.fixture(params=["directory", "prefix"])
def src(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place to put files: a directory, and a prefix."""
    return f"{tmp_path}/out/" if request.param == "directory" else PREFIX


def publish(
    registry: Registry, memory: MemoryStorage, files: Mapping[str, bytes], hash_type: str = CHUNKED, *checksums: StoreAlgorithm
) -> TopHash:
    """Make a revision of files that are stored as objects."""
    entries = [
        entry_of(
            key, files[key], put(memory, str(PhysicalKey("source", f"data/{key}")), files[key], *checksums), hash_type=hash_type
        )
        for key in sorted(files, key=walk_order)
    ]
    return commit(registry, NAME, entries)


def lay(registry: Registry, src: str, files: Mapping[str, bytes | None]) -> None:
    """Put files at a place, or take away those that are None."""
    root = PhysicalKey.parse(src)
    store = registry.stores.of(root)
    for key, data in files.items():
        if data is None:
            store.delete([root.join(key)])
        else:
            store.put(root.join(key), data)


def check(
    registry: Registry,
    src: str | None = None,
    *,
    path: str | None = None,
    read_all: bool = False,
    stop: threading.Event | None = None,
) -> Verification:
    """Verify, and check that no thread stays behind."""
    threads = set(threading.enumerate())
    try:
        return verify(registry, Reference(str(NAME), path=path), src, read_all=read_all, stop=stop)
    finally:
        assert set(threading.enumerate()) <= threads


def data_read(recorder: Recorder) -> int:
    """Return how many bytes were asked for that are not the registry's own."""
    return sum(call.size for call in recorder.of("stream") if not call.key.key.startswith(".quilt/"))


@pytest.mark.parametrize("hash_type", HASH_TYPES)
@pytest.mark.parametrize("read_all", [False, True])
def test_installed_is_verified(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, src: str, hash_type: str, *, read_all: bool
) -> None:
    top_hash = publish(registry, memory, TREE, hash_type)
    install(registry, Reference(str(NAME)), src)
    verification = check(through(registry, recorder), src, read_all=read_all)

    checksum_only = len(TREE) if hash_type == CRC64NVME else 0
    assert verification == Verification(top_hash=top_hash, entries=len(TREE), bytes=BYTES, checksum_only=checksum_only)
    verification.check()
    assert recorder.writes == []


DIFFERENCES: dict[str, tuple[dict[str, bytes | None], dict[str, list[str]]]] = {
    "a file is missing": ({"data.csv": None}, {"missing": ["data.csv"]}),
    "an empty file is missing": ({"data/empty": None}, {"missing": ["data/empty"]}),
    "a file is shorter": ({"data.csv": b"1,2"}, {"modified": ["data.csv"]}),
    "a file is longer": ({"data.csv": b"1,2,3,4"}, {"modified": ["data.csv"]}),
    "an empty file is not empty": ({"data/empty": b"x"}, {"modified": ["data/empty"]}),
    "a file is empty": ({"data/large.bin": b""}, {"modified": ["data/large.bin"]}),
    "a file has other bytes": ({"data.csv": b"3,2,1"}, {"modified": ["data.csv"]}),
    "a large file has another last byte": ({"data/large.bin": LARGE[:-1] + b"\0"}, {"modified": ["data/large.bin"]}),
    "a large file has another first byte": ({"data/large.bin": b"\0" + LARGE[1:]}, {"modified": ["data/large.bin"]}),
    "parts are swapped": (
        {"data/large.bin": LARGE[PART : 2 * PART] + LARGE[:PART] + LARGE[2 * PART :]},
        {"modified": ["data/large.bin"]},
    ),
    "files are extra": ({"z": b"", "data/more/ö #.txt": b"x", "a": b"a"}, {"extra": ["a", "data/more/ö #.txt", "z"]}),
    "everything": (
        {"README.md": b"READ ME", "data.csv": None, "data/empty": None, "data/large.bin": b"x", "data/new": b"x"},
        {"missing": ["data/empty", "data.csv"], "modified": ["README.md", "data/large.bin"], "extra": ["data/new"]},
    ),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_differences_in_walk_order(registry: Registry, memory: MemoryStorage, src: str, hash_type: str, difference: str) -> None:
    changes, expected = DIFFERENCES[difference]
    top_hash = publish(registry, memory, TREE, hash_type)
    lay(registry, src, TREE)
    lay(registry, src, changes)
    verification = check(registry, src)

    found = {"missing": verification.missing, "modified": verification.modified, "extra": verification.extra}
    assert {kind: keys for kind, keys in found.items() if keys} == expected
    assert (verification.top_hash, verification.entries, verification.bytes) == (top_hash, len(TREE), BYTES)
    with pytest.raises(VerificationError) as caught:
        verification.check()
    lines = [f"- {kind}: {key}" for kind in ("missing", "modified", "extra") for key in expected.get(kind, [])]
    assert str(caught.value) == "\n".join([f"differences from revision {top_hash[:12]}: {len(lines)}", *lines])
    assert {kind: keys for kind, keys in caught.value.differences.items() if keys} == expected


@pytest.mark.parametrize("others", [{}, {"data.csv": None}], ids=["nothing but extra files", "a missing file too"])
def test_extra_files_may_pass(registry: Registry, memory: MemoryStorage, src: str, others: dict[str, bytes | None]) -> None:
    publish(registry, memory, TREE)
    lay(registry, src, TREE | {"extra": b"x"} | others)
    verification = check(registry, src)

    assert verification.extra == ["extra"]
    if not others:
        verification.check(extra_files_ok=True)
    else:
        with pytest.raises(VerificationError, match=": 1\n- missing: data.csv$"):
            verification.check(extra_files_ok=True)


@pytest.mark.parametrize(
    ("count", "more"),
    [(1, None), (100, None), (101, "and 1 more"), (2500, "and 2,400 more")],
)
def test_100_differences_are_listed(count: int, more: str | None) -> None:
    keys = [f"{i:04}" for i in range(count)]
    verification = Verification(
        top_hash=TopHash("0" * 64), entries=count, bytes=0, missing=keys[: count // 2], extra=keys[count // 2 :]
    )

    with pytest.raises(VerificationError, match=f"differences from revision 0{{12}}: {count:,}\n") as caught:
        verification.check()
    listed = str(caught.value).splitlines()[1:]
    assert [line.split()[-1] for line in listed if line.startswith("- ")] == keys[:100]
    assert listed[100:] == ([more] if more else [])
    assert sum(map(len, caught.value.differences.values())) == count


def test_empty_place_misses_all(registry: Registry, memory: MemoryStorage, src: str) -> None:
    publish(registry, memory, TREE)

    assert check(registry, src).missing == sorted(TREE, key=walk_order)


def test_empty_package_is_verified(registry: Registry, src: str) -> None:
    commit(registry, NAME, [])
    lay(registry, src, {"extra": b"x"})

    assert check(registry, src).extra == ["extra"]
    check(registry).check()


@pytest.mark.parametrize("src", ["s3://source/out", "s3://source/out/", "s3://target", "s3://target/"])
def test_prefix_is_a_directory(src: str) -> None:
    """Count neither siblings nor placeholders of a prefix as extra files."""
    memory = MemoryStorage(["registry", "source", "target"])
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    publish(registry, memory, {"data/a.txt": b"a"})
    lay(registry, src, {"data/a.txt": b"a", "data/": b""})
    put(memory, "s3://source/out2/b.txt", b"b")
    put(memory, "s3://source/out.txt", b"b")

    check(registry, src).check()
    put(memory, "s3://source/out/data/b/", b"bytes")

    assert check(registry, "s3://source/out").extra == ["data/b/"]


@pytest.mark.parametrize("kind", ["a directory", "a link to a directory", "a link to nothing", "below a file"])
def test_non_file_is_missing(
    registry: Registry, memory: MemoryStorage, write: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    publish(registry, memory, {"data/a.txt": b"a"})
    out = tmp_path / "out"
    if kind == "below a file":
        write("out/data", b"a")
    elif kind == "a directory":
        (out / "data/a.txt").mkdir(parents=True)
    else:
        (out / "data").mkdir(parents=True)
        (out / "data/a.txt").symlink_to(tmp_path if kind == "a link to a directory" else "nothing")

    assert check(registry, str(out)).missing == ["data/a.txt"]


def test_link_to_right_file(registry: Registry, memory: MemoryStorage, write: Callable[..., Path], tmp_path: Path) -> None:
    publish(registry, memory, {"data/a.txt": b"a"})
    elsewhere = write("elsewhere/a.txt", b"a")
    (tmp_path / "out/data").mkdir(parents=True)
    (tmp_path / "out/data/a.txt").symlink_to(elsewhere)

    check(registry, str(tmp_path / "out")).check()


# Parts of a package, laid out as install does.


@pytest.mark.parametrize(
    ("path", "laid", "expected"),
    [
        pytest.param("data", {"empty": b"", "large.bin": LARGE, "ä ö/%20 #?&+.txt": b"odd name"}, {}, id="a directory"),
        pytest.param("data/", {"empty": b"", "large.bin": LARGE, "ä ö/%20 #?&+.txt": b"odd name"}, {}, id="with its slash"),
        pytest.param("data/ä ö", {"%20 #?&+.txt": b"odd"}, {"modified": ["data/ä ö/%20 #?&+.txt"]}, id="one in another"),
        pytest.param("data.csv", {"data.csv": b"1,2,3"}, {}, id="a file"),
        pytest.param("data/large.bin", {"large.bin": LARGE}, {}, id="a file in a directory"),
        pytest.param(
            "data/large.bin",
            {"data/large.bin": LARGE},
            {"missing": ["data/large.bin"], "extra": ["data/large.bin"]},
            id="a file at another path",
        ),
    ],
)
def test_part_laid_as_by_install(
    registry: Registry, memory: MemoryStorage, src: str, path: str, laid: dict[str, bytes], expected: dict[str, list[str]]
) -> None:
    publish(registry, memory, TREE)
    lay(registry, src, laid)
    found = check(registry, src, path=path)

    differences = {"missing": found.missing, "modified": found.modified, "extra": found.extra}
    assert {kind: keys for kind, keys in differences.items() if keys} == expected


@pytest.mark.parametrize("path", ["data", "data.csv"])
def test_part_of_own_objects(registry: Registry, memory: MemoryStorage, path: str) -> None:
    publish(registry, memory, TREE)
    found = check(registry, path=path)

    assert found.entries == sum(key == path or key.startswith(f"{path}/") for key in TREE)
    found.check()


@pytest.mark.parametrize(
    ("package", "path", "error"),
    [
        ("team/other", None, PackageNotFoundError),
        (str(NAME), "nothing", EntryNotFoundError),
        (str(NAME), "data.csv/", EntryNotFoundError),
    ],
)
def test_absent_is_not_verified(
    registry: Registry, memory: MemoryStorage, src: str, package: str, path: str | None, error: type[QuiltError]
) -> None:
    publish(registry, memory, TREE)

    with pytest.raises(error):
        verify(registry, Reference(package, path=path), src)


# The package's own objects, and the bytes that are read.


@pytest.mark.parametrize("hash_type", HASH_TYPES)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda memory, key: put(memory, key, b"later"), {}, id="a later version does not count"),
        pytest.param(lambda memory, key: memory.delete([PhysicalKey.parse(key)]), {}, id="nor does a delete marker"),
    ],
)
def test_own_objects_at_versions(
    registry: Registry, memory: MemoryStorage, hash_type: str, change: Callable[[MemoryStorage, str], object], expected: object
) -> None:
    publish(registry, memory, TREE, hash_type)
    change(memory, "s3://source/data/data.csv")

    check(registry).check()


@pytest.mark.parametrize("checksums", [(), ALL], ids=["no checksum", "checksums"])
@pytest.mark.parametrize("hash_type", HASH_TYPES)
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param(None, {"missing": ["a.txt"]}, id="gone"),
        pytest.param(b"wrong", {"modified": ["a.txt"]}, id="other bytes"),
        pytest.param(b"righ", {"modified": ["a.txt"]}, id="shorter"),
        pytest.param(b"right and more", {"modified": ["a.txt"]}, id="longer"),
        pytest.param(b"right", {}, id="right"),
    ],
)
def test_own_object_differences(
    hash_type: str, checksums: tuple[StoreAlgorithm, ...], stored: bytes | None, expected: dict[str, list[str]]
) -> None:
    memory = MemoryStorage(["registry", "source"], versioned=False)
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    publish(registry, memory, {"a.txt": b"right"}, hash_type)
    memory.delete([PhysicalKey("source", "data/a.txt")])
    if stored is not None:
        put(memory, "s3://source/data/a.txt", stored, *checksums)
    found = check(registry)

    assert {"missing": found.missing, "modified": found.modified} == {"missing": [], "modified": []} | expected
    assert found.extra == []


@pytest.mark.parametrize(
    ("hash_type", "checksums", "read"),
    [
        pytest.param(CHUNKED, ALL, {"data/large.bin"}, id="chunked: a checksum proves one part"),
        pytest.param(SHA256, ALL, set(), id="SHA256: a checksum proves it"),
        pytest.param(CRC64NVME, ALL, set(), id="CRC64NVME: a checksum proves it"),
        pytest.param(CHUNKED, ("CRC64NVME",), set(TREE), id="chunked: a checksum of another kind"),
        pytest.param(CRC64NVME, ("SHA256",), set(TREE), id="CRC64NVME: a checksum of another kind"),
        pytest.param(CHUNKED, (), set(TREE), id="chunked: no checksum"),
        pytest.param(SHA256, (), set(TREE), id="SHA256: no checksum"),
        pytest.param(CRC64NVME, (), set(TREE), id="CRC64NVME: no checksum"),
    ],
)
@pytest.mark.parametrize("read_all", [False, True])
@pytest.mark.parametrize("place", ["own objects", "prefix"])
def test_only_unproven_are_read(
    registry: Registry,
    memory: MemoryStorage,
    recorder: Recorder,
    place: str,
    hash_type: str,
    checksums: tuple[StoreAlgorithm, ...],
    read: set[str],
    *,
    read_all: bool,
) -> None:
    publish(registry, memory, TREE, hash_type, *checksums)
    for key, data in TREE.items():
        put(memory, str(PhysicalKey("source", f"out/{key}")), data, *checksums)
    check(through(registry, recorder), None if place == "own objects" else PREFIX, read_all=read_all).check()

    assert data_read(recorder) == sum(len(TREE[key]) for key in (TREE if read_all else read))


@pytest.mark.parametrize("read_all", [False, True])
def test_file_is_read_once(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, tmp_path: Path, *, read_all: bool
) -> None:
    publish(registry, memory, TREE)
    lay(registry, str(tmp_path / "out"), TREE)
    check(through(registry, recorder), str(tmp_path / "out"), read_all=read_all).check()

    assert data_read(recorder) == BYTES


def test_checksum_trusted_by_default(registry: Registry, memory: MemoryStorage) -> None:
    key = PhysicalKey("source", "b.txt")
    rotten = memory.store(key, b"wrong", "overwrite", {"SHA256": checksum(b"right", "SHA256")}).key
    right = put(memory, "s3://source/a.txt", b"right")
    commit(registry, NAME, [entry_of("a.txt", b"right", right), entry_of("b.txt", b"right", rotten)])

    assert check(registry).modified == []
    assert check(registry, read_all=True).modified == ["b.txt"]


def test_other_size_is_not_read(registry: Registry, memory: MemoryStorage, recorder: Recorder, src: str) -> None:
    publish(registry, memory, {"a.txt": b"right"})
    lay(registry, src, {"a.txt": b"right and more"})

    assert check(through(registry, recorder), src, read_all=True).modified == ["a.txt"]
    assert data_read(recorder) == 0


@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_silent_store_is_verified(src: str, hash_type: str) -> None:
    memory = SilentStorage(["registry", "source"])
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    publish(registry, memory, TREE, hash_type)
    install(registry, Reference(str(NAME)), src)
    lay(registry, src, {"data.csv": b"3,2,1"})

    assert check(registry, src).modified == ["data.csv"]
    check(registry).check()


# Refusals.


@pytest.mark.parametrize("read_all", [False, True])
@pytest.mark.parametrize("checksums", [(), ALL], ids=["no checksum", "checksums"])
def test_unknown_hash_type_refused(
    registry: Registry, memory: MemoryStorage, checksums: tuple[StoreAlgorithm, ...], *, read_all: bool
) -> None:
    place = put(memory, "s3://source/out/a.txt", b"a", *checksums)
    commit(registry, NAME, [Entry(LogicalKey("a.txt"), (str(place),), 1, Hash("MD5", "0"))])

    for src in (None, PREFIX):
        with pytest.raises(HashTypeError, match="'MD5'"):
            check(registry, src, read_all=read_all)


def test_named_file_is_not_opened(registry: Registry, recorder: Recorder, write: Callable[..., Path], src: str) -> None:
    secret = write("secret", b"secret")
    commit(registry, NAME, [entry_of("a.txt", b"secret", secret.as_uri())])

    with pytest.raises(LocationError, match="entry 'a.txt': .* is a file of some other machine"):
        check(through(registry, recorder))
    assert [call for call in recorder.calls if call.key.is_local] == []
    lay(registry, src, {"a.txt": b"secret"})
    check(registry, src).check()


def test_local_package_by_files(local_registry: Registry, write: Callable[..., Path], src: str) -> None:
    for key, data in TREE.items():
        write(f"in/{key}", data)
    directory = write("in/README.md", TREE["README.md"]).parent
    build(local_registry, Draft(package=str(NAME), entries=str(directory)))
    lay(local_registry, src, TREE)

    check(local_registry).check()
    check(local_registry, src).check()
    check(local_registry, str(directory)).check()
    write("in/data.csv", b"3,2,1")
    (directory / "README.md").unlink()
    found = check(local_registry)
    assert (found.missing, found.modified) == (["README.md"], ["data.csv"])


@pytest.mark.parametrize("key", ["../a.txt", "/a.txt", "data/../../a.txt"])
def test_escaping_key_is_refused(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, write: Callable[..., Path], key: str
) -> None:
    write("a.txt", b"a")
    commit(registry, NAME, [entry_of(key, b"a", put(memory, "s3://source/data/a.txt", b"a"))])

    with pytest.raises(ManifestError, match="line 2"):
        check(through(registry, recorder), str(write("out/b.txt").parent))
    assert [call for call in recorder.calls if call.key.is_local] == []


@pytest.mark.parametrize("src", ["s3://source/out/?versionId=v1", "s3://", "https://example.org/", ""])
def test_bad_place_is_refused(registry: Registry, memory: MemoryStorage, src: str) -> None:
    publish(registry, memory, {"a.txt": b"a"})

    with pytest.raises(LocationError):
        check(registry, src)


def test_file_as_place_is_refused(registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
    publish(registry, memory, {"a.txt": b"a"})

    with pytest.raises(QuiltError, match="out"):
        check(registry, str(write("out", b"a")))


# Work that is stopped, or fails.


@pytest.mark.parametrize("operation", ["stat", "stream"])
@pytest.mark.parametrize("read_all", [False, True])
def test_stop_returns_nothing(registry: Registry, memory: MemoryStorage, src: str, operation: str, *, read_all: bool) -> None:
    publish(registry, memory, TREE)
    lay(registry, src, TREE)
    stop = threading.Event()
    stopping = Before(lambda call: call.operation == operation and not call.key.key.startswith(".quilt/"), stop.set)

    with pytest.raises(CancelledError):
        check(through(registry, stopping), src, read_all=read_all, stop=stop)
    assert stopping.done


def test_stop_between_chunks(registry: Registry, memory: MemoryStorage, write: Callable[..., Path]) -> None:
    stop = threading.Event()
    read: list[int] = []

    class Watched(LocalStorage):
        def stream(self, key: PhysicalKey, start: int, stop_at: int) -> Iterator[bytes]:
            for chunk in super().stream(key, start, stop_at):
                read.append(len(chunk))
                stop.set()
                yield chunk

    publish(registry, memory, {"a.bin": bytes(PART)})
    directory = write("out/a.bin", bytes(PART)).parent

    with pytest.raises(CancelledError):
        check(Registry(registry.location, Stores(Watched(), memory)), str(directory), stop=stop)
    assert len(read) == 1


@pytest.mark.parametrize("mode", ["before", "after"])
def test_failed_call_no_difference(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, src: str, mode: FaultMode
) -> None:
    publish(registry, memory, TREE)
    lay(registry, src, TREE)
    check(through(registry, recorder), src, read_all=True)

    for at in range(1, len(recorder.calls) + 1):
        with pytest.raises(StorageUnavailableError, match=f"fault at call {at} "):
            check(through(registry, Fault(at, mode)), src, read_all=True)
