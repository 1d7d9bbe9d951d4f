"""The cost of sharing one package among many workers: the steps by the number of entries, and two workers beside one.

``make bench-shards``; ``make bench-shards ARGS="--largest 10_000_000"`` for one step more.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, takewhile
from pathlib import Path
from typing import Final

from benchmarks.measure import Took, run
from benchmarks.report import MIB, about, figure
from benchmarks.stage import Stage, running_stage

_SMALLEST: Final = 1000
_SHARDS: Final = 16
_STEPS: Final = ("build by one", "plan", "all shards, one after the other", "commit")


def main() -> None:
    """Print two tables, and write them."""
    parser = argparse.ArgumentParser(prog="make bench-shards", description=__doc__)
    parser.add_argument("--largest", type=int, default=1_000_000, help="the most entries; each package has ten times the last's")
    parser.add_argument("--files", type=int, default=4000, help="the files that two workers push")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="the directory for shards.md")
    given = parser.parse_args()
    lines = [*_frame(given.largest), "", *_speed(given.files)]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "shards.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), f"\n{about(1.0)}", sep="\n")


def _frame(largest: int) -> Iterator[str]:
    """Measure each step of a build whose hashes are known: no byte is moved, so all of it is the overhead."""
    yield f"| entries | {' | '.join(f'{step}: CPU seconds, peak MiB' for step in _STEPS)} |"
    yield f"|{'---|' * (1 + len(_STEPS))}"
    for size in takewhile(lambda size: size <= largest, (_SMALLEST * 10**power for power in count())):
        with running_stage(1.0) as stage:
            told = [f"{figure(took.cpu)}, {took.memory / MIB:.0f}" for took in _build(stage, size)]
        yield f"| {size:,} | {' | '.join(told)} |"


def _build(stage: Stage, size: int) -> Iterator[Took]:
    registry, package = stage.package(size)
    yield run(stage.ours("build_package", registry=registry, package="bench/one", source=package))
    told = {"registry": registry, "package": "bench/many"}
    yield (plan := run(stage.ours("plan_build", **told, source=package, staging=_staging(stage), shards=_SHARDS)))
    yield (moved := run(stage.ours("transfer_some", **told, **plan.facts, first=0, stop=_SHARDS)))
    yield run(stage.ours("commit", **told, **plan.facts, **moved.facts))


def _speed(files: int) -> Iterator[str]:
    """Measure a push of small files by one process, and by two that have half of the shards each."""
    yield "| push of files of 4 KiB | seconds | CPU seconds of ours | of the store |"
    yield "|---|---|---|---|"
    with running_stage(1.0) as stage:
        store, source, alone = stage.server.process, f"{stage.files(files, 4096)}/", stage.bucket()
        one = run(stage.ours("push_directory", registry=alone, package="bench/one", source=source), store)
        yield f"| {files:,}, one process | {figure(one.seconds)} | {figure(one.cpu)} | {figure(one.store)} |"
        told = {"registry": stage.bucket(), "package": "bench/many"}
        plan = run(stage.ours("plan_push", **told, source=source, staging=_staging(stage), shards=_SHARDS), store)
        half = _SHARDS // 2
        commands = [stage.ours("transfer_some", **told, **plan.facts, first=first, stop=first + half) for first in (0, half)]
        with ThreadPoolExecutor(2) as pool:
            both = [*pool.map(run, commands, [store, None])]
        results = [result for took in both for result in took.facts["results"]]
        end = run(stage.ours("commit", **told, **plan.facts, results=results), store)
        seconds = plan.seconds + max(took.seconds for took in both) + end.seconds
        cpu, by_store = (sum(getattr(took, what) for took in (plan, *both, end)) for what in ("cpu", "store"))
        yield f"| {files:,}, plan, two processes, commit | {figure(seconds)} | {figure(cpu)} | {figure(by_store)} |"


def _staging(stage: Stage) -> str:
    return f"{stage.place().as_uri()}/1700000000-{'0' * 32}/"


if __name__ == "__main__":
    main()
