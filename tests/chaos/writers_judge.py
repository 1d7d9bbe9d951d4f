"""The acknowledgements of many writers, the registry in the end, and whether the two agree."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format import layout
from airflow_quilt.core.registry.registry import Registry
from tests.chaos.writers_client import Place, own_key

_MOST: Final = 5
_LOCKS: Final = ".quilt/locks/"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A revision acknowledged to a writer; other clients than ours do not report the second."""

    work: str
    stamp: int | None
    top_hash: str
    began: float
    tries: int
    time: float


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion that was begun, and when it was acknowledged, if it was."""

    top_hash: str
    began: float
    ended: float | None


@dataclass
class Account:
    """The journals of the processes.

    Attributes:
        failures: unexpected errors.
        given_up: pieces of work that were not acknowledged, and are not to be there.
        again: attempts that ended in a conflict or another transient error.
        refused: deletions and rollbacks that did, or found nothing.
    """

    acknowledged: list[Acknowledged] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    rollbacks: int = 0
    failures: list[str] = field(default_factory=list)
    given_up: int = 0
    again: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    @classmethod
    def read(cls, journals: Sequence[Path]) -> "Account":
        account = cls()
        for path in journals:
            account._add([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
        return account

    def _add(self, notes: Sequence[Mapping[str, Any]]) -> None:
        told = {event: [note for note in notes if note["event"] == event] for event in {note["event"] for note in notes}}
        self.acknowledged += [
            Acknowledged(**{key: note[key] for key in Acknowledged.__slots__}) for note in told.get("acknowledged", ())
        ]
        self.deletions += [
            _deletion(note, notes[number + 1 :]) for number, note in enumerate(notes) if note["event"] == "deletion begun"
        ]
        self.failures += [f"{note['work']} failed: {note['error']}" for note in told.get("failed", ())]
        self.again.update(note["error"].partition(":")[0] for note in told.get("again", ()))
        self.rollbacks += len(told.get("rolled back", ()))
        self.given_up += len(told.get("given up", ()))
        self.refused += len(told.get("refused", ())) + len(told.get("gone", ()))

    @property
    def deleted(self) -> int:
        return sum(deletion.ended is not None for deletion in self.deletions)


def _deletion(begun: Mapping[str, Any], later: Sequence[Mapping[str, Any]]) -> Deletion:
    is_done = bool(later) and later[0]["event"] == "deleted"
    return Deletion(begun["top_hash"], begun["time"], later[0]["time"] if is_done else None)


@dataclass
class State:
    """State of a registry when all is over.

    Attributes:
        history: the seconds and top hashes.
        works: the piece of work of each revision, by top hash; the deleted ones too.
        keys: the logical keys of each revision, by top hash.
        unreadable: revisions, or objects of them, that cannot be read.
        leftovers: locks, and files under temporary names.
    """

    history: Sequence[tuple[int, str]]
    latest: str | None
    works: dict[str, str] = field(default_factory=dict)
    keys: dict[str, set[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, place: Place, told: Iterable[str]) -> "State":
        """Read a registry; the work of acknowledged revisions is read also where they are gone."""
        registry = place.registry()
        history = [(revision.published_at.int_timestamp, revision.top_hash) for revision in registry.revisions(place.name)]
        latest = registry.latest(place.name)
        state = cls(history, latest.top_hash if latest else None, leftovers=_leftovers(place, registry))
        looked_at: set[str] = set()
        for top_hash in {top_hash for _, top_hash in history} | ({state.latest} if state.latest else set()):
            try:
                state._read(place, registry, top_hash, looked_at)
            except QuiltError as error:
                state.unreadable.append(f"{top_hash}: {error!r}")
        gone = set(told) - state.works.keys()
        state.works |= {top_hash: registry.read(place.name, top_hash).header["message"] for top_hash in gone}
        return state

    def _read(self, place: Place, registry: Registry, top_hash: str, looked_at: set[str]) -> None:
        manifest = registry.read(place.name, top_hash)
        self.works[top_hash] = manifest.header["message"]
        entries = list(manifest.entries)
        self.keys[top_hash] = {entry.logical_key for entry in entries}
        for entry in entries:
            if entry.physical_keys[0] not in looked_at:
                looked_at.add(entry.physical_keys[0])
                origin = registry.origin(entry)
                registry.stores.of(origin).stat(origin)


def _leftovers(place: Place, registry: Registry) -> list[str]:
    locks = registry.location.root.join(_LOCKS)
    left = [str(stat.key) for stat in registry.stores.of(locks).list_objects(locks)]
    if place.is_local:
        left += [str(path) for path in Path(place.location).rglob("*.tmp")]
        left += [str(path) for path in Path(place.location, layout.NAMES).rglob(".*")]
    return left


@dataclass(frozen=True)
class Judgement:
    """Losses, and other problems.

    Attributes:
        lost: acknowledged revisions that are not in the history, although no deletion of them began.
        unasked: revisions in the history that were not acknowledged.
        mistaken: pieces of work that got the revision of another acknowledged.
        doubled: pieces of work that made more than one revision.
        resurrected: revisions in the history whose deletion was acknowledged, and begun after they were acknowledged.
        updates_lost: keys that acknowledged updates added, and that the latest revision does not hold.
        other: anything else.
    """

    lost: list[str]
    unasked: list[str]
    mistaken: list[str]
    doubled: list[str]
    resurrected: list[str]
    updates_lost: list[str]
    other: list[str]

    def problems(self) -> list[str]:
        names = ("lost", "unasked", "mistaken", "doubled", "resurrected", "updates_lost")
        found = {name: getattr(self, name) for name in names}
        told = [f"{name}: {len(each)}, such as {', '.join(each[:_MOST])}" for name, each in found.items() if each]
        return told + self.other


def judge(account: Account, state: State, *, is_cumulative: bool = False) -> Judgement:
    """Compare the journals with the registry.

    Args:
        account: the writers' journals.
        state: that of the registry.
        is_cumulative: each piece of work added a key, and nothing was deleted or rolled back.
    """
    return Judgement(
        lost=_lost(account, state),
        unasked=_unasked(account, state),
        mistaken=[
            f"{each.work} {each.stamp} {each.top_hash}, made by {state.works.get(each.top_hash)}"
            for each in account.acknowledged
            if state.works.get(each.top_hash) != each.work
        ],
        doubled=_doubled(state),
        resurrected=_resurrected(account, state),
        updates_lost=_updates_lost(account, state) if is_cumulative else [],
        other=[*_other(account, state), *(_not_in_a_row(state) if is_cumulative else ())],
    )


def _lost(account: Account, state: State) -> list[str]:
    begun = {deletion.top_hash for deletion in account.deletions}
    pairs, hashes = set(state.history), {top_hash for _, top_hash in state.history}
    return [
        f"{each.work} {each.stamp} {each.top_hash}"
        for each in account.acknowledged
        if each.top_hash not in begun
        and (each.top_hash not in hashes if each.stamp is None else (each.stamp, each.top_hash) not in pairs)
    ]


def _unasked(account: Account, state: State) -> list[str]:
    pairs = {(each.stamp, each.top_hash) for each in account.acknowledged}
    return [
        f"{stamp} {top_hash}, made by {state.works.get(top_hash)}"
        for stamp, top_hash in state.history
        if (stamp, top_hash) not in pairs and (None, top_hash) not in pairs
    ]


def _doubled(state: State) -> list[str]:
    made = Counter(state.works[top_hash] for _, top_hash in state.history if top_hash in state.works)
    return [f"{work} made {count} revisions" for work, count in made.items() if count > 1]


def _resurrected(account: Account, state: State) -> list[str]:
    told = {each.top_hash: each.time for each in account.acknowledged}
    gone = {each.top_hash for each in account.deletions if each.ended and each.began > told.get(each.top_hash, each.ended)}
    return [f"{stamp} {top_hash}" for stamp, top_hash in state.history if top_hash in gone]


def _updates_lost(account: Account, state: State) -> list[str]:
    keys = state.keys.get(state.latest or "", set())
    return [each.work for each in account.acknowledged if own_key(each.work) not in keys]


def _other(account: Account, state: State) -> Iterator[str]:
    yield from account.failures[:_MOST]
    if state.latest not in {top_hash for _, top_hash in state.history}:
        yield f"latest names {state.latest}, which is not in the history"
    yield from (f"cannot be read: {each}" for each in state.unreadable[:_MOST])
    yield from (f"left behind: {each}" for each in state.leftovers)


def _not_in_a_row(state: State) -> Iterator[str]:
    """Find revisions that do not hold the keys of another one and one more: those began from the same one."""
    sizes = sorted(len(state.keys.get(top_hash, ())) for _, top_hash in state.history)
    if sizes != list(range(1, len(sizes) + 1)):
        yield f"the revisions do not grow by one key each: {sizes}"
