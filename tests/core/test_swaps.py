"""Directories that others may write to: a file, link or directory that is swapped meanwhile is an error, and leads nowhere else."""

import os
import stat as modes
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_quilt.core.errors import (
    LocationError,
    PreconditionError,
    QuiltError,
    SourceChangedError,
    StorageError,
    VerificationError,
)
from airflow_quilt.core.format.hashes import CHUNKED, SHA256, hash_of
from airflow_quilt.core.format.names import LogicalKey, PackageName, walk_order
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import InstallResult, install
from airflow_quilt.core.plan.actions import HashInPlace, Source, Upload
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.sources.directory import DirectoryWalk
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import ObjectInfo
from airflow_quilt.core.storage.partial import LocalFile
from airflow_quilt.core.storage.paths import resolve_path
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.transfer.places import fold
from airflow_quilt.core.transfer.upload import Uploader
from airflow_quilt.core.verify import verify
from tests.core.faulty import Before, Call, T, tapped
from tests.core.packages import PART, commit, entry_of, files_below, put
from tests.support import through

NAME = PackageName("team", "package")
REFERENCE = Reference(NAME)
LARGE = os.urandom(PART + 5)
MIB = 1024 * 1024

Write = Callable[..., Path]


@pytest.fixture
def outside(write: Write) -> Path:
    """A directory of files that must neither be packed nor written over."""
    write("outside/a.txt", b"secret")
    return write("outside/z/b.txt", b"secret").parent.parent


@pytest.fixture
def registry(memory: MemoryStorage) -> Registry:
    """A registry whose files are read and written one after the other."""
    return Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory, limits=Limits(max_concurrency=1)))


def swap(path: Path, target: Path) -> None:
    """Put a link in the place of a file or directory."""
    path.rename(path.with_name(f"{path.name}.away"))
    path.symlink_to(target)


def publish(registry: Registry, memory: MemoryStorage, files: Mapping[str, bytes]) -> None:
    """Make a revision of files."""
    commit(registry, NAME, [entry_of(key, data, put(memory, f"s3://source/{key}", data)) for key, data in files.items()])


def get(registry: Registry, out: Path) -> InstallResult:
    return install(registry, REFERENCE, str(out))


# Packing.


@pytest.mark.parametrize("swapped", ["z", "z/b.txt", ""], ids=["a directory", "a file in it", "the root"])
def test_swapped_item_is_not_packed(write: Write, outside: Path, swapped: str) -> None:
    """Swap an item when it has been listed, and its turn has not come."""
    write("raw/a.txt")
    root = write("raw/z/b.txt").parent.parent
    if swapped == "z/b.txt":
        write("raw/z/a.txt")

    def ignored(path: str) -> bool:
        if path.endswith("z/a.txt" if swapped == "z/b.txt" else "a.txt") and not (root / swapped).is_symlink():
            swap(root / swapped, outside / swapped)
        return False

    found = DirectoryWalk(resolve_path(f"{root}/"), ignored, follow=False).files()
    if swapped:
        with pytest.raises(SourceChangedError, match=f"{swapped}: .*(took the place|became something else)"):
            list(found)
    else:  # The directories that are open are those that were listed.
        with suppress(SourceChangedError):
            assert {path: info.size for path, info in found} == {"a.txt": 0, "z/b.txt": 0}


def test_swapped_link_target_refused(write: Write, outside: Path) -> None:
    """A link inside is checked by its target, and the way to the target leads out when it is used."""
    root = write("raw/z/b.txt", b"inner").parent.parent
    (root / "link").symlink_to("z/b.txt")
    swap(root / "z", outside / "z")

    with pytest.raises(QuiltError, match="leads out of"):
        list(DirectoryWalk(resolve_path(f"{root}/"), lambda _path: False, follow=False).files())


def listed(path: Path, hash_type: str = CHUNKED) -> Source:
    info = LocalStorage().stat(resolve_path(path))
    return Source(logical_key=LogicalKey("key"), origin=info.key, size=info.size, etag=info.etag, hash_type=hash_type)


