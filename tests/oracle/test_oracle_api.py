"""The table of quilt3's functions in the documents names every one that there is."""

import re
from pathlib import Path

import pytest

from tests.oracle.quilt3_client import Quilt3

TABLE = Path(__file__).parent.parent.parent / "docs/compatibility.md"


def test_quilt3_names_have_rows(quilt3: Quilt3) -> None:
    text = TABLE.read_text(encoding="utf-8")
    named = {
        section.partition("`\n")[0]: set(re.findall(r"`([\w.]+)", "\n".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))))
        for section in re.split(r"^## `", text, flags=re.MULTILINE)[1:]
    }
    public = quilt3.public_names()

    assert public.keys() == named.keys()
    assert {part: set(names) - named[part] for part, names in public.items()} == {part: set() for part in public}
    assert "install" in public["quilt3.Package"]
    assert "no_such_function" not in named["quilt3"]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`core\.([\w.]+)", TABLE.read_text(encoding="utf-8")))))
def test_our_column_names_exist(name: str) -> None:
    from importlib import import_module

    home, _, attribute = f"airflow_quilt.core.{name}".rpartition(".")
    assert callable(getattr(import_module(home), attribute))
