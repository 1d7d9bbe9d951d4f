"""What it costs to parse a DAG file that uses the operators."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.imports import EVERY_OPERATOR
from tests.airflow.support import EXAMPLES

HEAVY = ["boto3", "botocore", "awscrt", "pandas", "pyarrow", "polars", "airflow_quilt.core.storage"]


def modules_after(path: Path) -> list[str]:
    """Return the modules that a fresh Python has after it ran a file."""
    code = f"import runpy, sys; runpy.run_path({str(path)!r}); print([*sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ})
    modules: list[str] = ast.literal_eval(run.stdout.splitlines()[-1])
    return modules


def heavy(modules: list[str]) -> set[str]:
    return {name for name in modules for known in HEAVY if name == known or name.startswith(f"{known}.")}


def test_a_dag_file_that_uses_every_operator_imports_no_boto_no_pandas_and_no_storage() -> None:
    modules = modules_after(EVERY_OPERATOR)

    assert "airflow_quilt.operators.push" in modules
    assert not heavy(modules)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_examples_are_as_light(path: Path) -> None:
    modules = modules_after(path)

    assert "airflow_quilt.operators" in modules
    assert not heavy(modules)


def test_the_check_sees_a_heavy_import(tmp_path: Path) -> None:
    path = tmp_path / "dag.py"
    path.write_text(EVERY_OPERATOR.read_text() + "import airflow_quilt.core.push\nimport botocore.session\n", encoding="utf-8")

    assert {"botocore", "airflow_quilt.core.storage"} <= heavy(modules_after(path))
