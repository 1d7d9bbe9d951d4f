import subprocess
import sys

import pytest

from airflow_quilt import core

IMPORTS = [
    pytest.param("from airflow_quilt.core import push", id="by the front door"),
    pytest.param("import airflow_quilt.core.push; from airflow_quilt.core import push", id="after its module"),
    pytest.param(
        "from airflow_quilt.core.push import push_planner; from airflow_quilt.core import push", id="after another name"
    ),
    pytest.param("import airflow_quilt.core; push = airflow_quilt.core.push", id="as an attribute"),
]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", core.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(core, name).__name__ == name
    assert name in dir(core)


@pytest.mark.parametrize("imported", IMPORTS)
def test_verb_is_its_function(imported: str) -> None:
    """A submodule of the same name does not hide it, in whichever order they are imported."""
    assert python(f"{imported}; print(type(push).__name__, push.__name__)") == "function push"


def test_import_is_lazy() -> None:
    heavy = ("boto3", "botocore", "awscrt", "requests", "jsonschema", "yaml", "airflow")

    assert python(f"import sys, airflow_quilt.core; print([name for name in {heavy} if name in sys.modules])") == "[]"
    assert (
        python(f"import sys; from airflow_quilt.core import PackageName; print([n for n in {heavy} if n in sys.modules])") == "[]"
    )


def test_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'pull'"):
        _ = core.pull
