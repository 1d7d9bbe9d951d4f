"""A package lands in a directory or at a prefix on S3, checked; no failure leaves a wrong file under its name."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import (
    CancelledError,
    EntryDamagedError,
    EntryNotFoundError,
    HashTypeError,
    LocationError,
    LogicalKeyError,
    ManifestError,
    PackageNotFoundError,
    QuiltError,
    StorageError,
)
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, SHA256, Hash, StoreAlgorithm
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey, PackageName, TopHash, walk_order
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import InstallResult, install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.stores import Stores
from tests.core.crash import FAULTS, MOST_CALLS, problems_at_every_call
from tests.core.faulty import Before, Fault, FaultMode, Recorder, SilentStorage
from tests.core.packages import HASH_TYPES, PART, checksum, commit, entry_of, files_below, put
from tests.support import through

NAME = PackageName("team", "package")
LARGE = os.urandom(2 * PART + 5)
TREE = {
    "README.md": b"read me",
    "data.csv": b"1,2,3",
    "data/empty": b"",
    "data/large.bin": LARGE,
    "data/ä ö/%20 #?&+.txt": b"odd name",
    "data2/x": b"a sibling",
}
IN_ORDER = ["README.md", "data/empty", "data/large.bin", "data/ä ö/%20 #?&+.txt", "data.csv", "data2/x"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The directory that is installed to; it is not there yet."""
    return tmp_path / "out"


def entries_of(
    memory: MemoryStorage, files: Mapping[str, bytes], hash_type: str = CHUNKED, *checksums: StoreAlgorithm
) -> list[Entry]:
    """Store files as objects; return their entries in walk order."""
    return [
        entry_of(
            key, files[key], put(memory, str(PhysicalKey("source", f"data/{key}")), files[key], *checksums), hash_type=hash_type
        )
        for key in sorted(files, key=walk_order)
    ]


def publish(registry: Registry, memory: MemoryStorage, files: Mapping[str, bytes], hash_type: str = CHUNKED) -> TopHash:
    """Make a revision of files whose checksums the store does not report."""
    return commit(registry, NAME, entries_of(memory, files, hash_type))


def get(registry: Registry, dest: Path | str, path: str | None = None, stop: threading.Event | None = None) -> InstallResult:
    """Install and check that no thread stays behind."""
    threads = set(threading.enumerate())
    try:
        return install(registry, Reference(str(NAME), path=path), str(dest), stop=stop)
    finally:
        assert set(threading.enumerate()) <= threads


def data_read(recorder: Recorder) -> dict[str, int]:
    """Return how many bytes of each object that is not the registry's own were asked for."""
    read: dict[str, int] = {}
    for call in recorder.of("stream"):
        if not call.key.is_local and not call.key.key.startswith(".quilt/"):
            read[call.key.key] = read.get(call.key.key, 0) + call.size
    return read


def objects_below(memory: MemoryStorage, prefix: str) -> dict[str, bytes]:
    """Return the current objects below a prefix, by the rest of their keys."""
    root = PhysicalKey.parse(prefix)
    return {stat.key.key.removeprefix(root.key): memory.get(stat.key).data for stat in memory.list_objects(root)}


@dataclass
class Place:
    """A package, and where it is installed to."""

    registry: Registry
    memory: MemoryStorage
    dest: str

    def there(self) -> dict[str, bytes]:
        """Return the files there, temporary ones too."""
        if self.dest.startswith("s3://"):
            return objects_below(self.memory, self.dest)
        return files_below(Path(self.dest))


# To a directory.


@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_package_lands_in_directory(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, out: Path, hash_type: str
) -> None:
    top_hash = publish(registry, memory, TREE, hash_type)
    installed = get(through(registry, recorder), out)

    assert files_below(out) == TREE
    assert installed == InstallResult(
        top_hash=top_hash,
        paths=[str(out / key) for key in IN_ORDER],
        bytes=sum(map(len, TREE.values())),
        reused=0,
        checksum_only=len(TREE) if hash_type == CRC64NVME else 0,
    )
    assert data_read(recorder) == {f"data/{key}": len(data) for key, data in TREE.items()}


