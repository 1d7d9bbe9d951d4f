"""The last line of the log of each verb."""

import re
from pathlib import Path

import pytest

from airflow_quilt.core.delete import delete
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.sharded.run import (
    ShardingOptions,
    commit_shards,
    discard,
    plan_shards,
    staging_of,
    transfer_shard,
)
from airflow_quilt.core.push import push, push_planner
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.verify import verify
from tests.support import timeless


def test_verbs_end_with_their_result(registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Package, place, amount and time stand in one line, which needs no other one to be understood."""
    caplog.set_level("INFO", logger="airflow_quilt")
    package, dest = "team/package", str(tmp_path / "here")
    first, second = (push(registry, Draft(package=package, entries={"a": b"12", "b": text})).top_hash for text in (b"3", b"4"))
    acts = [
        (
            lambda: install(registry, Reference(package), dest),
            f"Installed <2> to file://{dest}: 2 files, 3 B; 0 of them there already; <time>",
        ),
        (
            lambda: install(registry, Reference(package), dest),
            f"Installed <2> to file://{dest}: 2 files, 3 B; 2 of them there already; <time>",
        ),
        (
            lambda: verify(registry, Reference(package), dest),
            "Verified <2>: 2 files, 3 B: 0 missing, 0 modified, 0 extra; <time>",
        ),
        (lambda: rollback(registry, package, first), "The latest revision of team/package in s3://registry is <1>; it was <2>"),
        (lambda: delete(registry, package), "Deleted 2 revisions of team/package from s3://registry; the data stays"),
    ]
    for act, expected in acts:
        act()
        line = caplog.messages[-1].replace("team/package@", "")
        assert (
            timeless(re.sub(r"\b[0-9a-f]{12,64}\b", lambda found: "<1>" if first.startswith(found[0]) else "<2>", line))
            == expected
        )
    assert first[:12] != second[:12]


def test_shards_end_with_their_result(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="airflow_quilt")
    package = "team/package"
    earlier = push(registry, Draft(package=package, entries={"a": b"12", "c": b"3"}))
    staging = staging_of(registry.location.root.join("staging/"), Attempt("work"), 1.7e9)
    draft = Draft(package=package, entries={"a": b"12", "b": b"3"})
    plan = plan_shards(registry, draft, push_planner(registry, package), staging, ShardingOptions(shards=2))
    assert caplog.messages[-1] == "Planned team/package in 2 shards to s3://registry: 2 entries, 3 B, 3 B to copy"
    results = [transfer_shard(registry, package, plan.location, number) for number in range(plan.shards)]
    result = commit_shards(registry, package, plan.location, results)
    assert timeless(caplog.messages[-1]).splitlines() == [
        f"Published team/package@{result.top_hash[:12]} in s3://registry: +1 ~0 -1 files since {earlier.top_hash[:12]}",
        "2 files, 3 B; 1 B copied, 2 B reused; <time>",
        "+ 'b'",
        "- 'c'",
    ]
    discard(registry, plan.location)
    assert caplog.messages[-1] == f"Deleted 5 staged objects below {staging}"
