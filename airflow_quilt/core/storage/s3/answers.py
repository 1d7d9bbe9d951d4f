"""Answers that botocore reads and parses whole, bounded in bytes and seconds before that: listings, results and errors."""

import re
import time
from collections.abc import Iterator
from typing import Any, Final

from botocore.exceptions import ConnectionClosedError, ReadTimeoutError

from airflow_quilt.core.errors import StorageError

MOST_OF_ANSWER: Final = 8 * 1024 * 1024
"""The most bytes of an answer: a page has 1000 items, with keys of 1024 bytes, each of them encoded, and other fields."""
_MOST_OF_ERROR: Final = 64 * 1024
_SLOWEST: Final = 16 * 1024
"""Bytes a second: a slower transfer may be given up. A connection on which nothing moves at all ends by itself."""
_READ: Final = 64 * 1024
_REFUSED: Final = 300
_UNSAFE_XML: Final = re.compile(rb"""<!DOCTYPE|<!ENTITY|\0|<\?xml[^>]*encoding\s*=\s*["'](?!utf-8["'])""", re.IGNORECASE)
"""A document type may hold entities that expand a thousandfold, and another encoding may hide one; no store sends either."""


def most_seconds(size: int, timeout: float) -> float:
    """Return the most seconds for a transfer of so many bytes, whose client waits ``timeout`` seconds for the next ones."""
    return timeout + size / _SLOWEST


class _Body:
    """The bytes of an answer that were read already, as botocore takes them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self) -> Iterator[bytes]:
        yield self._data

    def close(self) -> None:
        """Do nothing: the connection was given back."""


class _PacedBody:
    """The body of an object as botocore reads it, at the least speed or faster: a byte now and then outlives every timeout.

    Args:
        raw: the body.
        timeout: the seconds for which its client waits for bytes.
        url: of the request, for messages.
    """

    def __init__(self, raw: Any, timeout: float, url: str) -> None:
        self._raw = raw
        self._timeout = timeout
        self._url = url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def read(self, amount: int | None = None) -> bytes:
        """Return so many bytes, or all that are left.

        Raises:
            ReadTimeoutError: they come too slowly.
        """
        parts, size, began = list[bytes](), 0, time.monotonic()
        while (amount is None or size < amount) and (part := self._raw.read1(_READ if amount is None else amount - size)):
            parts.append(part)
            size += len(part)
            if time.monotonic() - began > most_seconds(size, self._timeout):
                raise ReadTimeoutError(endpoint_url=self._url)
        return b"".join(parts)


class BoundedSession:
    """The HTTP session of a boto3 client, whose answers are bounded in bytes and seconds; bodies of objects come in chunks.

    Args:
        session: the client's.
        timeout: the seconds for which it waits for bytes; None for ever.
        most: the most bytes of an answer that botocore reads whole.
    """

    def __init__(self, session: Any, timeout: float | None, most: int = MOST_OF_ANSWER) -> None:
        self._session = session
        self._timeout = timeout
        self._most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def send(self, request: Any) -> Any:
        """Send a request; return its answer, with the whole body if it is not that of an object.

        Raises:
            StorageError: the answer is too long, or not to be parsed; an error of the store loses its body instead.
        """
        streams = request.stream_output
        request.stream_output = True  # Or it would be read here, of any length.
        try:
            response = self._session.send(request)
        finally:
            request.stream_output = streams
        is_refused = response.status_code >= _REFUSED
        if is_refused or not streams:
            data = self._read(request, response.raw, _MOST_OF_ERROR if is_refused else self._most)
            if data is None or (data.lstrip()[:1] == b"<" and _UNSAFE_XML.search(data)):
                if not is_refused:
                    url = request.url.partition("?")[0]
                    raise StorageError("the answer is too long, or no plain XML; is this a store of objects?", url)
                data = b""
            response.raw = _Body(data)
        elif self._timeout is not None:
            response.raw = _PacedBody(response.raw, self._timeout, request.url.partition("?")[0])
        return response

    def _read(self, request: Any, raw: Any, most: int) -> bytes | None:
        """Read a body whole; None for a longer one, whose connection is closed."""
        data, began = bytearray(), time.monotonic()
        try:
            while chunk := raw.read1(_READ):
                data += chunk
                if len(data) > most:
                    raw.close()
                    return None
                if self._timeout is not None and time.monotonic() - began > most_seconds(len(data), self._timeout):
                    raw.close()
                    break
            else:
                return bytes(data)
        except Exception as error:
            raise ConnectionClosedError(endpoint_url=request.url, request=request, error=error) from error
        raise ReadTimeoutError(endpoint_url=request.url)


def bound_answers(client: Any, most: int = MOST_OF_ANSWER) -> None:
    """Bound the answers of a boto3 client, those that it reads whole to so many bytes."""
    endpoint = client._endpoint  # noqa: SLF001  (where the common runtime finds the same session's settings)
    if not isinstance(endpoint.http_session, BoundedSession):
        endpoint.http_session = BoundedSession(endpoint.http_session, client.meta.config.read_timeout, most)