PARTS: dict[str, tuple[str | None, dict[str, str]]] = {
    "everything": (None, {key: key for key in IN_ORDER}),
    "a directory": ("data", {"empty": "data/empty", "large.bin": "data/large.bin", "ä ö/%20 #?&+.txt": "data/ä ö/%20 #?&+.txt"}),
    "a directory with its slash": (
        "data/",
        {"empty": "data/empty", "large.bin": "data/large.bin", "ä ö/%20 #?&+.txt": "data/ä ö/%20 #?&+.txt"},
    ),
    "a directory in a directory": ("data/ä ö", {"%20 #?&+.txt": "data/ä ö/%20 #?&+.txt"}),
    "a file": ("data.csv", {"data.csv": "data.csv"}),
    "a file in a directory": ("data/large.bin", {"large.bin": "data/large.bin"}),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("to", ["directory", "prefix"])
def test_part_lands_below_its_path(registry: Registry, memory: MemoryStorage, out: Path, to: str, part: str) -> None:
    path, keys = PARTS[part]
    publish(registry, memory, TREE)
    installed = get(registry, out if to == "directory" else "s3://source/out", path)

    expected = {relative: TREE[key] for relative, key in keys.items()}
    assert (files_below(out) if to == "directory" else objects_below(memory, "s3://source/out/")) == expected
    root = PhysicalKey.parse(str(out) if to == "directory" else "s3://source/out")
    assert [PhysicalKey.parse(place).at_version(None) for place in installed.paths] == [root.join(key) for key in keys]
    assert installed.bytes == sum(map(len, expected.values()))


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("nothing", EntryNotFoundError),
        ("dat", EntryNotFoundError),
        ("data.csv/", EntryNotFoundError),
        ("data.csv/x", EntryNotFoundError),
        ("data/large", EntryNotFoundError),
        ("DATA", EntryNotFoundError),
        ("", LogicalKeyError),
        ("/", LogicalKeyError),
        ("/data", LogicalKeyError),
        ("data//", LogicalKeyError),
        ("../data", LogicalKeyError),
        ("data/.", LogicalKeyError),
    ],
)
def test_absent_path_does_nothing(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, out: Path, path: str, error: type[QuiltError]
) -> None:
    publish(registry, memory, TREE)

    with pytest.raises(error):
        get(through(registry, recorder), out, path)
    assert (recorder.writes, data_read(recorder)) == ([], {})
    assert not out.exists()


@pytest.mark.parametrize("package", ["team/other", "other/package"])
def test_absent_package_is_an_error(registry: Registry, memory: MemoryStorage, package: str, out: Path) -> None:
    publish(registry, memory, TREE)

    with pytest.raises(PackageNotFoundError, match=package):
        install(registry, Reference(package), str(out))
    assert not out.exists()


@pytest.mark.parametrize("to", ["directory", "prefix"])
def test_revision_at_its_versions(registry: Registry, memory: MemoryStorage, out: Path, to: str) -> None:
    first = publish(registry, memory, {"a.txt": b"first"})
    publish(registry, memory, {"a.txt": b"later", "b.txt": b"b"})
    dest = str(out) if to == "directory" else "s3://source/out/"
    installed = install(registry, Reference(str(NAME), first[:8]), dest)

    assert (files_below(out) if to == "directory" else objects_below(memory, dest)) == {"a.txt": b"first"}
    assert installed.top_hash == first


@pytest.mark.parametrize("to", ["directory", "prefix"])
def test_empty_package_no_files(registry: Registry, recorder: Recorder, out: Path, to: str) -> None:
    top_hash = commit(registry, NAME, [])
    installed = get(through(registry, recorder), out if to == "directory" else "s3://source/out")

    assert installed == InstallResult(top_hash=top_hash, paths=[], bytes=0, reused=0)
    assert recorder.writes == []


def test_other_files_are_kept(registry: Registry, memory: MemoryStorage, write: Callable[..., Path], out: Path) -> None:
    publish(registry, memory, {"data/a.txt": b"a"})
    write("out/data/other.txt", b"other")
    write("out/older", b"older")
    get(registry, out)

    assert files_below(out) == {"data/a.txt": b"a", "data/other.txt": b"other", "older": b"older"}


