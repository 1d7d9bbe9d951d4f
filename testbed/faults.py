"""What may go wrong with the requests to an S3 store, and a source of it that is random and still can be repeated."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from testbed.loopback import Request

Kind = Literal["drop", "lose", "delay", "truncate", "reset", "throttle", "corrupt", "error", "expire"]
Code = Literal["ExpiredToken", "SlowDown", "NotSoFast", "InternalError"]

KINDS: Final[Sequence[Kind]] = get_args(Kind)
ERRORS: Final[Mapping[Code, tuple[Kind, int, str]]] = {
    "ExpiredToken": ("expire", 400, "The provided token has expired."),
    "SlowDown": ("throttle", 503, "Please reduce your request rate."),
    "NotSoFast": ("throttle", 429, "Only the status tells a client what this means."),
    "InternalError": ("error", 500, "We encountered an internal error. Please try again."),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with a request.

    ``drop`` and ``reset`` end the connection before the store sees the request, ``lose`` when it has done what was asked for,
    ``truncate`` in the middle of the answer's body. ``delay`` holds the request up, ``corrupt`` flips a bit of its body.

    Attributes:
        kind: one of these; or ``throttle``, ``error`` or ``expire``, which :meth:`refusal` makes.
        late: of a reset, a delay or a corrupt body: the store does what it is asked for, and the answer suffers.
        code: what the answer says in place of the store.
        seconds: how long a delay lasts.
        at: where in the body the corrupt byte is, from 0 to 1.
        bit: which of its bits is flipped.
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
        """Return what becomes of a body."""
        if self.kind != "corrupt":
            return body[: len(body) // 2]
        spoilt = bytearray(body)
        spoilt[min(int(self.at * len(body)), len(body) - 1)] ^= 1 << self.bit
        return bytes(spoilt)


class RandomFaults:
    """Chooses random requests, and what goes wrong with each.

    Args:
        chance: decides; the same seed and the same requests in the same order give the same faults.
        rate: the share of the requests, from 0 to 1.
        kinds: what may go wrong, each as often as the others.
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
        """Return what goes wrong with a request, if anything does."""
        chance = self._chance
        if chance.random() >= self._rate:
            return None
        match chance.choice(self._kinds):
            case "throttle" | "error" | "expire" as kind:
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
