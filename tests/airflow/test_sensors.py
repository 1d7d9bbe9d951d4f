"""The sensor: its conditions, its ways to wait, its result."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, task

from airflow_quilt._compat import AirflowFailException, AirflowSkipException
from airflow_quilt.core.errors import BucketNotFoundError, SettingsUnavailableError, StorageUnavailableError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import QuiltPushOperator, QuiltRollbackOperator, entry
from airflow_quilt.sensors import QuiltPackageSensor
from airflow_quilt.triggers.revision import QuiltRevisionTrigger
from testbed.airflow_home import connections
from testbed.server import Identity, S3Server
from tests.airflow.support import exceptions, needs_airflow, run_here, serialization

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

NAME = PackageName("team", "data")


def publish(text: str) -> str:
    result = QuiltPushOperator(task_id="push", package=str(NAME), entries={"a.txt": entry(content=text)}).execute({})
    return str(result["top_hash"])


def sensor(**arguments: Any) -> QuiltPackageSensor:
    return QuiltPackageSensor(**{"task_id": "wait", "package": str(NAME), **arguments})


def polled(**arguments: Any) -> Any:
    """Poll once; return the top hash that was found, if any."""
    found = sensor(**arguments).poke({})
    return found.xcom_value["top_hash"] if found.is_done else None


@pytest.mark.usefixtures("connected")
def test_poke_checks_each_condition() -> None:
    assert polled() is None
    first = publish("first")
    assert polled() == first
    assert polled(newer_than=first) is None
    assert polled(newer_than=first[:10]) is None
    assert polled(newer_than="2020-01-01T00:00:00+00:00") == first
    assert polled(newer_than="2999-01-01") is None
    assert polled(path="a.txt") == first
    assert polled(path="b.txt") is None

    second = publish("second")
    assert polled(newer_than=first) == second
    QuiltRollbackOperator(task_id="back", package=str(NAME), revision=first).execute({})
    assert polled() == first


@pytest.mark.usefixtures("connected")
def test_forged_manifest_is_refused(s3_registry: Registry) -> None:
    """A sensor with a path reads on to the top hash; the event of its trigger is short."""
    top_hash = publish("first")
    key = s3_registry.location.root.join(f".quilt/packages/{top_hash}")
    store = s3_registry.stores.of(key)
    lines = store.get(key).data.splitlines()
    for forged in (lines[1].replace(b"a.txt", b"b.txt"), lines[1].replace(b"a.txt", b"b" * 4 * 1024 * 1024)):
        store.put(key, b"\n".join([*lines, forged]))
        with pytest.raises(AirflowFailException) as caught:
            sensor(path="a.txt").execute({})
        event = asyncio.run(anext(QuiltRevisionTrigger(str(NAME), path="a.txt", quilt_conn_id="quilt_default").run()))

        assert f"team/data@{top_hash[:12]}: " in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert len(str(event.payload)) < 2000


def test_result_is_the_revision(connected: str, s3_registry: Registry) -> None:
    top_hash = publish("first")
    [revision] = s3_registry.revisions(NAME)

    assert sensor().execute({}) == {
        "registry": connected,
        "package": "team/data",
        "top_hash": top_hash,
        "quilt_uri": f"quilt+{connected}#package=team/data@{top_hash}",
        "catalog_url": None,
        "published_at": revision.published_at.to_iso8601_string(),
    }


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"package": "no name"}, "PackageNameError"),
        ({"registry": "s3://no-such-bucket-here"}, "BucketNotFoundError"),
        ({"newer_than": "xyz"}, "TopHashError"),
        ({"path": "../a"}, "LogicalKeyError"),
    ],
)
@pytest.mark.usefixtures("connected")
def test_bad_wait_is_permanent(arguments: dict[str, Any], error: str) -> None:
    waiting = sensor()
    for name, value in arguments.items():  # As of a template.
        setattr(waiting, name, value)
    with pytest.raises(AirflowFailException, match=f"^{error}: "):
        waiting.poke({})


def test_store_outage_fails_attempt(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = S3Server("http://127.0.0.1:9", Identity.make(), Identity.make())
    for name, value in connections(nobody, f"s3://{bucket}").items():
        monkeypatch.setenv(name, value)

    waiting = sensor()
    waiting.hook = QuiltHook(max_concurrency=1, retry=RetryPolicy(seconds=0.5))
    with pytest.raises(StorageUnavailableError):
        waiting.poke({})


@pytest.mark.usefixtures("connected")
def test_trigger_gets_same_condition() -> None:
    first = publish("first")
    task = sensor(newer_than=first, path="a.txt", deferrable=True, poke_interval=7, timeout=70)

    with pytest.raises(exceptions.TaskDeferred) as deferred:
        task.execute({})

    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.timeout is not None
    assert deferred.value.timeout.total_seconds() == 70
    assert isinstance(deferred.value.trigger, QuiltRevisionTrigger)
    assert deferred.value.trigger.serialize()[1] == {
        "package": "team/data",
        "registry": None,
        "quilt_conn_id": "quilt_default",
        "newer_than": first,
        "path": "a.txt",
        "poll_interval": 7.0,
        "max_interval": None,
        "is_first": False,
    }
    for extra, longest in (({}, 70.0), ({"max_wait": 20}, 20.0)):
        task = sensor(newer_than=first, deferrable=True, poke_interval=7, timeout=70, exponential_backoff=True, **extra)
        with pytest.raises(exceptions.TaskDeferred) as deferred:
            task.execute({})
        trigger = deferred.value.trigger
        assert isinstance(trigger, QuiltRevisionTrigger)
        assert trigger.max_interval == longest
        assert [trigger._interval(polls) for polls in (1, 2, 3, 99)] == [7.0, 14.0, min(28.0, longest), longest]  # noqa: SLF001


@pytest.mark.usefixtures("connected")
def test_no_deferral_when_found() -> None:
    top_hash = publish("first")

    assert sensor(deferrable=True).execute({})["top_hash"] == top_hash


@needs_airflow("3.3")
def test_template_without_value_ends_wait() -> None:
    """A path that the triggerer renders to None, or to nothing, is an error, not a file to wait for."""
    for value in (None, ""):
        trigger = QuiltRevisionTrigger("team/{{ params.name }}", path="{{ params.path }}", quilt_conn_id="{{ params.name }}")
        trigger.template_fields = ("package", "path", "quilt_conn_id")
        trigger.render_template_fields({"params": {"path": value, "name": "data"}})  # type: ignore[typeddict-item]

        [event] = drained(trigger)

        assert event == {
            "error": "InputError: template '{{ params.path }}': it has no value; give a value, or leave the argument out"
        }


def drained(trigger: QuiltRevisionTrigger) -> list[Any]:
    async def drain() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(drain())


def test_trigger_event_is_result() -> None:
    task = sensor(deferrable=True)
    found = {"quilt_uri": "quilt+s3://b#package=team/data", "catalog_url": "https://catalog/page", "top_hash": "f" * 64}

    assert task.execute_complete({}, {"found": found}) == found
    assert task.catalog_url == "https://catalog/page"
    with pytest.raises(AirflowFailException, match="BucketNotFoundError: it is gone"):
        task.execute_complete({}, {"error": "BucketNotFoundError: it is gone"})


def begun_in_triggerer(dag: DAG, run: "DagRun", task_id: str) -> QuiltRevisionTrigger:
    """Return the trigger with which the scheduler begins a task, made and rendered as the triggerer does."""
    from airflow.executors.workloads.task import TaskInstanceDTO
    from airflow.jobs.triggerer_job_runner import TriggerRunner
    from airflow.models.trigger import Trigger
    from airflow.serialization.decoders import smart_decode_trigger_kwargs
    from airflow.serialization.serialized_objects import DagSerialization

    encoded = DagSerialization.to_dict(dag)
    start = DagSerialization.from_dict(encoded).get_task(task_id).start_trigger_args
    assert start.timeout.total_seconds() == 50
    stored = Trigger._decrypt_kwargs(Trigger(classpath=start.trigger_cls, kwargs=start.trigger_kwargs).encrypted_kwargs)  # noqa: SLF001
    trigger = QuiltRevisionTrigger(**{name: smart_decode_trigger_kwargs(value) for name, value in stored.items()})
    ti = TaskInstanceDTO.model_validate(run.get_task_instance(task_id), from_attributes=True)
    runtime = TriggerRunner.create_runtime_ti(ti, encoded, run.dag_run_data.model_dump(exclude_unset=True))
    trigger.task_instance = runtime
    trigger.render_template_fields(runtime.get_template_context())
    return trigger


@needs_airflow("3.3")
@pytest.mark.usefixtures("connected")
def test_starts_in_the_triggerer(dag: DAG) -> None:
    """A sensor whose arguments are the run's own values begins there, and has them there."""
    publish("first")
    since = "{{ params.since }}{{ ds[:0] }}"
    known = sensor(dag=dag, start_from_trigger=True, newer_than=since, path="{{ 'a' }}.txt", poke_interval=5, timeout=50)
    run = run_here(dag, run_conf={"since": "2020-01-01"})

    assert str(run.state) == "success"
    assert known.start_from_trigger
    trigger = begun_in_triggerer(dag, run, "wait")
    assert (trigger.newer_than, trigger.path, trigger.poll_interval) == ("2020-01-01", "a.txt", 5.0)
    assert sensor(task_id="other").start_trigger_args is None