@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_right_files_are_reused(registry: Registry, memory: MemoryStorage, recorder: Recorder, out: Path, hash_type: str) -> None:
    publish(registry, memory, TREE, hash_type)
    get(registry, out)
    (out / "README.md").write_bytes(b"READ ME")
    (out / "data.csv").write_bytes(b"1,2,3,4")
    (out / "data2/x").unlink()
    installed = get(through(registry, recorder), out)

    assert installed.reused == len(TREE) - 3
    assert installed.paths == [str(out / key) for key in IN_ORDER]
    assert set(data_read(recorder)) == {"data/README.md", "data/data.csv", "data/data2/x"}
    assert files_below(out) == TREE
    again = Recorder()
    assert get(through(registry, again), out).reused == len(TREE)
    assert (data_read(again), again.writes) == ({}, [])


@pytest.mark.parametrize("key", ["data/large.bin", "README.md"], ids=["in parts", "small"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[::-1], id="other bytes"),
        pytest.param(lambda data: data[:-1], id="shorter"),
        pytest.param(None, id="gone"),
    ],
)
@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_damaged_object_no_file(
    registry: Registry,
    memory: MemoryStorage,
    out: Path,
    hash_type: str,
    damage: Callable[[bytes], bytes] | None,
    key: str,
) -> None:
    entries = entries_of(memory, TREE, hash_type)
    place = f"s3://source/data/{key}"
    where = put(memory, place, damage(TREE[key])) if damage else PhysicalKey.parse("s3://source/gone")
    others = [entry for entry in entries if entry.logical_key != key]
    damaged = entry_of(key, TREE[key], where, hash_type=hash_type)
    commit(registry, NAME, sorted([*others, damaged], key=lambda entry: walk_order(entry.logical_key)))

    with pytest.raises(EntryDamagedError, match=f"entry '{key}'"):
        get(registry, out)
    files = files_below(out)
    assert key not in files
    assert files.items() <= TREE.items()


@pytest.mark.parametrize("to", ["directory", "prefix"])
def test_unknown_hash_type_refused(registry: Registry, memory: MemoryStorage, out: Path, to: str) -> None:
    place = put(memory, "s3://source/data/a.txt", b"a")
    commit(registry, NAME, [Entry(LogicalKey("a.txt"), (str(place),), 1, Hash("MD5", "0"))])

    with pytest.raises(HashTypeError, match="'MD5'"):
        get(registry, out if to == "directory" else "s3://source/out/")
    assert not out.exists()
    assert objects_below(memory, "s3://source/out/") == {}


# Links and other obstacles.


@pytest.mark.parametrize(
    ("link", "key"),
    [
        pytest.param("sub", "sub/a.txt", id="a directory of the package"),
        pytest.param("sub", "sub/deep/below/a.txt", id="a directory above it"),
        pytest.param("data/sub", "data/sub/a.txt", id="a directory below another one"),
    ],
)
@pytest.mark.parametrize("leads", ["out", "out and has the right file", "to a sibling whose name is longer", "up", "nowhere"])
def test_link_leading_out_refused(
    registry: Registry,
    memory: MemoryStorage,
    recorder: Recorder,
    write: Callable[..., Path],
    out: Path,
    link: str,
    key: str,
    leads: str,
) -> None:
    publish(registry, memory, {key: b"a"})
    outside = out.with_name("out-side" if "sibling" in leads else "elsewhere")
    if leads.endswith("right file"):
        write(f"elsewhere/{key.removeprefix(f'{link}/')}", b"a")
    elif leads != "nowhere":
        outside.mkdir()
    (out / link).parent.mkdir(parents=True)
    (out / link).symlink_to(out.parent if leads == "up" else outside)
    before = files_below(out.parent)

    with pytest.raises(LocationError, match=f"entry '{key}': a link in .* leads out of it"):
        get(through(registry, recorder), out)
    assert files_below(out.parent) == before
    assert recorder.writes == []


def test_inner_links_are_followed(registry: Registry, memory: MemoryStorage, tmp_path: Path) -> None:
    publish(registry, memory, {"link/a.txt": b"a", "b.txt": b"b"})
    real = tmp_path / "real"
    (real / "inside").mkdir(parents=True)
    (real / "link").symlink_to("inside")
    (tmp_path / "out").symlink_to(real)
    installed = get(registry, tmp_path / "out")

    assert files_below(real)["inside/a.txt"] == b"a"
    assert installed.paths == [str(real / "b.txt"), str(real / "link/a.txt")]
    assert (real / "link").is_symlink()


