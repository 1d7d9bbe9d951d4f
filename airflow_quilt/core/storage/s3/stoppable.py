"""Requests of a boto3 client that hear of a stop: it can neither cancel one nor be asked to end its own retries (ADR 0017)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from airflow_quilt.core.errors import CancelledError, StorageError
from airflow_quilt.core.runtime.stop import call_apart, check_stop
from airflow_quilt.core.storage.objects import CHUNK
from airflow_quilt.core.storage.s3.answers import bound_answers

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
        bound_answers(client)
        client.meta.events.register("before-send.s3", _refuse_if_stopped, unique_id=__name__)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        return partial(_request, attribute) if name in self._requests else attribute


def stoppable_client(client: "S3Client") -> "S3Client":
    """Return a boto3 client as one whose callers go on at a stop."""
    return cast("S3Client", _StoppableClient(client))


def chunks_of(body: Body, most: int, location: object) -> Iterator[bytes]:
    """Read a body in chunks, and close it, unless a stop leaves a thread behind that still reads it.

    Args:
        body: the body of an answer.
        most: its bytes, at most.
        location: of the object, for messages.

    Raises:
        StorageError: the body is longer: one byte more is read than ``most``.
    """
    while True:
        try:
            chunk = call_apart(partial(body.read, min(CHUNK, most + 1)))
        except CancelledError:
            raise
        except Exception:
            body.close()
            raise
        most -= len(chunk)
        if not chunk or most < 0:
            body.close()
            if chunk:
                raise StorageError("more bytes came than were asked for", str(location))
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
