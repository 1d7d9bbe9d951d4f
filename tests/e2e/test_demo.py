"""The demo, run as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_demo_shows_revisions(tmp_path: Path) -> None:
    """Show two revisions, then one, and leave nothing behind."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "KEEP": ""}
    run = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    first, second = run.stdout.split("The revisions of penguins/weekly in s3://penguins, newest first")[1:]
    assert "Penguins, week of 2009-12-28  <- latest" in first
    assert "Penguins, week of 2008-12-29\n" in first
    assert "    Published penguins/weekly@" in run.stdout
    assert "loc=" not in run.stdout
    assert "Penguins, week of 2009-12-28  <- latest" in second
    assert "2008-12-29" not in second
    assert "plots/\n      adelie.png " in first
    assert "quilt+s3://penguins#package=penguins/weekly@" in first
    assert list(tmp_path.iterdir()) == []
