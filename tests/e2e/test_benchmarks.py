"""The benchmark, run small: these tests show that it measures, never the figures."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.works import WORKS
from testbed.network import NoCompilerError, find_compiler

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str, tmp: Path) -> str:
    """Run a module of the benchmarks to its end, with a directory of its own for temporary files; return its output."""
    tmp.mkdir()
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "TMPDIR": str(tmp)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp.iterdir()) == []
    return done.stdout


def results_of(path: Path) -> dict[str, dict[str, Any]]:
    return {result["name"]: result for result in json.loads(path.read_text())["results"]}


def counts(result: dict[str, Any], client: str, what: str) -> int:
    return int(result["counted"][client][what])


def test_every_client_is_measured(tmp_path: Path) -> None:
    names, out = ["push-small", "list"], tmp_path / "out"
    printed = run("benchmarks", "--scale", "0.002", "--rounds", "2", "--out", str(out), *names, tmp=tmp_path / "tmp")

    results = results_of(out / "results.json")
    assert {name: result["title"] for name, result in results.items()} == {name: WORKS[name].title for name in names}
    assert [{client: len(took) for client, took in result["took"].items()} for result in results.values()] == [
        {"ours": 2, "quilt3": 2, "s5cmd": 2, "boto3": 2},
        {"ours": 2, "quilt3": 2},
    ]
    assert all(
        min(each["seconds"], each["cpu"], each["memory"]) > 0
        for result in results.values()
        for took in result["took"].values()
        for each in took
    )
    assert sum(each["store"] for took in results["push-small"]["took"].values() for each in took) > 0
    assert [result["failed"] for result in results.values()] == [{}, {}]
    assert (out / "results.md").read_text() in printed
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")


def test_both_clients_count_alike(tmp_path: Path) -> None:
    names, out, scale = ["build-large", "build-objects", "copy", "crowd", "parse"], tmp_path / "out", 0.015
    run("benchmarks", "--scale", str(scale), "--rounds", "1", "--out", str(out), *names, tmp=tmp_path / "tmp")

    results = results_of(out / "results.json")
    large, small = round(scale * 1024**3), round(scale * 1000) * 64 * 1024
    assert counts(results["build-large"], "ours", "object_bytes") == 0
    assert counts(results["build-large"], "quilt3", "object_bytes") == large
    assert counts(results["build-objects"], "quilt3", "object_bytes") == small
    assert counts(results["build-objects"], "ours", "object_bytes") == 2 * small  # Nothing else shows what comes without TLS.
    assert counts(results["copy"], "ours", "object_bytes") == 0
    assert "quilt3" in results["copy"]["failed"]
    assert results["crowd"]["failed"] == {}
    assert all(counts(results["crowd"], client, "requests") > 0 for client in ("ours", "quilt3"))
    assert counts(results["parse"], "ours", "requests") == 0
    assert set(results["parse"]["took"]) == {"ours", "airflow", "quilt3"}


def test_build_steps_are_measured(tmp_path: Path) -> None:
    lines = run("benchmarks.stages", "--entries", "2000", tmp=tmp_path / "tmp").splitlines()

    took = {line.split("|")[1].strip(): float(line.split("|")[2]) for line in lines[2:]}
    assert len(took) == 15
    assert min(took.values()) > 0


def test_largest_work_is_opt_in(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("benchmarks", "--scale", "0.00001", "--rounds", "1", "--out", str(out), "build-more", tmp=tmp_path / "tmp")

    assert list(results_of(out / "results.json")["build-more"]["took"]) == ["ours"]
    assert [name for name, work in WORKS.items() if work.is_large] == ["build-more"]


def test_growth_ends_at_each_limit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--largest", "10000", "--quilt3", "1000", "--rounds", "1", "--out", str(out))
    printed = run("benchmarks.growth", *arguments, tmp=tmp_path / "tmp")

    results = results_of(out / "growth.json")
    assert {name: list(result["took"]) for name, result in results.items()} == {
        "build-1000": ["ours", "quilt3"],
        "build-10000": ["ours"],
        "read-1000": ["ours", "quilt3"],
        "read-10000": ["ours"],
    }
    assert (out / "growth.md").read_text() in printed
    assert (out / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("module", "scale", "titles"),
    [
        (
            "threads",
            "0.01",
            ["push 1,000 files of 4 KiB: max concurrent S3 requests", "install 1,000 files of 4 KiB: max concurrent S3 requests"],
        ),
        ("in_flight", "0.02", ["push one file of 1 GiB: transfer buffer (bytes)"]),
        ("spill", "0.0001", ["build 1,000,000 entries with metadata: spill to disk after"]),
    ],
)
def test_settings_are_compared(tmp_path: Path, module: str, scale: str, titles: list[str]) -> None:
    lines = run(f"benchmarks.{module}", "--scale", scale, "--rounds", "1", tmp=tmp_path / "tmp").splitlines()

    assert [line.split(" | ")[0].removeprefix("| ") for line in lines if "times the default" in line] == titles
    assert sum("(default) |" in line and "| 1.00 (1.00 to 1.00) |" in line for line in lines) == len(titles)
    assert sum("the default is" in line and "the fastest is" in line for line in lines) == len(titles)


def test_networks_are_compared(tmp_path: Path) -> None:
    try:
        find_compiler()
    except NoCompilerError as error:
        pytest.skip(str(error))
    names, out = ["install-large", "list"], tmp_path / "out"
    arguments = ("--scale", "0.02", "--rounds", "1", "--at", "5", "--at", "25-tls", "--out", str(out))
    printed = run("benchmarks.network", *arguments, *names, tmp=tmp_path / "tmp")

    results = results_of(out / "results.json")
    assert set(results) == {f"{name}, {place}" for name in names for place in ("5 ms", "25 ms, TLS")}
    assert all(result["failed"] == {} for result in results.values())
    assert all(took for result in results.values() for took in result["took"].values())
    assert {"ours", "quilt3", "s5cmd", "boto3"} < set(results["install-large, 5 ms"]["took"])
    assert (out / "results.md").read_text() in printed
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_work_is_named() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "no such work: nothing" in done.stderr