@pytest.mark.parametrize(
    "key", ["link/a.txt", "link/below/a.txt", "to-root/.quilt/a.txt", ".quilt/named_packages/a.txt", "data/.quilt/packages/a.txt"]
)
def test_own_area_is_refused(registry: Registry, memory: MemoryStorage, recorder: Recorder, out: Path, key: str) -> None:
    publish(registry, memory, {"!": b"first", key: b"a"})
    (out / ".quilt/named_packages").mkdir(parents=True)
    (out / "link").symlink_to(".quilt/named_packages")
    (out / "to-root").symlink_to(".")

    with pytest.raises(LocationError, match=f"entry '{key}': .* own area"):
        get(through(registry, recorder), out)
    assert (files_below(out), recorder.writes) == ({}, [])


@pytest.mark.parametrize("key", [".quilt", ".quilt-2/a.txt", "a.quilt/a.txt", ".quiltignore"])
def test_similar_name_is_installed(registry: Registry, memory: MemoryStorage, out: Path, key: str) -> None:
    publish(registry, memory, {key: b"a"})
    get(registry, out)

    assert files_below(out) == {key: b"a"}


@pytest.mark.parametrize(
    ("links", "keys"),
    [
        pytest.param({"link": "real"}, ["link/x", "real/x"], id="a link to a sibling"),
        pytest.param({"link": "."}, ["link/x", "x"], id="a link to the directory itself"),
        pytest.param({"one": "real", "other": "one"}, ["one/x", "other/x"], id="two links to one place"),
        pytest.param({"link": "real"}, ["link/new/x", "real/new/x"], id="a directory that is not there yet"),
    ],
)
def test_links_to_one_file_refused(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, out: Path, links: Mapping[str, str], keys: list[str]
) -> None:
    (out / "real").mkdir(parents=True)
    for link, target in links.items():
        (out / link).symlink_to(target)
    first, second = keys
    publish(registry, memory, {first: b"one", second: b"other"})

    with pytest.raises(LocationError, match=f"entry '{second}': by a link in .* it would land on '{first}'"):
        get(through(registry, recorder), out)
    assert recorder.writes == []
    publish(registry, memory, {first: b"one", f"{second}2": b"other"})
    get(registry, out)
    assert [(out / key).read_bytes() for key in (first, f"{second}2")] == [b"one", b"other"]


def test_long_path_is_refused(registry: Registry, memory: MemoryStorage, recorder: Recorder, out: Path) -> None:
    key = "a/" * 2_040 + "x"
    place = put(memory, "s3://source/data/x", b"x")
    commit(registry, NAME, [entry_of("!", b"x", place), entry_of(key, b"x", place)])

    with pytest.raises(LocationError, match="too long"):
        get(through(registry, recorder), out)
    assert recorder.writes == []


def test_link_not_target_replaced(registry: Registry, memory: MemoryStorage, write: Callable[..., Path], out: Path) -> None:
    publish(registry, memory, {"a.txt": b"new"})
    elsewhere = write("elsewhere", b"old")
    out.mkdir()
    (out / "a.txt").symlink_to(elsewhere)
    get(registry, out)

    assert (files_below(out), (out / "a.txt").is_symlink(), elsewhere.read_bytes()) == ({"a.txt": b"new"}, False, b"old")


def test_file_for_directory_stays(registry: Registry, memory: MemoryStorage, write: Callable[..., Path], out: Path) -> None:
    publish(registry, memory, {"data/a.txt": b"a"})
    write("out/data", b"in the way")

    with pytest.raises(StorageError, match="a file, or a link, is in the way of a directory"):
        get(registry, out)
    assert files_below(out) == {"data": b"in the way"}


