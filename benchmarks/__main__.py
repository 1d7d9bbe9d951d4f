"""Measure airflow_quilt, quilt3 and s5cmd, one after the other, for several rounds.

``make bench``; ``make bench ARGS="--scale 0.05 --rounds 1 push-small install"`` for a short run of some of it.
"""

import argparse
from pathlib import Path

from benchmarks.measure import alternate, count
from benchmarks.report import Result, about, plot, table, write_json
from benchmarks.stage import running_stage
from benchmarks.works import WORKS


def main() -> None:
    """Run the works of the command line; print the table, and write it, the figures and a plot."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"one of {', '.join(WORKS)}; by default all but the largest")
    parser.add_argument("--all", action="store_true", help="do the largest too, which take long and much memory or disk")
    parser.add_argument("--rounds", type=int, default=3, help="how often each client does each piece of work")
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the full numbers and sizes, for a quick look")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="the directory for results.md, .json and .png")
    given = parser.parse_args()
    if unknown := set(given.works) - WORKS.keys():
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    results = []
    for name in given.works or [name for name, work in WORKS.items() if given.all or not work.is_large]:
        work = WORKS[name]
        with running_stage(given.scale) as stage:
            clients = work.clients(stage)
            took, failed = alternate(clients, given.rounds, stage.server.process)
            counted = count({client: ready for client, ready in clients.items() if client not in failed}, given.rounds)
            results.append(Result(name, work.title, work.goal, took, failed, counted))
        print(table(results[-1:]), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "results.json", results)
    plot(given.out / "results.png", results)
    (given.out / "results.md").write_text(table(results) + "\n", encoding="utf-8")
    print(f"\n{table(results)}\n\n{about(given.scale)}")


if __name__ == "__main__":
    main()
