"""The program: parses, opens the connection, runs the command, and ends with an exit code."""

import contextlib
import io
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Final, TextIO

from airflow_quilt.cli._arguments import parse
from airflow_quilt.cli._messages import CONTEXT, messages, report
from airflow_quilt.core.errors import QuiltError

_FAILED: Final = 3
_FAILED_FOR_NOW: Final = 4
_INTERRUPTED: Final = 130
_NO_READER: Final = 141
_DATABASES: Final = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN")
_NO_DATABASE: Final = "airflow-db-not-allowed:"
_LOG_LEVEL: Final = "AIRFLOW__LOGGING__LOGGING_LEVEL"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code (docs/reading.md).

    Args:
        arguments: by default those of the process.

    Raises:
        SystemExit: the arguments are wrong (2), or ask for help (0).
    """
    options = parse(arguments)
    out, errors = sys.stdout, sys.stderr
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")  # A terminal that is not UTF-8 cannot write every key.
    try:
        # Nothing but data on the standard output: some Airflows log there.
        with contextlib.redirect_stdout(errors), _environment(verbose=options.verbose):
            return _run(options, out, errors)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Or Python would complain when it flushes the output once more at its end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return _NO_READER


@contextlib.contextmanager
def _environment(*, verbose: bool) -> Iterator[None]:
    """Set Airflow's environment for a command: it reads connections from its database, and logs no more than errors.

    Airflow 3.1 and newer use the database in processes of the server alone, to which its own command line counts itself. A task
    has no database, nor has a command that it starts, and with the one that it is given Airflow cannot even be imported.
    """
    wanted = {} if verbose else {_LOG_LEVEL: "ERROR"}
    if any(os.environ.get(name, "").startswith(_NO_DATABASE) for name in _DATABASES):
        wanted |= dict.fromkeys(_DATABASES, "sqlite://") | {CONTEXT: "client"}
    elif CONTEXT not in os.environ:
        wanted |= {CONTEXT: "server"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run(options: Namespace, out: TextIO, errors: TextIO) -> int:
    try:
        import airflow  # noqa: F401  (a second or more; it sets up logs and warnings, which are then set up anew)

        with messages(errors, verbose=options.verbose):
            from airflow_quilt.cli._commands import run

            return run(options, out)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  (of any kind: no user is served by frames)
        report(error, errors, verbose=options.verbose)
        return _FAILED_FOR_NOW if isinstance(error, QuiltError) and error.transient else _FAILED
