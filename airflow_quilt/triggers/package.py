"""QuiltPackageTrigger: fires when packages change, for the assets that DAGs are scheduled on."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, Final
from weakref import WeakValueDictionary

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.names import check_pattern, is_pattern
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.triggers._cursor import Cursor
from airflow_quilt.triggers._poller import Poller, Snapshot, Subscriptions, Timing
from airflow_quilt.triggers._tasks import AirflowTasks, Emission, Tasks, emission_of
from airflow_quilt.triggers._threads import run_locally

if TYPE_CHECKING:
    from airflow_quilt.triggers._producer import SnapshotProducer

_MOST_EVENTS: Final = 1000
"""Events of a trigger for one snapshot; more changes are left for the next. Airflow stores some 75 a second, and a trigger whose
events are not stored within 300 s (``[triggerer] shared_stream_ack_timeout``) would report all of them again, for ever."""

_SUBSCRIPTIONS: Final[WeakValueDictionary[Hashable, Subscriptions]] = WeakValueDictionary()
"""Subscriptions in this process, by stream key: Airflow passes the arguments of one trigger to the producer of a group."""


class QuiltPackageTrigger(BaseEventTrigger):
    """Fires when ``latest`` of a package changes, by any writer. The first poll sets the baseline and does not fire.

    A revision of which a task of the same Airflow has emitted the event is not reported; while that task has not ended, the
    report waits (ADR 0030).

    For an ``AssetWatcher``; :func:`airflow_quilt.assets.quilt_asset` makes one with ``watch=True``. With Airflow 3.3 or newer a
    restarted trigger continues from its last reported revision. Several revisions between two polls are one change, to the last
    one, with the last reported one as ``previous``. The deletion of a package is no event.

    The payload of an event: ``registry``, ``package``, ``top_hash``, ``previous``, ``quilt_uri``, ``catalog_url``.

    All triggers of one registry with the same connection, interval and queue share polls (Airflow 3.3 and newer): see
    ``docs/assets-cost.md``.

    :param package: ``namespace/name``; or a pattern, in which ``*`` stands for any characters: ``team/*``.
    :param registry: ``s3://bucket``; by default the connection's.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param poll_interval: seconds from one poll to the next.
    :param queue_url: an SQS queue that gets the Quilt stack's ``package-revision`` events, each of which causes a poll at once;
        ``poll_interval`` may be long then.

    Raises:
        InputError: the package is neither a name nor a pattern, or the interval is not above 0.
    """

    timing: ClassVar[Timing] = Timing()
    """The waits beside ``poll_interval``."""
    tasks: ClassVar[Tasks] = AirflowTasks()
    """The tasks of this Airflow, whose events are not repeated."""

    def __init__(
        self,
        package: str,
        registry: str | None = None,
        quilt_conn_id: str | None = QuiltHook.default_conn_name,
        poll_interval: float = 60.0,
        queue_url: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.package = check_pattern(package)
        self.registry = registry
        self.quilt_conn_id = quilt_conn_id
        self.poll_interval = float(poll_interval)
        self.queue_url = queue_url
        if not 0 < self.poll_interval < float("inf"):
            raise InputError(f"poll_interval {poll_interval!r}: expected seconds above 0")

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"package": self.package, **self._shared}

    @property
    def _shared(self) -> dict[str, Any]:
        return {
            "registry": self.registry,
            "quilt_conn_id": self.quilt_conn_id,
            "poll_interval": self.poll_interval,
            "queue_url": self.queue_url,
        }

    @property
    def poller(self) -> Poller:
        """The poller that triggers of the same registry share."""
        return Poller(**self._shared, timing=self.timing)

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Poll and report for ever, alone: before Airflow 3.3, which shares streams."""
        subscriptions = Subscriptions()
        with subscriptions.of(self.package):
            async with aclosing(self.poller.snapshots(subscriptions)) as snapshots:
                async for event in self._changes(_saved_late(snapshots)):
                    yield event

    def shared_stream_key(self) -> Hashable:
        """Return a key that is equal for triggers that share polls."""
        return self.poller.key

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> "SnapshotProducer":
        """Return the producer of snapshots for all triggers with the same key."""
        from airflow_quilt.triggers._producer import SnapshotProducer

        poller = cls(**kwargs).poller
        return SnapshotProducer(poller, _subscriptions(poller))

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Snapshot]) -> AsyncGenerator[TriggerEvent]:
        """Report the changes of this trigger's packages, out of shared snapshots."""
        with _subscriptions(self.poller).of(self.package):
            async for event in self._changes(shared_stream):
                yield event

    async def _changes(self, snapshots: AsyncIterator[Snapshot]) -> AsyncGenerator[TriggerEvent]:
        identity = {"package": self.package, "registry": self.registry, "quilt_conn_id": self.quilt_conn_id}
        store = getattr(self, "asset_state_store", None)
        cursor = Cursor(store, identity, is_wide=is_pattern(self.package), starting=self.timing.starting)
        reported = await cursor.load()
        async for snapshot in snapshots:
            if self.package not in snapshot.packages:  # The poll began before this trigger joined.
                continue
            found = await snapshot.of(self.package)
            before = found if reported is None else reported
            changed = sorted(name for name, top_hash in found.items() if before.get(name) != top_hash)
            emissions = {name: await self._emission(name, snapshot) for name in changed[:_MOST_EVENTS]}
            for name, emission in emissions.items():
                if emission == "none":
                    yield TriggerEvent(_payload(snapshot, name, found[name], before.get(name)))
            late = [name for name in changed if emissions.get(name, "undecided") == "undecided"]
            if "undecided" in emissions.values() and self.poll_interval > self.timing.undecided:
                asyncio.get_running_loop().call_later(self.timing.undecided, snapshot.wake.set)
            reported = _with_earlier(found, before, late) if late else found
            snapshot.reported[cursor] = reported  # Not earlier: a trigger may be cancelled between two events.

    async def _emission(self, package: str, snapshot: Snapshot) -> Emission:
        """Return whether a task of this Airflow has emitted the event of the latest revision of a package."""
        writer = snapshot.writers.get(package)
        return await run_locally(emission_of, self.tasks, writer, snapshot.found[package]) if writer else "none"


def _subscriptions(poller: Poller) -> Subscriptions:
    return _SUBSCRIPTIONS.setdefault(poller.key, Subscriptions())


async def _saved_late(snapshots: AsyncIterator[Snapshot]) -> AsyncGenerator[Snapshot]:
    """Save the cursors of each snapshot when the next one arrives: Airflow has had an interval to store its events."""
    previous: Snapshot | None = None
    async for snapshot in snapshots:
        if previous:
            for cursor, reported in previous.reported.items():
                await cursor.save(reported)
        previous = snapshot
        yield snapshot


def _with_earlier(found: Mapping[str, str], before: Mapping[str, str], late: list[str]) -> Mapping[str, str]:
    """Return the found top hashes, with the earlier ones of the packages that are reported later."""
    now = {name: found[name] for name in found.keys() - late}
    return now | {name: before[name] for name in late if name in before}


def _payload(snapshot: Snapshot, name: str, top_hash: str, previous: str | None) -> dict[str, Any]:
    from airflow_quilt.core.format.names import PackageName, parse_top_hash
    from airflow_quilt.core.format.quilt_uri import QuiltUri

    location, package = snapshot.registry.location, PackageName.parse_existing(name)
    uri = QuiltUri(registry=location, package=package, top_hash=parse_top_hash(top_hash))
    return {
        **uri.to_xcom(snapshot.hook.settings.catalog),
        "previous": previous,
    }
