"""Many rounds of everything in one process, and the resources that it holds after each of them."""

import contextlib
import ctypes
import gc
import os
import shutil
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import CancelledError, EntryDamagedError, QuiltError, RevisionConflictError, SourceError
from airflow_quilt.core.format.hashes import hash_of
from airflow_quilt.core.format.manifest import Entry, make_header
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.verify import verify
from testbed.server import S3Server
from tests.chaos.environment import MIB, NAME, PAGE, REFERENCE, broken, local_registry, s3_registry, temporary_files, write_files

ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}
"""Variables by which free memory of the process goes back to the system, of whichever thread it was."""
_CONNECTIONS: Final = 32  # that a client keeps for later
_SMALL: Final = 6
_LARGE: Final = 9 * MIB
_DAMAGED: Final = PackageName("team", "damaged")


@dataclass(frozen=True)
class Sample:
    """Resources of a process."""

    memory: int  # KiB
    objects: int
    threads: int
    files: int
    sockets: int
    temporary_files: int

    @classmethod
    def take(cls, *directories: Path) -> "Sample":
        """Measure this process, and directories where temporary files might be."""
        gc.collect()
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # Memory that the allocator keeps for later is no leak.
        descriptors = [_target(path) for path in Path("/proc/self/fd").iterdir()]
        sockets = sum(target.startswith("socket:") for target in descriptors)
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return cls(
            memory=resident * PAGE // 1024,
            objects=len(gc.get_objects()),
            threads=threading.active_count(),
            files=len(descriptors) - sockets,
            sockets=sockets,
            temporary_files=sum(len(temporary_files(directory)) for directory in directories)
            + len(os.listdir(tempfile.gettempdir())),  # noqa: PTH208
        )


def _target(descriptor: Path) -> str:
    with contextlib.suppress(FileNotFoundError):  # That of the list itself.
        return os.readlink(descriptor)  # noqa: PTH115  (a str)
    return ""


# Differences between two moments without a leak: pages that are not full, caches, idle connections.
_PLAY: Final = {"memory": 4 * 1024, "objects": 500, "threads": 0, "files": 0, "sockets": _CONNECTIONS, "temporary_files": 0}
_SHARE: Final = {"memory": 0.05, "objects": 0.002}


def grown(samples: Sequence[Sample]) -> list[str]:
    """Return the resources that grew: in the median, from the second fifth, after a warm-up, to the last."""
    fifth = len(samples) // 5
    problems = []
    for each in fields(Sample):
        early = median(getattr(sample, each.name) for sample in samples[fifth : 2 * fifth])
        late = median(getattr(sample, each.name) for sample in samples[-fifth:])
        if late > early + max(_PLAY[each.name], _SHARE.get(each.name, 0) * early):
            problems.append(f"{each.name}: from {early:,.0f} to {late:,.0f}")
    return problems


@dataclass
class Soaked:
    """Results of all rounds."""

    samples: list[Sample] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        fifth = len(self.samples) // 5
        early, late = self.samples[fifth : 2 * fifth], self.samples[-fifth:]

        def told(name: str) -> str:
            return f"{name} {median(getattr(s, name) for s in early):,.0f} → {median(getattr(s, name) for s in late):,.0f}"

        return f"{sum(self.done.values()):,} pieces of work; " + ", ".join(told(each.name) for each in fields(Sample))


