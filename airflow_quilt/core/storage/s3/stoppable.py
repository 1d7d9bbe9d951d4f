"""Requests of a boto3 client that hear of a stop: it can neither cancel one nor be asked to end its own retries (ADR 0017)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from airflow_quilt.core.errors import CancelledError
from airflow_quilt.core.runtime.stop import call_apart, check_stop

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Body(Protocol):
    """The body of an answer."""

    def read(self, amount: int) -> bytes:
        """Return the next bytes, none at the end."""
        ...

    def close(self) -> None:
        """Give the connection back, or end it."""
        ...


class _StoppableClient:
    """A boto3 client whose callers go on at a stop; no attempt at a request begins after it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._requests = frozenset(client.meta.method_to_api_mapping)
        client.meta.events.register("before-send.s3", _refuse_if_stopped, unique_id=__name__)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        return partial(_request, attribute) if name in self._requests else attribute


def stoppable_client(client: "S3Client") -> "S3Client":
    """Return a boto3 client as one whose callers go on at a stop."""
    return cast("S3Client", _StoppableClient(client))


def chunks_of(body: Body, size: int) -> Iterator[bytes]:
    """Read a body in chunks, and close it, unless a stop leaves a thread behind that still reads it."""
    while True:
        try:
            chunk = call_apart(partial(body.read, size))
        except CancelledError:
            raise
        except Exception:
            body.close()
            raise
        if not chunk:
            body.close()
            return
        try:
            yield chunk
        except BaseException:
            body.close()
            raise


def _request(method: Callable[..., Any], **parameters: Any) -> Any:
    return call_apart(partial(method, **parameters))


def _refuse_if_stopped(**_: object) -> None:
    check_stop()
