"""Use a package: install a pinned revision, check it, correct one file of the package, or take the correction back.

Needs a connection `quilt_default` that names a registry, and the package that `example_quilt_push` publishes.
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
    tags=["example", "quilt"],
)
def penguins_corrected() -> None:
    """Correct the summary of the penguins, and go back to the old revision if the new one is no better."""
    # [START howto_operator_quilt_install]
    install = QuiltInstallOperator(task_id="install", package="{{ params.package }}", dest="{{ params.workdir }}")
    # [END howto_operator_quilt_install]

    @task
    def correct(installed: dict[str, str], params: dict[str, str]) -> dict[str, object]:
        """Return the new summary, which says from which revision it was made."""
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


penguins_corrected()
