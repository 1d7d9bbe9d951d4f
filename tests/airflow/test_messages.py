"""Errors of tasks in a run of a DAG: each is one exception, with the name of the thing, its origin, and the cure."""

import json
import logging
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import task

from airflow_quilt.core.errors import AccessDeniedError, RevisionConflictError, StorageUnavailableError
from airflow_quilt.core.storage.s3.errors import error_of
from airflow_quilt.decorators import quilt_push
from airflow_quilt.operators import (
    QuiltBuildOperator,
    QuiltDeleteOperator,
    QuiltInstallOperator,
    QuiltPushOperator,
    QuiltRollbackOperator,
    QuiltVerifyOperator,
    entry,
)
from airflow_quilt.operators._base import airflow_errors
from airflow_quilt.sensors import QuiltPackageSensor
from airflow_quilt.task_groups import quilt_push_group
from testbed.airflow_home import connections
from testbed.server import Identity, S3Server
from tests.airflow.support import Shared, late, run_here
from tests.test_docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

NEAR = {"package": "team/dta"}
TEXT = "1,204 rows, none of them late"
WORKFLOWS = b"""
version: "1"
is_workflow_required: false
workflows: {alpha: {name: Alpha, is_message_required: true}}
"""
TABLE = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


class Failures(dict[str, BaseException]):
    """The errors of the tasks of a run, as Airflow got them."""

    def report(self, context: "Mapping[str, Any]") -> None:
        self[context["ti"].task_id] = context["exception"]

    def says(self, task_id: str, *words: str) -> None:
        """Check that the error of a task has these words, in their order."""
        text = str(self[task_id])
        assert re.search(".*".join(map(re.escape, words)), text, re.DOTALL), text


@pytest.fixture(scope="module")
def failures(shared: Shared, s3: S3Server) -> Failures:
    """A run in which nearly every task fails, each by a mistake of its own; the tests are skipped where errors are not reported."""
    assert shared.errors == {}
    shared.put(f"{shared.registry}/.quilt/workflows/config.yml", WORKFLOWS)
    with pytest.MonkeyPatch.context() as patch:
        for name, identity in {"reader": s3.reader, "wrong": Identity(s3.admin.access_key, "wrong")}.items():
            aws, _ = connections(s3, shared.registry, identity).values()
            patch.setenv(f"AIRFLOW_CONN_AWS_{name.upper()}", aws)
            use(patch, name, registry=shared.registry, aws_conn_id=f"aws_{name}")
        use(patch, "lost", registry="s3://nobucket-here")
        use(patch, "landing", registry=shared.registry, dest="landing")
        use(patch, "typo", registry=shared.registry, aws_conn_id="aws_raeder")
        for name, value in {"ENDPOINT_URL": s3.endpoint, "ACCESS_KEY_ID": "AKNOBODY", "SECRET_ACCESS_KEY": "x"}.items():
            patch.setenv(f"AWS_{name}", value)  # In place of the AWS connection that is misspelled.
        return run(shared)


def use(patch: pytest.MonkeyPatch, name: str, **extra: str) -> None:
    patch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "quilt", "extra": extra}))


