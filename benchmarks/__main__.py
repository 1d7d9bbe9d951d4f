"""Measure the engine, quilt3 and s5cmd, one after the other, several rounds long.

``make bench``; ``make bench ARGS="--scale 0.05 --rounds 1 push-small install"`` for a quick look at some of it.
"""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import FailedError, Took, run
from benchmarks.report import Result, machine, plot, table, write_json
from benchmarks.stage import Round, Stage
from benchmarks.works import WORKS, Work
from testbed.seaweedfs import seaweedfs

if TYPE_CHECKING:
    from collections.abc import Mapping


def main() -> None:
    """Run what the command line asks for; print the table, and write it, the figures and a plot."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"one of {', '.join(WORKS)}; by default all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each client does each piece of work")
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the full numbers and sizes, for a quick look")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="the directory for results.md, .json and .png")
    given = parser.parse_args()
    if unknown := set(given.works) - WORKS.keys():
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    results = []
    for name in given.works or WORKS:
        with tempfile.TemporaryDirectory(prefix="quilt-bench-") as directory, seaweedfs(Path(directory, "store")) as server:
            results.append(measure(name, WORKS[name], Stage(server, Path(directory), given.scale), given.rounds))
        print(table(results[-1:]), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "results.json", results)
    plot(given.out / "results.png", results)
    (given.out / "results.md").write_text(table(results) + "\n", encoding="utf-8")
    print(f"\n{table(results)}\n\n{', '.join(f'{name} {value}' for name, value in machine().items())}; scale {given.scale:g}")


def measure(name: str, work: Work, stage: Stage, rounds: int) -> Result:
    """Let the clients do a piece of work in turn, round after round; who fails is not asked again."""
    clients: Mapping[str, Round] = work.clients(stage)
    took: dict[str, list[Took]] = {client: [] for client in clients}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for client, ready in clients.items():
            if client in failed:
                continue
            try:
                took[client].append(run(ready(number)))
            except FailedError as error:
                failed[client] = str(error)
                print(f"{client} fails: {error}", flush=True)
    return Result(name, work.title, work.goal, took, failed)


if __name__ == "__main__":
    main()
