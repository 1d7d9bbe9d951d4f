"""The link from a task instance to the catalog's page of its revision."""

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt._compat import AirflowFailException
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.links.catalog import QuiltCatalogLink
from airflow_quilt.operators import (
    QuiltDeleteOperator,
    QuiltInstallOperator,
    QuiltPushOperator,
    QuiltRollbackOperator,
    QuiltVerifyOperator,
    entry,
)
from airflow_quilt.sensors import QuiltPackageSensor

CATALOG = "https://catalog.example.com"


@pytest.fixture(autouse=True)
def page(connected: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A connection that names a catalog; the pages of the package are below the returned URL."""
    connection = {"conn_type": "quilt", "host": CATALOG, "extra": {"registry": connected}}
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", json.dumps(connection))
    return f"{CATALOG}/b/{connected.removeprefix('s3://')}/packages/team/data/tree/"


def link(task: Any) -> str:
    [found] = task.operator_extra_links
    assert isinstance(found, QuiltCatalogLink)
    assert found.name == "Quilt Catalog"
    return found.get_link(task, ti_key=None)


def run(operator: type[Any], **arguments: Any) -> tuple[Any, dict[str, Any]]:
    task = operator(task_id="t", package="team/data", **arguments)
    assert link(task) == ""
    return task, task.execute({})


def test_link_names_the_revision(page: str, tmp_path: Path) -> None:
    first, result = run(QuiltPushOperator, entries={"a.txt": entry(content="a")})
    old = result["top_hash"]
    assert link(first) == result["catalog_url"] == f"{page}{old}/"
    _, result = run(QuiltPushOperator, entries={"a.txt": entry(content="b")})
    new = result["top_hash"]

    assert link(run(QuiltInstallOperator, dest=str(tmp_path / "a"), revision=old[:8])[0]) == f"{page}{old}/"
    assert link(run(QuiltVerifyOperator)[0]) == f"{page}{new}/"
    assert link(run(QuiltRollbackOperator, revision=old)[0]) == f"{page}{old}/"
    assert link(run(QuiltPackageSensor)[0]) == f"{page}{old}/"
    assert link(run(QuiltDeleteOperator, revision=new)[0]) == f"{page}{new}/"
    assert link(run(QuiltDeleteOperator)[0]) == ""


def test_failure_keeps_known_link(page: str, tmp_path: Path) -> None:
    _, result = run(QuiltPushOperator, entries={"a.txt": entry(content="a")})
    verify = QuiltVerifyOperator(task_id="verify", package="team/data", src=str(tmp_path))
    with pytest.raises(AirflowFailException):
        verify.execute({})
    assert link(verify) == f"{page}{result['top_hash']}/"

    install = QuiltInstallOperator(task_id="install", package="team/other", dest=str(tmp_path / "b"))
    with pytest.raises(AirflowFailException):
        install.execute({})
    assert link(install) == ""


@pytest.mark.parametrize("url", ["javascript:alert(1)", "JavaScript://x/%0aalert(1)", "data:text/html,x", " https://x", "//x", 5])
def test_only_web_pages_are_linked(url: Any) -> None:
    """A browser runs the scheme ``javascript:``: such a catalog has no page, nor is one linked that a result names."""
    task = QuiltVerifyOperator(task_id="t", package="team/data")
    task.catalog_url = url
    assert link(task) == ""

    uri = QuiltUri.parse(f"quilt+s3://bucket#package=team/data@{'0' * 64}")
    assert uri.to_xcom(str(url))["catalog_url"] is None
    assert uri.to_xcom(f"{CATALOG}/")["catalog_url"] == f"{CATALOG}/b/bucket/packages/team/data/tree/{'0' * 64}/"
