"""Full disks, read-only disks, missing rights, few file descriptors: each in a process of its own, which alone suffers."""

import base64
import ctypes
import hashlib
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import verify
from testbed.server import S3Server
from tests.core.faulty import Recorder
from tests.support import through

T = TypeVar("T")

NAME: Final = PackageName("team", "data")
REFERENCE: Final = Reference(str(NAME))
PAGE: Final = resource.getpagesize()
MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
NOBODY: Final = 65534
_ROOT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 3600


# A process of its own.


def in_child(function: Callable[..., T], *args: Any, environment: Mapping[str, str] | None = None) -> T:
    """Call a function of a module in a process of its own; return its result."""
    variables = {**os.environ, **(environment or {})}
    command = [sys.executable, "-c", "from tests.chaos.environment import answer; answer()"]
    done = subprocess.run(
        command,
        input=pickle.dumps((function, args)),
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        env=variables,
        timeout=_PATIENCE,
        check=True,
    )
    result: T = pickle.loads(done.stdout)  # noqa: S301  (from our own child)
    return result


def answer() -> None:
    """Answer :func:`in_child`; no other code may write to its standard output."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        function, args = pickle.load(sys.stdin.buffer)  # noqa: S301  (from our own parent)
        out.write(pickle.dumps(function(*args)))


@dataclass(frozen=True)
class Outcome:
    """Outcome of some work: the name of the class of its error, empty for none, and its message."""

    error: str = ""
    message: str = ""
    is_clean: bool = True

    @property
    def succeeded(self) -> bool:
        return not self.error


def outcome(work: Callable[[], object]) -> Outcome:
    """Do some work; return whether it failed, and whether with an error of the core."""
    try:
        work()
    except Exception as error:  # noqa: BLE001  (returned)
        return Outcome(type(error).__name__, str(error), isinstance(error, QuiltError))
    return Outcome()


# Registries, and their invariants.


def local_registry(path: Path) -> Registry:
    return Registry(resolve_registry(str(path)), Stores(LocalStorage(), MemoryStorage(["none"])))


def s3_registry(server: S3Server, bucket: str) -> Registry:
    stores = Stores(LocalStorage(), S3Storage(server.client()), RetryPolicy(seconds=30))
    return Registry(RegistryLocation.parse(f"s3://{bucket}"), stores)


def history(registry: Registry) -> list[str]:
    return [revision.top_hash for revision in registry.revisions(NAME)]


def broken(registry: Registry, root: Path | None = None) -> list[str]:
    """Return violations of the invariants, which hold at any time."""
    problems = [f"a temporary file stays: {path}" for path in temporary_files(root)] if root else []
    hashes, latest = history(registry), registry.latest(NAME)
    if (latest is None) != (not hashes) or (latest and latest.top_hash not in hashes):
        problems.append(f"latest is {latest}, the history {hashes}")
    for top_hash in {*hashes, *([latest.top_hash] if latest else [])}:
        read = outcome(lambda top_hash=top_hash: list(registry.read(NAME, top_hash).entries))
        if not read.succeeded:
            problems.append(f"revision {top_hash}: {read}")
    return problems


def temporary_files(root: Path) -> list[str]:
    """Return the temporary files below a directory; locks too."""
    found = (Path(folder) / name for folder, _, names in os.walk(root) for name in names)
    return [str(path) for path in found if path.name.endswith(".tmp") or "/.quilt/locks/" in str(path)]


def write_files(directory: Path, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Write files of some sizes; return their contents."""
    contents = {name: hashlib.shake_128(name.encode()).digest(size) for name, size in sizes.items()}
    for name, data in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return contents


