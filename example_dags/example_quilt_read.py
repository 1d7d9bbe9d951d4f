"""Use a package: install a revision, correct one file of it, verify the new revision, and roll back if that fails.

Needs a connection `quilt_default` with a registry, and the package of `example_quilt_push`.
"""

import tempfile
from pathlib import Path

import pendulum
from airflow.sdk import dag, task

from airflow_quilt.operators import QuiltInstallOperator, QuiltPushOperator, QuiltRollbackOperator, QuiltVerifyOperator


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    params={"package": "penguins/weekly", "workdir": str(Path(tempfile.gettempdir(), "penguins-copy"))},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_read() -> None:
    """Correct the summary of the penguins, and roll back to the old revision if the new one is damaged."""
    # [START howto_operator_quilt_install]
    install = QuiltInstallOperator(task_id="install", package="{{ params.package }}", dest="{{ params.workdir }}")
    # [END howto_operator_quilt_install]

    @task
    def correct(installed: dict[str, str], params: dict[str, str]) -> dict[str, object]:
        """Return the new summary, with the revision that it was made from."""
        import json

        summary = json.loads(Path(params["workdir"], "summary.json").read_text(encoding="utf-8"))
        return {"corrected_from": installed["top_hash"], "species": summary}

    # [START howto_operator_quilt_update]
    publish = QuiltPushOperator(
        task_id="publish",
        package="{{ params.package }}",
        mode="update",
        revision="{{ ti.xcom_pull(task_ids='install')['top_hash'] }}",
        entries={"summary.json": correct(install.output)},
        remove=["plots/"],
        message="Corrected summary, without plots",
    )
    # [END howto_operator_quilt_update]

    # [START howto_operator_quilt_verify]
    verify = QuiltVerifyOperator(task_id="verify", package="{{ ti.xcom_pull(task_ids='publish')['quilt_uri'] }}", read_all=True)
    # [END howto_operator_quilt_verify]

    # [START howto_operator_quilt_rollback]
    rollback = QuiltRollbackOperator(
        task_id="rollback",
        package="{{ params.package }}",
        revision="{{ ti.xcom_pull(task_ids='install')['top_hash'] }}",
        trigger_rule="one_failed",
    )
    # [END howto_operator_quilt_rollback]

    publish >> verify >> rollback


example_quilt_read()
