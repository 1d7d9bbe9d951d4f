"""The one encoding of records in temporary files and in staging: msgpack, or JSON for the values that msgpack has not."""

import json
from typing import Any, Final

import msgspec

_MSGPACK: Final = b"m"
_JSON: Final = b"j"

_encode_msgpack: Final = msgspec.msgpack.Encoder().encode


def encode(value: Any) -> bytes:
    """Return a value of msgspec's types as bytes."""
    try:
        return _MSGPACK + _encode_msgpack(value)
    except (UnicodeEncodeError, OverflowError):  # File names that are not Unicode; integers of more than 64 bits.
        return _JSON + json.dumps(msgspec.to_builtins(value)).encode()


class Decoder:
    """Decodes values of one type from the bytes of :func:`encode`."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def decode(self, data: bytes) -> Any:
        """Return the value.

        Raises:
            msgspec.MsgspecError, ValueError, RecursionError: the bytes are not one of the type.
        """
        if data[:1] == _JSON:
            return msgspec.convert(json.loads(data[1:]), self._kind)
        return self._decode(memoryview(data)[1:])
