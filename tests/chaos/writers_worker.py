"""A process that writes a package together with others, or watches them; it journals the acknowledged work.

It takes jobs as lines of JSON and answers each with a line, until there are no more.
"""

import functools
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from tests.chaos.writers_client import AgainError, Client, GoneError, Ours, Place, Push, careless, wait_until
from tests.chaos.writers_reader import Reader


class Journal:
    """Journal of a process: the work that began, and that was acknowledged."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def note(self, event: str, **details: Any) -> None:
        self._file.write(json.dumps({"event": event, "time": time.time(), **details}) + "\n")


def _quilt3(place: Place) -> Client:
    from tests.chaos.writers_quilt3 import Quilt3

    return Quilt3(place)


_CLIENTS: Final[Mapping[str, Callable[[Place], Client]]] = {"ours": Ours, "careless": careless, "quilt3": _quilt3}


@functools.lru_cache(16)
def _client(kind: str, place: Place) -> Client:
    return _CLIENTS[kind](place)


def warm_up(client: Client, _journal: Journal, _job: Mapping[str, Any]) -> None:
    """Import and connect, so that the jobs after this one begin at once."""
    client.latest()


def push_many(client: Client, journal: Journal, job: Mapping[str, Any]) -> None:
    """Publish revision after revision, each in one of some styles."""
    chance = random.Random(job["name"])  # noqa: S311
    wait_until(job["start"])
    for number in range(job["count"]):
        what = Push(work=f"{job['name']}-{number:03}", style=chance.choice(job["styles"]))
        _publish(client, journal, what, job)


def push_one(client: Client, journal: Journal, job: Mapping[str, Any]) -> None:
    """Publish a revision, as others may that take this process for dead, or are taken for dead."""
    time.sleep(job["delay"])
    _publish(client, journal, Push(work=job["work"], style=job["style"], since=job["since"]), job)


def _publish(client: Client, journal: Journal, what: Push, job: Mapping[str, Any]) -> None:
    """Publish a revision; try again as often as it may be tried again, as Airflow does, with ever longer pauses."""
    began = time.time()
    journal.note("begun", work=what.work)
    for tries in range(1, job["tries"] + 1):
        try:
            stamp, top_hash = client.publish(what if tries == 1 else replace(what, since=what.since or began))
        except AgainError as error:
            journal.note("again", work=what.work, error=str(error))
            time.sleep(random.uniform(0, min(job["longest_pause"], 0.1 * 2**tries)))  # noqa: S311
        except Exception:  # noqa: BLE001 - any error is reported to the judge.
            journal.note("failed", work=what.work, error=traceback.format_exc()[-2000:])
            return
        else:
            journal.note("acknowledged", work=what.work, stamp=stamp, top_hash=top_hash, tries=tries, began=began)
            return
    journal.note("given up", work=what.work)


def change_many(client: Client, journal: Journal, job: Mapping[str, Any]) -> None:
    """Delete revisions, or make old ones the latest one again, until a file appears."""
    chance = random.Random(job["name"])  # noqa: S311
    change = _CHANGES[job["change"]]
    wait_until(job["start"])
    while not Path(job["until"]).exists():
        time.sleep(chance.uniform(0, job["pause"]))
        try:
            change(client, journal, chance, job["spare"])
        except AgainError as error:
            journal.note("refused", error=str(error))
        except GoneError as error:
            journal.note("gone", error=str(error))
        except Exception:  # noqa: BLE001 - as above.
            journal.note("failed", work=job["change"], error=traceback.format_exc()[-2000:])


def _delete_old(client: Client, journal: Journal, chance: random.Random, spare: int) -> None:
    history = client.history()
    if len(history) > spare:
        _delete(client, journal, chance.choice(history))


def _delete_latest(client: Client, journal: Journal, _chance: random.Random, spare: int) -> None:
    latest = client.latest()
    if latest and len(client.history()) > spare:
        _delete(client, journal, latest)


def _delete(client: Client, journal: Journal, top_hash: str) -> None:
    journal.note("deletion begun", top_hash=top_hash)
    client.delete(top_hash)
    journal.note("deleted", top_hash=top_hash)


def _roll_back(client: Client, journal: Journal, chance: random.Random, _spare: int) -> None:
    top_hash = chance.choice(client.history())
    journal.note("rollback begun", top_hash=top_hash)
    client.roll_back(top_hash)
    journal.note("rolled back", top_hash=top_hash)


_CHANGES: Final = {"delete old": _delete_old, "delete latest": _delete_latest, "roll back": _roll_back}
_JOBS: Final = {"warm up": warm_up, "push many": push_many, "push one": push_one, "change many": change_many}


def _watch(job: Mapping[str, Any]) -> dict[str, Any]:
    place = Place(**job["place"])
    return Reader(place.registry(), place.name).watch(Path(job["until"]))


def _write(job: Mapping[str, Any]) -> None:
    with Path(job["journal"]).open("a", encoding="utf-8", buffering=1) as file:
        _JOBS[job["job"]](_client(job["client"], Place(**job["place"])), Journal(file), job)


def main() -> None:
    """Do jobs until there are no more."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as answers:
        os.dup2(2, 1)  # quilt3 prints.
        for line in sys.stdin:
            answers.write(json.dumps(_answer(json.loads(line))) + "\n")


def _answer(job: Mapping[str, Any]) -> dict[str, Any]:
    try:
        if job["job"] == "watch":
            return {"done": _watch(job)}
        _write(job)
    except Exception:  # noqa: BLE001 - the giver of the job raises it.
        return {"error": traceback.format_exc()}
    return {"done": None}


if __name__ == "__main__":
    main()
