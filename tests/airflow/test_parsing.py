"""What it costs to parse a DAG file that uses the operators."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.airflow.support import EXAMPLES

DAG = """
from airflow.sdk import DAG
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import (
    QuiltBuildOperator, QuiltDeleteOperator, QuiltInstallOperator, QuiltPushOperator, QuiltRollbackOperator, QuiltVerifyOperator,
    entry,
)

with DAG("all_operators"):
    QuiltPushOperator(task_id="push", package="a/b", entries={"x": entry(path="/data/x", meta={"y": 1})})
    QuiltBuildOperator(task_id="build", package="a/b", entries="/data/")
    QuiltDeleteOperator(task_id="delete", package="a/b")
    QuiltRollbackOperator(task_id="rollback", package="a/b", top_hash="abcdef")
    QuiltInstallOperator(task_id="install", package="a/b", dest="/data/")
    QuiltVerifyOperator(task_id="verify", package="a/b")
QuiltHook()
"""
HEAVY = ["boto3", "botocore", "awscrt", "pandas", "pyarrow", "polars", "airflow_quilt.core.storage"]


def modules_after(path: Path) -> list[str]:
    """Return the modules that a fresh Python has after it ran a file."""
    code = f"import runpy, sys; runpy.run_path({str(path)!r}); print([*sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ})
    modules: list[str] = ast.literal_eval(run.stdout.splitlines()[-1])
    return modules


def heavy(modules: list[str]) -> set[str]:
    return {name for name in modules for known in HEAVY if name == known or name.startswith(f"{known}.")}


def test_a_dag_file_that_uses_every_operator_imports_no_boto_no_pandas_and_no_storage(tmp_path: Path) -> None:
    path = tmp_path / "dag.py"
    path.write_text(DAG, encoding="utf-8")
    modules = modules_after(path)

    assert "airflow_quilt.operators.push" in modules
    assert not heavy(modules)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_examples_are_as_light(path: Path) -> None:
    modules = modules_after(path)

    assert "airflow_quilt.operators" in modules
    assert not heavy(modules)


def test_the_check_sees_a_heavy_import(tmp_path: Path) -> None:
    path = tmp_path / "dag.py"
    path.write_text(DAG + "import airflow_quilt.core.push\nimport botocore.session\n", encoding="utf-8")

    assert {"botocore", "airflow_quilt.core.storage"} <= heavy(modules_after(path))
