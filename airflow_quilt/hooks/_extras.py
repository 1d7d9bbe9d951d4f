"""Extras of a Quilt connection that no setting reads, such as misspelled ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from airflow_quilt.core.errors import quoted
from airflow_quilt.core.format.hints import nearest

_MOST: Final = 10
"""The most unknown extras that are reported."""
_OTHER_WORDS: Final = {"bucket": "registry", "s3_bucket": "registry"}
_ELSEWHERE: Final = {
    **dict.fromkeys(("catalog", "catalog_url", "host", "url"), "the host"),
    **dict.fromkeys(("api_key", "password", "refresh_token", "token"), "the password"),
    **dict.fromkeys(
        ("aws_access_key_id", "aws_secret_access_key", "config_kwargs", "endpoint_url", "profile_name", "role_arn"),
        "the AWS connection, which the extra 'aws_conn_id' names",
    ),
}


@dataclass(frozen=True, slots=True)
class UnknownExtra:
    """An extra without a setting.

    Attributes:
        name: its name, as it was written.
        meant: the setting of the nearest name; None if none is near.
    """

    name: str
    meant: str | None

    def __str__(self) -> str:
        if self.meant:
            return f"{quoted(self.name)} is unknown; did you mean {self.meant!r}?"
        place = _ELSEWHERE.get(_plain(self.name))
        return f"{quoted(self.name)} is unknown; " + (f"put it into {place}" if place else "it has no effect")


def find_unknown(extras: Mapping[str, Any], known: frozenset[str]) -> Iterator[UnknownExtra]:
    """Yield the extras that are not known, at most ten, each with the known name that is nearest."""
    for name in [name for name in extras if name not in known][:_MOST]:
        plainly = _plain(name)
        near = None if plainly in _ELSEWHERE else nearest(plainly, known)
        # A name in another case is the known one itself, which is not near but the same.
        yield UnknownExtra(name, plainly if plainly in known else near or _OTHER_WORDS.get(plainly))


def _plain(name: str) -> str:
    """Return a name in lower case, without the prefix that old forms of Airflow gave it."""
    return name[:100].strip().lower().replace("-", "_").removeprefix("extra__quilt__")