def run(place: Shared) -> Failures:
    found = Failures()
    with place.dag("mistakes") as dag:
        dag.default_args |= {"on_failure_callback": found.report, "on_retry_callback": found.report}
        first = QuiltPushOperator(task_id="first", package="team/data", entries={"raw/a.csv": entry(content="a")})

        @task
        def returned(value: str | None) -> str | None:
            return value

        def push(name: str, source: Any = b"", key: str = "a.csv", **more: Any) -> None:
            QuiltPushOperator(**{"task_id": name, "package": "team/new", "entries": {key: source}, **more})

        push("nothing", returned(None))
        push("text", returned(TEXT))
        push("none", returned("None"))
        push("relative", "landing/a.csv")
        push("elsewhere", "/data/of/another/worker.csv")
        push("no_bucket", "s3://nobucket-here/a.csv")
        push("no_registry", registry="s3://nobucket-here")
        push("lost", quilt_conn_id="lost")
        push("directory", str(place.path))
        push("empty", f"{place.path}/empty/", key="d/")
        (place.path / "empty").mkdir()
        push("no_connection", quilt_conn_id="quilt_defalt")
        push("no_aws", quilt_conn_id="typo")
        push("reader", quilt_conn_id="reader")
        push("wrong", quilt_conn_id="wrong")
        push("landing", quilt_conn_id="landing")
        push("no_workflow", workflow="alhpa")
        push("workflow", workflow="alpha")
        push("update", package="team/dtaa", mode="update", source="/data/of/another/worker.csv")
        late(QuiltBuildOperator, task_id="build", package="team/new", entries={"a.csv": entry(content="a")})

        after: list[Any] = [
            QuiltInstallOperator(task_id="install", dest=str(place.path / "installed"), **NEAR),
            QuiltInstallOperator(task_id="key", package="team/data", path="raw/a.cvs", dest=str(place.path / "installed")),
            QuiltInstallOperator(task_id="revision", package="team/data", revision="abcdef", dest=str(place.path / "installed")),
            QuiltVerifyOperator(task_id="verify", **NEAR),
            QuiltVerifyOperator(task_id="differs", package="team/data", src=str(place.path / "empty")),
            QuiltDeleteOperator(task_id="delete", **NEAR),
            QuiltRollbackOperator(task_id="rollback", revision="abcdef", **NEAR),
            late(QuiltPackageSensor, task_id="wait", package="team/data", newer_than="xyz"),
            QuiltPackageSensor(task_id="wait_deferred", registry="s3://nobucket-here", deferrable=True, **NEAR),
        ]
        first >> after
        quilt_push_group("group", package="team/new", entries={"a.csv": "landing/a.csv"})

        @quilt_push(package="team/new")
        def decorated() -> None:
            return None

        @quilt_push(package="team/new")
        def keyless() -> bytes:
            return b""

        decorated()
        keyless()
    run_here(dag)
    assert "first" not in found
    return found


def test_each_error_is_one_exception(failures: Failures) -> None:
    """No chain; and of frames only those of Airflow, of the operator, and the one that raises."""
    assert len(failures) == 31
    for task_id, error in failures.items():
        assert error.__cause__ is None, task_id
        assert error.__suppress_context__, task_id
        frames = []
        at = error.__traceback__
        while at:
            frames.append(at.tb_frame.f_code.co_filename)
            at = at.tb_next
        assert not any("/airflow_quilt/core/" in name for name in frames), task_id
        assert sum("/airflow_quilt/" in name for name in frames) <= 4, task_id


def test_source_that_is_no_path(failures: Failures) -> None:
    here = f"in {str(Path.cwd())!r}, the working directory of this worker, {socket.gethostname()!r}"
    failures.says("text", "entry 'a.csv'", "give entry(content=…) for text; a str is a path", repr(TEXT), here)
    failures.says("none", "return a value from the task", "'None'")
    failures.says("relative", "entry 'a.csv': give an absolute path; there is no file at 'landing/a.csv'", here)
    failures.says("group.plan", "entry 'a.csv': give an absolute path; there is no file at 'landing/a.csv'", here)
    failures.says(
        "elsewhere", f"this worker, {socket.gethostname()!r}, can reach", "'/data/of/another/worker.csv'", "another worker"
    )
    failures.says("nothing", "the task 'returned'")


def test_value_as_it_was_written(failures: Failures) -> None:
    failures.says("landing", "connection 'landing': the extra 'dest' 'landing': give a prefix in the registry's bucket, s3://")
    failures.says("lost", "connection 'lost': the extra 'registry': s3://nobucket-here: correct the name")
    failures.says("no_bucket", "entry 'a.csv': s3://nobucket-here: ")
    assert "file://" not in "".join(map(str, failures.values())).replace("file:///tmp", "")
    assert not re.search(r"\b[0-9a-f]{64}\b", "".join(map(str, failures.values())))


def test_refusal_names_action_and_identity(failures: Failures, s3: S3Server) -> None:
    key = f"access key …{s3.reader.access_key[-4:]} at {s3.endpoint}"
    failures.says("reader", f": allow s3:PutObject to {key}; access denied")
    failures.says("wrong", "correct the secret key", f"access key …{s3.admin.access_key[-4:]}")
    everything = "".join(map(str, failures.values()))
    for identity in (s3.admin, s3.reader):
        assert identity.secret_key not in everything
        assert identity.access_key not in everything