def files_below(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# Disks.

_CLONE_NEWNS: Final = 0x20000
_MS_RDONLY: Final = 1
_MS_REMOUNT: Final = 32
_MS_REC: Final = 16384
_MS_PRIVATE: Final = 1 << 18


def _mount(kind: str, path: Path, flags: int, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), os.fsencode(path), kind.encode(), flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


class Disk:
    """A small disk in memory that only this process sees, and that is gone with it.

    Args:
        path: an empty directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS):
            raise PermissionError(ctypes.get_errno(), "this process may not have mounts of its own")
        _mount("none", Path("/"), _MS_REC | _MS_PRIVATE)
        _mount("tmpfs", path, 0, "size=64m")

    def leave(self, pages: int | None = None, inodes: int | None = None) -> None:
        """Leave room for so many pages of data, and for so many more files and directories; plenty by default."""
        free = os.statvfs(self.path)
        used_bytes = (free.f_blocks - free.f_bfree) * free.f_frsize
        size = 64 * MIB if pages is None else used_bytes + pages * PAGE
        files = 100_000 if inodes is None else free.f_files - free.f_ffree + inodes
        # No room at all is written as a full page: zero means no limit.
        _mount("tmpfs", self.path, _MS_REMOUNT, f"size={max(size, PAGE)},nr_inodes={files}")

    def allow_no_writes(self) -> None:
        _mount("tmpfs", self.path, _MS_REMOUNT | _MS_RDONLY)


def may_have_a_disk(path: Path) -> bool:
    """Whether a process may have a disk of its own; to be called in a child."""
    try:
        Disk(path)
    except PermissionError:
        return False
    return True


class LimitedFiles:
    """The same as far as it goes where no disk can be had: no file may grow beyond a size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)

    def leave(self, pages: int | None = None, inodes: int | None = None) -> None:  # noqa: ARG002  (files only)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if pages is None else pages * PAGE, hard))


def small_disk(path: Path) -> "Disk | LimitedFiles":
    """Return a disk if this process may have one, else a limit of file sizes."""
    try:
        return Disk(path)
    except PermissionError:
        path.rmdir()
        return LimitedFiles(path)


@dataclass
class Sweep:
    """Outcomes of some work with less room than it needs, a little more each time."""

    problems: list[str] = field(default_factory=list)
    failed: int = 0
    succeeded: int = 0
    is_real: bool = True  # whether there was a disk

    def add(self, room: str, result: Outcome, problems: list[str]) -> None:
        self.failed += not result.succeeded
        self.succeeded += result.succeeded
        self.problems += [f"{room}, {result}: {problem}" for problem in problems]


def build_on_a_full_disk(place: Path, kind: str, most: int) -> Sweep:
    """Build a first and a second revision with room for 0, 1, 2, … pages or inodes; each time again when there is room."""
    disk = small_disk(place / "disk")
    sweep = Sweep(is_real=isinstance(disk, Disk))
    write_files(place / "in", {"a": 10, "b/c": 20})
    for number, amount in enumerate(amount for amount in range(most) for _ in "12"):
        root = disk.path / str(number)
        registry = local_registry(root)
        if number % 2:
            build(registry, Draft(package=str(NAME), entries={"a": str(place / "in/a")}))
        before = history(registry)
        again = partial(build, registry, Draft(package=str(NAME), entries=str(place / "in"), message=f"{kind} {amount}"))
        began = time.time()
        disk.leave(**{kind: amount})
        result = outcome(lambda again=again, root=root: again(attempt=Attempt(str(root))))
        problems = _after_a_build(registry, root, result, before)
        disk.leave()
        second = outcome(lambda again=again, root=root, began=began: again(attempt=Attempt(str(root), began)))
        if not second.succeeded or history(registry)[1:] != before or len(history(registry)) != len(before) + 1:
            problems.append(f"when there is room: {second}, history {len(history(registry))}")
        problems += broken(registry, root)
        sweep.add(f"room for {amount} {kind}", result, problems)
    return sweep


def _after_a_build(registry: Registry, root: Path, result: Outcome, before: list[str]) -> list[str]:
    problems = broken(registry, root)
    if not result.succeeded:
        if not result.is_clean or str(root) not in result.message:
            problems.append("the error is not the engine's, or does not name the file")
        if history(registry) != before:
            problems.append(f"something is visible: {len(before)} revisions before, {len(history(registry))} after")
    return problems


