"""Triggers in the triggerer: changes are reported once, over restarts, out of shared polls; and the queue of events."""

import asyncio
import gc
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pendulum
import pytest
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from asgiref.sync import async_to_sync
from botocore.client import BaseClient

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.attempt import RollbackTag, WriterTag
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.hooks._queue import PackageEvent, PackageQueue
from airflow_quilt.hooks._settings import QuiltSettings
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import QuiltDeleteOperator, QuiltPushOperator, entry
from airflow_quilt.triggers._cursor import Cursor
from airflow_quilt.triggers._poller import Snapshot, Timing
from airflow_quilt.triggers._registries import RegistryAccess
from airflow_quilt.triggers._tasks import TaskName, emission_of
from airflow_quilt.triggers._threads import Threads
from airflow_quilt.triggers.package import QuiltPackageTrigger
from airflow_quilt.triggers.revision import QuiltRevisionTrigger
from testbed.airflow_home import connections
from testbed.proxy import S3Proxy
from testbed.server import S3Server
from testbed.sqs import Queue, running_queue
from tests.airflow.support import instance, needs_airflow

PATIENCE = 60
FAST = 0.2


class Kept:
    """The state of an asset, as Airflow's triggerer passes it to a trigger; writes may fail."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.writes = 0
        self.is_down = False

    async def aget(self, key: str) -> Any:
        return self.values.get(key)

    async def aset(self, key: str, value: Any) -> None:
        if self.is_down:
            raise RuntimeError("the API server is gone")
        self.values[key] = json.loads(json.dumps(value))
        self.writes += 1

    def has(self, top_hash: str) -> bool:
        return top_hash in json.dumps(self.values)


class KeptBefore332:
    """The same in Airflow 3.3.0 and 3.3.1, which can only block."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    has = Kept.has

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value