def test_misspelled_name_gets_the_nearest(failures: Failures) -> None:
    failures.says("no_connection", "'quilt_defalt'; did you mean 'quilt_default'?")
    failures.says("no_aws", "there is no AWS connection 'aws_raeder'; did you mean 'aws_reader'?")
    failures.says("no_workflow", "'alhpa' is not in it; did you mean 'alpha'?")
    failures.says("key", "nothing at 'raw/a.cvs'; did you mean 'raw/a.csv'?")
    for task_id in ("install", "verify", "delete", "rollback"):
        failures.says(task_id, "there is no package team/dta; did you mean 'team/data'?")


def test_table_of_errors_is_true(failures: Failures) -> None:
    """Each row of the page is the message of a mistake, and each mistake has its row."""
    rows = TABLE.findall((ROOT / "docs/errors.md").read_text())
    messages = [
        *(str(error) for error in failures.values()),
        f"RevisionConflictError: {RevisionConflictError('team/data', 'a' * 64, 'b' * 64)}",
    ]
    patterns = [re.compile(".*".join(map(re.escape, row.split("…"))), re.DOTALL) for row in rows]
    unused = [row for row, pattern in zip(rows, patterns, strict=True) if not any(map(pattern.search, messages))]
    unknown = [each for each in messages if not any(pattern.search(each) for pattern in patterns)]
    assert not unused
    assert not unknown
    assert len(rows) >= 20


def test_sensor_reports_an_absent_package_once(shared: Shared, failures: Failures, caplog: pytest.LogCaptureFixture) -> None:
    sensor = QuiltPackageSensor(task_id="wait_for_absent", **NEAR)
    for _ in range(2):
        assert not sensor.poke({})
    [record] = [each for each in caplog.records if "did you mean 'team/data'?" in each.getMessage()]
    assert record.levelno == logging.WARNING

    caplog.clear()
    assert not QuiltPackageSensor(task_id="next_slot", **NEAR).poke({"task_reschedule_count": 1})  # type: ignore[typeddict-item]
    assert "did you mean" not in caplog.text


def test_frames_are_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "airflow_quilt")
    operator = QuiltPushOperator(task_id="push", package="team/data", entries={"a.csv": b""})
    store_is_away = StorageUnavailableError("it is away", "s3://b")
    store_is_away.__cause__ = OSError("the reason")
    with pytest.raises(StorageUnavailableError) as caught, airflow_errors(operator):
        raise store_is_away

    assert caught.value is store_is_away  # The very object: a retry policy decides by its class.
    [record] = [each for each in caplog.records if each.exc_info]
    assert record.levelno == logging.DEBUG
    assert "the reason" in caplog.text


def test_identity_is_added_once_to_the_action() -> None:
    error = AccessDeniedError("access denied", "s3://b/k", "s3:GetObject")
    error.name_identity("arn:aws:iam::1:user/ada")
    assert str(error) == "s3://b/k: allow s3:GetObject to arn:aws:iam::1:user/ada; access denied"
    unknown = AccessDeniedError("correct the access key", "s3://b/k")
    unknown.name_identity("access key …ABCD")
    assert str(unknown) == "s3://b/k: correct the access key; the identity: access key …ABCD"


def test_action_is_that_of_the_message_of_aws() -> None:
    text = "User: arn:aws:iam::1:user/ada is not authorized to perform: kms:GenerateDataKey on resource: arn:aws:kms:::key/1"
    error = error_of("AccessDenied", text, 403, "s3://b/k", "s3:PutObject")
    assert isinstance(error, AccessDeniedError)
    assert error.action == "kms:GenerateDataKey"
    assert str(error) == f"s3://b/k: allow kms:GenerateDataKey; access denied (AccessDenied {text})"
    absent = error_of("403", "Forbidden", 403, "s3://b/k", "s3:GetObject")
    assert str(absent).startswith("s3://b/k: allow s3:GetObject; access denied")
    assert "s3:ListBucket" in str(absent)
