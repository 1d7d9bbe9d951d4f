"""Work on a registry that is cut off: the world that it works in, and the invariants that its readers rely on."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from airflow_quilt.core.errors import ObjectNotFoundError, QuiltError, RevisionConflictError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.hashes import Hash, algorithm, digest_of
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Revision
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_path
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Call, Fault, FaultMode, tapped

NAME: Final = PackageName("team", "package")
MOST_CALLS: Final = 300
LARGE: Final = os.urandom(8 * 1024 * 1024 + 1)
SMALL: Final = b"a small file"
OLDER: Final = b"an older file"
NOW: Final = 1_700_000_000.0
FAULTS: Final[Sequence[FaultMode]] = ("before", "after", "killed after")
"""``"killed before"`` a call would leave the state that ``"killed after"`` the call before it leaves: it is swept once."""
_TRIES: Final = 3

Kind = Literal["s3", "local"]


@dataclass(kw_only=True)
class World:
    """Stores with sources in them, and a package of a registry on one of them.

    Attributes:
        stores: the storages.
        location: the registry.
        files: a directory with the sources that are files.
        out: a directory, or the URL of a prefix, that files are installed to.
        name: the package.
        bucket: the bucket of a registry on S3; objects that may stay in place lie there, below ``data/``.
        source: another bucket, where source objects lie below ``data/``.
        chosen: the revision that work is about, where it is about one.
        lease: how long the lock of a dead process holds, in seconds.
        clock: unix seconds.
    """

    stores: Stores
    location: RegistryLocation
    files: Path
    out: str
    name: PackageName = NAME
    bucket: str = "registry"
    source: str = "source"
    chosen: TopHash | None = None
    lease: float = 0.5
    clock: Callable[[], float] = lambda: NOW
    hashes: dict[tuple[PhysicalKey, str], Hash] = field(default_factory=dict)

    def registry(self, stores: Stores | None = None) -> Registry:
        """Return the registry, through other stores if they are given."""
        return Registry(self.location, stores or self.stores, clock=self.clock, lease=self.lease)

    def history(self) -> list[Revision]:
        return list(self.registry().revisions(self.name))

    def latest(self) -> TopHash | None:
        found = self.registry().latest(self.name)
        return found.top_hash if found else None

    def hash_of(self, key: PhysicalKey, size: int, hash_type: str) -> Hash:
        """Return the hash of the bytes at a place; a version never changes, nor do the files."""
        if (key, hash_type) not in self.hashes:
            kind, store = algorithm(hash_type), self.stores.of(key)
            digests = [digest_of(store.stream(key, start, stop), kind.new()) for start, stop in kind.parts(size)]
            self.hashes[key, hash_type] = kind.combine(digests, size)
        return self.hashes[key, hash_type]

    @property
    def roots(self) -> list[PhysicalKey]:
        """Where sources lie, and where data lands."""
        prefixes = [(self.bucket, "data/"), (self.bucket, f"{self.name}/"), (self.source, "data/")]
        return [resolve_path(self.files), *(PhysicalKey(*prefix) for prefix in prefixes)]

    def data(self) -> set[PhysicalKey]:
        """Return the files and current objects that are data."""
        return {stat.key for root in self.roots for stat in self.stores.of(root).list_objects(root)}

    def manifests(self) -> set[PhysicalKey]:
        """Return the manifests of the history."""
        return {self.location.root.join(layout.manifest(revision.top_hash)) for revision in self.history()}

    def is_locked(self) -> bool:
        """Whether the lock of the package is held, or was left."""
        return self.stores.find(self.location.root.join(layout.lock(self.name))) is not None

    def open_uploads(self) -> int:
        """Count the uploads in parts that are neither complete nor aborted."""
        assert isinstance(self.stores.remote, MemoryStorage)
        return len(self.stores.remote.uploads)

    def installed(self) -> dict[str, bytes]:
        """Return the files at the target of an install, temporary ones too."""
        root = PhysicalKey.parse(self.out)
        if root.is_local:
            found = [path for path in Path(root.key).rglob("*") if path.is_file()]
            return {path.relative_to(root.key).as_posix(): path.read_bytes() for path in found}
        remote = self.stores.remote
        return {stat.key.key.removeprefix(root.key): remote.get(stat.key).data for stat in remote.list_objects(root)}


def memory_world(work: "Work", files: Path, directory: Path) -> World:
    """Return a world for a piece of work: a store in memory that holds sources, and a registry there or in a directory.

    Its clock stands still: every revision wants the same second.
    """
    memory = MemoryStorage(["registry", "source"])
    for bucket in ("registry", "source"):
        for file in files.iterdir():
            memory.store(PhysicalKey(bucket, f"data/{file.name}"), _content(file), "create")
    location = RegistryLocation.parse("s3://registry" if work.kind == "s3" else str(directory / "registry"))
    out = "s3://source/out/" if work.to_prefix else str(directory / "out")
    return World(stores=Stores(LocalStorage(), memory), location=location, files=files, out=out)


@cache
def _content(file: Path) -> bytes:
    """Read a file once for all the worlds that hold it: there are thousands."""
    return file.read_bytes()


def make_files(directory: Path) -> Path:
    """Write a small file and one of two parts into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "small.txt").write_bytes(SMALL)
    (directory / "large.bin").write_bytes(LARGE)
    return directory