@pytest.mark.parametrize(
    ("dest", "error"),
    [
        pytest.param("file", LocationError, id="a file"),
        pytest.param("file/", LocationError, id="a file with a slash"),
        pytest.param("file/below", StorageError, id="below a file"),
    ],
)
def test_file_for_destination_stays(
    registry: Registry, memory: MemoryStorage, write: Callable[..., Path], tmp_path: Path, dest: str, error: type[QuiltError]
) -> None:
    publish(registry, memory, {"a.txt": b"a"})
    write("file", b"in the way")

    with pytest.raises(error):
        get(registry, f"{tmp_path}/{dest}")
    assert files_below(tmp_path) == {"file": b"in the way"}


@pytest.mark.parametrize("dest", ["s3://source/out/?versionId=v1", "s3://", "https://example.org/", ""])
def test_bad_destination_refused(registry: Registry, memory: MemoryStorage, recorder: Recorder, dest: str) -> None:
    publish(registry, memory, {"a.txt": b"a"})

    with pytest.raises(LocationError):
        get(through(registry, recorder), dest)
    assert recorder.calls == []


@pytest.mark.parametrize("key", ["../a.txt", "/a.txt", "data/../../a.txt", "data//a.txt", "data/./a.txt", "data/", ".."])
@pytest.mark.parametrize("to", ["directory", "prefix"])
def test_escaping_key_is_refused(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, out: Path, to: str, key: str
) -> None:
    good = entry_of("!.txt", b"a", put(memory, "s3://source/data/a.txt", b"a"))
    commit(registry, NAME, [good, Entry(LogicalKey(key), good.physical_keys, good.size, good.hash)])

    with pytest.raises(ManifestError, match="line 3"):
        get(through(registry, recorder), out if to == "directory" else "s3://source/out/")
    assert recorder.writes == []
    assert not out.exists()


@pytest.mark.parametrize("to", ["directory", "prefix"])
def test_named_file_is_not_opened(
    registry: Registry, memory: MemoryStorage, recorder: Recorder, write: Callable[..., Path], out: Path, to: str
) -> None:
    secret = write("secret", b"secret")
    commit(registry, NAME, [entry_of("a.txt", b"secret", secret.as_uri())])

    with pytest.raises(LocationError, match="entry 'a.txt': .* is a file of some other machine"):
        get(through(registry, recorder), out if to == "directory" else "s3://source/out/")
    assert [call for call in recorder.calls if call.key.key == str(secret)] == []
    assert recorder.writes == []


@pytest.mark.parametrize("to", ["directory", "prefix"])
def test_local_package_from_files(
    local_registry: Registry, memory: MemoryStorage, write: Callable[..., Path], recorder: Recorder, out: Path, to: str
) -> None:
    for key, data in TREE.items():
        write(f"in/{key}", data)
    published = build(local_registry, Draft(package=str(NAME), entries=str(write("in/README.md", TREE["README.md"]).parent)))
    installed = get(through(local_registry, recorder), out if to == "directory" else "s3://source/out")

    assert installed.top_hash == published.top_hash
    assert (files_below(out) if to == "directory" else objects_below(memory, "s3://source/out/")) == TREE
    assert get(local_registry, out if to == "directory" else "s3://source/out").reused == len(TREE)


def test_local_package_from_objects(local_registry: Registry, memory: MemoryStorage, out: Path) -> None:
    publish(local_registry, memory, TREE)
    get(local_registry, out)

    assert files_below(out) == TREE


def test_files_in_place_are_reused(local_registry: Registry, write: Callable[..., Path], recorder: Recorder) -> None:
    directory = write("in/a.txt", b"a").parent
    build(local_registry, Draft(package=str(NAME), entries=str(directory)))

    assert get(through(local_registry, recorder), directory).reused == 1
    assert recorder.writes == []


# To a prefix on S3.


@pytest.mark.parametrize("dest", ["s3://source/out", "s3://source/out/", "s3://source/o ut/%23/"])
def test_package_lands_at_prefix(registry: Registry, memory: MemoryStorage, recorder: Recorder, dest: str) -> None:
    top_hash = publish(registry, memory, TREE)
    installed = get(through(registry, recorder), dest)
    root = PhysicalKey.parse(dest)

    assert objects_below(memory, dest.rstrip("/") + "/") == TREE
    assert installed.paths == [str(memory.stat(root.join(key)).key) for key in IN_ORDER]
    assert all("?versionId=" in path for path in installed.paths)
    assert (installed.top_hash, installed.bytes, installed.reused) == (top_hash, sum(map(len, TREE.values())), 0)


