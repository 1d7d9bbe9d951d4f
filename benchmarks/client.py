"""What the clients have in common: a piece of work and its arguments come in, what it took goes out.

``python -m benchmarks.ours push_directory '{"registry": "s3://bucket", …}'`` prints one line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import botocore

from benchmarks.measure import COUNTS


class Traffic:
    """Counts what boto sends from now on, whoever uses it, and the bytes of objects that come; a registry's own are none."""

    def __init__(self) -> None:
        self._requests: list[None] = []  # Appending needs no lock.
        self._sizes: list[int] = []
        botocore.register_initializer(self._watch)

    @property
    def told(self) -> Mapping[str, int]:
        """What was counted."""
        return {"requests": len(self._requests), "object_bytes": sum(self._sizes)}

    def _watch(self, session: Any) -> None:
        session.register("before-send", lambda **_: self._requests.append(None))
        session.register("after-call.s3.GetObject", self._received)

    def _received(self, http_response: Any, **_: Any) -> None:
        if "/.quilt/" not in http_response.url:
            self._sizes.append(int(http_response.headers["Content-Length"]))


def timed(work: Callable[[], Any]) -> tuple[Any, Mapping[str, float]]:
    """Do a piece of work; return what it returns, and the seconds that it took."""
    began, cpu = time.perf_counter(), time.process_time()
    done = work()
    return done, {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def main(works: Mapping[str, Any]) -> None:
    """Do the piece of work that the command line names; print what it took, and what it says of itself, which goes before.

    Requests are counted where the environment asks for it: who counts slows the work, and keeps it from the fastest way.
    """
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    traffic = Traffic() if os.environ.get(COUNTS) else None
    facts, took = timed(lambda: works[name](**arguments))
    print(json.dumps({**took, **(traffic.told if traffic else {}), **facts}))
