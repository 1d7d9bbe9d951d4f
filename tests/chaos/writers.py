"""Many processes that write one package at the same moment, with a reader beside them, and the outcome."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from testbed.quilt3 import HOMES
from testbed.server import S3Server
from tests.chaos.writers_client import Ours, Place, Push, Style
from tests.chaos.writers_judge import Account, Judgement, State, judge

ROOT: Final = Path(__file__).parents[2]
_SECONDS: Final = 1800.0
"""So long a job may take before its process is ended."""
_START: Final = 0.5
"""Seconds after which all begin."""
_TRIES: Final = 200
_LONG_AGO: Final = 3600.0

Kind = Literal["ours", "careless", "quilt3"]


class Worker:
    """A process that does jobs, one at a time."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    def do(self, job: Mapping[str, Any]) -> Any:
        """Let it do a job, and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker has ended; it said:\n{self._log.read_text()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["done"]

    def dismiss(self) -> None:
        """Let it end, when it has done its job."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()


class Fleet:
    """Processes that work at the same time."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._pool = ThreadPoolExecutor(len(workers))

    def __len__(self) -> int:
        return len(self._workers)

    def begin(self, worker: int, job: Mapping[str, Any]) -> Future[Any]:
        """Let one of them begin a job."""
        return self._pool.submit(self._workers[worker].do, job)

    def finish(self, jobs: Sequence[Future[Any]]) -> list[Any]:
        """Wait for jobs to end, and return the answers; a job that takes too long is an error, and is ended."""
        deadline = time.monotonic() + _SECONDS
        try:
            return [job.result(max(0.0, deadline - time.monotonic())) for job in jobs]
        except BaseException:
            for worker in self._workers:
                worker.kill()
            raise

    def warm_up(self, place: Place, kind: Kind) -> None:
        """Let all of them get ready for work on a package."""
        job = {"job": "warm up", "client": kind, "place": asdict(place), "journal": os.devnull}
        self.finish([self.begin(worker, job) for worker in range(len(self))])

    def close(self) -> None:
        self._pool.shutdown()
        for worker in self._workers:
            worker.dismiss()


@contextlib.contextmanager
def running_fleet(directory: Path, size: int, environment: Mapping[str, str] | None = None) -> Iterator[Fleet]:
    """Run so many processes until the block ends; those with an environment of their own have a home each."""
    directory.mkdir(parents=True)
    with contextlib.ExitStack() as running:
        workers = [running.enter_context(_running_worker(directory / str(number), environment)) for number in range(size)]
        fleet = Fleet(workers)
        running.callback(fleet.close)
        yield fleet


@contextlib.contextmanager
def _running_worker(directory: Path, environment: Mapping[str, str] | None) -> Iterator[Worker]:
    directory.mkdir()
    own = {**environment, **dict.fromkeys(HOMES, str(directory))} if environment is not None else dict(os.environ)
    command = [sys.executable, "-m", "tests.chaos.writers_worker"]
    log = directory / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=own, encoding="utf-8"
        ) as process,
    ):
        yield Worker(process, log)


_serial = itertools.count(1)


def place_in(s3: S3Server, location: str, directory: Path) -> Place:
    """Return a package without revisions."""
    serial = next(_serial)
    own = directory / f"package-{serial}"
    own.mkdir(parents=True)
    return Place(
        location=location,
        package=f"team/package-{serial}",
        directory=str(own),
        endpoint=s3.endpoint,
        access_key=s3.admin.access_key,
        secret_key=s3.admin.secret_key,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Writers and their work.

    Attributes:
        styles: how revisions are made; each is in one of them.
        pushes: of each writer.
        seeds: revisions that are there before.
        changes: other work meanwhile.
        spare: how many revisions those leave at least.
        pause: seconds, at most, between two changes.
        tries: attempts of a writer to publish one revision.
        longest_pause: seconds, at most, between two attempts.
        is_cumulative: each revision adds a key to all that are there.
    """

    styles: Sequence[Style]
    writers: int = 16
    pushes: int = 25
    seeds: int = 0
    changes: Sequence[str] = ()
    spare: int = 8
    pause: float = 1.0
    tries: int = _TRIES
    longest_pause: float = 5.0
    is_cumulative: bool = False

    def smaller(self, writers: int, pushes: int) -> "Race":
        return replace(self, writers=writers, pushes=pushes, pause=0.05, longest_pause=0.3)