def change_on_a_full_disk(place: Path) -> Sweep:
    """Delete and roll back with room for 0, 1, 2, … inodes."""
    disk = small_disk(place / "disk")
    sweep = Sweep(is_real=isinstance(disk, Disk))
    write_files(place / "in", {"a": 10})
    changes: dict[str, Callable[[Registry, str], object]] = {
        "delete": lambda registry, top_hash: delete(registry, str(NAME), top_hash),
        "rollback": lambda registry, top_hash: rollback(registry, str(NAME), top_hash),
    }
    for amount in range(8):
        for what, change in changes.items():
            root = disk.path / f"{what}{amount}"
            registry = local_registry(root)
            for message in ("one", "two", "three"):
                build(registry, Draft(package=str(NAME), entries=str(place / "in"), message=message))
            three, two, one = history(registry)
            disk.leave(inodes=amount)
            chosen = three if what == "delete" else one
            result = outcome(lambda change=change, registry=registry, chosen=chosen: change(registry, chosen))
            disk.leave()
            problems = broken(registry, root)
            if not {two, one} <= set(history(registry)) or not (
                result.is_clean and (result.succeeded or str(root) in result.message)
            ):
                problems.append("a revision is gone, or the error does not name the file")
            sweep.add(f"{what}, room for {amount} inodes", result, problems)
    return sweep


INSTALLED: Final = {"a": 10, "b/one": 3 * PAGE, "b/two": 1, "c": 2 * PAGE + 1, "d/e/f": PAGE}


def install_on_a_full_disk(place: Path, kind: str, most: int) -> Sweep:
    """Install with room for 0, 1, 2, … pages or inodes; each time again when there is room."""
    disk = small_disk(place / "disk")
    sweep = Sweep(is_real=isinstance(disk, Disk))
    contents = write_files(place / "in", INSTALLED)
    registry = local_registry(place / "registry")
    build(registry, Draft(package=str(NAME), entries=str(place / "in")))
    for amount in range(most):
        out = disk.path / str(amount)
        disk.leave(**{kind: amount})
        result = outcome(lambda out=out: install(registry, REFERENCE, str(out)))
        problems = _after_an_installation(out, result, contents)
        disk.leave()
        there = len(files_below(out))
        again = install(registry, REFERENCE, str(out))
        if again.reused != there or files_below(out) != contents:
            problems.append(f"when there is room: {again.reused} of {there} used, {len(files_below(out))} files")
        sweep.add(f"room for {amount} {kind}", result, problems)
    return sweep


def _after_an_installation(out: Path, result: Outcome, contents: Mapping[str, bytes]) -> list[str]:
    found = files_below(out)
    problems = [f"{name} is not what it is to be" for name, data in found.items() if contents.get(name) != data]
    if result.succeeded:
        return problems + ([] if found == contents else ["it says that all is there"])
    if not result.is_clean or str(out) not in result.message:
        problems.append("the error is not the engine's, or does not name the file")
    return problems


def install_a_large_file_on_a_full_disk(place: Path, size: int, pages: int) -> tuple[Outcome, list[str]]:
    """Install a file of several parts where it does not fit; return the outcome, and the files left on the disk."""
    disk = small_disk(place / "disk")
    (place / "large").touch()
    os.truncate(place / "large", size)
    registry = local_registry(place / "registry")
    build(registry, Draft(package=str(NAME), entries={"large": str(place / "large")}))
    disk.leave(pages=pages)
    result = outcome(lambda: install(registry, REFERENCE, str(disk.path / "out")))
    return result, list(files_below(disk.path))


def push_with_a_full_temporary_directory(place: Path, entries: int) -> tuple[Outcome, list[str]]:
    """Push a package whose manifest, of 0.9 MB an entry, is too large for memory; return the outcome and the visible keys."""
    disk = small_disk(place / "disk")
    memory = MemoryStorage(["registry"])
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory))
    contents = {f"{number:04}": {"content": b"", "meta": {"x": "x" * 900_000}} for number in range(entries)}
    os.environ["TMPDIR"] = str(disk.path)
    disk.leave(pages=8)
    result = outcome(lambda: push(registry, Draft(package=str(NAME), entries=contents)))
    visible = [stat.key.key for stat in memory.list_objects(registry.location.root) if stat.key.key.startswith(".quilt/")]
    return result, visible + list(files_below(disk.path))


