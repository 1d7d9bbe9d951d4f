"""Messages on the standard error: logs that concern the user, and errors in one sentence."""

import contextlib
import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from typing import Final, TextIO

from airflow_quilt.cli._arguments import PROGRAM
from airflow_quilt.core.errors import QuiltError, SettingsUnavailableError, escaped, plain

CONTEXT: Final = "_AIRFLOW_PROCESS_CONTEXT"
"""The variable by which Airflow tells its server from its tasks."""
_SHOWN: Final = ("airflow_quilt.core.install", "airflow_quilt.core.verify", "airflow_quilt.core.runtime.progress")
"""Loggers whose lines tell how far long work is."""


@contextlib.contextmanager
def messages(stream: TextIO, *, verbose: bool) -> Iterator[None]:
    """Show logs on a stream, and not where Airflow shows them; enter it after Airflow was imported, which sets its logs up.

    Args:
        stream: the standard error.
        verbose: show the lines of all loggers from level INFO on, and warnings of Python; else those that concern the user.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    if not verbose:
        handler.addFilter(_concerns_user)
    root, ours = logging.getLogger(), logging.getLogger("airflow_quilt")
    before, level = root.handlers[:], ours.level
    root.handlers[:] = [handler]
    ours.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            if not verbose:
                warnings.showwarning = lambda *_, **__: None
            yield
    finally:
        root.handlers[:] = before
        ours.setLevel(level)


def _concerns_user(record: logging.LogRecord) -> bool:
    if record.name.startswith("airflow_quilt."):
        return record.levelno >= (logging.INFO if record.name in _SHOWN else logging.WARNING)
    return record.levelno >= logging.ERROR


def report(error: Exception, stream: TextIO, *, verbose: bool) -> None:
    """Write an error in one sentence; or with its causes and frames."""
    if verbose:
        stream.writelines(traceback.format_exception(error))
    stream.write("\n".join(map(escaped, f"{PROGRAM}: {_sentence(error)}".splitlines())) + "\n")


def _sentence(error: Exception) -> str:
    if isinstance(error, SettingsUnavailableError):
        task = "; a task cannot read connections of Airflow's database" if os.environ.get(CONTEXT) == "client" else ""
        return f"{error}; --conn-id names another connection, --no-conn does without one{task}"
    if isinstance(error, QuiltError):
        return str(error)
    return f"{type(error).__name__}: {plain(error)}; --verbose shows where"
