"""The cost of watching packages to a triggerer: a real Airflow, with watchers of one package, of 1,000, and of a pattern.

``make bench-watch``; ``make bench-watch ARGS="--minutes 1 one"`` for a short run of one case.
"""

import argparse
import io
import itertools
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import PackageName
from benchmarks.report import MIB, about, figure, machine
from benchmarks.stage import ROOT, Stage, running_stage
from benchmarks.triggerer import Spent, Triggerer, until
from testbed.airflow_home import connections
from testbed.proxy import running_proxy
from testbed.standalone import Airflow, standalone

_MANY: Final = 1000
_REVISIONS: Final = 3
_INTERVAL: Final = 60.0
_PUBLISHED_EVERY: Final = 10.0
_SETTLING: Final = 15.0
"""Seconds after a poll in which its events arrive in Airflow's database, and in which a start calms down."""
_SHARDS: Final = 32
_DAGS: Final = """\
\"\"\"Airflow DAGs that wait for packages.\"\"\"

import json
import os

from benchmarks.watchers import dags

globals().update(dags(**json.loads(os.environ["BENCHMARK_WATCHED"])))
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A set of watched packages.

    Attributes:
        title: the row's title in the table.
        watched: names or patterns, each with a watcher of its own.
        packages: number of packages in the registry.
        idle: number of watchers that do nothing.
        notes: rows of asset state in Airflow's database after the first poll, at least.
    """

    title: str
    watched: Sequence[str] = ()
    packages: int = 0
    idle: int = 0
    notes: int = 0


def _names(count: int) -> list[str]:
    return [f"team/p{number:04}" for number in range(count)]


CASES: Final[Mapping[str, Case]] = {
    "none": Case("no watcher"),
    "idle": Case(f"{_MANY:,} watchers that do nothing", idle=_MANY),
    "one": Case("1 package, 1 watcher", _names(1), 1, notes=1),
    "pattern": Case(f"{_MANY:,} packages, 1 watcher of `team/*`", ["team/*"], _MANY, notes=_SHARDS),
    "many": Case(f"{_MANY:,} packages, {_MANY:,} watchers", _names(_MANY), _MANY, notes=_MANY),
}


@dataclass(frozen=True, slots=True)
class Result:
    """Resources and events of a case.

    Attributes:
        start: resources from the start of the triggerer until all watchers have saved their baseline.
        window: resources of the measured time after that.
        memory: bytes that the process with the triggers holds.
        own: bytes of these that it shares with no other process.
        published: revisions, each of another package or long enough after the one before.
        fired: events of these revisions.
        twice: events too many.
        latencies: seconds from each revision to its event.
    """

    title: str
    start: Spent
    window: Spent
    memory: int
    own: int
    published: int = 0
    fired: int = 0
    twice: int = 0
    latencies: Sequence[float] = field(default_factory=list)


class Publisher:
    """Publishes to one package after the other, without any client.

    Args:
        stage: the stage with the store.
        registry: ``s3://bucket``.
        packages: package names, in turn.
    """

    def __init__(self, stage: Stage, registry: str, packages: Sequence[str]) -> None:
        self._client, self._bucket = stage.server.client(), registry.removeprefix("s3://")
        self._packages = itertools.cycle(packages)
        self._pause = max(_PUBLISHED_EVERY, 1.5 * _INTERVAL / max(1, len(packages)))
        self._is_busy = bool(packages)
        self.published: dict[tuple[str, str], float] = {}
        """Time of each revision, by package and top hash."""

    def work(self, seconds: float) -> None:
        """Publish one revision after each pause, for so many seconds."""
        end = time.time() + seconds
        while (left := end - time.time()) > 0:
            if self._is_busy:
                self._publish(next(self._packages))
            time.sleep(min(self._pause, left))

    def _publish(self, package: str) -> None:
        data = io.BytesIO()
        summary = write_manifest({"version": "v0", "message": f"{package} {time.time()}"}, [], data)
        self._put(layout.manifest(summary.top_hash), data.getvalue())
        for pointer in (str(int(time.time())), layout.LATEST):
            self._put(layout.pointer(PackageName.parse(package), pointer), summary.top_hash.encode())
        self.published[package, summary.top_hash] = time.time()

    def _put(self, key: str, body: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=body)


def main() -> None:
    """Run the cases of the command line; print the table, and write it and the figures."""
    parser = argparse.ArgumentParser(prog="make bench-watch", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join(CASES)}; by default all")
    parser.add_argument("--minutes", type=float, default=3.0, help="measured time of each case, once all watchers poll")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="the directory for watched.md and .json")
    given = parser.parse_args()
    if unknown := set(given.cases) - CASES.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    given.out.mkdir(parents=True, exist_ok=True)
    results = []
    for name in given.cases or CASES:
        with running_stage(1.0) as stage:
            results.append(measure(CASES[name], stage, given.minutes * 60))
        print(table(results[-1:]), flush=True)
    report = {"on": machine(), "results": [asdict(result) for result in results]}
    (given.out / "watched.json").write_text(json.dumps(report, indent=1) + "\n")
    (given.out / "watched.md").write_text(table(results) + "\n", encoding="utf-8")
    print(f"\n{table(results)}\n\n{about(1.0)}")


