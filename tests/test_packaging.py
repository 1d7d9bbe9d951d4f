"""The files and the metadata of the distributions."""

import subprocess
import sys
import tarfile
import tomllib
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = {path.name for path in (ROOT / "example_dags").glob("*.py")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the source distribution."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", directory], cwd=ROOT, check=True
    )
    return directory


def test_sdist_ships_security(built: Path) -> None:
    [archive] = built.glob("airflow_quilt-*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    assert {"SECURITY.md", "README.md", "LICENSE", "docs/entries.md", "airflow_quilt/__init__.py"} <= names
    assert {f"example_dags/{name}" for name in EXAMPLES} <= names


def test_wheel_ships_examples(built: Path) -> None:
    """Airflow looks for ``example_dags`` in the package that is named like the distribution, and for nothing else of a wheel."""
    [archive] = built.glob("airflow_quilt-*.whl")
    with ZipFile(archive) as wheel:
        names = set(wheel.namelist())
        metadata = message_from_bytes(wheel.read("airflow_quilt-0.1.0.dist-info/METADATA"))

    assert {name.removeprefix("airflow_quilt/example_dags/") for name in names if "example" in name} == EXAMPLES
    assert {name.partition("/")[0] for name in names} == {"airflow_quilt", "airflow_quilt-0.1.0.dist-info"}
    assert metadata["Name"] == "airflow-quilt"
    assert {url.partition(",")[0] for url in metadata.get_all("Project-URL")} == {
        "Documentation",
        "Source",
        "Issues",
        "Changelog",
    }


def test_one_name_everywhere() -> None:
    """The distribution is called like its package, and like the command to install it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["name"] == "airflow-quilt"
    assert "\n## Install\n\n```\npip install airflow-quilt " in (ROOT / "README.md").read_text(encoding="utf-8")
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        assert "airflow-provider-quilt" not in document.read_text(encoding="utf-8"), document
