"""The common part of the clients: run a piece of work with its arguments, and print its cost.

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
    """Counts all requests of boto from now on, and the bytes of objects in the answers, without a registry's own."""

    def __init__(self) -> None:
        self._requests: list[None] = []  # Appending needs no lock.
        self._sizes: list[int] = []
        botocore.register_initializer(self._watch)

    @property
    def told(self) -> Mapping[str, int]:
        """The counts."""
        return {"requests": len(self._requests), "object_bytes": sum(self._sizes)}

    def _watch(self, session: Any) -> None:
        session.register("before-send", lambda **_: self._requests.append(None))
        session.register("after-call.s3.GetObject", self._received)

    def _received(self, http_response: Any, **_: Any) -> None:
        if "/.quilt/" not in http_response.url:
            self._sizes.append(int(http_response.headers["Content-Length"]))


def timed(work: Callable[[], Any]) -> tuple[Any, Mapping[str, float]]:
    """Do a piece of work; return its result and its seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    done = work()
    return done, {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def main(works: Mapping[str, Any]) -> None:
    """Do the piece of work of the command line; print its cost, and its own facts, which override that.

    Requests are counted only if the environment asks for it: counting slows the work, and keeps it from the common runtime.
    """
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    traffic = Traffic() if os.environ.get(COUNTS) else None
    facts, took = timed(lambda: works[name](**arguments))
    print(json.dumps({**took, **(traffic.told if traffic else {}), **facts}))
