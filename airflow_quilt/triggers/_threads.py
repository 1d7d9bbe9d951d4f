"""Threads of triggers: their own, and bounded.

asyncio's pool has a few threads for all triggers of a process, of all providers: as many calls to a store that does not answer
stop every one of them. So a registry has threads of its own, for which only its own triggers wait.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """A few threads; they end when no trigger refers to them any more, or after their last call.

    Args:
        most: how many; further calls wait for one of them, without blocking the event loop.
        name: the beginning of their names.
    """

    def __init__(self, most: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=name)

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function on a thread, in the context of this task: Airflow writes log lines to its task's log by that.

        By asgiref, as the calls of Airflow's SDK within, for a connection or a secret to mask, find their way back to the event
        loop by it before Airflow 3.3.2.
        """
        return await sync_to_async(function, thread_sensitive=False, executor=self._pool)(*args, **kwargs)


_LOCAL: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Threads]] = WeakKeyDictionary()


async def run_locally(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that waits for no store, such as an import or a search in memory, on a thread kept for such work."""
    threads = _LOCAL.setdefault(asyncio.get_running_loop(), Threads(2, "quilt-local"))
    return await threads.run(function, *args, **kwargs)