def work_on_a_read_only_disk(place: Path) -> dict[str, Outcome]:
    """Do everything with a registry, and a directory with a package, that cannot be written to."""
    disk = Disk(place / "disk")
    write_files(place / "in", {"a": 10, "b/c": 20})
    root, out = disk.path / "registry", disk.path / "out"
    registry = local_registry(root)
    draft = Draft(package=str(NAME), entries=str(place / "in"))
    first = build(registry, Draft(package=str(NAME), entries={"a": str(place / "in/a")}))
    build(registry, draft)
    install(registry, Reference(str(NAME), path="a"), str(out))
    before = files_below(disk.path)
    disk.allow_no_writes()
    results = {
        "read": outcome(lambda: list(registry.read(NAME).entries)),
        "install elsewhere": outcome(lambda: install(registry, REFERENCE, str(place / "out"))),
        "install what is there": outcome(lambda: install(registry, Reference(str(NAME), path="a"), str(out))),
        "verify": outcome(lambda: verify(registry, Reference(str(NAME), path="a"), str(out)).check()),
        "build the same again": outcome(lambda: build(registry, draft)),
        "build": outcome(lambda: build(registry, Draft(package=str(NAME), entries=str(place / "in"), message="new"))),
        "build a new package": outcome(lambda: build(registry, Draft(package="team/new", entries=str(place / "in")))),
        "delete": outcome(lambda: delete(registry, str(NAME))),
        "roll back": outcome(lambda: rollback(registry, str(NAME), first.top_hash)),
        "install": outcome(lambda: install(registry, REFERENCE, str(out))),
        "install to a new directory": outcome(lambda: install(registry, REFERENCE, str(disk.path / "new"))),
    }
    if files_below(disk.path) != before or broken(registry, disk.path):
        results["look again"] = Outcome("Changed", "the disk is not what it was", is_clean=False)
    return results


# Rights.


