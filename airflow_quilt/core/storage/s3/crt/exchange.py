"""Requests and answers of the common runtime, as values: they are known also where the runtime is not installed."""

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Final

from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.objects import Data

ABSENT: Final = 404
"""The status where there is no object; all other errors are left to boto3."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a store.

    Attributes:
        operation: its name in the S3 API.
        method: of HTTP.
        key: the object, or the bucket with an empty key.
        query: the parameters of the URL.
        headers: without those that every request has.
        payload_hash: the value that is signed for the body, see :meth:`CrtClient.payload_hash`.
        size: the bytes that it moves, of the body or of the answer; they decide how long it may take.
        data: the body.
        most: the most bytes of an answer; of a longer one none are kept. None for those of a range, of at most one chunk.
    """

    operation: str
    method: str
    key: PhysicalKey
    query: Mapping[str, Any]
    headers: list[tuple[str, str]]
    payload_hash: str
    size: int
    data: Data = b""
    most: int | None = None


@dataclass(slots=True)
class Answer:
    """The answer to a request; the threads of the runtime fill it in.

    Attributes:
        most: as in the request.
        status: of HTTP.
        headers: by their names in lower case.
        chunks: the body.
        is_too_long: whether the body has more than ``most`` bytes; then ``chunks`` is empty.
        begun: done as soon as the headers are here, or the request has failed; None where nothing waits for them.
    """

    most: int | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    is_too_long: bool = False
    begun: "Future[None] | None" = None

    def on_headers(self, status_code: int, headers: list[tuple[str, str]], **_: object) -> None:
        """Take status and headers."""
        self.status = status_code
        self.headers = {name.lower(): value for name, value in headers}
        self.is_too_long = self.most is not None and int(self.headers.get("content-length", 0)) > self.most
        self.begin()

    def begin(self) -> None:
        """Wake the thread that waits for the headers."""
        if self.begun:
            with contextlib.suppress(InvalidStateError):  # It was woken before.
                self.begun.set_result(None)

    def on_body(self, chunk: bytes, **_: object) -> None:
        """Take the next bytes of the body."""
        if not self.is_too_long:
            self.chunks.append(chunk)
            if self.most is not None and sum(map(len, self.chunks)) > self.most:  # One chunk, or a few.
                self.is_too_long = True
                self.chunks.clear()
