"""The start of the common runtime, where it can make the requests of a boto3 client; the reason where it cannot."""

import functools
import logging
from typing import TYPE_CHECKING, Final

from airflow_quilt.core.errors import plain
from airflow_quilt.core.storage.s3.crt.route import why_not

try:
    from airflow_quilt.core.storage.s3.crt.client import CrtClient
except ImportError as error:  # There is no awscrt, or one before 0.38, the first that can leave retries to others.
    _MISSING = str(error)
else:
    _MISSING = ""

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

_SLOWER: Final = "The bytes of objects go through boto3, which is slower: %s"


def start(client: "S3Client") -> "CrtClient | None":
    """Start a client with the settings of a boto3 client; return None where that cannot be, and log the reason."""
    if _MISSING:
        _log_missing()
        return None
    reason = why_not(client)
    try:
        if reason is None:
            return CrtClient(client)
    except Exception as error:  # noqa: BLE001  (such as a CA bundle that the runtime cannot read)
        reason = f"the common runtime does not start ({plain(error)})"
    _log.info(_SLOWER, reason)
    return None


@functools.cache
def _log_missing() -> None:
    """Log the cure, once in a process."""
    _log.info(_SLOWER, f"awscrt is missing or too old ({_MISSING}); pip install --upgrade 'awscrt>=0.38'")