FAIL: Final = Race(styles=["fail"])
REBASE: Final = Race(styles=["rebase"], is_cumulative=True)
OVERWRITE: Final = Race(styles=["overwrite"])
MIX: Final = Race(styles=["fail", "rebase", "overwrite"], seeds=10, changes=["delete old", "delete latest", "roll back"])


@dataclass(frozen=True)
class Outcome:
    """Outcome of a race.

    Attributes:
        watched: the reader's polls, the number of wrong ones, and some of those, with all that it read.
    """

    account: Account
    state: State
    judgement: Judgement
    watched: Mapping[str, Any]
    seconds: float

    def problems(self) -> list[str]:
        return self.judgement.problems() + [
            f"the reader saw: {each['what']}: {each['seen']}" for each in self.watched["violations"]
        ]

    def __str__(self) -> str:
        account, judgement = self.account, self.judgement
        found = {
            "acknowledged": len(account.acknowledged),
            "in the history": len(self.state.history),
            "deleted": account.deleted,
            "rolled back": account.rollbacks,
            "lost": len(judgement.lost) + len(judgement.mistaken),
            "updates lost": len(judgement.updates_lost),
            "given up": account.given_up,
            "failed": len(account.failures),
        }
        always = {"acknowledged", "in the history", "lost"}
        told = [f"{count} {what}" for what, count in found.items() if count or what in always]
        told.append(f"{self.watched['wrong']} of {self.watched['looks']} looks wrong")
        return f"{', '.join(told)}, {self.seconds:.0f} s"


def run(race: Race, place: Place, kind: Kind, fleet: Fleet, reader: Fleet) -> Outcome:
    """Let all write one package at the same moment, and judge the outcome.

    Args:
        race: the work.
        place: the package.
        kind: the client of the writers.
        fleet: the writers.
        reader: one process.
    """
    journals = _seed(race, place)
    fleet.warm_up(place, kind)
    ended = Path(place.directory, "ended")
    common = {"place": asdict(place), "client": kind, "start": time.time() + _START}
    watching = reader.begin(0, {"job": "watch", "place": asdict(place), "until": str(ended)})
    began = time.monotonic()
    writing = []
    for number in range(race.writers):
        name = f"writer-{number:02}"
        job = {
            "job": "push many",
            "name": name,
            "count": race.pushes,
            "styles": race.styles,
            "tries": race.tries,
            "longest_pause": race.longest_pause,
        }
        journals.append(journal := Path(place.directory, f"{name}.jsonl"))
        writing.append(fleet.begin(number, common | job | {"journal": str(journal)}))
    changing = []
    for number, change in enumerate(race.changes, race.writers):
        job = {"job": "change many", "name": change, "change": change, "spare": race.spare, "pause": race.pause}
        journals.append(journal := Path(place.directory, f"{change}.jsonl"))
        changing.append(fleet.begin(number, common | job | {"journal": str(journal), "until": str(ended)}))
    try:
        fleet.finish(writing)
        seconds = time.monotonic() - began - _START
    finally:
        ended.touch()
    fleet.finish(changing)
    (watched,) = reader.finish([watching])
    account = Account.read(journals)
    state = State.read(place, {each.top_hash for each in account.acknowledged})
    judgement = judge(account, state, is_cumulative=race.is_cumulative)
    return Outcome(account, state, judgement, watched, seconds)


def _seed(race: Race, place: Place) -> list[Path]:
    """Publish the revisions that are there before; return their journals."""
    journal = Path(place.directory, "seeds.jsonl")
    client = Ours(place, clock=lambda: time.time() - _LONG_AGO)  # quilt3 gives each second one revision.
    style: Style = "rebase" if race.is_cumulative else "overwrite"
    with journal.open("w", encoding="utf-8") as notes:
        for number in range(race.seeds):
            work = f"seed-{number:03}"
            stamp, top_hash = client.publish(Push(work=work, style=style))
            told = {"event": "acknowledged", "work": work, "stamp": stamp, "top_hash": top_hash}
            notes.write(json.dumps(told | {"tries": 1, "began": time.time(), "time": time.time()}) + "\n")
    return [journal]
