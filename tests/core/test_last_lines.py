"""The last line of the log of each verb."""

import re
from pathlib import Path

import pytest

from airflow_quilt.core.delete import delete
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.verify import verify


def test_verbs_end_with_their_result(registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Package, place, amount and time stand in one line, which needs no other one to be understood."""
    caplog.set_level("INFO", logger="airflow_quilt")
    package, dest = "team/package", str(tmp_path / "here")
    first, second = (push(registry, Draft(package=package, entries={"a": b"12", "b": text})).top_hash for text in (b"3", b"4"))
    acts = [
        (
            lambda: install(registry, Reference(package), dest),
            f"Installed <2> to file://{dest}: 2 files, 3 B; 0 of them there already; 0 s",
        ),
        (
            lambda: install(registry, Reference(package), dest),
            f"Installed <2> to file://{dest}: 2 files, 3 B; 2 of them there already; 0 s",
        ),
        (lambda: verify(registry, Reference(package), dest), "Verified <2>: 2 files, 3 B: 0 missing, 0 modified, 0 extra; 0 s"),
        (lambda: rollback(registry, package, first), "The latest revision of team/package in s3://registry is <1>; it was <2>"),
        (lambda: delete(registry, package), "Deleted 2 revisions of team/package from s3://registry; the data stays"),
    ]
    for act, expected in acts:
        act()
        line = caplog.messages[-1].replace("team/package@", "")
        assert re.sub(r"\b[0-9a-f]{12,64}\b", lambda found: "<1>" if first.startswith(found[0]) else "<2>", line) == expected
    assert first[:12] != second[:12]