def test_package_lands_in_bucket() -> None:
    memory = MemoryStorage(["registry", "source", "target"], versioned=False)
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    publish(registry, memory, {"data/a.txt": b"a", "b.txt": b"b"})

    assert get(registry, "s3://target").paths == ["s3://target/b.txt", "s3://target/data/a.txt"]
    assert objects_below(memory, "s3://target") == {"b.txt": b"b", "data/a.txt": b"a"}


@pytest.mark.parametrize("hash_type", HASH_TYPES)
@pytest.mark.parametrize(
    ("store", "told"),
    [(MemoryStorage, True), (MemoryStorage, False), (SilentStorage, False)],
    ids=["with checksums", "checksums of copies", "none"],
)
def test_only_unproven_are_read(recorder: Recorder, store: type[MemoryStorage], hash_type: str, *, told: bool) -> None:
    memory = store(["registry", "source"])
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    commit(registry, NAME, entries_of(memory, TREE, hash_type, *(("SHA256", "CRC64NVME") if told else ())))
    get(through(registry, recorder), "s3://source/out/")

    assert objects_below(memory, "s3://source/out/") == TREE
    assert len(recorder.of("copy")) == len(TREE) - 1
    assert sorted(call.size for call in recorder.of("copy part")) == [5, PART, PART]
    assert recorder.of("upload", "put", "send part") == []
    by_parts = {"data/large.bin"} if store is MemoryStorage and hash_type != SHA256 else set()
    unproven = set() if told else set(TREE) - by_parts
    assert {key: size for key, size in data_read(recorder).items() if size} == {
        f"data/{key}": len(TREE[key]) for key in unproven if TREE[key]
    }
    for key in filter(TREE.get, unproven):  # They are read before they are copied, or before the copy appears.
        calls = [call.operation for call in recorder.calls if call.key.key in {f"data/{key}", f"out/{key}"}]
        assert calls.index("stream") < calls.index("complete" if "complete" in calls else "copy")


@pytest.mark.parametrize("hash_type", HASH_TYPES)
@pytest.mark.parametrize(
    ("checksums", "read"),
    [
        pytest.param((), {"README.md", "data.csv"}, id="without checksums they are read"),
        pytest.param(("SHA256", "CRC64NVME"), set(), id="with checksums they are not"),
    ],
)
def test_right_objects_are_reused(
    registry: Registry,
    memory: MemoryStorage,
    recorder: Recorder,
    hash_type: str,
    checksums: tuple[StoreAlgorithm, ...],
    read: set[str],
) -> None:
    files = {"README.md": b"read me", "data.csv": b"1,2,3", "data/larger": b"large", "new": b"new"}
    commit(registry, NAME, entries_of(memory, files, hash_type, "SHA256", "CRC64NVME"))
    right = put(memory, "s3://source/out/README.md", files["README.md"], *checksums)
    wrong = put(memory, "s3://source/out/data.csv", b"3,2,1", *checksums)
    put(memory, "s3://source/out/data/larger", b"larger", *checksums)
    put(memory, "s3://source/out/other", b"other", *checksums)
    installed = get(through(registry, recorder), "s3://source/out/")

    assert installed.reused == 1
    assert installed.paths[0] == str(right)
    assert installed.paths[2] == str(memory.stat(wrong.at_version(None)).key) != str(wrong)
    assert sorted(call.key.key for call in recorder.writes) == ["out/data.csv", "out/data/larger", "out/new"]
    assert {key.removeprefix("out/") for key in data_read(recorder)} == read
    assert objects_below(memory, "s3://source/out/") == files | {"other": b"other"}


KINDS = ["object", "object with checksums", "object of a silent store", "file"]