class KeptSlowly(Kept):
    """The same, which counts its concurrent calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.under_way = self.most = 0

    async def aget(self, key: str) -> Any:
        async with self._call():
            return await super().aget(key)

    async def aset(self, key: str, value: Any) -> None:
        async with self._call():
            await super().aset(key, value)

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        self.calls += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001)
        yield
        self.under_way -= 1


class KeptForSeveral:
    """The same where several assets have the watcher."""

    async def aget(self, _key: str) -> Any:
        raise ValueError("Task has 2 concrete inlets and outlets")


def publish(package: str, text: str) -> str:
    return str(publish_by_task(package, text, {})["top_hash"])


def publish_by_task(package: str, text: str, context: Any) -> dict[str, Any]:
    return QuiltPushOperator(task_id="push", package=package, entries={"a.txt": entry(content=text)}).execute(context)


class KnownTasks:
    """The task instances of an Airflow, with their states and results; its API may be out of reach."""

    def __init__(self) -> None:
        self.states: dict[TaskName, str] = {}
        self.results: dict[TaskName, Any] = {}
        self.asked: list[TaskName] = []

    def state(self, task: TaskName) -> str | None:
        self.asked.append(task)
        if self.states.get(task) == "lost":
            raise RuntimeError("the API server is gone")
        return self.states.get(task)

    def result(self, task: TaskName) -> Any:
        return self.results.get(task)


class Watching:
    """A running trigger, whose events are collected."""

    def __init__(self, events: AsyncGenerator[TriggerEvent]) -> None:
        self.payloads: list[dict[str, Any]] = []
        self.most = sys.maxsize
        self._task = asyncio.create_task(self._collect(events))

    async def _collect(self, events: AsyncGenerator[TriggerEvent]) -> None:
        async with aclosing(events):
            async for event in events:
                self.payloads.append(event.payload)
                if len(self.payloads) >= self.most:
                    await asyncio.Event().wait()

    @property
    def reported(self) -> list[tuple[str, str | None]]:
        """The revisions that were reported, each with the one before."""
        return [(payload["top_hash"], payload["previous"]) for payload in self.payloads]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                assert not self._task.done(), self._task.exception()
                await asyncio.sleep(0.05)

    async def ended(self) -> None:
        """Wait for the end of the trigger; raise its error."""
        async with asyncio.timeout(PATIENCE):
            await self._task

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Triggerer:
    """The runner of a triggerer, reduced to shared streams: it passes events on to Airflow's database, which confirms them.

    Args:
        ack_timeout: seconds in which Airflow is to have stored an event.
    """

    def __init__(self, ack_timeout: float = PATIENCE) -> None:
        from airflow.triggers.shared_stream import SharedStreamManager

        self.unstored: list[tuple[dict[str, Any], int]] = []
        self.is_storing = True
        self._manager = SharedStreamManager(max_subscriber_queue=100, ack_timeout=ack_timeout, cohort_grace_period=0)
        self._numbers = itertools.count()
        self._watchings: list[Watching] = []

    def start(self, trigger: BaseEventTrigger) -> Watching:
        """Run a trigger, as `TriggerRunner.run_trigger` does."""
        self._watchings.append(Watching(self._run(trigger)))
        return self._watchings[-1]

    async def _run(self, trigger: BaseEventTrigger) -> AsyncGenerator[TriggerEvent]:
        number, key = next(self._numbers), trigger.shared_stream_key()
        stream = self._manager.subscribe(trigger_id=number, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                seq = self._manager.bind_pending_event(trigger_id=number, key=key)
                assert seq is not None
                self.unstored.append((event.payload, seq))
                self.store()
                yield event
        finally:
            await self._manager.unsubscribe(number, key)

    def store(self) -> None:
        """Confirm all events, unless the database is out of order."""
        if self.is_storing:
            self._manager.confirm_persisted([seq for _, seq in self.unstored])
            self.unstored.clear()

    async def kill(self) -> None:
        """End all triggers without a further word to them; events that are not stored are lost."""
        await self._manager.stop_all()
        for watching in self._watchings:
            await watching.stop()


class HastyTrigger(QuiltPackageTrigger):
    """A trigger that hardly waits for others that start with it."""

    timing = Timing(gathering=0.1, starting=0.1, queue=1.0)


def package_trigger(
    kept: Any, package: str = "team/data", kind: type[QuiltPackageTrigger] = HastyTrigger, **arguments: Any
) -> QuiltPackageTrigger:
    """Return a trigger that polls fast, with the state of its asset."""
    made = kind(package, **{"poll_interval": FAST, **arguments})
    made.asset_state_store = kept
    return made


def watch(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


@pytest.fixture
def queue() -> Iterator[Queue]:
    with running_queue() as running:
        yield running


@pytest.mark.parametrize(
    "trigger",
    [
        QuiltPackageTrigger("team/data"),
        QuiltPackageTrigger("team/*", "s3://bucket", None, 5, "https://sqs.us-east-1.amazonaws.com/1/q"),
        QuiltRevisionTrigger("team/data"),
        QuiltRevisionTrigger("team/data", "s3://bucket", None, "2026-01-01", "a/b", 5.0, max_interval=60.0),
    ],
)
def test_serialized_trigger_is_equal(trigger: Any) -> None:
    classpath, arguments = trigger.serialize()

    assert classpath == f"{type(trigger).__module__}.{type(trigger).__name__}"
    assert json.loads(json.dumps(arguments)) == arguments
    again = type(trigger)(**arguments)
    assert again.serialize() == trigger.serialize()
    if isinstance(trigger, BaseEventTrigger):
        assert BaseEventTrigger.hash(*again.serialize()) == BaseEventTrigger.hash(*trigger.serialize())


@pytest.mark.parametrize("arguments", [{"package": "team"}, {"package": "a/b", "poll_interval": 0}])
def test_bad_watch_fails_at_parse(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        QuiltPackageTrigger(**arguments)


def test_same_registry_shares_polls() -> None:
    first = QuiltPackageTrigger("team/data", "s3://bucket")

    assert first.shared_stream_key() == QuiltPackageTrigger("other/*", "s3://bucket").shared_stream_key()
    for other in (
        QuiltPackageTrigger("team/data", "s3://other"),
        QuiltPackageTrigger("team/data", "s3://bucket", "other_conn"),
        QuiltPackageTrigger("team/data", "s3://bucket", poll_interval=5),
        QuiltPackageTrigger("team/data", "s3://bucket", queue_url="https://queue"),
    ):
        assert first.shared_stream_key() != other.shared_stream_key()


@pytest.fixture(params=["alone", pytest.param("shared", marks=needs_airflow("3.3"))])
def start(request: pytest.FixtureRequest) -> Callable[[QuiltPackageTrigger], Watching]:
    """Start a trigger that polls alone, or shares its polls."""
    return Triggerer().start if request.param == "shared" else lambda trigger: Watching(trigger.run())


@pytest.mark.parametrize("store", [Kept, KeptBefore332])
def test_changes_are_reported_once(connected: str, store: type, start: Callable[[QuiltPackageTrigger], Watching]) -> None:
    """Report changes missed while the triggerer was down."""
    kept = store()
    first = publish("team/data", "first")

    async def story() -> None:
        watching = start(package_trigger(kept))
        await watching.until(lambda: kept.has(first))  # The baseline does not fire.
        second = await asyncio.to_thread(publish, "team/data", "second")
        await watching.until(lambda: watching.payloads)
        await watching.until(lambda: kept.has(second))
        await watching.stop()
        assert watching.payloads == [
            {
                "registry": connected,
                "package": "team/data",
                "top_hash": second,
                "previous": first,
                "quilt_uri": f"quilt+{connected}#package=team/data@{second}",
                "catalog_url": None,
            }
        ]

        third = await asyncio.to_thread(publish, "team/data", "third")
        watching = start(package_trigger(kept))
        await watching.until(lambda: kept.has(third))
        await watching.stop()
        assert watching.reported == [(third, second)]

        await asyncio.to_thread(QuiltDeleteOperator(task_id="delete", package="team/data").execute, {})
        watching = start(package_trigger(kept))
        await watching.until(lambda: not kept.has(third))
        assert watching.payloads == []
        await asyncio.to_thread(publish, "team/data", "third")  # There again, after it was gone.
        await watching.until(lambda: watching.payloads)
        await watching.stop()
        assert watching.reported == [(third, None)]

    watch(story)


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("store", [None, KeptForSeveral()])
def test_first_poll_is_the_baseline(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    publish("team/data", "first")

    async def story() -> None:
        watching = Watching(package_trigger(store).run())
        await watching.until(lambda: "while the triggerer is down" in caplog.text)
        await asyncio.sleep(3)
        second = await asyncio.to_thread(publish, "team/data", "second")
        await watching.until(lambda: watching.payloads)
        await watching.stop()
        assert watching.reported == [(second, watching.payloads[0]["previous"])]

    watch(story)


@pytest.mark.usefixtures("connected")
def test_pattern_reports_matches(start: Callable[[QuiltPackageTrigger], Watching]) -> None:
    old = publish("team/old", "old")
    kept = Kept()

    async def story() -> None:
        watching = start(package_trigger(kept, "team/*"))
        await watching.until(lambda: kept.has(old))
        await asyncio.to_thread(publish, "other/new", "other")
        new = await asyncio.to_thread(publish, "team/new", "new")
        await watching.until(lambda: kept.has(new))
        await watching.stop()
        assert [payload["package"] for payload in watching.payloads] == ["team/new"]
        assert watching.reported == [(new, None)]
        assert kept.writes == 3  # The key of the first poll; the old package, in another shard; the new one.

    watch(story)


def test_task_names_round_trip() -> None:
    for name in (
        TaskName("dag", "scheduled__2026-11-30T00:00:00+00:00", "group.push", 3),
        TaskName("dünn", "von Hand / 1", "päckchen"),
    ):
        assert TaskName.parse(str(name)) == name
        assert str(name).isascii()
        assert " " not in str(name)
    assert str(TaskName("d" * 250, "r" * 250, "t" * 250)).startswith("ddd")
    assert str(TaskName("包" * 250, "r", "t")) == ""  # More than S3 keeps beside an object.
    for other in ("", "a/b/c", "a/b/c/d", "a/b/c/-2", "a/b/c/d/1", "a/b/c/²"):
        assert TaskName.parse(other) is None


def test_emission_is_shown_by_the_result() -> None:
    name, tasks, now = TaskName("dag", "run", "push"), KnownTasks(), int(time.time())
    made = {"top_hash": "h", "created": True, "published_at": pendulum.from_timestamp(now).to_iso8601_string()}
    tag = WriterTag("work", "writer", now, task=str(name))
    another = made["published_at"].replace("20", "19", 1)

    for state, outcome, expected in (
        ("success", made, "emitted"),
        ("success", {**made, "created": False}, "none"),  # Another Airflow has a task of this name, and was first.
        ("success", {**made, "published_at": another}, "none"),
        ("success", {**made, "top_hash": "other"}, "none"),
        ("success", None, "none"),
        ("running", made, "undecided"),
        ("up_for_retry", None, "undecided"),
        ("failed", made, "none"),
        ("skipped", made, "none"),
        ("lost", made, "none"),
        (None, made, "none"),
    ):
        tasks.states, tasks.results = {name: state} if state else {}, {name: outcome}
        assert emission_of(tasks, tag, "h") == expected, (state, outcome)

    back = RollbackTag("work", now, "before", str(name))
    for outcome, expected in (
        ({"top_hash": "h", "previous": "before"}, "emitted"),
        ({"top_hash": "h", "previous": "h"}, "none"),  # There was nothing to do.
        (made, "none"),
    ):
        tasks.states, tasks.results = {name: "success"}, {name: outcome}
        assert emission_of(tasks, back, "h") == expected, outcome
        assert emission_of(tasks, tag, "h") == ("emitted" if outcome is made else "none")

    tasks.states = {name: "up_for_retry"}  # In a DAG that is paused.
    for stamp in (now - 25 * 60 * 60, 9_999_999_999):  # Of a pointer that somebody else wrote, it may lie in the future.
        assert emission_of(tasks, replace(tag, stamp=stamp), "h") == "none"


@pytest.mark.usefixtures("connected")
def test_events_of_tasks_not_repeated(start: Callable[[QuiltPackageTrigger], Watching]) -> None:
    """A poll finds revisions of tasks that run; then one succeeds, and one dies while the triggerer restarts."""
    first, kept, tasks = publish("team/data", "first"), Kept(), KnownTasks()
    here, there = TaskName("dag", "run", "here"), TaskName("dag", "run", "there", 1)

    class Asking(HastyTrigger):
        timing = replace(HastyTrigger.timing, undecided=FAST / 2)

    Asking.tasks = tasks

    async def story() -> None:
        watching = start(package_trigger(kept, kind=Asking))
        await watching.until(lambda: kept.has(first))
        tasks.states[here] = "running"
        second = await asyncio.to_thread(publish_by_task, "team/data", "second", instance(task_id="here"))
        await watching.until(lambda: tasks.asked.count(here) > 1)
        assert kept.has(first)
        tasks.results[here] = second
        tasks.states[here] = "success"
        await watching.until(lambda: kept.has(second["top_hash"]))
        await watching.stop()
        assert watching.payloads == []

        tasks.states[there] = "running"
        third = await asyncio.to_thread(publish_by_task, "team/data", "third", instance(task_id="there", map_index=1))
        watching = start(package_trigger(kept, kind=Asking, poll_interval=3600))
        await watching.until(lambda: there in tasks.asked)
        assert watching.payloads == []
        tasks.states[there] = "failed"
        await watching.until(lambda: watching.payloads)
        await watching.stop()
        assert watching.reported == [(third["top_hash"], second["top_hash"])]

    watch(story)


@needs_airflow("3.3")
@pytest.mark.usefixtures("connected")
def test_kill_before_store_repeats() -> None:
    first = publish("team/data", "first")
    kept = Kept()

    async def story() -> None:
        triggerer = Triggerer()
        watching = triggerer.start(package_trigger(kept))
        await watching.until(lambda: kept.has(first))
        triggerer.is_storing = False
        second = await asyncio.to_thread(publish, "team/data", "second")
        await watching.until(lambda: watching.payloads)
        third = await asyncio.to_thread(publish, "team/data", "third")
        await watching.until(lambda: watching.reported == [(second, first), (third, second)])
        await triggerer.kill()
        assert kept.has(first)

        triggerer = Triggerer()
        watching = triggerer.start(package_trigger(kept))
        await watching.until(lambda: kept.has(third))
        await triggerer.kill()
        assert watching.reported == [(third, first)]

    watch(story)


@needs_airflow("3.3")
@pytest.mark.usefixtures("connected")
def test_kill_before_save_repeats(caplog: pytest.LogCaptureFixture) -> None:
    first = publish("team/data", "first")
    kept = Kept()

    async def story() -> None:
        triggerer = Triggerer()
        watching = triggerer.start(package_trigger(kept))
        await watching.until(lambda: kept.has(first))
        kept.is_down = True
        second = await asyncio.to_thread(publish, "team/data", "second")
        await watching.until(lambda: "could not be saved" in caplog.text)
        await triggerer.kill()
        assert watching.reported == [(second, first)]
        assert triggerer.unstored == []
        kept.is_down = False

        for reported in ([(second, first)], []):
            triggerer = Triggerer()
            watching = triggerer.start(package_trigger(kept))
            await watching.until(lambda: kept.has(second))
            await asyncio.sleep(5 * FAST + 2)
            await triggerer.kill()
            assert watching.reported == reported

    watch(story)


@needs_airflow("3.3")
@pytest.mark.usefixtures("connected")
def test_cursor_saved_after_store() -> None:
    first = publish("team/data", "first")
    kept = Kept()

    async def story() -> None:
        triggerer = Triggerer()
        watching = triggerer.start(package_trigger(kept))
        await watching.until(lambda: kept.has(first))
        triggerer.is_storing = False
        second = await asyncio.to_thread(publish, "team/data", "second")
        await watching.until(lambda: watching.payloads)
        await asyncio.sleep(10 * FAST)  # Several polls without a change.
        assert kept.has(first)
        triggerer.is_storing = True
        triggerer.store()
        await watching.until(lambda: kept.has(second))
        await triggerer.kill()
        assert watching.reported == [(second, first)]

    watch(story)


@pytest.mark.usefixtures("connected")
def test_failed_save_is_repeated(start: Callable[[QuiltPackageTrigger], Watching], caplog: pytest.LogCaptureFixture) -> None:
    first = publish("team/data", "first")
    kept = Kept()

    async def story() -> None:
        watching = start(package_trigger(kept))
        await watching.until(lambda: kept.has(first))
        kept.is_down = True
        second = await asyncio.to_thread(publish, "team/data", "second")
        await watching.until(lambda: caplog.text.count("could not be saved") >= 3)
        kept.is_down = False
        await watching.until(lambda: kept.has(second))
        await watching.stop()
        assert watching.reported == [(second, first)]

    watch(story)


@needs_airflow("3.3")
@pytest.mark.usefixtures("connected")
def test_lost_event_reported_again() -> None:
    """The trigger moves on to later snapshots meanwhile; these must not save its cursor."""
    from airflow.triggers.shared_stream import AckTimeout

    first, other = publish("team/data", "first"), publish("team/other", "other")
    kept, kept_of_other = Kept(), Kept()

    async def story() -> None:
        triggerer = Triggerer(ack_timeout=5)
        lost = triggerer.start(package_trigger(kept))
        going_on = triggerer.start(package_trigger(kept_of_other, "team/other"))
        await lost.until(lambda: kept.has(first) and kept_of_other.has(other))
        triggerer.is_storing = False
        second = await asyncio.to_thread(publish, "team/data", "second")
        await lost.until(lambda: lost.payloads)
        triggerer.unstored.clear()  # Airflow's database was out of order.
        triggerer.is_storing = True
        another = await asyncio.to_thread(publish, "team/other", "another")
        await going_on.until(lambda: kept_of_other.has(another))
        with pytest.raises(AckTimeout):
            await lost.ended()
        assert kept.has(first)

        again = triggerer.start(package_trigger(kept))
        await again.until(lambda: kept.has(second))
        await triggerer.kill()
        assert lost.reported == again.reported == [(second, first)]
        assert going_on.reported == [(another, other)]

    watch(story)


@needs_airflow("3.3")
@pytest.mark.usefixtures("connected")
def test_stop_between_events() -> None:
    first = publish("team/a", "first")
    kept = Kept()

    async def story() -> None:
        watching = Triggerer().start(package_trigger(kept, "team/*"))
        await watching.until(lambda: kept.has(first))
        await watching.stop()
        changed = [await asyncio.to_thread(publish, f"team/{name}", "second") for name in "abc"]
        watching = Triggerer().start(package_trigger(kept, "team/*"))
        watching.most = 1
        await watching.until(lambda: watching.payloads)
        await watching.stop()
        assert [top_hash for top_hash, _ in watching.reported] == changed[:1]

        watching = Triggerer().start(package_trigger(kept, "team/*"))
        await watching.until(lambda: all(map(kept.has, changed)))
        await watching.stop()
        assert [top_hash for top_hash, _ in watching.reported] == changed

    watch(story)


def test_many_changes_take_polls(s3_registry: Registry, start: Callable[[QuiltPackageTrigger], Watching], connected: str) -> None:
    """Airflow could not store the events of more in the time that it gives a trigger."""
    kept = Kept()
    names = [f"team/p{number:04}" for number in range(1001)]
    storage, root = s3_registry.stores.remote, s3_registry.location.root

    def put(name: str) -> None:
        storage.put(root.join(layout.pointer(PackageName.parse(name), layout.LATEST)), b"a" * 64)

    async def story() -> None:
        watching = start(package_trigger(kept, "team/*"))
        await watching.until(lambda: kept.values)
        await watching.stop()
        with ThreadPoolExecutor(16) as pool:
            await asyncio.to_thread(lambda: list(pool.map(put, names)))
        watching = start(package_trigger(kept, "team/*", poll_interval=3))
        await watching.until(lambda: len(watching.payloads) >= 1000)
        assert len(watching.payloads) == 1000
        await watching.until(lambda: sum(map(len, kept.values.values())) == 1001)
        await watching.stop()
        assert [payload["package"] for payload in watching.payloads] == names

    watch(story)


@needs_airflow("3.3")
def test_shared_polls_cost_as_one(proxy: S3Proxy, bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = f"s3://{bucket}"
    for name, value in connections(proxy.store, registry).items():
        monkeypatch.setenv(name, value)
    names = [f"team/data-{number}" for number in range(40)]
    publish(names[7], "first")
    kept = [Kept() for _ in names]
    proxy.requests.clear()

    async def story() -> None:
        triggerer = Triggerer()
        watchings = [
            triggerer.start(package_trigger(each, name, QuiltPackageTrigger, registry=registry, poll_interval=30))
            for name, each in zip(names, kept, strict=True)
        ]
        await watchings[0].until(lambda: all(each.values for each in kept))
        await triggerer.kill()

    watch(story)
    listings = [request for request in proxy.requests if request.method == "GET" and "list-type=2" in request.path]
    assert len(listings) == 1
    assert len(proxy.requests) == 2  # And the one pointer that is there.


class FoundOnThreads(dict[str, str]):
    """The top hashes of a snapshot, which note the threads on which they are read."""

    def __init__(self, found: dict[str, str]) -> None:
        super().__init__(found)
        self.threads: set[int] = set()

    def items(self) -> Any:
        self.threads.add(threading.get_ident())
        return super().items()


def test_matching_runs_on_thread(s3_registry: Registry) -> None:
    found = FoundOnThreads({"team/a": "1", "team/b": "2", "other/a": "3"})

    async def story() -> None:
        snapshot = Snapshot(s3_registry, frozenset({"team/*"}), found, QuiltHook(), asyncio.Event(), {})
        assert await snapshot.of("team/*") == {"team/a": "1", "team/b": "2"}
        assert len(found.threads) == 1
        assert threading.get_ident() not in found.threads
        assert await snapshot.of("other/a") == {"other/a": "3"}
        assert await snapshot.of("other/b") == {}

    watch(story)


def clients() -> int:
    """Count the boto3 clients of this process."""
    gc.collect()
    return sum(issubclass(type(each), BaseClient) for each in gc.get_objects())


def test_triggers_share_a_registry(connected: str) -> None:
    top_hash = publish("team/data", "first")
    before = clients()

    async def story() -> None:
        triggers = [
            QuiltRevisionTrigger(f"team/none-{number}", registry) for number in range(20) for registry in (None, connected)
        ]
        waiting = [Watching(trigger.run()) for trigger in triggers]
        for registry in (None, connected):
            events = [event async for event in QuiltRevisionTrigger("team/data", registry).run()]
            assert events[0].payload["found"]["top_hash"] == top_hash
        assert await asyncio.to_thread(clients) == before + 2  # One of the connection's registry, one of the one that is named.
        for each in waiting:
            await each.stop()

    watch(story)
    assert clients() == before


def test_registry_reopens_once(connected: str) -> None:
    async def story() -> None:
        triggers = [RegistryAccess("quilt_default", None) for _ in range(3)]
        first, second = await asyncio.gather(triggers[0].open(), triggers[1].open())
        assert first is second
        assert str(first.registry.location) == connected
        for failing in triggers[:2]:
            failing.fail(reopen=True)
        third, fourth = await asyncio.gather(triggers[0].open(), triggers[1].open())
        assert third is fourth
        assert third is not first
        assert third.threads is first.threads  # The calls that hang keep theirs.
        assert await triggers[2].open() is third

    watch(story)


def test_threads_reach_the_loop() -> None:
    """A blocking call of Airflow's SDK, on a trigger's thread, is carried out by the event loop (before Airflow 3.3.2 by asgiref)."""

    async def here() -> Any:
        return asyncio.get_running_loop()

    def call() -> Any:
        return async_to_sync(here)()

    async def story() -> None:
        assert await Threads(1, "test").run(call) is asyncio.get_running_loop()

    watch(story)


def test_state_calls_are_serial() -> None:
    kept = KeptSlowly()
    cursors = [Cursor(kept, {"package": f"team/{number}"}, is_wide=number % 10 == 0) for number in range(40)]

    async def story() -> None:
        assert await asyncio.gather(*(cursor.load() for cursor in cursors)) == [None] * 40
        assert (kept.calls, kept.most) == (36 + 4 * 32, 1)
        kept.calls = kept.most = 0
        await asyncio.gather(*(cursor.save({}) for cursor in cursors))
        assert (kept.calls, kept.most, len(kept.values)) == (40, 1, 40)

    watch(story)


@pytest.mark.parametrize(
    "story",
    [
        """
