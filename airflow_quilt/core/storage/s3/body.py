"""The body of a request: the bytes of an object or part, read where they are."""

import io
import os
from typing import TYPE_CHECKING, Any

from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.storage.objects import Data

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class BodyFile(io.RawIOBase):
    """Bytes in memory as a file, without a copy of them; it ends early when the work of the reading thread is stopped."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self._data = memoryview(data)
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read the next bytes into a buffer; return their number.

        Raises:
            CancelledError: a stop was requested.
        """
        check_stop()
        target = memoryview(buffer)
        part = self._data[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position, and return it."""
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at


def boto_body(data: Data) -> Any:
    """Return bytes as boto3 takes them."""
    return data if isinstance(data, bytes) else BodyFile(data)
