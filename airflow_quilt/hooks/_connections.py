"""The ids of connections that a process knows without asking for one."""

import os
from collections.abc import Iterable
from typing import Final

_PREFIX: Final = "AIRFLOW_CONN_"
_DEFAULTS: Final = ("quilt_default", "aws_default")


def known_connections() -> Iterable[str]:
    """Return the ids of the connections in the environment, in lower case, and the default ones; those of teams are left out.

    The others are in Airflow's database or in a secrets backend, which give a connection to a caller that knows its id.
    """
    names = (name.removeprefix(_PREFIX).lower() for name in os.environ if name.startswith(_PREFIX))
    return {*_DEFAULTS, *(name for name in names if not name.startswith("_"))}
