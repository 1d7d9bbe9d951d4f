"""Work that makes many objects which stay, without a full collection of garbage, for which Python stops a whole process.

Python goes through all that a process holds as soon as a quarter of it is new and outlived two younger collections
(https://docs.python.org/3/library/gc.html#gc.set_threshold). What it takes to reach S3, botocore's data of all regions most of
all, is a quarter of what a triggerer holds, and to go through that takes a fifth of a second, in which no trigger is served.
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_users = 0
_was_on = False


@contextmanager
def what_stays() -> Iterator[None]:
    """Collect no garbage until the block ends; what there is then counts as old at once, so that it brings no collection about.

    The whole process collects nothing meanwhile, and frees as always what nobody refers to. Where somebody else has turned
    collections off, or has frozen objects, that stays so.
    """
    global _users, _was_on  # noqa: PLW0603  (there is one collector in a process)
    with _lock:
        _users += 1
        if _users == 1:
            _was_on = gc.isenabled()
            gc.disable()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                if not gc.get_freeze_count():
                    gc.freeze()
                    gc.unfreeze()
                if _was_on:
                    gc.enable()
