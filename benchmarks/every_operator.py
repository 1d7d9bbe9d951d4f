"""A DAG file that uses every operator: the cost of parsing it is measured, and tested to stay low."""

from airflow.sdk import DAG

from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import (
    QuiltBuildOperator,
    QuiltDeleteOperator,
    QuiltInstallOperator,
    QuiltPushOperator,
    QuiltRollbackOperator,
    QuiltVerifyOperator,
    entry,
)

with DAG("every_operator", schedule=None):
    QuiltPushOperator(task_id="push", package="a/b", entries={"x": entry(path="/data/x", meta={"y": 1}), "z/": "s3://c/z/"})
    QuiltBuildOperator(task_id="build", package="a/b", entries="/data/")
    QuiltDeleteOperator(task_id="delete", package="a/b")
    QuiltRollbackOperator(task_id="rollback", package="a/b", revision="abcdef")
    QuiltInstallOperator(task_id="install", package="a/b", dest="/data/")
    QuiltVerifyOperator(task_id="verify", package="a/b", registry="s3://c")
QuiltHook()
