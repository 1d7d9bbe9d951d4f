"""Faults of requests to an S3 store, and a random source of them that can be repeated."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from testbed.loopback import Request

Kind = Literal["drop", "lose", "delay", "truncate", "reset", "throttle", "corrupt", "error", "expire", "conflict", "unknown"]
Code = Literal[
    "ExpiredToken", "SlowDown", "NotSoFast", "InternalError", "ConditionalRequestConflict", "OperationAborted", "NotImplemented"
]

KINDS: Final[Sequence[Kind]] = tuple(kind for kind in get_args(Kind) if kind != "unknown")
"""The kinds that pass: a client that makes the request again may succeed."""
ERRORS: Final[Mapping[Code, tuple[Kind, int, str]]] = {
    "ExpiredToken": ("expire", 400, "The provided token has expired."),
    "SlowDown": ("throttle", 503, "Please reduce your request rate."),
    "NotSoFast": ("throttle", 429, "Only the status tells a client what this means."),
    "InternalError": ("error", 500, "We encountered an internal error. Please try again."),
    "ConditionalRequestConflict": ("conflict", 409, "A conflicting operation was in progress. Please try again."),
    "OperationAborted": ("conflict", 409, "A conflicting conditional operation is in progress. Please try again."),
    "NotImplemented": ("unknown", 501, "A header you provided implies functionality that is not implemented."),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a request.

    ``drop`` and ``reset`` end the connection before the store sees the request, ``lose`` after the store has carried it out,
    ``truncate`` in the middle of the answer's body. ``delay`` holds the request up, ``corrupt`` flips a bit of its body.

    Attributes:
        kind: one of these; or ``throttle``, ``error``, ``expire``, ``conflict`` or ``unknown``, which :meth:`refusal` makes.
        late: of a reset, a delay or a corrupt body: the store carries the request out, and the answer suffers.
        code: the error code of the answer, in place of the store's.
        seconds: duration of a delay.
        at: position of the corrupt byte in the body, from 0 to 1.
        bit: number of the flipped bit.
    """

    kind: Kind
    late: bool = False
    code: Code | None = None
    seconds: float = 0.0
    at: float = 0.5
    bit: int = 0

    @classmethod
    def refusal(cls, code: Code) -> "Fault":
        """Return the fault of a request that is answered with an error and never reaches the store."""
        return cls(ERRORS[code][0], code=code)

    def spoil(self, body: bytes) -> bytes:
        """Return the body with the fault applied."""
        if self.kind != "corrupt":
            return body[: len(body) // 2]
        spoilt = bytearray(body)
        spoilt[min(int(self.at * len(body)), len(body) - 1)] ^= 1 << self.bit
        return bytes(spoilt)


def is_conditional(request: Request) -> bool:
    """Whether a request is a conditional write."""
    return request.method in {"PUT", "POST", "DELETE"} and ("If-None-Match" in request.headers or "If-Match" in request.headers)


def without_conditions(request: Request) -> Fault | None:
    """Refuse conditional writes, as a store does that does not know them: a choice for a proxy."""
    return Fault.refusal("NotImplemented") if is_conditional(request) else None


class RandomFaults:
    """Chooses random requests, and a fault for each.

    Args:
        chance: the random source; the same seed and the same requests in the same order give the same faults.
        rate: the share of the requests, from 0 to 1.
        kinds: the kinds of faults, each as likely as the others.
        delays: the seconds that a delay may last.
    """

    def __init__(
        self, chance: random.Random, rate: float, kinds: Sequence[Kind] = KINDS, delays: Sequence[float] = (0.2,)
    ) -> None:
        self._chance = chance
        self._rate = rate
        self._kinds = kinds
        self._delays = delays

    def __call__(self, request: Request) -> Fault | None:
        """Return the fault of a request, or None."""
        chance = self._chance
        if chance.random() >= self._rate:
            return None
        match chance.choice(self._kinds):
            case "throttle" | "error" | "expire" | "conflict" | "unknown" as kind:
                return Fault.refusal(chance.choice([code for code, (of, _, _) in ERRORS.items() if of == kind]))
            case "delay":
                return Fault("delay", late=chance.choice((True, False)), seconds=chance.choice(self._delays))
            case "corrupt":
                # The answer to a PUT is mostly empty, and a request without a body has only the answer's.
                late = not _has_body(request) or (request.method == "POST" and chance.choice((True, False)))
                return Fault("corrupt", late=late, at=chance.random(), bit=chance.randrange(8))
            case kind:
                return Fault(kind, late=kind == "reset" and chance.choice((True, False)))


def _has_body(request: Request) -> bool:
    return request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers
