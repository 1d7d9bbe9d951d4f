"""Pairs of processes that do the same work at the same moment, as when Airflow takes a worker for dead that is alive."""

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.writers import Fleet, Kind
from tests.chaos.writers_client import Place, Style
from tests.chaos.writers_judge import Account, State, judge

_TRIES: Final = 200
_APART: Final = (0.0, 0.01, 0.05, 0.3)
"""By so many seconds, at most, the two begin one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """Work that is done twice.

    Attributes:
        rounds: pieces of work of each pair, one after the other.
        is_in_order: the first attempt begins before the other; else a retry may be done before it begins.
    """

    styles: Sequence[Style]
    pairs: int = 8
    rounds: int = 10
    is_in_order: bool = True


@dataclass(frozen=True)
class Verdict:
    """The outcome.

    Attributes:
        works: how many pieces of work there were.
        revisions: how many revisions came of them.
    """

    works: int
    revisions: int
    accounts: list[Account]
    problems: list[str]
    seconds: float

    def __str__(self) -> str:
        again = sum(account.again.total() for account in self.accounts)
        return (
            f"{self.works} pieces of work, each by two processes at once: {self.revisions} revisions, "
            f"{len(self.problems)} problems, {again} tried again, {self.seconds:.0f} s"
        )


def run_twins(twins: Twins, places: Sequence[Place], fleet: Fleet, kind: Kind = "ours") -> Verdict:
    """Let pairs of processes do the same work.

    Args:
        twins: the work.
        places: a package for each pair, or one for all of them.
        fleet: two processes for each pair.
        kind: the client that they are.
    """
    for place in places:
        fleet.warm_up(place, kind)
    began = time.monotonic()

    def work(pair: int) -> None:
        place = places[pair % len(places)]
        for jobs in _rounds(twins, pair):
            common = {"job": "push one", "client": kind, "place": asdict(place), "tries": _TRIES, "longest_pause": 0.5}
            fleet.finish(
                [
                    fleet.begin(2 * pair + twin, common | job | {"journal": str(_journal(place, pair, twin))})
                    for twin, job in enumerate(jobs)
                ]
            )

    with ThreadPoolExecutor(twins.pairs) as pool:
        list(pool.map(work, range(twins.pairs)))
    seconds = time.monotonic() - began
    judged = [_judge(place, _journals(twins, places, place)) for place in places]
    problems = [problem for _, _, told in judged for problem in told]
    revisions = sum(len(state.history) for _, state, _ in judged)
    return Verdict(twins.pairs * twins.rounds, revisions, [account for account, _, _ in judged], problems, seconds)


def _rounds(twins: Twins, pair: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the jobs of the first attempt and of the other one."""
    chance = random.Random(f"{twins} {pair}")  # noqa: S311
    for number in range(twins.rounds):
        work = {"work": f"pair-{pair:02}-{number:03}", "style": chance.choice(twins.styles)}
        apart = chance.uniform(0, chance.choice(_APART)) * (1 if twins.is_in_order else chance.choice([1, -1]))
        yield (
            work | {"since": None, "delay": max(0.0, -apart)},
            work | {"since": time.time(), "delay": max(0.0, apart)},
        )


def _journals(twins: Twins, places: Sequence[Place], place: Place) -> list[Path]:
    return [
        _journal(place, pair, twin) for pair in range(twins.pairs) for twin in range(2) if places[pair % len(places)] is place
    ]


def _journal(place: Place, pair: int, twin: int) -> Path:
    return Path(place.directory, f"pair-{pair:02}-{twin}.jsonl")


def _judge(place: Place, journals: Sequence[Path]) -> tuple[Account, State, list[str]]:
    account = Account.read(journals)
    state = State.read(place, {each.top_hash for each in account.acknowledged})
    problems = judge(account, state).problems()
    if account.given_up:
        problems.append(f"{account.given_up} tries were given up")
    return account, state, problems