def swap_back(path: Path, target: Path) -> None:
    """Let a link with the state of the listed file be there while it is read."""
    swap(path, target)
    there = path.with_name(f"{path.name}.away").stat()
    os.utime(target, ns=(there.st_atime_ns, there.st_mtime_ns))


@pytest.mark.parametrize("data", [b"inner!", LARGE], ids=["small", "in parts"])
@pytest.mark.parametrize("where", ["the file", "its directory"])
@pytest.mark.parametrize("work", ["push", "build"])
def test_swapped_file_is_not_read(memory: MemoryStorage, write: Write, data: bytes, where: str, work: str) -> None:
    path, other = write("raw/z/key", data), write("other/key", bytes(len(data)))
    source = listed(path)
    assert isinstance(source.origin, PhysicalKey)
    action = Upload(source, PhysicalKey("registry", "key")) if work == "push" else HashInPlace(source, source.origin)
    places = (path, other) if where == "the file" else (path.parent, other.parent)
    swapping = Before(lambda call: call.operation == "stream", lambda: swap_back(*places))
    stores = tapped(Stores(LocalStorage(), memory), swapping)

    with pytest.raises(SourceChangedError, match="key"):
        list(Uploader(stores).run([action]))
    assert swapping.done
    assert list(memory.list_objects(PhysicalKey("registry", ""))) == []


