"""Metadata: JSON that every reader accepts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from airflow_quilt.core.errors import MetadataError, plain, quoted

_MAX_DEPTH: Final = 250
_SHOWN: Final = 10
MERGE: Final = "meta_mode='merge' keeps them"
"""The cure that a warning names beside the keys that were lost."""


def user_meta_of(meta: Any) -> Any:
    """Return the user's metadata out of all metadata of an entry; ``{}`` if there is none."""
    return meta.get("user_meta", {}) if isinstance(meta, dict) else {}


def check_meta(value: object, where: str) -> Mapping[str, Any]:
    """Check that metadata is a JSON object, and return it with tuples as lists, as in the manifest.

    Raises:
        MetadataError: it is not; the message names the path to the value, such as ``meta.weeks[2]``.
    """
    if not isinstance(value, dict):
        raise MetadataError(f"{where}: expected a mapping, got {type(value).__name__}")
    check_json(value, where)
    plain: dict[str, Any] = json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False))
    return plain


def merge_meta(there: object, given: object, where: str) -> Any:
    """Return metadata that was there, joined by given metadata, which overrides keys of the same name.

    Raises:
        MetadataError: both are given, and one of them has no keys.
    """
    if not there:
        return given
    if not given:
        return there
    if isinstance(there, Mapping) and isinstance(given, Mapping):
        return {**there, **given}
    raise MetadataError(
        f"{where}: its metadata is a {type(there).__name__}, with which a {type(given).__name__} cannot be merged; "
        "give all of it as meta, with meta_mode='replace'"
    )


def lost_keys(there: object, given: object) -> list[str]:
    """Return the keys of metadata that are not in the metadata that replaces it; for a value without keys its type."""
    if isinstance(there, Mapping):
        return sorted(there.keys() - (given.keys() if isinstance(given, Mapping) else ()))
    return [] if not there or there == given else [f"a {type(there).__name__}"]


def name_lost(keys: Sequence[str]) -> str:
    """Return the first few keys that were lost, for a warning."""
    return ", ".join(map(quoted, keys[:_SHOWN])) + (", …" if len(keys) > _SHOWN else "")


def is_nested_deeper(value: Any, most: int) -> bool:
    """Return whether a JSON value has more than ``most`` objects and lists inside of each other."""
    level: list[Any] = [value]
    for _ in range(most + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return False
        level = [below for item in level for below in (item.values() if isinstance(item, dict) else item)]
    return True


def check_json(value: object, where: str, depth: int = 0) -> None:  # noqa: C901, PLR0912  (a table of kinds)
    """Check that a value is JSON, which has no dates, no infinite numbers and only ``str`` keys.

    Raises:
        MetadataError: it is not; the message names the path to the value.
    """
    if depth > _MAX_DEPTH:
        raise MetadataError(f"{plain(where[:80])}…: nested too deeply, more than {_MAX_DEPTH} levels")
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise MetadataError(f"{plain(where)}: not valid Unicode") from error
        case None | bool():
            pass
        case int():
            try:
                str(value)
            except ValueError as error:  # Python limits the digits of an int that it prints and parses.
                raise MetadataError(f"{plain(where)}: {plain(error)}") from error
        case float():
            if not math.isfinite(value):
                raise MetadataError(f"{plain(where)}: {value} is not JSON; leave it out or use null")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise MetadataError(f"{plain(where)}: the key {quoted(key)} is {type(key).__name__}, JSON keys are str")
                check_json(key, where)
                check_json(item, f"{where}.{key}", depth + 1)
        case list() | tuple():
            for index, item in enumerate(value):
                check_json(item, f"{where}[{index}]", depth + 1)
        case _:
            raise MetadataError(f"{plain(where)}: {type(value).__name__} is not JSON; write it as a str or a number")
