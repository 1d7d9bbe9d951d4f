"""Packages of others in a DAG run: the buckets that they may name, and the warning that checksums prove no intent."""

import json

import pytest

from airflow_quilt.core.errors import SettingsError
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.hooks._settings import QuiltSettings
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators.install import QuiltInstallOperator
from airflow_quilt.operators.push import QuiltPushOperator
from tests.airflow.support import OTHER_HASH, Shared, result, run_here, states
from tests.core.packages import commit, entry_of


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("", None),
        ("null", None),
        ([], frozenset()),
        ("a.b", frozenset({"a.b"})),
        (" one, s3://two/ ", frozenset({"one", "two"})),
        (["one", "s3://two"], frozenset({"one", "two"})),
    ],
)
def test_allowed_buckets_may_be_text(given: object, expected: frozenset[str] | None) -> None:
    assert settings(given).allowed_buckets == expected


@pytest.mark.parametrize("given", [5, True, {"a": 1}, ["a", 1], [["a"]], ["a/b"], "a/b", "a,,b", '["a"]', "*", [""]])
def test_bad_bucket_list_is_refused(given: object) -> None:
    with pytest.raises(SettingsError, match="connection 'lab': the extra 'allowed_buckets'"):
        settings(given)


def settings(given: object) -> QuiltSettings:
    from airflow.sdk import Connection

    return QuiltSettings.of(Connection(conn_id="lab", conn_type="quilt", extra=json.dumps({"allowed_buckets": given})))


def test_foreign_packages_in_a_run(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    data, bucket = b"only the task may read it", shared.registry.removeprefix("s3://")
    secret = shared.put(f"{shared.registry}/data/x", data)
    for name, buckets in {"NONE": [], "LISTED": bucket}.items():
        extra = json.dumps({"allowed_buckets": buckets})
        monkeypatch.setenv(f"AIRFLOW_CONN_QUILT_{name}", json.dumps({"conn_type": "quilt", "extra": extra}))
    theirs = QuiltHook().registry(shared.source)
    false = Entry(LogicalKey("x"), (secret,), len(data), Hash("SHA256", "0" * 64))
    commit(theirs, PackageName("their", "package"), [entry_of("x", data, secret, hash_type=OTHER_HASH)])
    commit(theirs, PackageName("their", "claim"), [false])
    uri = f"quilt+{shared.source}#package=their"
    with shared.dag("foreign") as dag:
        for name in ("none", "listed"):
            QuiltInstallOperator(
                task_id=f"install_{name}", package=f"{uri}/package", dest=str(shared.path / name), quilt_conn_id=f"quilt_{name}"
            )
        for task_id, source, conn_id in (
            ("push_none", "package", "quilt_none"),
            ("push", "package", None),
            ("claim", "claim", None),
        ):
            more = {"quilt_conn_id": conn_id} if conn_id else {}
            QuiltPushOperator(
                task_id=task_id, package=f"our/{task_id}", registry=shared.registry, entries=f"{uri}/{source}", copy="all", **more
            )
    run = run_here(dag)

    found = {task: state for (task, _), state in states(run).items()}
    assert found == dict.fromkeys(shared.errors, "failed") | dict.fromkeys(("install_listed", "push"), "success")
    for task_id in ("install_none", "push_none"):
        (error,) = shared.errors[task_id]
        assert f"entry 'x': its package, in {shared.source}, names an object in the bucket {bucket!r}" in error
    assert "EntryDamagedError" in shared.errors["claim"][0]
    assert sorted(shared.errors) == ["claim", "install_none", "push_none"]
    assert (result(run, "install_listed")["checksum_only"], result(run, "push")["checksum_only"]) == (1, 0)
    assert not (shared.path / "none").exists()
    listed = shared.client.list_objects_v2(Bucket=bucket, Prefix="our/")
    assert [each["Key"] for each in listed["Contents"]] == ["our/push/x"]