from airflow_quilt.triggers._poller import Subscriptions
from airflow_quilt.triggers.package import QuiltPackageTrigger
async def story():
    subscriptions = Subscriptions()
    with subscriptions.of("team/data"):
        return await anext(QuiltPackageTrigger("team/data", queue_url="http://127.0.0.1:1/q").poller.snapshots(subscriptions))
""",
        """
from airflow_quilt.triggers.revision import QuiltRevisionTrigger
async def story():
    return await anext(QuiltRevisionTrigger("team/data").run())
""",
    ],
)
@pytest.mark.usefixtures("connected")
def test_core_imports_on_thread(story: str) -> None:
    publish("team/data", "first")
    code = f"""
import asyncio, sys, threading
{story}
imported = []
sys.addaudithook(lambda event, args: event == "import" and imported.append((args[0], threading.get_ident())))
asyncio.run(story())
ours = [(name, thread == threading.get_ident()) for name, thread in imported if name.startswith("airflow_quilt.")]
print([name for name, is_loop in ours if is_loop], len(ours) > 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[] True"], done.stdout + done.stderr


@pytest.mark.usefixtures("connected")
def test_store_outage_is_retried(s3: S3Server, bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()

    async def story() -> None:
        watching = Watching(package_trigger(kept, "team/*", registry=f"s3://{bucket}-later").run())
        await watching.until(lambda: "could not be polled, attempt 4" in caplog.text)
        assert kept.values == {}
        await asyncio.to_thread(s3.make_bucket, f"{bucket}-later")
        await watching.until(lambda: kept.values)
        await watching.stop()

    watch(story)


def test_missing_connection_waits(connected: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()

    async def story() -> None:
        watching = Watching(package_trigger(kept, registry=connected, quilt_conn_id="later").run())
        await watching.until(lambda: "there is no connection 'later'" in caplog.text)
        monkeypatch.setenv("AIRFLOW_CONN_LATER", '{"conn_type": "quilt"}')
        await watching.until(lambda: kept.values)
        await watching.stop()

    watch(story)


def test_fixed_connection_is_reread(connected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = os.environ["AIRFLOW_CONN_AWS_DEFAULT"]
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps({**json.loads(right), "password": "wrong"}))
    kept = Kept()

    async def story() -> None:
        wrong = await RegistryAccess("quilt_default", connected).open()
        watching = Watching(package_trigger(kept, registry=connected).run())
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", right)
        await watching.until(lambda: kept.values)
        assert await RegistryAccess("quilt_default", connected).open() is not wrong  # Others have the new one too.
        await watching.stop()

    watch(story)


def test_queue_event_causes_poll(
    queue: Queue, connected: str, start: Callable[[QuiltPackageTrigger], Watching], caplog: pytest.LogCaptureFixture
) -> None:
    """The queue is read where its URL says: the endpoint of the AWS connection is S3's. Other messages are dropped."""
    first = publish("team/data", "first")
    kept = Kept()

    async def story() -> None:
        watching = start(package_trigger(kept, poll_interval=3600, queue_url=queue.url))
        await asyncio.to_thread(queue.send, connected, "team/data", first)
        await watching.until(lambda: kept.has(first) and queue.count() == 0)
        second = await asyncio.to_thread(publish, "team/data", "second")
        third = await asyncio.to_thread(publish, "team/data", "third")
        for body in ("no event", "[" * 60_000, f'"{"x" * 999}"', "forged\n[ERROR] line"):
            await asyncio.to_thread(queue.client.send_message, QueueUrl=queue.url, MessageBody=body)
        for package in ("other/data", "one/two/three", "none"):
            await asyncio.to_thread(queue.send, connected, package, "f" * 64)
        for top_hash in (second, third, third):  # At least once, and late.
            await asyncio.to_thread(queue.send, connected, "team/data", top_hash)
        await watching.until(lambda: watching.payloads)
        await watching.until(lambda: queue.count() == 0)
        await watching.stop()
        # A poll for the first event may come late, between the two revisions.
        assert watching.reported in ([(third, first)], [(second, first), (third, second)])

    watch(story)
    dropped = [record.getMessage() for record in caplog.records if "of the queue are dropped" in record.getMessage()]
    assert dropped
    assert all(len(line) < 600 and line.isprintable() for line in dropped)


@pytest.mark.usefixtures("connected")
def test_queue_of_aws_has_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra, endpoint, region in (
        ({"endpoint_url": "https://s3.example.org"}, "https://sqs.eu-north-1.amazonaws.com", "eu-north-1"),
        ({"service_config": {"sqs": {"endpoint_url": "https://sqs.inside"}}}, "https://sqs.inside", "eu-north-1"),
        ({}, "https://sqs.eu-north-1.amazonaws.com", "eu-north-1"),
    ):
        aws = {"conn_type": "aws", "login": "key", "password": "secret", "extra": {"region_name": "us-east-1", **extra}}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(aws))
        meta = PackageQueue("https://sqs.eu-north-1.amazonaws.com/123/packages", QuiltSettings())._client.meta  # noqa: SLF001
        assert (meta.endpoint_url, meta.region_name) == (endpoint, region)


def test_queue_outage_falls_back(connected: str, caplog: pytest.LogCaptureFixture) -> None:
    """Poll at every interval until the queue answers."""
    first = publish("team/data", "first")
    kept = Kept()

    async def story() -> None:
        url = f"{connected.replace('s3', 'http')}.invalid/none"
        watching = Watching(package_trigger(kept, poll_interval=1, queue_url=url).run())
        await watching.until(lambda: kept.has(first))
        await watching.until(lambda: "until the queue can be read again" in caplog.text)
        second = await asyncio.to_thread(publish, "team/data", "second")
        await watching.until(lambda: watching.payloads)
        await watching.stop()
        assert watching.reported == [(second, first)]

    watch(story)


def test_sns_events_are_unwrapped() -> None:
    detail = {"version": "0.1", "type": "created", "bucket": "b", "handle": "team/data", "topHash": "f" * 64}
    event = {"source": "com.quiltdata", "detail-type": "package-revision", "detail": detail}

    assert PackageEvent.parse(json.dumps(event)) == PackageEvent("s3://b", "team/data", "f" * 64)
    assert PackageEvent.parse(json.dumps({"Message": json.dumps(event)})) == PackageEvent("s3://b", "team/data", "f" * 64)
    assert PackageEvent.parse(json.dumps({**event, "detail-type": "x", "detail": 1})) is None


@pytest.mark.usefixtures("connected")
def test_trigger_awaits_revision(s3_registry: Registry) -> None:
    first = publish("team/data", "first")
    trigger = QuiltRevisionTrigger("team/data", newer_than=first, poll_interval=FAST)

    async def story() -> None:
        watching = Watching(trigger.run())
        await asyncio.sleep(1)
        assert watching.payloads == []
        second = await asyncio.to_thread(publish, "team/data", "second")
        await watching.until(lambda: watching.payloads)
        assert [each["found"]["top_hash"] for each in watching.payloads] == [second]

    watch(story)


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"package": "no name"}, "PackageNameError"),
        ({"package": "team/data", "registry": "s3://no-such-bucket-here"}, "BucketNotFoundError"),
        ({"package": "team/data", "quilt_conn_id": "none_there"}, "SettingsUnavailableError"),
        ({"package": "team/data", "newer_than": "xyz"}, "TopHashError"),
    ],
)
def test_hopeless_wait_ends(arguments: dict[str, Any], error: str) -> None:
    async def story() -> None:
        trigger = QuiltRevisionTrigger(**arguments, poll_interval=FAST)
        async with aclosing(trigger.run()) as events, asyncio.timeout(PATIENCE):
            [event] = [event async for event in events]
        assert event.payload["error"].startswith(f"{error}: ")

    watch(story)