def measure(case: Case, stage: Stage, seconds: float) -> Result:
    """Run an Airflow with the watchers of a case for so many seconds, and publish meanwhile."""
    registry, directory = stage.bucket(), stage.place()
    packages = _names(case.packages)
    _fill(stage, registry, packages)
    (directory / "dags").mkdir(parents=True)
    (directory / "dags/waiting.py").write_text(_DAGS)
    with running_proxy(stage.server) as proxy:
        environment = {**connections(proxy.store, registry), **_environment(case, registry, directory / "lag")}
        with standalone(directory / "home", directory / "dags", environment) as airflow:
            triggerer = Triggerer(directory, proxy)
            until("all watchers", lambda: _count(directory, "trigger") > max(len(case.watched), case.idle))
            until("the saved state of all watchers", lambda: _count(directory, "asset_state_store") >= case.notes)
            start = triggerer.spent(triggerer.began)
            time.sleep(_SETTLING)
            begin, publisher = triggerer.read(), Publisher(stage, registry, packages)
            publisher.work(seconds)
            window, memory = triggerer.spent(begin), triggerer.runner.memory_full_info()
            return Result(case.title, start, window, memory.rss, memory.uss, **_reported(airflow, publisher.published))


def _environment(case: Case, registry: str, lag: Path) -> dict[str, str]:
    watched = {
        "lag": str(lag),
        "registry": registry,
        "packages": case.watched,
        "idle": case.idle,
        "poll_interval": _INTERVAL,
    }
    return {
        "PYTHONPATH": str(ROOT),
        "BENCHMARK_WATCHED": json.dumps(watched),
        "AIRFLOW__TRIGGERER__CAPACITY": str(2 * _MANY),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",  # Parsing is not measured.
    }


def _fill(stage: Stage, registry: str, packages: Sequence[str]) -> None:
    """Write packages with a few revisions each, all of one manifest, without the provider."""
    if not packages:
        return
    directory, manifest = stage.place(), io.BytesIO()
    top_hash = write_manifest({"version": "v0", "message": None}, [], manifest).top_hash
    pointers = [str(1_700_000_000 + number) for number in range(_REVISIONS)] + [layout.LATEST]
    keys = [layout.pointer(PackageName.parse(package), pointer) for package in packages for pointer in pointers]
    for key, body in [(layout.manifest(top_hash), manifest.getvalue()), *((key, top_hash.encode()) for key in keys)]:
        path = directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    stage.once(stage.s5cmd("cp", f"{directory}/", f"{registry}/"))


def _reported(airflow: Airflow, published: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """Wait for the events of the published revisions; return their number and the latency of each."""
    if not published:
        return {}
    time.sleep(_INTERVAL + _SETTLING)
    events = airflow.call("GET", "assets/events?order_by=timestamp&limit=100")["asset_events"]
    seen = [(event["extra"]["payload"], event["timestamp"]) for event in events]
    fired = [((payload["package"], payload["top_hash"]), timestamp) for payload, timestamp in seen]
    late = {each: _seconds(timestamp) - published[each] for each, timestamp in reversed(fired) if each in published}
    return {
        "published": len(published),
        "fired": len(late),
        "twice": len(fired) - len(late),
        "latencies": sorted(late.values()),
    }


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _count(directory: Path, name: str) -> int:
    """Count the rows of a table of Airflow's database."""
    with closing(sqlite3.connect(f"file:{directory}/home/airflow.db?mode=ro", uri=True, timeout=60)) as database:
        return int(database.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0])  # noqa: S608


def table(results: Sequence[Result]) -> str:
    """Return the table of costs, in Markdown."""
    columns = ["watched", "CPU seconds a minute", "MiB; its own", "requests a minute: LIST", "HEAD", "GET"]
    waited = "longest lag; the loop ran, ms"
    columns += [waited, "published; fired; twice", "seconds to the event: median (most)"]
    columns += ["start: seconds", "CPU seconds", "requests", waited]
    return "\n".join([f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *map(_line, results)])


def _line(result: Result) -> str:
    start, window = result.start, result.window
    late = result.latencies
    cells = [
        result.title,
        figure(window.a_minute(window.cpu)),
        f"{result.memory / MIB:.0f}; {result.own / MIB:.0f}",
        *(figure(window.a_minute(window.requests.get(kind, 0))) for kind in ("LIST", "HEAD", "GET")),
        _waited(window),
        f"{result.published}; {result.fired}; {result.twice}" if result.published else "",
        f"{figure(median(late))} ({figure(max(late))})" if late else "",
        figure(start.seconds),
        figure(start.cpu),
        str(sum(start.requests.values())),
        _waited(start),
    ]
    return f"| {' | '.join(cells)} |"


def _waited(spent: Spent) -> str:
    """Return the longest lag, and the longest run of the loop's thread, in ms."""
    return f"{spent.lag * 1000:.0f}; {spent.ran * 1000:.0f}"


if __name__ == "__main__":
    main()
