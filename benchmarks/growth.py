"""Growth of time and memory with the number of entries, beside quilt3: a table, JSON and a plot of build and read.

``make bench-growth``; ``make bench-growth ARGS="--largest 10_000_000 --rounds 1"`` for one step more.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import count, product, takewhile
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.measure import alternate
from benchmarks.report import MIB, Result, about, table, write_json
from benchmarks.stage import running_stage
from benchmarks.works import build_known, read

_SMALLEST: Final = 1000
_WORKS: Final = {"build": build_known, "read": read}
_MEASURES: Final = {"seconds": "seconds", "cpu": "seconds of the processor", "memory": "peak MiB"}
_STYLES: Final = {"ours": ("airflow_quilt", "#5b4fc4"), "quilt3": ("quilt3", "#d0803f")}
_MARKS: Final = {"build": ("o", "-"), "read": ("s", "--")}


def main() -> None:
    """Run the works of the command line; print the table, and write it, the figures and a plot."""
    parser = argparse.ArgumentParser(prog="make bench-growth", description=__doc__)
    parser.add_argument("--largest", type=int, default=1_000_000, help="the most entries; each package has ten times the last's")
    parser.add_argument("--quilt3", type=int, default=1_000_000, help="the most entries for quilt3, which holds all in memory")
    parser.add_argument("--rounds", type=int, default=3, help="how often each client does each piece of work")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="the directory for growth.json, .md and .png")
    given = parser.parse_args()
    results: dict[tuple[str, int], Result] = {}
    for work in _WORKS:
        for size in takewhile(lambda size: size <= given.largest, (_SMALLEST * 10**power for power in count())):
            results[work, size] = measure(work, size, ["ours", "quilt3"] if size <= given.quilt3 else ["ours"], given.rounds)
            print(table([results[work, size]]), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "growth.json", [*results.values()])
    (given.out / "growth.md").write_text(table([*results.values()]) + "\n", encoding="utf-8")
    plot(given.out / "growth.png", results)
    print(f"\n{table([*results.values()])}\n\n{about(1.0)}")


def measure(work: str, size: int, names: Sequence[str], rounds: int) -> Result:
    """Measure a piece of work with so many entries, for each client."""
    with running_stage(1.0) as stage:
        clients = _WORKS[work](stage, size)
        return Result(
            f"{work}-{size}", f"{work} {size:,} entries", "", *alternate({name: clients[name] for name in names}, rounds)
        )


def plot(path: Path, results: Mapping[tuple[str, int], Result]) -> None:
    """Draw the cost of each client by the number of entries, both on logarithmic scales."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(_MEASURES), figsize=(13, 4.2), layout="constrained")
    for axes, (measured, label) in zip(panels, _MEASURES.items(), strict=True):
        for work, client in product(_WORKS, _STYLES):
            points = _curve(results, work, client, measured)
            (name, color), (writer_tag, line) = _STYLES[client], _MARKS[work]
            axes.loglog(points.keys(), points.values(), color=color, marker=writer_tag, linestyle=line, label=f"{name}: {work}")
        axes.set_xlabel("entries")
        axes.set_ylabel(label)
        axes.grid(visible=True, alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curve(results: Mapping[tuple[str, int], Result], work: str, client: str, measured: str) -> dict[int, float]:
    told = {size: each.took.get(client) for (of, size), each in results.items() if of == work}
    unit = MIB if measured == "memory" else 1
    return {size: median(getattr(each, measured) for each in took) / unit for size, took in told.items() if took}


if __name__ == "__main__":
    main()
