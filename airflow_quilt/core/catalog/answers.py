"""The answers of a catalog and its service, checked in type, length and characters before they are used.

Errors name fields, never values: a value may be a secret.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar
from urllib.parse import urljoin

import msgspec

from airflow_quilt.core.errors import CatalogError, LocationError
from airflow_quilt.core.format.web_url import WebUrl

T = TypeVar("T")

_SHORTEST_LIFE: Final = 15 * 60.0
"""Seconds that S3 credentials live at least: their lifetime where the service states none."""
_LONGEST_LIFE: Final = 36 * 3600.0
"""Seconds that temporary credentials live at most (GetSessionToken, AWS STS API Reference): a longer lifetime is not believed."""

_Secret = Annotated[str, msgspec.Meta(pattern=r"\A[!-~]+\Z", max_length=16 * 1024)]
_Text = Annotated[str, msgspec.Meta(max_length=2048)]
_Region = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]*\Z", max_length=64)]
_Version = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.+-]*\Z", max_length=64)]


class _Config(msgspec.Struct):
    registry_url: _Text | None = msgspec.field(name="registryUrl", default=None)
    region: _Region | None = None
    stack_version: msgspec.Raw = msgspec.field(name="stackVersion", default=msgspec.Raw(b"null"))


class _Credentials(msgspec.Struct):
    access_key: _Secret = msgspec.field(name="AccessKeyId")
    secret_key: _Secret = msgspec.field(name="SecretAccessKey")
    session_token: _Secret = msgspec.field(name="SessionToken")
    expiration: Annotated[str, msgspec.Meta(max_length=64)] | None = msgspec.field(name="Expiration")


class Tokens(msgspec.Struct):
    """An access token, the refresh token for the next one, and the Unix time at which the access token ends."""

    access_token: _Secret
    refresh_token: _Secret
    expires_at: Annotated[float, msgspec.Meta(ge=0, le=1e11)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogConfig:
    """The public configuration of a catalog, its ``config.json``.

    Attributes:
        registry_url: the URL of the service, without a trailing ``/``.
        region: the AWS region of the buckets; None where the catalog states none.
        stack_version: the version of the platform; None where the catalog states none.
    """

    registry_url: str
    region: str | None
    stack_version: str | None


@dataclass(frozen=True, slots=True)
class TemporaryCredentials:
    """S3 credentials.

    Attributes:
        access_key: the access key ID.
        secret_key: the secret access key.
        session_token: the session token.
        lifetime: seconds from the moment of the answer, by the clock of the service; at most 36 hours.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    lifetime: float


def parse_config(body: bytes, catalog: WebUrl) -> tuple[CatalogConfig, WebUrl]:
    """Parse ``config.json``; return the configuration, and the URL of the service.

    Raises:
        CatalogError: it is none.
    """
    where, cure = f"{catalog}/config.json", f"is {catalog} the URL of a Quilt catalog?"
    config = _parse(body, _Config, f"{where} answered with something else than JSON; {cure}", where)
    if not config.registry_url:
        raise CatalogError(f"{where} names no registryUrl; {cure}")
    try:
        service = WebUrl.parse(urljoin(f"{catalog}/", _visible(config.registry_url)))
    except (LocationError, ValueError) as error:
        reason = error if isinstance(error, LocationError) else "it is no URL"
        raise CatalogError(f"{where}: its registryUrl cannot be used: {reason}") from None
    try:
        version = msgspec.json.decode(config.stack_version, type=_Version | None)
    except msgspec.MsgspecError:  # It is shown, and no more.
        version = None
    return CatalogConfig(registry_url=str(service), region=config.region or None, stack_version=version or None), service


def parse_tokens(body: bytes, where: str) -> Tokens:
    """Parse the tokens of a login.

    Raises:
        CatalogError: there are none in the answer.
    """
    return _parse(body, Tokens, f"no tokens in the answer of {where}", where)


def parse_credentials(body: bytes, where: str, now: datetime) -> TemporaryCredentials:
    """Parse S3 credentials.

    Args:
        body: the answer.
        where: the URL that it comes from.
        now: the time of the service's clock.

    Raises:
        CatalogError: there are none in the answer.
    """
    wrong = f"{where} did not answer with credentials"
    found = _parse(body, _Credentials, wrong, wrong)
    return TemporaryCredentials(found.access_key, found.secret_key, found.session_token, _lifetime(found.expiration, wrong, now))


def _lifetime(expiration: str | None, wrong: str, now: datetime) -> float:
    if expiration is None:  # As Quilt's own local catalog answers, whose web pages take that for no end.
        return _SHORTEST_LIFE
    end = _moment(expiration)
    if end is None:
        raise CatalogError(f"{wrong}: their 'Expiration' is no time in ISO 8601")
    return min((end - now).total_seconds(), _LONGEST_LIFE)


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _parse(body: bytes, kind: type[T], no_json: str, where: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:  # It names the expected type, and the field.
        reason = no_json if not body.lstrip().startswith(b"{") else f"{where}: {error}"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        reason = no_json
    raise CatalogError(reason)


def _visible(text: str) -> str:
    """Return a URL; ``urljoin`` drops tabs and newlines, and blanks at the ends.

    Raises:
        ValueError: it holds such characters.
    """
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    return text
