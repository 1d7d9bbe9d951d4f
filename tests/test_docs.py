"""The code in the documents is real code."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]


def blocks(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_core_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = blocks(ROOT / "docs/engine.md")
    exec(compile(example, "docs/engine.md", "exec"), {"__name__": "engine_example"})  # noqa: S102
    printed = capsys.readouterr().out
    assert printed.startswith("quilt+s3://my-bucket#package=lab/readings@")
    assert "First readings" in printed
    assert "readings.csv 14 " in printed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_compile(document: Path) -> None:
    for block in blocks(document):
        assert compile(block, document.name, "exec")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_readme_names_make_targets() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text


def test_security_names_bounds() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    table = re.findall(r"^\| ([\w-]+) \| (\d[\d.]*) \|", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert table
    assert {f"{name}>={bound}" for name, bound in table} <= set(required)


PINS = sorted((ROOT / "testbed" / "pins").glob("*.txt"))


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.stem)
def test_bounds_admit_pins(path: Path) -> None:
    """The versions of each supported Airflow fit the dependencies, and are those in the docs."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    text = path.read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
    row = re.search(
        rf"^\| `{re.escape(path.name)}`[^|]*\|(.*)\|$", (ROOT / "docs/airflow-versions.md").read_text("utf-8"), re.MULTILINE
    )

    for requirement in map(Requirement, required):
        assert requirement.specifier.contains(pinned.get(requirement.name, "999")), requirement
    assert not re.search(r"://|--hash|--index", text)
    assert row
    names = ("apache-airflow", "apache-airflow-providers-amazon", "boto3", "msgspec")
    assert [cell.strip() for cell in row[1].split("|")][:4] == [pinned[name] for name in names]
