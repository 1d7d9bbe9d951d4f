"""``.quiltignore``: rules that leave files of a directory out, as in quilt3."""

import re
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Final

from airflow_quilt.core.errors import ObjectNotFoundError, SourceError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.base import Storage

_FILE: Final = ".quiltignore"


def ignore_rules(storage: Storage, directory: PhysicalKey) -> Callable[[str], bool]:
    """Return a predicate for local paths: whether the rules at the root of the directory leave a file out.

    Each line is a rule; with ``*/`` before it, it is matched against the whole path (quilt3's ``Package.set_dir``). A directory
    that is left out takes everything below it along.

    Raises:
        SourceError: ``.quiltignore`` is not UTF-8.
    """
    try:
        text = storage.get(directory.join(_FILE)).data.decode()
    except ObjectNotFoundError:
        return lambda _path: False
    except UnicodeDecodeError as error:
        raise SourceError(f"{directory.join(_FILE)}: not UTF-8") from error
    lines = re.split("\r\n|\r|\n", text)  # Not splitlines(): a form feed ends no rule.
    rules = [f"*/{line}" for line in lines if line]
    left_out = {directory.key.rstrip("/"): False}

    def is_left_out(folder: str) -> bool:
        above = []
        while folder not in left_out:
            above.append(folder)
            folder = folder.rpartition("/")[0]
        for each in reversed(above):  # From the root down: a parent's verdict holds for the folder.
            left_out[each] = left_out[folder] or any(fnmatch(each, rule) or fnmatch(f"{each}/", rule) for rule in rules)
            folder = each
        return left_out[folder]

    return lambda path: any(fnmatch(path, rule) for rule in rules) or is_left_out(path.rpartition("/")[0])
