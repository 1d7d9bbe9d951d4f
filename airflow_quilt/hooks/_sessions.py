"""Sessions of boto3: bounds for their requests, and the core's errors for those of making one."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, TokenRetrievalError
from botocore.loaders import Loader, create_loader

from airflow_quilt._compat import AirflowException
from airflow_quilt.core.errors import QuiltError, SettingsError, StorageUnavailableError, plain
from airflow_quilt.core.storage.s3.errors import NO_CREDENTIALS, UNAVAILABLE, translated

if TYPE_CHECKING:
    from botocore.session import Session

_LONGEST_CONNECT: Final = 5.0
_MOST_TEXT: Final = 1000
"""Characters of the message of a library; identity providers and processes write parts of them."""
_OF_SERVICES: Final = (ClientError, TokenRetrievalError, *NO_CREDENTIALS, *UNAVAILABLE)
_OF_SETTINGS: Final = (
    BotoCoreError,  # All others: a profile, a file or a region that is not there, an option that botocore does not know.
    AirflowException,
    FileNotFoundError,
    ImportError,
    LookupError,
    NotImplementedError,
    PermissionError,
    TypeError,
    ValueError,
)
"""Errors of the Amazon provider and of botocore about a connection, a profile or the environment."""


def share_descriptions(session: "Session") -> None:
    """Let a session use this process's descriptions of AWS's services: reading them takes most of the time to make a client."""
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))


@functools.lru_cache(maxsize=8)
def _loader(data_path: str | None) -> Loader:
    """Return the loader of botocore's own descriptions and of those in the directories of ``AWS_DATA_PATH``."""
    return create_loader(data_path)


@contextmanager
def session_errors(conn_id: str | None) -> Iterator[None]:
    """Raise the core's errors for those of reading an AWS connection, of its session and of a client.

    A session may ask services for its credentials: STS for a role, an identity provider, another process.

    Raises:
        AccessDeniedError: there are no credentials, or a service does not accept them.
        SettingsError: the connection, a profile or the environment has a setting that cannot be used.
        StorageUnavailableError: a service does not answer, or fails on its side; the next attempt may succeed.
    """
    where = f"AWS connection {conn_id!r}" if conn_id else "boto3's own settings"
    try:
        yield
    except QuiltError:
        raise
    except _OF_SERVICES:
        with translated(where):
            raise
    except _OF_SETTINGS as error:
        text = str(error) if isinstance(error, BotoCoreError | AirflowException | ValueError) else repr(error)
        raise SettingsError(f"{where}: {plain(text, _MOST_TEXT)}") from error
    except Exception as error:  # Of the libraries of identity providers, which each have their own.
        raise StorageUnavailableError(f"no session for now: {plain(repr(error), _MOST_TEXT)}", where) from error


def bounded(own: Config | None, seconds: float) -> Config:
    """Return botocore settings with which a request is made once, and fails if nothing comes for so many seconds.

    Args:
        own: the settings of the connection; the mode of retries stays, since the way of a request depends on it.
        seconds: to wait for the first byte of an answer, and between two; a connection may take 5 of them.
    """
    mode = (getattr(own, "retries", None) or {}).get("mode", "standard")
    bounds = Config(
        connect_timeout=min(seconds, _LONGEST_CONNECT),
        read_timeout=seconds,
        retries={"mode": mode, "total_max_attempts": 1},
    )
    return own.merge(bounds) if own else bounds
