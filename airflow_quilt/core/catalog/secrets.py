"""Secrets of a login: the form in which they are accepted, and the forms in which a log could show them."""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, quote_plus

_SENDABLE: Final = re.compile(r"[!-~]{1,16384}")
_ESCAPE: Final = re.compile("%[0-9A-F]{2}")
_SHORTEST_LINE: Final = 8
"""Characters of a line of a secret that is a secret itself; shorter ones are words of other texts too."""


def is_sendable(secret: str) -> bool:
    """Return whether a secret consists of visible ASCII: others make no header, and their masks miss a part of them."""
    return _SENDABLE.fullmatch(secret) is not None


def forms_of(secret: str) -> Iterator[str]:
    """Yield the forms of a secret that are to be masked: as it is, without blanks around it, its lines, and encoded.

    Encoded are those for URLs, for JSON and Python, and Base64, as in ``Authorization: Basic``, where the secret stands behind a
    name of any length.
    """
    forms = dict.fromkeys([secret, secret.strip()])
    forms |= dict.fromkeys(line.strip() for line in secret.splitlines() if len(line.strip()) >= _SHORTEST_LINE)
    forms.pop("", None)
    yield from dict.fromkeys(encoded for form in forms for encoded in _encoded(form))


def _encoded(secret: str) -> Iterator[str]:
    yield secret
    text = secret.encode(errors="surrogateescape")
    for escaped in (quote(text, safe=""), quote(text), quote_plus(text)):
        yield from (escaped, _ESCAPE.sub(lambda found: found[0].lower(), escaped))
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
    for before in range(3):  # Base64 takes three bytes at a time: the characters that other bytes have a part in are left out.
        first, last = -(-before * 4 // 3), (before + len(text)) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(b"\0" * before + text)[first:last].decode()
