"""The cost of parsing a DAG file that uses the operators."""

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


def test_operators_import_no_boto() -> None:
    modules = modules_after(EVERY_OPERATOR)

    assert "airflow_quilt.operators.push" in modules
    assert not heavy(modules)


@pytest.fixture(scope="module")
def of_an_asset(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Modules that Airflow imports at the first asset of any kind: all providers' handlers, of which Amazon's imports boto."""
    path = tmp_path_factory.mktemp("asset") / "dag.py"
    path.write_text("from airflow.sdk import Asset\nAsset('s3://bucket/key')\n", encoding="utf-8")
    return set(modules_after(path))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_parse_lightly(path: Path, of_an_asset: set[str]) -> None:
    modules = modules_after(path)
    has_assets = "airflow_quilt.assets.uri" in modules and "quilt_asset(" in path.read_text(encoding="utf-8")

    assert "airflow_quilt" in modules
    assert not heavy(modules) - (of_an_asset if has_assets else set())
    assert not {name for name in modules if name.startswith("airflow_quilt.core.storage")}


def test_asset_imports_little(of_an_asset: set[str]) -> None:
    ours = {name for name in of_an_asset if name.startswith("airflow_quilt.")}

    assert "airflow_quilt.assets.uri" in ours
    assert {name for name in ours if name.startswith("airflow_quilt.core.")} <= {
        f"airflow_quilt.core.{name}" for name in ("errors", "format", "format.names", "format.web_url")
    }
    assert not {name for name in ours if name.startswith(("airflow_quilt.operators", "airflow_quilt.triggers"))}


def test_heavy_import_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "dag.py"
    path.write_text(EVERY_OPERATOR.read_text() + "import airflow_quilt.core.push\nimport botocore.session\n", encoding="utf-8")

    assert {"botocore", "airflow_quilt.core.storage"} <= heavy(modules_after(path))
