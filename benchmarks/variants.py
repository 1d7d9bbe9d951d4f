"""A piece of work under several settings, in turn: a table, and its conclusion on the default."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from airflow_quilt.core.runtime.limits import Limits
from benchmarks.measure import Round, Took, alternate
from benchmarks.report import MIB, about, figure
from benchmarks.stage import Stage, running_stage

DEFAULTS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Variants:
    """A piece of work.

    Attributes:
        title: its description, at the full scale.
        setting: the setting that differs.
        default: its default, which is among the measured values.
        rounds: the rounds of each value of the setting.
    """

    title: str
    setting: str
    default: int
    rounds: Mapping[int, Round]


def main(name: str, about_it: str | None, pieces: Callable[[Stage], Iterator[Variants]]) -> None:
    """Measure pieces of work by the options of the command line; print a table of each, and a conclusion."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about_it)
    parser.add_argument("--rounds", type=int, default=3, help="how often the work is done under each setting")
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the full numbers and sizes, for a quick look")
    given = parser.parse_args()
    with running_stage(given.scale) as stage:
        for piece in pieces(stage):
            took, failed = alternate(piece.rounds, given.rounds)
            if failed:
                raise SystemExit(f"failed: {failed}")
            print(f"\n{table(piece, took)}\n\n{conclusion(piece, took)}", flush=True)
    print(f"\n{about(given.scale)}")


def table(piece: Variants, took: Mapping[int, list[Took]]) -> str:
    """Return the table of a piece of work; each value against the default, round by round."""
    columns = [f"{piece.title}: {piece.setting}", "seconds", "times the default", "MiB/s", "CPU seconds", "peak MiB"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for value, rounds in took.items():
        ratios = _ratios(rounds, took[piece.default])
        rate = median(each.facts["bytes"] / each.seconds for each in rounds) / MIB
        cells = [
            f"{value:,}{' (default)' if value == piece.default else ''}",
            figure(_middle(rounds, "seconds")),
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            figure(rate) if rate else "",
            figure(_middle(rounds, "cpu")),
            f"{_middle(rounds, 'memory') / MIB:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def conclusion(piece: Variants, took: Mapping[int, list[Took]]) -> str:
    """Return a comparison of the default with the fastest value, and with the one of the least memory."""
    fastest = min(took, key=lambda value: median(_ratios(took[value], took[piece.default])))
    leanest = min(took, key=lambda value: _middle(took[value], "memory"))
    said = [
        f"{what} is {value:,}, with {median(_ratios(took[value], took[piece.default])):.2f} times the time and "
        f"{_middle(took[value], 'memory') / _middle(took[piece.default], 'memory'):.2f} times the memory of the default"
        for what, value in (("the fastest", fastest), ("the one with the least memory", leanest))
    ]
    return f"{piece.title}, {piece.setting}: the default is {piece.default:,}; {'; '.join(said)}."


def _ratios(rounds: list[Took], default: list[Took]) -> list[float]:
    return [each.seconds / other.seconds for each, other in zip(rounds, default, strict=True)]


def _middle(rounds: list[Took], what: str) -> float:
    values: list[float] = [getattr(each, what) for each in rounds]
    return median(values)
