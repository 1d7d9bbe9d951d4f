"""``.quiltignore``: rules that leave files of a directory out, as in quilt3."""

import re
from collections.abc import Callable
from fnmatch import translate
from typing import Final

from airflow_quilt.core.errors import ObjectNotFoundError, SourceError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import Storage
from airflow_quilt.core.storage.objects import MOST_TEXT

_FILE: Final = ".quiltignore"
_MOST_RULES: Final = 10_000
"""Maximum rules: each path of the directory is matched with all of them."""
_MOST_SEARCHED: Final = 10_000_000
"""Maximum characters that are searched for the ``]`` of a ``[``: without one, ``fnmatch`` looks through the rest of the rule."""


def ignore_rules(storage: Storage, directory: PhysicalKey) -> Callable[[str], bool]:
    """Return a predicate for local paths: whether the rules at the root of the directory leave a file out.

    Each line is a rule; with ``*/`` before it, it is matched against the whole path (quilt3's ``Package.set_dir``). A directory
    that is left out takes everything below it along.

    Raises:
        SourceError: ``.quiltignore`` is not UTF-8, or has more than 10,000 rules. Others may write to a directory that is packed.
        ObjectTooLargeError: it has more than 1 MiB.
    """
    try:
        data = storage.get(directory.join(_FILE), MOST_TEXT).data
    except ObjectNotFoundError:
        return lambda _path: False
    is_match = _parse_rules(data, directory.join(_FILE))
    left_out = {directory.key.rstrip("/"): False}

    def is_left_out(folder: str) -> bool:
        above = []
        while folder not in left_out:
            above.append(folder)
            folder = folder.rpartition("/")[0]
        for each in reversed(above):  # From the root down: a parent's verdict holds for the folder.
            left_out[each] = left_out[folder] or is_match(each) or is_match(f"{each}/")
            folder = each
        return left_out[folder]

    return lambda path: is_match(path) or is_left_out(path.rpartition("/")[0])


def _parse_rules(data: bytes, file: PhysicalKey) -> Callable[[str], bool]:
    """Return a predicate for paths: whether one of the rules of a file matches."""
    try:
        lines = re.split("\r\n|\r|\n", data.decode())  # Not splitlines(): a form feed ends no rule.
    except UnicodeDecodeError as error:
        raise SourceError(f"{file}: not UTF-8") from error
    rules = [f"*/{line}" for line in dict.fromkeys(lines) if line]
    if len(rules) > _MOST_RULES:
        raise SourceError(f"{file}: {len(rules):,} rules, the most is {_MOST_RULES:,}")
    if sum(rule.count("[") * len(rule) for rule in rules) > _MOST_SEARCHED:
        raise SourceError(f"{file}: too many '[' in long rules; write [[] for the character")
    matches = [re.compile(translate(rule)).match for rule in rules]
    return lambda path: any(match(path) for match in matches)
