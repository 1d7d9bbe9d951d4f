"""The examples of docs/reading.md: the hook's methods, and commands with their output."""

import re
import shlex

import pytest

from airflow_quilt.cli import main
from airflow_quilt.core import Draft, push
from airflow_quilt.hooks.quilt import QuiltHook
from tests.test_docs import ROOT, blocks

PAGE = ROOT / "docs/reading.md"
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
BUCKET = re.compile(r"s3://[a-z0-9-]+")


@pytest.fixture(scope="module", autouse=True)
def readings(module_registry: str) -> None:
    """The package of the page, with its two revisions; top hashes are the same everywhere."""
    registry = QuiltHook().registry()
    readings = {"raw/readings.csv": b"t,value\n0,1.5\n", "README.md": b"# Readings\n"}
    push(registry, Draft(package="lab/readings", entries=readings, message="First readings"))
    push(registry, Draft(package="lab/readings", mode="update", entries={"notes.json": {"by": "Ada"}}, message="Notes"))


def test_hook_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = blocks(PAGE)
    names: dict[str, object] = {}
    exec(compile(example, PAGE.name, "exec"), names)  # noqa: S102
    printed = capsys.readouterr().out.splitlines()

    assert "lab/readings" in printed
    assert printed[-1] == "added notes.json"
    assert (names["text"], names["notes"]) == ("t,value\n0,1.5\n", {"by": "Ada"})
    assert len(names["frame"]) == 1  # type: ignore[arg-type]


def test_commands_print_what_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    examples = [example for block in shown for example in re.split(r"^\$ airflow-quilt ", block, flags=re.MULTILINE)[1:]]
    found = []
    for example in examples:
        command = shlex.split(example.splitlines()[0])
        capfd.readouterr()
        assert main(command) == (1 if command[0] == "diff" else 0)
        found.append(f"{example.splitlines()[0]}\n{capfd.readouterr().out}")

    assert [_of_now(each) for each in found] == [_of_now(each) for each in examples]


def _of_now(text: str) -> str:
    """Return the output without times and buckets, which differ from run to run."""
    return BUCKET.sub("s3://bucket", TIME.sub("TIME", text))