def broken_invariants(world: World, data: Iterable[PhysicalKey], kept: Sequence[Revision]) -> Iterator[str]:
    """Yield broken promises to readers of the registry; ``data`` and ``kept`` must be there still."""
    history, latest = world.history(), world.latest()
    if latest and latest not in {revision.top_hash for revision in history}:
        yield f"latest names {latest}, which is not in the history"
    if kept and not latest:
        yield "there is a history without latest"
    if missing := [revision for revision in kept if revision not in history]:
        yield f"acknowledged revisions are gone: {missing}"
    for top_hash in {revision.top_hash for revision in history} | ({latest} if latest else set()):
        yield from _broken_manifest(world, top_hash)
    if deleted := [str(key) for key in set(data) - world.data() if world.stores.find(key) is None]:
        yield f"data was deleted: {deleted}"


def _broken_manifest(world: World, top_hash: str) -> Iterator[str]:
    try:
        manifest = world.registry().read(world.name, top_hash)
        entries = list(manifest.entries)
    except QuiltError as error:
        yield f"the manifest {top_hash} cannot be read: {error!r}"
        return
    if write_manifest(manifest.header, entries, BytesIO()).top_hash != top_hash:
        yield f"the manifest {top_hash} has another top hash than its name"
    for entry in entries:
        key = PhysicalKey.parse(entry.physical_keys[0])
        try:
            size = world.stores.of(key).stat(key).size
        except ObjectNotFoundError:
            yield f"{entry.logical_key} is not at {key}"
            continue
        if size != entry.size or world.hash_of(key, size, entry.hash.type) != entry.hash:
            yield f"{entry.logical_key} at {key} has other bytes than the manifest says"


class Judge(Protocol):
    """Compares the world now with that before a piece of work, and reports the problems."""

    def midway(self, *, is_clean: bool) -> Iterator[str]:
        """Yield the problems where the work was cut off; ``is_clean``: it had the chance to clean up after itself."""
        ...

    def end(self, result: Any) -> Iterator[str]:
        """Yield the problems where the work came through."""
        ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """A piece of work.

    Attributes:
        kind: of the registry.
        prepare: makes the world before.
        run: does it, through a registry; the seconds are those at which it began, when it is tried again.
        judge: reads the world before, and judges it later.
        to_prefix: whether it installs to a prefix on S3.
        may_lose: whether it may end with a conflict as it should.
    """

    kind: Kind
    prepare: Callable[[World], object]
    run: Callable[[World, Registry, float | None], Any]
    judge: Callable[[World], Judge]
    to_prefix: bool = False
    may_lose: bool = False


def _is_clean(fault: Fault, mode: FaultMode) -> bool:
    """Whether failed work could know of all that it had begun: the lost answer may be the one to its begin."""
    is_lost = fault.struck is not None and fault.struck.operation in {"begin", "create"} and mode.endswith("after")
    return not mode.startswith("killed") and not is_lost


