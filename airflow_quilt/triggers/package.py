"""QuiltPackageTrigger: reports that packages have changed, for the assets that DAGs are scheduled on."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from contextlib import aclosing
from typing import Any, Final

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.names import check_pattern, is_pattern
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.triggers._cursor import Cursor
from airflow_quilt.triggers._poller import Poller, Snapshot, Subscriptions

_KEPT: Final = 3.0
"""Seconds in which Airflow stores an event that was yielded. What was reported is noted after that: a triggerer that is killed
in between reports it once more, and loses nothing."""

_SHARED: Final[defaultdict[Hashable, Subscriptions]] = defaultdict(Subscriptions)
"""Who shares looks in this process: Airflow tells the one who looks of one trigger of the group only."""


class QuiltPackageTrigger(BaseEventTrigger):
    """Reports each change of what ``latest`` of a package names, whoever made it.

    For an ``AssetWatcher``; :func:`airflow_quilt.assets.quilt_asset` makes one with ``watch=True``. Changes are reported, never
    states: when it watches for the first time it takes what is there for known. With Airflow 3.3 or newer it goes on from what it
    reported last when it is started again. Several revisions between two looks are one change, to the last of them, whose
    ``previous`` is what was reported before. That a package was deleted is no event.

    The payload of an event: ``registry``, ``package``, ``top_hash``, ``previous``, ``quilt_uri``, ``catalog_url``.

    All triggers of one registry with the same connection, interval and queue share looks (Airflow 3.3 and newer): see
    ``docs/assets-cost.md``.

    :param package: ``namespace/name``; or a pattern, in which ``*`` stands for any characters: ``team/*``.
    :param registry: ``s3://bucket``; by default the connection's.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    :param poll_interval: seconds from one look to the next.
    :param queue_url: an SQS queue that gets the Quilt stack's ``package-revision`` events, each of which causes a look at once;
        ``poll_interval`` may be long then.

    Raises:
        InputError: the package is no name and no pattern, or the interval is not above 0.
    """

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
        """Return what makes this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"package": self.package, **self._place}

    @property
    def _place(self) -> dict[str, Any]:
        return {
            "registry": self.registry,
            "quilt_conn_id": self.quilt_conn_id,
            "poll_interval": self.poll_interval,
            "queue_url": self.queue_url,
        }

    @property
    def looker(self) -> Poller:
        """What it shares with others that look at the same registry in the same way."""
        return Poller(**self._place)

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Look and report for ever, alone: where Airflow shares nothing, before 3.3."""
        interest = Subscriptions()
        with interest.of(self.package):
            async with aclosing(self.looker.looks(interest)) as looks:
                async for event in self._changes(looks):
                    yield event

    def shared_stream_key(self) -> Hashable:
        """Return what is equal for triggers that share looks."""
        return self.looker.key

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[Snapshot]:
        """Look for ever at what the triggers that share this want to know."""
        looker = cls(**kwargs).looker
        async with aclosing(looker.looks(_SHARED[looker.key])) as looks:
            async for look in looks:
                yield look

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Snapshot]) -> AsyncGenerator[TriggerEvent]:
        """Report what this trigger is about, from looks that are shared."""
        with _SHARED[self.looker.key].of(self.package):
            async for event in self._changes(shared_stream):
                yield event

    async def _changes(self, looks: AsyncIterator[Snapshot]) -> AsyncGenerator[TriggerEvent]:
        identity = {"package": self.package, "registry": self.registry, "quilt_conn_id": self.quilt_conn_id}
        cursor = Cursor(getattr(self, "asset_state_store", None), identity, is_wide=is_pattern(self.package))
        is_begun = await cursor.load()
        async for look in looks:
            if self.package not in look.packages:  # It had not joined yet.
                continue
            found = await look.of(self.package)
            before, cursor.reported = cursor.reported, found
            changed = {name: top_hash for name, top_hash in found.items() if before.get(name) != top_hash} if is_begun else {}
            is_begun = True
            for name, top_hash in sorted(changed.items()):
                yield TriggerEvent(_payload(look, name, top_hash, before.get(name)))
            if changed:
                await asyncio.sleep(_KEPT)
            await cursor.save()


def _payload(look: Snapshot, name: str, top_hash: str, previous: str | None) -> dict[str, Any]:
    from airflow_quilt.core.format.names import PackageName, parse_top_hash

    return {
        **look.hook.describe(look.registry, PackageName.parse_existing(name), parse_top_hash(top_hash)),
        "previous": previous,
    }