class StopAfter(threading.Event):
    """A stop signal that is set after so many checks."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._left = times
        self._counting = threading.Lock()

    def is_set(self) -> bool:
        with self._counting:
            self._left -= 1
            if self._left <= 0:
                self.set()
        return super().is_set()


class Soak:
    """A registry on S3 and one on the disk, and the work that is done with them, round by round."""

    def __init__(self, server: S3Server, bucket: str, place: Path) -> None:
        self.place = place
        self.s3 = s3_registry(server, bucket)
        self.local = local_registry(place / "registry")
        self.soaked = Soaked()
        self._server = server
        self._bucket = bucket
        write_files(place / "in", {f"{number % 2}/{number}": 1000 * number for number in range(_SMALL)})
        write_files(place / "large", {"large": _LARGE})

    def run(self, rounds: int) -> Soaked:
        """Do everything so many times; work that is only done now and then, in every fifth, or tenth, round."""
        self._publish_damaged()
        for number in range(rounds):
            for registry in (self.s3, self.local):
                self._publish(registry, number)
                self._change(registry, number)
                self._install(registry, number)
            self._fail(number)
            self._cancel(number)
            self.soaked.samples.append(Sample.take(self.place))
        self._look_at_the_end()
        return self.soaked

    def _do(self, what: str, work: Callable[[], object], *expected: type[QuiltError]) -> None:
        """Do something; only the errors that are expected may be raised, and they are counted apart."""
        try:
            work()
        except expected as error:
            what = f"{what}: {type(error).__name__}"
        except Exception as error:  # noqa: BLE001  (all of them are reported at the end)
            self.soaked.problems.append(f"{what}: {type(error).__name__}: {error}")
        self.soaked.done[what] += 1

    def _publish(self, registry: Registry, number: int) -> None:
        publish: Callable[..., Any] = build if registry is self.local else push
        (self.place / "in/0/0").write_bytes(b"%d" % number)
        draft = Draft(package=str(NAME), entries=str(self.place / "in"), message=f"round {number}")
        self._do("publish", lambda: publish(registry, draft))
        self._do("publish again", lambda: publish(registry, draft, attempt=Attempt("again", 0)))
        update = Draft(
            package=str(NAME),
            mode="update",
            conflict="rebase",
            entries={"more": str(self.place / "in/1/1")},
            message=f"more {number}",
        )
        self._do("update", lambda: publish(registry, update))
        if number % 5 == 1:
            drafts = [replace(update, entries={f"{who}": str(self.place / "in/1/1")}, message=f"{who} {number}") for who in "abc"]
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(lambda each: self._do("update at once", lambda: publish(registry, each)), drafts))
        if number % 5 == 2 and publish is push:
            (self.place / "large/large").write_bytes(b"%d" % number * (_LARGE // len(b"%d" % number)))
            large = Draft(package=str(NAME), entries=str(self.place / "large"))
            self._do("publish in parts", lambda: push(registry, large))

    def _change(self, registry: Registry, number: int) -> None:
        revisions = list(registry.revisions(NAME))
        self._do("roll back", lambda: rollback(registry, str(NAME), revisions[1].top_hash))
        self._do("delete", lambda: delete(registry, str(NAME), revisions[0].top_hash))
        if number % 10 == 9:
            self._do("delete all", lambda: delete(registry, str(NAME)))
            self._publish(registry, number)

    def _install(self, registry: Registry, number: int) -> None:
        out = str(self.place / "out")
        self._do("install", lambda: install(registry, REFERENCE, out))
        self._do("verify", lambda: verify(registry, REFERENCE, out).check(extra_files_ok=True))
        if number % 3 == 0:
            shutil.rmtree(out, ignore_errors=True)

    def _publish_damaged(self) -> None:
        """Publish packages whose files, one of a single part and one of several, differ from their manifests."""
        client = self._server.client()
        for key, size in (("small", 10), ("large", _LARGE)):
            client.put_object(Bucket=self._bucket, Key=f"damaged/{key}", Body=bytes(size))
            entry = Entry(LogicalKey(key), (f"s3://{self._bucket}/damaged/{key}",), size, hash_of(b"x" * size))
            with tempfile.TemporaryFile() as manifest:
                summary = write_manifest(make_header(key, None), [entry], manifest)
                manifest.seek(0)
                name = PackageName(_DAMAGED.namespace, f"{_DAMAGED.name}-{key}")
                self.s3.commit(name, summary.top_hash, manifest, self.s3.latest(name))

    def _fail(self, number: int) -> None:
        """Do work that must fail."""
        out = self.place / "damaged"
        key = "large" if number % 5 == 3 else "small"
        uri = f"quilt+s3://{self._bucket}#package={_DAMAGED}-{key}"
        reference = replace(REFERENCE, package=f"{_DAMAGED}-{key}")
        self._do("install damaged", lambda: install(self.s3, reference, str(out)), EntryDamagedError)
        prefix = f"s3://{self._bucket}/out/"
        self._do("install damaged to S3", lambda: install(self.s3, reference, prefix), EntryDamagedError)
        damaged = Draft(package="team/failed", entries=uri)
        self._do("push damaged", lambda: push(self.s3, damaged, copy="all"), EntryDamagedError)
        gone = Draft(package="team/failed", entries={"gone": str(self.place / "gone")})
        self._do("push what is gone", lambda: push(self.s3, gone), SourceError)
        drafts = [Draft(package="team/raced", entries={"x": str(self.place / f"in/1/{each}")}) for each in (1, 3, 5)]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda each: self._do("race", lambda: push(self.s3, each), RevisionConflictError), drafts))
        self._do("delete raced", lambda: delete(self.s3, "team/raced", missing_ok=True))

    def _cancel(self, number: int) -> None:
        """Stop work at another moment in each round."""
        moment = 1 + number % 23
        source = "large" if number % 4 == 0 else "in"
        cancelled = Draft(package="team/cancelled", entries=str(self.place / source), message=str(number))
        self._do("push stopped", lambda: push(self.s3, cancelled, stop=StopAfter(moment)), CancelledError)
        self._do("build stopped", lambda: build(self.local, cancelled, stop=StopAfter(moment)), CancelledError)
        out = self.place / "stopped"
        self._do("install stopped", lambda: install(self.s3, REFERENCE, str(out), stop=StopAfter(moment)), CancelledError)
        shutil.rmtree(out, ignore_errors=True)

    def _look_at_the_end(self) -> None:
        self.soaked.problems += [*broken(self.s3), *broken(self.local, self.place)]
        client = self._server.client()
        uploads = client.list_multipart_uploads(Bucket=self._bucket).get("Uploads", [])
        self.soaked.problems += [f"an upload stays open: {upload['Key']}" for upload in uploads]
        locks = client.list_objects_v2(Bucket=self._bucket, Prefix=".quilt/locks/").get("Contents", [])
        self.soaked.problems += [f"a lock stays: {lock['Key']}" for lock in locks]


@contextlib.contextmanager
def _temporary_directory(path: Path) -> Iterator[None]:
    """Let temporary files of this process go to a directory of its own."""
    path.mkdir()
    tempfile.tempdir = str(path)
    yield
    tempfile.tempdir = None


def soak(server: S3Server, bucket: str, place: Path, rounds: int) -> Soaked:
    """Do many rounds, in this process."""
    with _temporary_directory(place / "tmp"):
        return Soak(server, bucket, place).run(rounds)


# Leaks on purpose, which the check must find.


def keep_a_file_open(directory: Path) -> object:
    return (directory / "open").open("wb")


def keep_a_socket(directory: Path) -> object:
    return socket.socket()


def keep_a_thread(directory: Path) -> object:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return directory


def leave_a_file(directory: Path) -> object:
    return (directory / ".x.tmp").touch()


def leave_a_lock(directory: Path) -> object:
    (directory / ".quilt/locks/team").mkdir(parents=True)
    return (directory / ".quilt/locks/team/data").touch()


def leave_a_temporary_file(directory: Path) -> object:
    return os.close(tempfile.mkstemp()[0])


def keep_memory(directory: Path) -> object:
    return b"x" * 30_000_000


def keep_objects(directory: Path) -> object:
    return [[] for _ in range(10_000)]


def sampled(directory: Path, leak: Callable[[Path], object]) -> tuple[Sample, Sample]:
    """Measure a process before and after a leak; to be called in a child."""
    (directory / "tmp").mkdir()
    tempfile.tempdir = str(directory / "tmp")
    before = Sample.take(directory)
    kept = leak(directory)
    after = Sample.take(directory)
    del kept
    return before, after
