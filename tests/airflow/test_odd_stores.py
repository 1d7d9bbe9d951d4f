"""DAGs on stores that are not as new: a bucket that kept no versions at first, a store that knows no conditional writes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.sdk import DAG, task

from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.operators import QuiltBuildOperator, QuiltInstallOperator, QuiltVerifyOperator
from airflow_quilt.task_groups import quilt_push_group
from testbed.airflow_home import connections
from testbed.faults import without_conditions
from testbed.proxy import S3Proxy
from testbed.server import S3Server
from tests.airflow.support import run_here
from tests.core.packages import files_below


def test_odd_stores_take_a_dag(
    dag: DAG,
    s3: S3Server,
    proxy: S3Proxy,
    bucket: str,
    s3_registry: Registry,
    plain_bucket: str,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in connections(proxy.store, f"s3://{bucket}").items():
        monkeypatch.setenv(name, value)
    s3.client().put_object(Bucket=plain_bucket, Key="d/old.txt", Body=b"old bytes")
    s3.set_versioning(plain_bucket, "Enabled")
    out = write("out/placeholder").parent

    @task
    def where() -> str:
        return f"s3://{plain_bucket}/d/"

    @task
    def overwrite() -> None:
        s3.client().put_object(Bucket=plain_bucket, Key="d/old.txt", Body=b"new bytes")

    with dag:
        built = QuiltBuildOperator(task_id="build", package="team/old", entries=where())
        files = {"a.txt": str(write("a.txt", b"a")), "b.txt": str(write("b.txt", b"b"))}
        local = QuiltBuildOperator(task_id="build_local", package="team/local", entries=files)
        group = quilt_push_group(package="team/many", entries=files, shards=2)
        install = QuiltInstallOperator(task_id="install", package="team/old", dest=str(out))
        built >> overwrite() >> install >> QuiltVerifyOperator(task_id="verify", package="team/old") >> local >> group
    with proxy.disturbed(without_conditions):
        run = run_here(dag)

    assert str(run.state) == "success"
    assert files_below(out)["old.txt"] == b"old bytes"
    [entry] = s3_registry.read("team/old").entries
    assert entry.physical_keys == (f"s3://{plain_bucket}/d/old.txt?versionId=null",)
    assert sorted(map(str, s3_registry.packages())) == ["team/local", "team/many", "team/old"]
    assert proxy.count_faults()["unknown"] == 3  # Learned once by each of the tasks that publish.
