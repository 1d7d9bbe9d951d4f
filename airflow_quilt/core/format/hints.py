"""Hints in messages: of the names that there are, the one that was probably meant."""

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Final

from airflow_quilt.core.errors import quoted

_MOST_NAMES: Final = 10_000
"""The most names that are compared."""
_LONGEST: Final = 200
"""The most characters of a name that are compared."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is the nearest to another one; None where none is near."""
    names = (each for each in islice(known, _MOST_NAMES) if each != name and len(each) <= _LONGEST)
    return next(iter(difflib.get_close_matches(name[:_LONGEST], names, 1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that does not exist: the nearest one; empty where none is near."""
    found = nearest(name, known)
    return "" if found is None else f"; did you mean {quoted(found)}?"
