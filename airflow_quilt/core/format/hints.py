"""Hints in messages: of the names that there are, the one that was probably meant."""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from airflow_quilt.core.errors import quoted

_MOST_NAMES: Final = 10_000
"""The most names that are compared."""
_LONGEST: Final = 200
"""The most characters of a name that are compared."""
_LIKE: Final = 0.65
"""The least likeness, as of :func:`difflib.get_close_matches`, of a name and the one that was probably meant."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is the nearest to another one, also in another case; None where none is near."""
    from difflib import get_close_matches  # noqa: PLC0415  (for an error only)

    by_lower = {each.lower(): each for each in islice(known, _MOST_NAMES) if each != name and len(each) <= _LONGEST}
    found = get_close_matches(name[:_LONGEST].strip().lower(), by_lower, 1, _LIKE)
    return by_lower[found[0]] if found else None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is not known: the nearest one; empty where none is near."""
    found = nearest(str(name), known)
    return "" if found is None else f"; did you mean {quoted(found)}?"