def become_nobody() -> None:
    """Give up the rights of root, for good."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def install_where_not_all_may_be_written(place: Path) -> tuple[Outcome, dict[str, bytes]]:
    """Install ``a``, ``b/x`` and ``c`` without the right to write to ``b``."""
    write_files(place / "in", {"a": 10, "b/x": 20, "c": 30})
    registry = local_registry(place / "registry")
    build(registry, Draft(package=str(NAME), entries=str(place / "in")))
    _make_public(place)
    (place / "out/b").mkdir(parents=True, mode=0o555)
    (place / "out").chmod(0o777)
    (place / "out/b").chmod(0o555)
    become_nobody()
    return outcome(lambda: install(registry, REFERENCE, str(place / "out"))), files_below(place / "out")


def build_where_not_all_may_be_written(place: Path, closed: str) -> tuple[Outcome, list[str]]:
    """Build a second revision with the right to write to the registry but for one directory of it."""
    write_files(place / "in", {"a": 10})
    root = place / "registry"
    registry = local_registry(root)
    build(registry, Draft(package=str(NAME), entries=str(place / "in")))
    before = history(registry)
    _make_public(place)
    for directory in (root, *(path for path in root.rglob("*") if path.is_dir())):
        directory.chmod(0o777)
    (root / closed).chmod(0o555)
    become_nobody()
    result = outcome(lambda: build(registry, Draft(package=str(NAME), entries=str(place / "in"), message="new")))
    return result, [*broken(registry, root), *(["something is visible"] if history(registry) != before else [])]


def publish_what_may_not_all_be_read(place: Path, server: S3Server | None, bucket: str, closed: str) -> tuple[Outcome, list[str]]:
    """Push, or without a server build, a directory with one unreadable path; return the outcome and the new visible keys."""
    write_files(place / "in", {"a": 10, "b/x": 20, "c": 9 * MIB})
    registry = s3_registry(server, bucket) if server else local_registry(place / "registry")
    publish = push if server else build

    def visible() -> set[str]:
        own = registry.stores.of(registry.location.root).list_objects(registry.location.root.join(".quilt/"))
        client = server.client() if server else None
        uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()) if client else ()
        return {stat.key.key for stat in own} | {upload["Key"] for upload in uploads}

    # Once with all rights: Python loads modules as it goes, and a user without rights may not even read those.
    publish(registry, Draft(package="team/other", entries=str(place / "in")))
    before = visible()
    _make_public(place)
    place.chmod(0o777)
    (place / "in" / closed).chmod(0)
    become_nobody()
    result = outcome(lambda: publish(registry, Draft(package=str(NAME), entries=str(place / "in"))))
    return result, sorted(visible() - before)


def _make_public(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


# File descriptors.


@dataclass(frozen=True)
class Descriptors:
    """Outcomes of a push and an installation with so many file descriptors at most."""

    pushed: Outcome
    installed: Outcome
    problems: list[str]
    open_after: int


def work_with_few_descriptors(server: S3Server, bucket: str, place: Path, files: int, limit: int) -> Descriptors:
    """Push files and install them, both with few file descriptors; failed work is repeated with many."""
    contents = write_files(place / "in", {f"{number % 10}/{number:04}": number % 100 for number in range(files)})
    registry = s3_registry(server, bucket)
    draft = Draft(package=str(NAME), entries=str(place / "in"))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (one descriptor is that of the list)

    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    pushed = outcome(lambda: push(registry, draft))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    problems = broken(registry)
    if not pushed.succeeded:
        if history(registry):
            problems.append("the push failed, and something is visible")
        push(registry, draft)

    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    installed = outcome(lambda: install(registry, REFERENCE, str(place / "out")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    problems += _after_an_installation(place / "out", Outcome() if installed.succeeded else _unnamed(installed, place), contents)
    install(registry, REFERENCE, str(place / "out"))
    if files_below(place / "out") != contents or len(history(registry)) != 1:
        problems.append("in the end not everything is there once")
    kept = len(os.listdir("/proc/self/fd")) - before  # noqa: PTH208
    return Descriptors(pushed, installed, problems, kept)


def _unnamed(result: Outcome, place: Path) -> Outcome:
    """Let an error that names an object do as well as one that names the file."""
    return Outcome(
        result.error, f"{place / 'out'} {result.message}" if "s3://" in result.message else result.message, result.is_clean
    )


# Sizes and numbers.


def part_size_of(size: int) -> int:
    """Return the part size of the format: 8 MiB, doubled until there are at most 10,000 parts."""
    part = 8 * MIB
    while -(-size // part) > 10_000:
        part *= 2
    return part


def hash_of_zeros(size: int) -> str:
    """Return the ``sha2-256-chunked`` of a file without any data, from the digests of one whole part and the last one."""
    part = part_size_of(size)
    whole, rest = divmod(size, part)
    digests = [_digest_of_zeros(part)] * whole + ([_digest_of_zeros(rest)] if rest else [])
    return base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()


def _digest_of_zeros(size: int) -> bytes:
    digest, block = hashlib.sha256(), bytes(MIB)
    for start in range(0, size, MIB):
        digest.update(block[: min(MIB, size - start)])
    return digest.digest()


@dataclass(frozen=True)
class Measured:
    """Cost of work: seconds, and memory beyond that of the core when it has just been imported, in MiB."""

    result: Any
    seconds: float
    memory: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.memory:,} MiB of memory"


def measured(work: Callable[[], Any]) -> Measured:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    result = work()
    seconds = time.monotonic() - began
    return Measured(result, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)


def build_a_sparse_file(place: Path, size: int) -> Measured:
    """Build a package of one file without any data, and read its entry."""
    path = place / "sparse"
    path.touch()
    os.truncate(path, size)
    registry = local_registry(place / "registry")

    def work() -> Any:
        build(registry, Draft(package=str(NAME), entries={"sparse": str(path)}))
        return registry.entry(NAME, "sparse")

    try:
        return measured(work)
    finally:
        path.unlink()


def make_tiny_files(directory: Path, count: int) -> None:
    """Write files of a few bytes, a thousand to a directory."""
    for number in range(count):
        if not number % 1000:
            (directory / f"{number // 1000:03}").mkdir(parents=True)
        (directory / f"{number // 1000:03}" / f"{number:06}").write_bytes(b"%d" % number)


@dataclass(frozen=True)
class Packed:
    """Cost of building, installing and verifying many files, and how many of each came out right."""

    built: Measured
    installed: Measured
    verified: Measured


def pack_tiny_files(place: Path, count: int) -> Packed:
    """Build files into a local registry, install them elsewhere, and verify them."""
    make_tiny_files(place / "in", count)
    registry = local_registry(place / "registry")
    out = str(place / "out")

    def check() -> int:
        found = verify(registry, REFERENCE, out)
        found.check()
        return found.entries

    return Packed(
        measured(lambda: build(registry, Draft(package=str(NAME), entries=str(place / "in"))).entries),
        measured(lambda: len(install(registry, REFERENCE, out).paths)),
        measured(check),
    )


def push_tiny_files(server: S3Server, bucket: str, place: Path, count: int) -> tuple[Measured, Measured]:
    """Push files to a store, and install them."""
    make_tiny_files(place / "in", count)
    registry = s3_registry(server, bucket)
    pushed = measured(lambda: push(registry, Draft(package=str(NAME), entries=str(place / "in"))).entries)
    installed = measured(lambda: len(install(registry, REFERENCE, str(place / "out")).paths))
    return pushed, installed


def push_and_install(server: S3Server, bucket: str, place: Path, sizes: Sequence[int]) -> int:
    """Push files without any data and install them; return the peak memory of this process in MiB, with Python and its imports."""
    (place / "in").mkdir()
    for number, size in enumerate(sizes):
        (place / f"in/{number}").touch()
        os.truncate(place / f"in/{number}", size)
    registry = s3_registry(server, bucket)
    push(registry, Draft(package=str(NAME), entries=str(place / "in")))
    install(registry, REFERENCE, str(place / "out"))
    # Not ru_maxrss, in which the memory of the parent counts that began this process.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) // 1024


@dataclass(frozen=True)
class Requests:
    """Requested uploads: the sizes of whole objects, the number of parts, and the size of the largest."""

    whole: list[int]
    parts: int
    largest_part: int


def _requests(recorder: Recorder) -> Requests:
    parts = recorder.of("send part", "copy part")
    return Requests(
        [call.size for call in recorder.of("upload", "copy")],
        max((call.number for call in parts), default=0),
        max((call.size for call in parts), default=0),
    )


def push_a_sparse_file(server: S3Server, bucket: str, other: str, place: Path, size: int) -> list[tuple[Measured, Requests]]:
    """Push a file without any data, and then the object that it became to another registry; each with its requests."""
    path = place / "sparse"
    path.touch()
    os.truncate(path, size)
    results = []
    for registry, source in (
        (s3_registry(server, bucket), {"sparse": str(path)}),
        (s3_registry(server, other), f"quilt+s3://{bucket}#package={NAME}"),
    ):
        recorder = Recorder()
        tapped = through(registry, recorder)
        work = partial(push, tapped, Draft(package=str(NAME), entries=source))
        took = measured(lambda work=work: work())
        entry = registry.entry(NAME, "sparse")
        results.append((Measured((entry.size, entry.hash.value), took.seconds, took.memory), _requests(recorder)))
    path.unlink()
    return results


def has_room(path: Path, size: int) -> bool:
    """Whether a disk has room for so many bytes, and some to spare."""
    free = os.statvfs(path)
    return free.f_bavail * free.f_frsize > size + 5 * GIB