def problems_of_faults(
    work: Work,
    world: World,
    faults: Sequence[tuple[Fault, FaultMode]],
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[str]:
    """Try work with a fault, after that with the next one, and then without; yield the problems after each.

    ``meanwhile`` runs before each new attempt. Where a fault does not strike, the work ends there.
    """
    work.prepare(world)
    judge, began = work.judge(world), world.clock()
    for number, (fault, mode) in enumerate(faults):
        yield from _problems_of_a_try(work, world, judge, (fault, mode), since=began if number else None)
        if fault.struck is None:
            return
        meanwhile()
    result, _ = run_again(work, world, began)
    yield from (f"run again: {problem}" for problem in judge.end(result))


def run_again(work: Work, world: World, since: float) -> tuple[Any, int]:
    """Do work once more; return its result, and how many attempts before that deferred it to the next one.

    On a busy machine work under a lock may take too long. And a request of a process that was killed may have been
    under way, and win.
    """
    for deferred in range(_TRIES):
        try:
            return work.run(world, world.registry(), since), deferred
        except QuiltError as error:
            if not error.transient:
                raise
    return work.run(world, world.registry(), since), _TRIES


def _problems_of_a_try(
    work: Work, world: World, judge: Judge, fault_and_mode: tuple[Fault, FaultMode], since: float | None
) -> Iterator[str]:
    fault, mode = fault_and_mode
    try:
        result = _result(work, world, fault, since)
    except QuiltError as error:
        is_lost_race = work.may_lose and isinstance(error, RevisionConflictError)
        if mode == "repeated" or not (fault.struck or is_lost_race):
            yield f"it failed, {error!r}"
        yield from judge.midway(is_clean=_is_clean(fault, mode))
        return
    if fault.struck and mode.startswith("killed"):
        yield from judge.midway(is_clean=False)  # It would have gone on, but its success was never reported.
    else:
        yield from judge.end(result)


def _result(work: Work, world: World, fault: Fault, since: float | None) -> Any:
    """Do work through a fault; repeat it after transient errors of another cause."""
    registry = world.registry(tapped(world.stores, fault))
    for _ in range(_TRIES):
        try:
            return work.run(world, registry, since)
        except QuiltError as error:
            if fault.struck or work.may_lose or not error.transient:
                raise
        since = world.clock()
    return work.run(world, registry, since)


def problems_at_every_call(
    mode: FaultMode,
    try_with: Callable[[Fault], Iterator[str]],
    among: Callable[[Call], bool] = lambda _call: True,
    at_once: int = 1,
) -> tuple[int, list[str]]:
    """Try work with a fault at each of its calls in turn; return the first call that it never came to, and the problems.

    Several may be tried at once, where they would wait most of the time.
    """

    def try_at(at: int) -> tuple[Fault, list[str]]:
        fault = Fault(at, mode, among)
        return fault, [f"call {at}, {fault.struck}: {problem}" for problem in try_with(fault)]

    problems = []
    with ThreadPoolExecutor(at_once) as pool:
        for first in range(1, MOST_CALLS, at_once):
            for at, (fault, found) in enumerate(pool.map(try_at, range(first, first + at_once)), first):
                problems += found
                if fault.struck is None:
                    return at, problems
    return MOST_CALLS, problems


def problems_after_kills(
    work: Work, make_world: Callable[[], World], mode: FaultMode = "killed after", at_once: int = 1
) -> tuple[int, list[str]]:
    """Kill work at each of its calls in turn, and let the next try fail at each of its own.

    Returns:
        The number of pairs of calls, and the problems.
    """
    kill: Final = "killed after"
    pairs, problems = 0, []

    def try_both(first: int, second: Fault) -> Iterator[str]:
        return problems_of_faults(work, make_world(), [(Fault(first, kill), kill), (second, mode)])

    for first in range(1, MOST_CALLS):
        at, found = problems_at_every_call(mode, partial(try_both, first), at_once=at_once)
        problems += [f"after a kill at call {first}: {problem}" for problem in found]
        pairs += at - 1
        if at == 1:  # The work came through before it was to be killed.
            return pairs, problems
    return pairs, problems