def damaged_source(tmp_path: Path, kind: str, entry: Callable[[PhysicalKey | str], Entry], stored: bytes | None) -> Registry:
    """Return a registry with a package of one entry whose place holds other bytes than it says, or is gone."""
    memory = (SilentStorage if "silent" in kind else MemoryStorage)(["registry", "source"])
    url = str(tmp_path / "registry") if kind == "file" else "s3://registry"
    registry = Registry(resolve_registry(url), Stores(LocalStorage(), memory))
    place: PhysicalKey | str = (tmp_path / "a.bin").as_uri() if kind == "file" else "s3://source/data/a.bin"
    if stored is not None and kind == "file":
        (tmp_path / "a.bin").write_bytes(stored)
    elif stored is not None:
        checksums: tuple[StoreAlgorithm, ...] = ("SHA256", "CRC64NVME") if "checksums" in kind else ()
        place = put(memory, str(place), stored, *checksums)
    commit(registry, NAME, [entry(place)])
    return registry


@pytest.mark.parametrize("data", [b"right", LARGE], ids=["small", "in parts"])
@pytest.mark.parametrize("hash_type", HASH_TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_bytes_end_install(tmp_path: Path, kind: str, hash_type: str, data: bytes) -> None:
    registry = damaged_source(tmp_path, kind, lambda place: entry_of("a.bin", data, place, hash_type=hash_type), data[::-1])

    with pytest.raises(EntryDamagedError, match="entry 'a.bin'"):
        get(registry, "s3://source/out/")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [b"righ", b"right and more", None], ids=["shorter", "longer", "gone"])
def test_wrong_size_ends_install(tmp_path: Path, kind: str, stored: bytes | None) -> None:
    registry = damaged_source(tmp_path, kind, lambda place: entry_of("a.bin", b"right", place), stored)

    with pytest.raises(EntryDamagedError, match="entry 'a.bin'"):
        get(registry, "s3://source/out/")


def test_known_damage_is_not_copied(registry: Registry, memory: MemoryStorage, recorder: Recorder) -> None:
    commit(registry, NAME, [entry_of("a.txt", b"right", put(memory, "s3://source/data/a.txt", b"wrong", "SHA256"))])

    with pytest.raises(EntryDamagedError):
        get(through(registry, recorder), "s3://source/out/")
    assert recorder.writes == []


def test_repaired_source_installs(registry: Registry, memory: MemoryStorage) -> None:
    commit(registry, NAME, [entry_of("a.txt", b"right", "s3://source/data/a.txt")])
    put(memory, "s3://source/data/a.txt", b"wrong")
    with pytest.raises(EntryDamagedError):
        get(registry, "s3://source/out/")
    put(memory, "s3://source/data/a.txt", b"right")

    assert get(registry, "s3://source/out/").reused == 0
    assert objects_below(memory, "s3://source/out/") == {"a.txt": b"right"}


def test_objects_in_place_reused(registry: Registry, memory: MemoryStorage, recorder: Recorder) -> None:
    publish(registry, memory, TREE)

    assert get(through(registry, recorder), "s3://source/data/").reused == len(TREE)
    assert recorder.writes == []


@pytest.mark.parametrize("hash_type", HASH_TYPES)
def test_upload_has_its_checksum(
    local_registry: Registry, memory: MemoryStorage, write: Callable[..., Path], hash_type: str
) -> None:
    place = write("in/a.txt", b"a")
    commit(local_registry, NAME, [entry_of("a.txt", b"a", place.as_uri(), hash_type=hash_type)])
    get(local_registry, "s3://source/out/")
    stat = memory.stat(PhysicalKey("source", "out/a.txt"))

    checksums = {"SHA256": stat.sha256, "CRC64NVME": stat.crc64nvme}
    kind: StoreAlgorithm = "CRC64NVME" if hash_type == CRC64NVME else "SHA256"
    assert {name: value for name, value in checksums.items() if value} == {kind: checksum(b"a", kind)}


@pytest.mark.parametrize(
    ("dest", "key"),
    [
        pytest.param("s3://registry", f".quilt/named_packages/{NAME}/latest", id="a key of the package leads there"),
        pytest.param("s3://registry/.quilt/named_packages", f"{NAME}/latest", id="the prefix lies there"),
    ],
)
def test_prefix_own_area_refused(registry: Registry, memory: MemoryStorage, dest: str, key: str) -> None:
    top_hash = publish(registry, memory, {key: b"0" * 64})

    with pytest.raises(LocationError, match="own area"):
        get(registry, dest)
    assert registry.resolve(NAME) == top_hash


# Work that is stopped or fails.