def write_in_place(path: Path, data: bytes, at: int = 0) -> None:
    """Write into a file, and set the time of its last writing back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_mixed_read_is_repeated(memory: MemoryStorage, write: Write) -> None:
    """A file that is written to while it is read is read again, also where its time is set back."""
    path, new = write("raw/key", bytes(3 * MIB)), b"\1" * 3 * MIB

    class Written(LocalStorage):
        written = False

        def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
            for chunk in super().stream(key, start, stop):
                yield chunk
                if not self.written:
                    self.written = True
                    write_in_place(path, new)

    upload = Upload(listed(path), PhysicalKey("registry", "key"))
    ((_, entry),) = Uploader(Stores(Written(), memory)).run([upload])

    assert entry.hash == hash_of(new)
    assert memory.get(PhysicalKey("registry", "key")).data == new


@pytest.mark.parametrize("hash_type", [CHUNKED, SHA256])
@pytest.mark.parametrize("touched", ["written to", "only touched"])
@pytest.mark.parametrize("work", ["push", "build"])
def test_parts_are_of_one_state(memory: MemoryStorage, write: Write, work: str, touched: str, hash_type: str) -> None:
    path = write("raw/key", LARGE)
    source = listed(path, hash_type)
    assert isinstance(source.origin, PhysicalKey)
    action = Upload(source, PhysicalKey("registry", "key")) if work == "push" else HashInPlace(source, source.origin)
    after = {"seen": 0}

    def is_second(call: Call) -> bool:
        after["seen"] += call.operation == "stream"
        return after["seen"] == 2 if hash_type == CHUNKED or work == "push" else call.operation == "stream"

    touching = Before(is_second, lambda: path.chmod(0o640) if touched == "only touched" else write_in_place(path, b"new"))
    stores = replace(tapped(Stores(LocalStorage(), memory), touching), retry=RetryPolicy(shortest=0.001))
    try:
        ((_, entry),) = Uploader(stores).run([action])
    except SourceChangedError:
        assert touched == "written to" or hash_type == SHA256
    else:
        assert entry.hash == hash_of(path.read_bytes(), hash_type)
        sent = memory.get(PhysicalKey("registry", "key")).data if work == "push" else path.read_bytes()
        assert sent == path.read_bytes()
    assert touching.done


# Installing.


@pytest.mark.parametrize("operation", ["stat", "create", "complete"])
def test_swapped_directory_not_used(
    registry: Registry, memory: MemoryStorage, tmp_path: Path, outside: Path, operation: str
) -> None:
    publish(registry, memory, {"z/b.txt": b"new", "z/c.txt": b"new"})
    out = tmp_path / "out"
    (out / "z").mkdir(parents=True)
    swapping = Before(lambda call: call.operation == operation and call.key.is_local, lambda: swap(out / "z", outside / "z"))

    with pytest.raises(StorageError, match=r"a link, is in the way of a directory|another program replaced"):
        get(through(registry, swapping), out)
    assert files_below(outside) == {"a.txt": b"secret", "z/b.txt": b"secret"}


def finish(file: LocalFile) -> None:
    file.write(MIB, [bytes(MIB)])
    file.complete()


@pytest.mark.parametrize("kind", ["a link", "another name of it", "a file"])
def test_swapped_temporary_file(tmp_path: Path, outside: Path, kind: str) -> None:
    """Write a file of which the temporary name leads elsewhere, as the one in a drop folder may."""
    victim = outside / "a.txt"
    # A file that is opened again takes the place of its number, if another one gets it, and its owner is the same.
    for most_open in (1, 0) if kind != "a file" else (1,):
        file = LocalStorage(most_open=most_open).create(resolve_path(tmp_path / "out/key"), 2 * MIB)
        file.write(0, [bytes(MIB)])
        (temporary,) = (tmp_path / "out").iterdir()
        temporary.unlink()
        if kind == "a link":
            temporary.symlink_to(victim)
        elif kind == "another name of it":
            temporary.hardlink_to(victim)
        else:
            temporary.write_bytes(b"of someone else")
        with pytest.raises(StorageError, match=r"another program replaced|symbolic links"):
            finish(file)
        file.abort()

        assert victim.read_bytes() == b"secret"
        assert files_below(tmp_path / "out") == {}


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    """Hold fewer descriptors than a process may have, however many files are begun."""
    storage, data = LocalStorage(most_open=64), os.urandom(MIB + 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    files = [storage.create(resolve_path(tmp_path / f"{number % 40}/{number}"), 2 * MIB + 2) for number in range(120)]
    for start in (0, MIB + 1):
        for file in files:
            file.write(start, [data])
    held = len(list(Path("/proc/self/fd").iterdir())) - before
    for file in files:
        file.complete()
    storage.forget_directories()

    assert held <= 64 + 32
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert {path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {data + data}


def test_link_to_right_file_replaced(registry: Registry, memory: MemoryStorage, tmp_path: Path, write: Write) -> None:
    publish(registry, memory, {"a.txt": b"right", "b.txt": b"right"})
    theirs = write("theirs.txt", b"right")
    out = write("out/b.txt", b"right").parent
    (out / "a.txt").symlink_to(theirs)
    installed = get(registry, out)
    theirs.write_bytes(b"later")

    assert (installed.reused, (out / "a.txt").is_symlink(), (out / "a.txt").read_bytes()) == (1, False, b"right")


def test_other_installation_may_win(registry: Registry, memory: MemoryStorage, tmp_path: Path, write: Write) -> None:
    """A file that was replaced at once counts if it is right: another installation may have been faster."""
    publish(registry, memory, {"a.txt": b"right"})
    for data in (b"right", b"wrong"):
        out = tmp_path / data.decode()

        def contested(call: Call, run: Callable[[], T]) -> T:
            answer = run()
            if call.operation != "complete":
                return answer
            write("other", data).rename(out / "a.txt")  # noqa: B023
            return run()

        with nullcontext() if data == b"right" else pytest.raises(PreconditionError, match="another program replaced"):
            get(through(registry, contested), out)
        assert files_below(out) == {"a.txt": data}


# Disks that take names for one another.


class FoldingDisk(LocalStorage):
    """A disk that keeps one file for all names that differ in case or composition only, below one directory."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = f"{root}/"

    def create(self, key: PhysicalKey, size: int) -> LocalFile:
        return super().create(self._folded(key), size)

    def stat(self, key: PhysicalKey, *, follow: bool = True) -> ObjectInfo:
        return super().stat(self._folded(key), follow=follow)

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        return super().stream(self._folded(key), start, stop)

    def delete(self, keys: Sequence[PhysicalKey]) -> None:
        super().delete([self._folded(key) for key in keys])

    def _folded(self, key: PhysicalKey) -> PhysicalKey:
        below = unicodedata.normalize("NFC", key.key.removeprefix(self._root).casefold())
        return PhysicalKey(None, f"{self._root}{below}", key.version_id) if key.key.startswith(self._root) else key


