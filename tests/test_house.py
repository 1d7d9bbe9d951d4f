"""The rules of the house that no linter knows: sentences, and paths in the documents."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VAGUE = re.compile(r"(^|[ ,;:])(what|who|whoever|whatever|somebody|someone)\b", re.IGNORECASE)
DOCUMENTED = ("airflow_quilt", "benchmarks", "demo", "example_dags", "testbed", "tests")
PROTOCOLS = ("registry/history.py", "registry/pointers.py", "registry/lock.py", "registry/locked.py", "runtime/executor.py")
LEAST_COMMENTS = 0.05


def first_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the first line of every docstring, and its number."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text.splitlines()[0]


@pytest.mark.parametrize("folder", DOCUMENTED)
def test_first_lines_are_not_vague(folder: str) -> None:
    """A docstring begins with a noun or a verb of the domain, and hangs on no *what* or *who*."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    vague = [f"{path.relative_to(ROOT)}:{at}: {line}" for path in paths for at, line in first_lines(path) if VAGUE.search(line)]

    assert paths
    assert not vague, "\n".join(vague)


@pytest.mark.parametrize("module", PROTOCOLS)
def test_protocols_are_commented(module: str) -> None:
    """The steps of a hard protocol stand beside its code."""
    lines = [line.strip() for line in (ROOT / "airflow_quilt/core" / module).read_text(encoding="utf-8").splitlines()]
    comments = sum(line.startswith("#") for line in lines)

    assert comments >= LEAST_COMMENTS * sum(map(bool, lines))


def test_paths_in_documents_exist() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    named = re.compile(r"`((?:airflow_quilt|benchmarks|demo|docs|example_dags|testbed|tests)/[\w./-]+\.(?:c|py|md|txt|png))`")
    missing = [
        f"{document.relative_to(ROOT)}: {path}"
        for document in documents
        if document.name != "CHANGELOG.md"
        for path in named.findall(document.read_text(encoding="utf-8"))
        if not (ROOT / path).exists()
    ]

    assert documents
    assert not missing, "\n".join(missing)