@needs_airflow("3.1")
def test_unknown_arguments_start_on_worker(dag: DAG, connected: str) -> None:
    """A worker resolves outputs of tasks, alone or in a template, names that the DAG defines, and mapped arguments."""
    publish("first")
    dag.user_defined_macros, dag.user_defined_filters = {"since": "2020-01-01"}, {"same": str}

    @task(dag=dag)
    def name() -> str:
        return str(NAME)

    @task(dag=dag)
    def names() -> list[str]:
        return [str(NAME)] * 2

    with dag:
        waits = [
            sensor(task_id="output", package=name(), start_from_trigger=True),
            sensor(task_id="pulled", package="{{ ti.xcom_pull('name') }}", start_from_trigger=True),
            sensor(task_id="macro", newer_than="{{ since }}", start_from_trigger=True),
            sensor(task_id="filter", path="{{ 'a.txt' | same }}", start_from_trigger=True),
            sensor(task_id="param", registry=dag.param("registry", connected), start_from_trigger=True),
        ]
        waits[0] >> waits[1]
        QuiltPackageSensor.partial(task_id="mapped", start_from_trigger=True).expand(package=names())
    run = run_here(dag)

    assert [wait.task_id for wait in waits if wait.start_from_trigger or not wait.deferrable] == []
    states = {(each.task_id, each.map_index): str(each.state) for each in run.get_task_instances()}
    assert set(states.values()) == {"success"}, states
    assert ("mapped", 1) in states
    stored = serialization().from_dict(serialization().to_dict(dag))
    assert not any(stored.get_task(each).start_trigger_args for each in stored.task_dict)