@pytest.mark.parametrize(
    ("to", "operation"),
    [("directory", operation) for operation in ("stat", "stream", "create", "write part", "complete")]
    + [("prefix", operation) for operation in ("stat", "get", "copy", "begin", "copy part", "complete")],
)
def test_stop_leaves_right_files(registry: Registry, memory: MemoryStorage, out: Path, to: str, operation: str) -> None:
    publish(registry, memory, TREE)
    stop = threading.Event()
    stopping = Before(lambda call: call.operation == operation, stop.set)
    place = Place(registry, memory, str(out) if to == "directory" else "s3://source/out/")

    with pytest.raises(CancelledError):
        get(through(registry, stopping), place.dest, stop=stop)
    assert stopping.done
    assert place.there().items() <= TREE.items()
    assert memory.uploads == []
    get(registry, place.dest)
    assert place.there() == TREE


FILES = {"data/empty": b"", "data/large": LARGE[: PART + 1], "right": b"right", "small": b"small"}
OLDER = {"data/large": LARGE[PART : 2 * PART + 1], "right": b"right", "small": b"older"}


def problems_of_a_fault(place: Place, fault: Fault, mode: FaultMode, older: Mapping[str, bytes]) -> Iterator[str]:
    """Install with a fault, then without; yield the problems after each, or none if the fault never struck."""
    try:
        get(through(place.registry, fault), place.dest)
    except QuiltError:
        pass
    else:
        if fault.struck:
            yield "the failure was swallowed"
    if fault.struck is None:
        return
    there = place.there()
    temporary = {key for key in there if key.endswith(".tmp")}
    is_lost = mode.startswith("killed") or (fault.struck.operation in {"create", "begin"} and mode.endswith("after"))
    if (temporary or place.memory.uploads) and not is_lost:
        yield f"something temporary stays: {temporary or 'uploads'}"
    yield from (f"{key} has wrong bytes" for key in there.keys() - temporary if there[key] not in {FILES[key], older.get(key)})
    yield from problems_when_run_again(place, there, temporary)


def problems_when_run_again(place: Place, there: Mapping[str, bytes], temporary: set[str]) -> Iterator[str]:
    complete = {key for key in FILES if there.get(key) == FILES[key]}
    recorder = Recorder()
    installed = get(through(place.registry, recorder), place.dest)
    after = place.there()
    if {key: after.get(key) for key in FILES} != FILES or after.keys() - FILES.keys() != temporary:
        yield f"run again: there is {sorted(after)}"
    if installed.reused != len(complete):
        yield f"run again: {installed.reused} reused, {sorted(complete)} were complete"
    root, written = PhysicalKey.parse(place.dest), {call.key for call in recorder.writes}
    if again := {key for key in complete if root.join(key) in written or f"data/{key}" in data_read(recorder)}:
        yield f"run again: {again} were fetched again"


@pytest.mark.parametrize("older", [{}, OLDER], ids=["nothing there", "older files there"])
@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("to", ["directory", "prefix"])
def test_failure_at_any_call_recovers(tmp_path: Path, to: str, mode: FaultMode, older: Mapping[str, bytes]) -> None:
    def try_with(fault: Fault) -> Iterator[str]:
        memory = MemoryStorage(["registry", "source"])
        registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
        publish(registry, memory, FILES)
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        for key, data in older.items():
            if to == "prefix":
                put(memory, f"s3://source/out/{key}", data)
            else:
                (directory / key).parent.mkdir(exist_ok=True)
                (directory / key).write_bytes(data)
        dest = str(directory) if to == "directory" else "s3://source/out/"
        yield from problems_of_a_fault(Place(registry, memory, dest), fault, mode, older)

    at, problems = problems_at_every_call(mode, try_with)

    assert 10 < at < MOST_CALLS - 1
    assert not problems, "\n".join(problems)


def test_objects_are_read_once(registry: Registry, memory: MemoryStorage, recorder: Recorder, out: Path) -> None:
    publish(registry, memory, {f"{i}.txt": b"small" for i in range(10)})
    get(through(registry, recorder), out)

    buckets = [call.key.bucket for call in recorder.calls if not call.key.is_local]
    assert (buckets.count("source"), buckets.count("registry")) == (10, 3)
