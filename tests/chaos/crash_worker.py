"""A process whose children do pieces of work and are killed: by themselves at a call of a storage, or from here after a time.

It takes orders as lines of JSON, the first of which names the S3 store, and answers each of the others with a line. It
imports everything once and forks for each order; so it runs no threads, and a child makes its own client.
"""

import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeVar

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.server import Identity, S3Server
from tests.core.crash import World
from tests.core.crash_works import WORKS
from tests.core.faulty import Call, tapped

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

Ending = Literal["killed", "done", "deferred", "failed", "hung"]
"""The end of an attempt: killed as ordered, done, left to the next attempt by the core itself, failed, or without an end."""

_BEGUN: Final = b"."
_DEFERRED: Final = 2
_FAILED: Final = 3
_LONGEST: Final = 60.0
_FIELDS: Final = ("out", "bucket", "source", "lease", "chosen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """When a process is killed.

    Attributes:
        at: before the call of a storage that has this number, counted from 1; 0 for none.
        after: right after that call instead.
        seconds: so long after it began to work, from outside; 0 for never.
    """

    at: int = 0
    after: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"killed {'after' if self.after else 'before'} call {self.at}" if self.at else f"killed after {self.seconds:.3f} s"


class Deadly:
    """A tap that kills its process at a call."""

    def __init__(self, kill: Kill) -> None:
        self._kill = kill
        self._seen = 0
        self._lock = threading.Lock()

    def __call__(self, call: Call, run: Callable[[], T]) -> T:  # noqa: ARG002
        with self._lock:
            self._seen += 1
            is_last = self._seen == self._kill.at
        if is_last and not self._kill.after:
            _die()
        try:
            return run()
        finally:
            if is_last:
                _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(kw_only=True)
class RealWorld(World):
    """A world on a real store, with a package of its own in buckets that others use too."""

    client: "S3Client"

    def open_uploads(self) -> int:
        """Count the uploads in parts of this package that are neither complete nor aborted."""
        prefixes = [(self.bucket, f"{self.name}/"), (self.source, f"out/{self.name}/")]
        found = [self.client.list_multipart_uploads(Bucket=bucket, Prefix=prefix) for bucket, prefix in prefixes]
        return sum(len(answer.get("Uploads", ())) for answer in found)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that make the same world in another process."""
        chosen = {name: getattr(self, name) for name in _FIELDS}
        return chosen | {"location": str(self.location), "files": str(self.files), "name": str(self.name)}

    @classmethod
    def from_json(cls, client: "S3Client", fields: Mapping[str, Any]) -> "RealWorld":
        return cls(
            client=client,
            stores=Stores(LocalStorage(), S3Storage(client)),
            location=resolve_registry(fields["location"]),
            files=Path(fields["files"]),
            name=PackageName.parse(fields["name"]),
            clock=time.time,
            **{name: fields[name] for name in _FIELDS},
        )


def order(work: str, world: RealWorld, since: float | None, kill: Kill) -> dict[str, Any]:
    """Return an order to do a piece of work and be killed."""
    return {"work": work, "world": world.to_json(), "since": since, "kill": asdict(kill)}


def main() -> None:
    """Carry out orders until there are no more."""
    store = json.loads(sys.stdin.readline())
    server = S3Server(store["endpoint"], Identity(**store["admin"]), Identity(**store["admin"]))
    server.client()  # botocore reads its models once, for all the children.
    for line in sys.stdin:
        ending, told = _carry_out(server, json.loads(line))
        sys.stdout.write(json.dumps({"ending": ending, "told": told}) + "\n")
        sys.stdout.flush()


def _carry_out(server: S3Server, what: Mapping[str, Any]) -> tuple[Ending, str]:
    """Let a child do a piece of work; return its ending and its report."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        os.close(receiver)
        _work(server, what, sender)
    os.close(sender)
    with os.fdopen(receiver, "rb") as told:
        seconds = what["kill"]["seconds"]
        has_begun = bool(told.read(len(_BEGUN)))
        is_timed_out = has_begun and not select.select([told], [], [], seconds or _LONGEST)[0]
        if is_timed_out:
            os.kill(child, signal.SIGKILL)
        text = told.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return _ending(os.waitstatus_to_exitcode(status), is_hung=is_timed_out and not seconds), text


def _ending(code: int, *, is_hung: bool) -> Ending:
    if is_hung:
        return "hung"
    endings: dict[int, Ending] = {-signal.SIGKILL: "killed", 0: "done", _DEFERRED: "deferred"}
    return endings.get(code, "failed")


def _work(server: S3Server, what: Mapping[str, Any], sender: int) -> NoReturn:
    """Do a piece of work and end the process."""
    code = 0
    try:
        world = RealWorld.from_json(server.client(), what["world"])
        registry = world.registry(tapped(world.stores, Deadly(Kill(**what["kill"]))))
        os.write(sender, _BEGUN)
        WORKS[what["work"]].run(world, registry, what["since"])
    except BaseException as error:  # noqa: BLE001 - reported to the parent, a judge.
        code = _DEFERRED if isinstance(error, QuiltError) and error.transient else _FAILED
        os.write(sender, traceback.format_exc()[-8000:].encode())
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