def test_first_poll_obeys_sensor_flags(dag: DAG, connected: str) -> None:
    """A deferrable sensor ends as it would on a worker: after its first poll, and after its trigger."""
    bad, away = {"package": "{{ 'no name' }}"}, {"quilt_conn_id": "nowhere"}
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "bad": (bad, "failed"),
        "bad_soft": ({**bad, "soft_fail": True}, "skipped"),
        "bad_never": ({**bad, "never_fail": True}, "skipped"),
        "away": (away, "failed"),
        "away_soft": ({**away, "soft_fail": True}, "failed"),
        "away_never": ({**away, "never_fail": True}, "skipped"),
    }

    @task(dag=dag)
    def nothing() -> None:
        pass

    none = {"path": nothing()}
    cases |= {"none": (none, "failed"), "none_soft": ({**none, "soft_fail": True}, "skipped")}
    for name, (arguments, _) in cases.items():
        sensor(task_id=name, dag=dag, **arguments)
        sensor(task_id=f"{name}_deferred", dag=dag, deferrable=True, **arguments)
    of_trigger = {"silent": "failed", "silent_never": "skipped"}
    sensor(task_id="silent", dag=dag, deferrable=True, silent_fail=True, poke_interval=0.1, **away)
    sensor(task_id="silent_never", dag=dag, deferrable=True, silent_fail=True, never_fail=True, poke_interval=0.1, **away)

    run = run_here(dag)

    states = {each.task_id: str(each.state) for each in run.get_task_instances()}
    expected = {f"{name}{mode}": state for name, (_, state) in cases.items() for mode in ("", "_deferred")}
    assert states == {"nothing": "success", **expected, **of_trigger}


def test_trigger_errors_obey_sensor_flags() -> None:
    """Errors that come back from the trigger, and its timeout, end the task as those of a poll on a worker."""
    permanent, transient = "BucketNotFoundError: s3://b: it is gone", "SettingsUnavailableError: there is no connection"
    for text, flags, kind in (
        (permanent, {}, AirflowFailException),
        (permanent, {"soft_fail": True}, AirflowSkipException),
        (permanent, {"never_fail": True}, AirflowSkipException),
        (transient, {}, SettingsUnavailableError),
        (transient, {"soft_fail": True}, SettingsUnavailableError),
        (transient, {"never_fail": True}, AirflowSkipException),
    ):
        with pytest.raises(kind) as raised:
            sensor(deferrable=True, **flags).resume_execution("execute_complete", {"event": {"error": text}}, {})
        assert kind is AirflowSkipException or text.endswith(str(raised.value)[-20:])
    empty = sensor(deferrable=True)
    empty.registry = ""
    with pytest.raises(AirflowFailException, match="registry is empty"):  # The triggerer does not check what it renders.
        empty.resume_execution("execute_complete", {"event": {"found": {}}}, {})
    for flags, kind in (({}, exceptions.AirflowSensorTimeout), ({"soft_fail": True}, AirflowSkipException)):
        with pytest.raises(kind):
            sensor(deferrable=True, **flags).resume_execution("__fail__", {"error": "Trigger timeout"}, {})


@needs_airflow("3.3")
def test_retry_policy_sees_trigger_errors() -> None:
    from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule

    policy = ExceptionRetryPolicy(rules=[RetryRule("airflow_quilt.core.errors.PermanentError", RetryAction.FAIL)])
    with pytest.raises(BucketNotFoundError, match="^s3://b: it is gone$"):
        sensor(retry_policy=policy).execute_complete({}, {"error": "BucketNotFoundError: s3://b: it is gone"})


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("mode", [{"mode": "poke"}, {"mode": "reschedule"}, {"deferrable": True}])
def test_wait_modes_agree(dag: DAG, mode: dict[str, Any]) -> None:
    publish("first")
    sensor(**mode, dag=dag, newer_than="{{ params.since }}", poke_interval=1)

    run = run_here(dag, run_conf={"since": "2020-01-01"})

    assert str(run.state) == "success"
    [ti] = run.get_task_instances()
    assert ti.xcom_pull(task_ids="wait")["package"] == "team/data"
