"""Errors for sources that are not there: each names the location as the user wrote it, and the probable cause."""

import re
import socket
from pathlib import Path
from typing import Final

from airflow_quilt.core.errors import SourceError, quoted
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.sources.parse import LocationSource, where_of

_NO_VALUE: Final = {"None", "none", "null", "nan", "NaN"}
_PROSE: Final = re.compile(r"\s|[{}<>;]")


def absent(source: LocationSource, kind: str) -> SourceError:
    """Return the error for a source at which there is no file or directory; ``kind`` is the word for it.

    Airflow's log view does not wrap lines: the cure comes before all that may be long.
    """
    given = source.given or str(source.location)
    nothing = f"there is no {kind} at {quoted(given)}"
    is_local = isinstance(source.location, PhysicalKey) and source.location.is_local
    return SourceError(f"{where_of(source.key)}: {_cure(given, nothing) if is_local else nothing}")


def _cure(given: str, nothing: str) -> str:
    """Return the cure for a local path at which there is nothing, with the probable cause."""
    if given.strip() in _NO_VALUE:
        return f"return a value from the task, or give the template one; {quoted(given)} is the text of none, and {nothing}"
    if given.startswith(("/", "~", "file:")):
        others = "a file that another task wrote may be on another worker"
        return f"give a path that this worker, {_host()}, can reach, or s3://…; {nothing} here, and {others}"
    here = f"{nothing} in {_here()}, the working directory of this worker, {_host()}"
    if _PROSE.search(given) or not re.search(r"[./]", given):
        return f"give entry(content=…) for text; a str is a path, and {here}"
    return f"give an absolute path; {here}"


def _here() -> str:
    try:
        return quoted(str(Path.cwd()))
    except OSError:  # It was removed.
        return "a directory that is gone"


def _host() -> str:
    return quoted(socket.gethostname())