@pytest.mark.parametrize(
    ("first", "second"),
    [("A.txt", "a.txt"), ("caf\u00e9", "cafe\u0301"), ("Data/x", "data/x"), ("d/Stra\u00dfe", "d/STRASSE"), ("\u212a", "k")],
)
def test_keys_that_fall_together(registry: Registry, memory: MemoryStorage, tmp_path: Path, first: str, second: str) -> None:
    """Refuse them before a byte is written, where the disk takes one for the other; install both where it does not."""
    files = {first: b"one", "b/other.txt": b"b", second: b"other"}
    publish(registry, memory, dict(sorted(files.items(), key=lambda item: walk_order(item[0]))))
    folding, exact = tmp_path / "folding", tmp_path / "exact"
    (folding / "d").mkdir(parents=True)
    refusing = Registry(registry.location, replace(registry.stores, local=FoldingDisk(folding)))

    with pytest.raises(
        LocationError, match=r"entry '.*': it would land on '.*': the disk of .* takes their names for one another"
    ):
        get(refusing, folding)
    assert files_below(folding) == {}
    assert [path.name for path in folding.iterdir()] == ["d"]
    get(registry, exact)
    assert files_below(exact) == files
    assert get(registry, exact).reused == 3
    assert verify(registry, REFERENCE, str(exact)).extra == []


def test_equal_files_may_fall_together(registry: Registry, memory: MemoryStorage, tmp_path: Path) -> None:
    publish(registry, memory, {"README": b"same", "readme": b"same"})
    get(Registry(registry.location, replace(registry.stores, local=FoldingDisk(tmp_path))), tmp_path / "out")

    assert files_below(tmp_path) == {"out/readme": b"same"}


# Verifying.


def test_every_item_is_extra(registry: Registry, memory: MemoryStorage, tmp_path: Path, write: Write, outside: Path) -> None:
    """Count everything that is no directory, and read none of it."""
    publish(registry, memory, {"a.txt": b"a", "pipe": b"never read"})
    out = write("out/a.txt", b"a").parent
    extra = {f".{'0' * 32}.tmp", f"d/.{'1' * 32}.tmp/x", "link", "d/link", "d/pipe", "d/socket", "file"}
    write(f"out/.{'0' * 32}.tmp")
    write(f"out/d/.{'1' * 32}.tmp/x")
    (out / "link").symlink_to(outside)
    (out / "d/link").symlink_to(".")
    (out / "d/nowhere").symlink_to("nowhere")
    os.mkfifo(out / "pipe")
    os.mkfifo(out / "d/pipe")
    os.mknod(out / "d/socket", modes.S_IFSOCK | 0o600)
    (out / "file").symlink_to("a.txt")
    (out / "empty").mkdir()
    found = verify(registry, REFERENCE, str(out))

    assert (found.extra, found.missing) == (sorted(extra), ["pipe"])
    with pytest.raises(VerificationError, match=r"extra: \.0{32}\.tmp"):
        found.check()


# Any moment.


def test_swap_at_any_moment() -> None:
    """Swap before each call to the system that opens, lists, makes or renames; in a process whose calls can be counted."""
    command = [sys.executable, "-m", "tests.core.swaps"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    swaps, _, problems = ran.stdout.partition("\n")

    assert (ran.returncode, problems) == (0, ""), ran.stderr
    assert int(swaps) > 300


@given(st.text(max_size=12), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_alike_names_are_compared(name: str, form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> None:
    """Names that some disk takes for one another, by case or composition, have one form by which they are found."""
    alike = {unicodedata.normalize(form, name), name.casefold(), unicodedata.normalize(form, name.casefold()), f"{name}."}

    assert {fold(each) for each in alike} == {fold(name)}
