"""The ids of connections that a process knows without asking for one."""

import os
import re
from collections.abc import Iterable
from typing import Final, Literal

_PREFIX: Final = "AIRFLOW_CONN_"


def known_connections(kind: Literal["quilt", "aws"]) -> Iterable[str]:
    """Return the ids of the connections of a type in the environment, in lower case, and its default one.

    The others are in Airflow's database or in a secrets backend, which give a connection to a caller that knows its id. Those of
    teams are left out.
    """
    of_kind = re.compile(rf'{kind}:|.*"conn_type"\s*:\s*"{kind}"', re.DOTALL)
    found = {name.removeprefix(_PREFIX): value for name, value in os.environ.items() if name.startswith(_PREFIX)}
    return {f"{kind}_default", *(name.lower() for name, value in found.items() if name[:1] != "_" and of_kind.match(value))}
