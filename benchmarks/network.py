"""Measure airflow_quilt, quilt3, s5cmd and boto3's transfer manager through networks with a delay, for several rounds.

``make bench-network``; ``make bench-network ARGS="--scale 0.05 --rounds 1 --at 25 push-small"`` for a short run of some of it.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import ceiling
from benchmarks.measure import alternate
from benchmarks.report import Result, about, figure, write_json
from benchmarks.stage import running_stage
from benchmarks.works import NETWORK_WORKS
from testbed.network import S3_RATE, Network, NoCompilerError, find_compiler

_ENOUGH: Final = 6.0
"""Seconds of a piece of work after which a client gets no further round: slow clients would take most of the time."""
_COLOURS: Final = {"ours": "#5b4fc4", "quilt3": "#c2548d", "s5cmd": "#2f8f5b", "boto3": "#c98b2c"}
_OTHER_COLOUR: Final = "#8fc7a6"


@dataclass(frozen=True, slots=True)
class _Place:
    """The way to a store: milliseconds of a round trip, and whether with TLS."""

    round_trip: float
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.round_trip:g} ms{', TLS' if self.tls else ''}"


_PLACES: Final[Mapping[str, _Place]] = {
    "0": _Place(0),
    "5": _Place(5),
    "25": _Place(25),
    "100": _Place(100),
    "25-tls": _Place(25, tls=True),
}


def main() -> None:
    """Run the works of the command line; print the tables, and write them, the figures and a plot."""
    parser = argparse.ArgumentParser(prog="make bench-network", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"one of {', '.join(NETWORK_WORKS)}; by default all")
    parser.add_argument(
        "--at", action="append", choices=_PLACES, help="milliseconds of a round trip; may be repeated; by default all"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each client does each piece of work")
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the full numbers and sizes, for a quick look")
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench-network"), help="the directory for results.md, .json and .png"
    )
    given = parser.parse_args()
    if unknown := set(given.works) - NETWORK_WORKS.keys():
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    try:
        find_compiler()
    except NoCompilerError as error:
        raise SystemExit(f"make bench-network: {error}") from None
    limits = ceiling.table(given.scale)
    print(f"{limits}\n", flush=True)
    results = {
        place: _measure(place, given.works or list(NETWORK_WORKS), given.rounds, given.scale)
        for place in (_PLACES[name] for name in given.at or _PLACES)
    }
    found = f"{table({str(place): done for place, done in results.items()})}\n\n{limits}\n"
    given.out.mkdir(parents=True, exist_ok=True)
    flat = [replace(each, name=f"{each.name}, {place}") for place, done in results.items() for each in done]
    write_json(given.out / "results.json", flat)
    plot(given.out / "results.png", {place.round_trip: done for place, done in results.items() if not place.tls})
    (given.out / "results.md").write_text(found, encoding="utf-8")
    print(f"\n{found}\n{about(given.scale)}; {S3_RATE:g} MB/s a connection")


def _measure(place: _Place, works: list[str], rounds: int, scale: float) -> list[Result]:
    """Measure works at one place, and print their table."""
    results = []
    with running_stage(scale, Network(place.round_trip), tls=place.tls) as stage:
        for name in works:
            work = NETWORK_WORKS[name]
            took, failed = alternate(work.clients(stage), rounds, stage.server.process, enough=_ENOUGH)
            results.append(Result(name, work.title, work.goal, took, failed))
            print(table({str(place): results[-1:]}), flush=True)
    return results


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """Return a table of the results of the same works at several places: seconds, and in brackets the ratio to ours."""
    lines = [f"| work | client | {' | '.join(results)} | goal |", f"|{'---|' * (len(results) + 3)}"]
    for work in zip(*results.values(), strict=True):
        for number, client in enumerate(work[0].took):
            title, goal = (work[0].title, work[0].goal) if number == 0 else ("", "")
            lines.append(f"| {title} | {client} | {' | '.join(_cell(result, client) for result in work)} | {goal} |")
    return "\n".join(lines)


def _cell(result: Result, client: str) -> str:
    if not result.took[client]:
        return "fails"
    seconds, ratios = figure(_seconds(result, client)), result.ratios(client)
    return f"{seconds} ({figure(median(ratios))})" if client != "ours" and ratios else seconds


def _seconds(result: Result, client: str) -> float:
    return median(each.seconds for each in result.took[client])


def plot(path: Path, results: Mapping[float, Sequence[Result]]) -> None:
    """Draw the seconds of each client by the round trip of the network in milliseconds, in a panel for each piece of work."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    works = list(zip(*results.values(), strict=True))
    drawing, grid = plt.subplots(2, (len(works) + 2) // 2, figsize=(13, 6.5), layout="constrained", squeeze=False)
    labels = {}
    for axes, work in zip(grid.flat, works, strict=False):
        for client in work[0].took:
            points = {at: _seconds(result, client) for at, result in enumerate(work) if result.took[client]}
            colour = _COLOURS.get(client, _OTHER_COLOUR)
            [labels[client]] = axes.plot([*points], [*points.values()], marker="o", color=colour)
        axes.set_title(work[0].title, fontsize=9)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.set_xticks(range(len(results)), [f"{at:g}" for at in results])
    for axes in grid.flat[len(works) :]:
        axes.axis("off")
    drawing.supxlabel("round trip of the network, ms", fontsize=9)
    drawing.supylabel("seconds", fontsize=9)
    drawing.legend([*labels.values()], [*labels], loc="lower right")
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


if __name__ == "__main__":
    main()
