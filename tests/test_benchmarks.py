"""The benchmark, run small: that it measures is shown here, what it measures never."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.works import WORKS

ROOT = Path(__file__).parent.parent


def test_the_benchmark_measures_every_client_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    names, out = ["push-small", "list"], tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks", "--scale", "0.002", "--rounds", "2", "--out", str(out), *names]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads((out / "results.json").read_text())["results"]
    assert [result["title"] for result in results] == [WORKS[name].title for name in names]
    assert [{client: len(took) for client, took in result["took"].items()} for result in results] == [
        {"ours": 2, "quilt3": 2, "s5cmd": 2},
        {"ours": 2, "quilt3": 2},
    ]
    assert all(
        min(each["seconds"], each["cpu"], each["memory"]) > 0
        for result in results
        for took in result["took"].values()
        for each in took
    )
    assert [result["failed"] for result in results] == [{}, {}]
    assert (out / "results.md").read_text() in run.stdout
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_work_that_nobody_knows_is_named() -> None:
    run = subprocess.run([sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 2
    assert "no such work: nothing" in run.stderr
