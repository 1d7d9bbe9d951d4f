"""Work on real stores in processes that are killed, and run again after that."""

import contextlib
import itertools
import json
import queue
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from testbed.server import S3Server
from tests.chaos.crash_worker import Ending, Kill, RealWorld, order
from tests.core.crash import MOST_CALLS, Judge, Work, make_files, run_again
from tests.core.crash_works import PUBLISHING, WORKS, one_revision

ROOT: Final = Path(__file__).parents[2]
_LEASE: Final = 1.0
_SLACK: Final = 10.0
"""Seconds for an attempt that waits for no other process, on a busy machine."""


class Worker:
    """A process that does work in children which are killed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def do(self, work: str, world: RealWorld, since: float | None, kill: Kill) -> tuple[Ending, str]:
        """Let a child do a piece of work; return its ending and its report."""
        answer = self._ask(order(work, world, since, kill))
        return answer["ending"], answer["told"]

    def send(self, what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _ask(self, what: object) -> Any:
        assert self._process.stdout is not None
        self.send(what)
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def working(s3: S3Server) -> Iterator[Worker]:
    """Run a worker until the block ends."""
    command = [sys.executable, "-m", "tests.chaos.crash_worker"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        worker = Worker(process)
        admin = {"access_key": s3.admin.access_key, "secret_key": s3.admin.secret_key}
        worker.send({"endpoint": s3.endpoint, "admin": admin})
        yield worker  # Its input is closed then, and it ends.


@dataclass
class Outcome:
    """Outcome of one piece of work, or of several.

    Attributes:
        kills: processes that were killed.
        broken: problems after one, or after the next attempt.
        deferred: attempts that ended with an error that a retry resolves.
        uploads: uploads in parts of killed processes that stay open after everything is done.
        slowest: seconds of the slowest next attempt.
    """

    kills: int = 0
    broken: list[str] = field(default_factory=list)
    deferred: int = 0
    uploads: int = 0
    slowest: float = 0.0

    def add(self, other: "Outcome") -> None:
        self.kills += other.kills
        self.broken += other.broken
        self.deferred += other.deferred
        self.uploads += other.uploads
        self.slowest = max(self.slowest, other.slowest)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {len(self.broken)} broken; {self.deferred} tries left to the next one by themselves, "
            f"{self.uploads} uploads left open; the next try took {self.slowest:.1f} s at most"
        )


class Crashes:
    """Kills work on a real store, each in a world of its own.

    Args:
        workers: whose children do the work that is killed.
        s3: the store.
        buckets: of registries, and of sources.
        directory: for sources that are files, local registries, and installed files.
    """

    def __init__(self, workers: Sequence[Worker], s3: S3Server, buckets: tuple[str, str], directory: Path) -> None:
        self._idle = queue.SimpleQueue[Worker]()
        for worker in workers:
            self._idle.put(worker)
        self._at_once = len(workers)
        self._client = s3.client()
        self._bucket, self._source = buckets
        self._directory = directory
        self._files = make_files(directory / "files")
        self._serial = itertools.count(1)
        self._hashes: dict[Any, Any] = {}
        for file, bucket in itertools.product(self._files.iterdir(), buckets):
            self._client.upload_file(str(file), bucket, f"data/{file.name}")

    def at_every_call(self, name: str, *, step: int = 1) -> Outcome:
        """Kill a piece of work before each call of its storages and after it; or before and after each second one, or so."""
        total = Outcome()
        for first in range(1, MOST_CALLS, step * self._at_once):
            numbers = range(first, first + step * self._at_once, step)
            outcomes = self._kill_each(name, [[Kill(at=at, after=after)] for at in numbers for after in (False, True)])
            for outcome in outcomes:
                total.add(outcome)
            if not outcomes[-1].kills:
                return total
        total.broken.append(f"{name}: it never came through")
        return total

    def at_random(self, names: Sequence[str], *, least: int, in_a_row: int = 2) -> Outcome:
        """Kill several kinds of work at random moments, and the next attempts, up to so many in a row.

        A moment may come when the work is done. So rounds follow each other until ``least`` processes were killed.
        """
        chance, total = random.Random(), Outcome()  # noqa: S311
        longest = {name: self._seconds(name) for name in names}
        times = -(-least // len(names))
        while total.kills < least:
            for name in names:
                moments = [
                    [chance.uniform(0.001, longest[name]) for _ in range(chance.randint(1, in_a_row))] for _ in range(times)
                ]
                for outcome in self._kill_each(name, [[Kill(seconds=moment) for moment in each] for each in moments]):
                    total.add(outcome)
        return total

    def _seconds(self, name: str) -> float:
        """Return how long a piece of work takes that is not killed."""
        world = self._world(WORKS[name])
        WORKS[name].prepare(world)
        began = time.monotonic()
        self._do(name, world, None, Kill())
        return time.monotonic() - began

    def _kill_each(self, name: str, several: Sequence[Sequence[Kill]]) -> list[Outcome]:
        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(lambda kills: self._kill(name, kills), several))

    def _kill(self, name: str, kills: Sequence[Kill]) -> Outcome:
        """Kill a piece of work and its next attempts; then run it again."""
        work = replace(WORKS[name], prepare=one_revision) if name in PUBLISHING else WORKS[name]
        world = self._world(work)
        work.prepare(world)
        judge, began = work.judge(world), time.time()
        outcome, deferred = Outcome(), 0
        for number, kill in enumerate(kills):
            ending, told = self._do(name, world, began if number else None, kill)
            outcome.kills += ending == "killed"
            deferred += ending == "deferred" and not work.may_lose
            outcome.broken += [f"{ending}: {told}"] if ending in {"failed", "hung"} else []
            outcome.broken += judge.midway(is_clean=False)
        outcome.broken += _problems_when_run_again(work, world, judge, began, outcome)
        outcome.deferred += deferred
        outcome.uploads = world.open_uploads()
        outcome.broken = [f"{name}, {', '.join(map(str, kills))}: {problem}" for problem in outcome.broken]
        return outcome

    def _do(self, name: str, world: RealWorld, since: float | None, kill: Kill) -> tuple[Ending, str]:
        worker = self._idle.get()
        try:
            return worker.do(name, world, since, kill)
        finally:
            self._idle.put(worker)

    def _world(self, work: Work) -> RealWorld:
        name = f"team/package-{next(self._serial)}"
        location = f"s3://{self._bucket}" if work.kind == "s3" else str(self._directory / "registry")
        out = f"s3://{self._source}/out/{name}/" if work.to_prefix else str(self._directory / "out" / name)
        fields = {"location": location, "out": out, "name": name, "files": str(self._files), "lease": _LEASE, "chosen": None}
        world = RealWorld.from_json(self._client, fields | {"bucket": self._bucket, "source": self._source})
        world.hashes = self._hashes
        return world


@contextlib.contextmanager
def crashing(s3: S3Server, buckets: tuple[str, str], directory: Path, at_once: int = 4) -> Iterator[Crashes]:
    """Run workers until the block ends; yield their ``Crashes``, so many at once: the next attempt often waits."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(working(s3)) for _ in range(at_once)]
        yield Crashes(workers, s3, buckets, directory)


def _problems_when_run_again(work: Work, world: RealWorld, judge: Judge, since: float, outcome: Outcome) -> Iterator[str]:
    began = time.monotonic()
    result, outcome.deferred = run_again(work, world, since)
    outcome.slowest = time.monotonic() - began
    if outcome.slowest > world.lease + _SLACK:
        yield f"run again: it took {outcome.slowest:.1f} s"
    yield from (f"run again: {problem}" for problem in judge.end(result))
