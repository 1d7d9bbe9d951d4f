"""The producer of snapshots for triggers that share a poll; needs Airflow 3.3, whose streams acknowledge stored events."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from airflow_quilt.triggers._poller import Poller, Snapshot, Subscriptions

if TYPE_CHECKING:
    from airflow_quilt.triggers._cursor import Cursor


class SnapshotProducer(SharedStreamProducer):
    """Polls for a group of triggers, and saves their cursors once Airflow has stored the events of a snapshot.

    A triggerer that is killed in between reports the same events again, and loses none.

    Args:
        poller: polls the registry of the group.
        subscriptions: the packages of all triggers of the group.
    """

    def __init__(self, poller: Poller, subscriptions: Subscriptions) -> None:
        self._poller = poller
        self._subscriptions = subscriptions
        self._newest: Snapshot | None = None
        self._unsafe_up_to: Snapshot | None = None

    async def open_stream(self) -> AsyncGenerator[tuple[Snapshot, Snapshot]]:
        """Yield snapshots for ever, each also as the payload that comes back in `advance`."""
        async with aclosing(self._poller.snapshots(self._subscriptions)) as snapshots:
            async for snapshot in snapshots:
                self._newest = snapshot
                yield snapshot, snapshot

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Save the cursors of snapshots whose events are stored.

        After a snapshot with an event that is not stored, no cursor is saved up to the newest snapshot: the failed trigger may
        have moved on meanwhile, and its later state would hide that event. Airflow gives that trigger no further snapshot and
        starts it again from its saved cursor. The cursors of the others are saved with the snapshot after the newest.
        """
        reported: dict[Cursor, Mapping[str, str]] = {}
        for snapshot, outcome in batch:
            if not outcome.is_clean:
                self._unsafe_up_to = self._newest
            elif self._unsafe_up_to is None:
                reported |= snapshot.reported
            if snapshot is self._unsafe_up_to:
                self._unsafe_up_to = None
        for cursor, state in reported.items():
            await cursor.save(state)
