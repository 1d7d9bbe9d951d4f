"""Errors of tasks in a run of a DAG: each is one exception, with the name of the thing, its origin, and the cure."""

import logging
from typing import TYPE_CHECKING, Any

import pytest

from airflow_quilt.core.errors import QuiltError, StorageUnavailableError
from airflow_quilt.decorators import quilt_push
from airflow_quilt.operators import (
    QuiltBuildOperator,
    QuiltDeleteOperator,
    QuiltInstallOperator,
    QuiltPushOperator,
    QuiltRollbackOperator,
    QuiltVerifyOperator,
)
from airflow_quilt.operators._base import airflow_errors
from airflow_quilt.sensors import QuiltPackageSensor
from airflow_quilt.task_groups import quilt_push_group
from tests.airflow.support import Shared, run_here

if TYPE_CHECKING:
    from collections.abc import Mapping

ABSENT = {"package": "team/absent"}


class Failures(dict[str, BaseException]):
    """The errors of the tasks of a run, as Airflow got them."""

    def report(self, context: "Mapping[str, Any]") -> None:
        self[context["ti"].task_id] = context["exception"]


@pytest.fixture(scope="module")
def failures(shared: Shared) -> Failures:
    """A run in which every task fails, each by a mistake of its own."""
    found = Failures()
    with shared.dag("mistakes") as dag:
        dag.default_args |= {"on_failure_callback": found.report, "on_retry_callback": found.report}
        QuiltPushOperator(task_id="push", package="team/data", entries={"a.csv": None})
        QuiltBuildOperator(task_id="build", package="team/data", entries={"a.csv": b"content"})
        QuiltInstallOperator(task_id="install", dest=str(shared.path / "installed"), **ABSENT)
        QuiltVerifyOperator(task_id="verify", **ABSENT)
        QuiltDeleteOperator(task_id="delete", **ABSENT)
        QuiltRollbackOperator(task_id="rollback", revision="abcdef", **ABSENT)
        QuiltPackageSensor(task_id="wait", package="team/data", newer_than="xyz")
        QuiltPackageSensor(task_id="wait_deferred", registry="s3://no-such-bucket-here", deferrable=True, **ABSENT)
        QuiltPushOperator(task_id="retried", package="team/data", quilt_conn_id="quilt_defalt")
        quilt_push_group("group", package="team/data", entries={"a.csv": None})

        @quilt_push(package="team/data")
        def decorated() -> None:
            return None

        decorated()
    run_here(dag)
    return found


def test_each_error_is_one_exception(failures: Failures) -> None:
    """No chain; and of frames only those of Airflow, of the operator, and the one that raises."""
    expected = {"push", "build", "install", "verify", "delete", "rollback", "wait", "wait_deferred", "retried", "group.plan"}
    assert failures.keys() == expected | {"decorated"}
    for task_id, error in failures.items():
        assert error.__cause__ is None, task_id
        assert error.__suppress_context__, task_id
        frames = []
        at = error.__traceback__
        while at:
            frames.append(at.tb_frame.f_code.co_filename)
            at = at.tb_next
        assert sum("/airflow_quilt/" in name for name in frames) <= 4, (task_id, [n[-40:] for n in frames])
        assert not any("/airflow_quilt/core/" in name for name in frames), task_id


def test_frames_are_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "airflow_quilt")
    operator = QuiltPushOperator(task_id="push", package="team/data", entries={"a.csv": b""})
    store_is_away = StorageUnavailableError("it is away", "s3://b")
    store_is_away.__cause__ = OSError("the reason")
    with pytest.raises(StorageUnavailableError) as caught, airflow_errors(operator):
        raise store_is_away

    assert caught.value is store_is_away  # The very object: a retry policy decides by its class.
    assert isinstance(caught.value, QuiltError)
    [record] = [each for each in caplog.records if each.exc_info]
    assert record.levelno == logging.DEBUG
    assert "the reason" in caplog.text
