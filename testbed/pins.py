"""Derive testbed/pins: the names and versions with which the supported Airflows were installed when they came out.

An Airflow is installed under constraints: the newest versions of its day that fit together. The index knows the day of every
release, so they can be found again. The tests' own packages come beside those, as new as they may be. ``make pins`` runs this.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parent.parent
_PINS: Final = _ROOT / "testbed" / "pins"
_PYTHON: Final = "3.11"


@dataclass(frozen=True, slots=True)
class Row:
    """An environment of the matrix.

    Attributes:
        airflow: the version, with the distributions that the provider and its tests need of its day.
        day: the day after its release; of later ones nothing is taken.
        note: the difference from other rows, for the head of the file.
        lowest: whether each dependency of this provider has its lowest version.
        omitted: the distribution that is not installed.
    """

    airflow: str
    day: str
    note: str = ""
    lowest: bool = False
    omitted: str = ""


ROWS: Final = {
    "lowest-direct": Row("3.0.6", "2025-08-30", "The lower bounds of this provider, and ", lowest=True),
    "airflow-3.0.6": Row("3.0.6", "2025-08-30"),
    "airflow-3.1.8": Row("3.1.8", "2026-03-20"),
    "airflow-3.2.2": Row("3.2.2", "2026-06-10", "No awscrt, and ", omitted="awscrt"),
    "airflow-3.3.2": Row("3.3.2", "2026-09-20"),
}


def _compile(*arguments: str | Path) -> str:
    """Return the versions that uv chooses, a line each."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--universal", "--python-version", _PYTHON]
    options = ["--no-header", "--no-annotate", "--no-emit-package", "airflow-quilt"]
    return subprocess.run(
        [*command, *options, *map(str, arguments)], check=True, capture_output=True, text=True, cwd=_ROOT
    ).stdout


def derive(name: str, row: Row) -> None:
    """Write the file of an environment."""
    with tempfile.TemporaryDirectory() as place:
        airflow, constraints = Path(place, "airflow.in"), Path(place, "constraints.txt")
        airflow.write_text(f"apache-airflow[amazon,openlineage]=={row.airflow}\n", encoding="utf-8")
        of_its_day = ["--exclude-newer", row.day]
        if row.lowest:
            of_its_day += ["--resolution", "lowest-direct", "--extra", "openlineage"]
        constraints.write_text(_compile("pyproject.toml" if row.lowest else airflow, *of_its_day), encoding="utf-8")
        versions = _compile("pyproject.toml", airflow, "--group", "matrix", "--constraint", constraints)
    kept = [line for line in versions.splitlines() if line.partition("==")[0] != row.omitted]
    head = f"# {row.note}apache-airflow[amazon,openlineage]=={row.airflow} as of {row.day}; for tests the newest packages."
    text = "\n".join([head, "# Derived by `make pins` (testbed/pins.py).", *kept])
    (_PINS / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    _PINS.mkdir(exist_ok=True)
    for name, row in ROWS.items():
        derive(name, row)
