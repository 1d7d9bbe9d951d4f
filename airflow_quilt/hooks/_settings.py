"""The settings of a Quilt connection, read once and checked."""

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from airflow_quilt.core.errors import LocationError, SettingsError, plain, quoted
from airflow_quilt.core.format.arguments import POSITIVE_INT, positive_int
from airflow_quilt.core.format.web_url import WebUrl
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.hooks._secrets import check_sendable, check_url, named_setting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow.sdk import Connection

    from airflow_quilt.core.storage.s3.crt.requests import Transport
    from airflow_quilt.hooks._extras import UnknownExtra

_NO_VALUE: Final = frozenset({"", "null", "none"})
_FLAGS: Final = {"true": True, "false": False}
_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]+")
_TIMEOUT: Final = 30.0
_LIMITS: Final = Limits()
_TYPES: Final = frozenset({"quilt", "generic", "", None})
"""The types of connections that are read; those of other systems hold secrets that are not for a catalog."""
_BOUNDS: Final = frozenset({"allowed_buckets", "registry_host"})
"""The extras that forbid something. A misspelled one would forbid nothing, so it is an error."""
_FIELDS: Final = frozenset({"catalog", "secret", "unknown"})
"""The settings that no extra holds."""
_EMPTY_EXTRA: Final = frozenset({"", "{}", "null"})


@dataclass(frozen=True, slots=True, kw_only=True)
class QuiltSettings:
    """The settings of a Quilt connection.

    Attributes:
        catalog: the catalog's URL, without a trailing ``/``.
        secret: the API key or refresh token of the login that gives S3 credentials; visible ASCII.
        registry_host: the only host, maybe with a port, that the catalog may name as its service; None for any.
        registry: the default registry.
        aws_conn_id: the AWS connection for S3; None is boto3's own chain.
        region_name: the region of the registry; used only if the AWS connection has none.
        dest: the prefix below which packages pushed to the default registry land, each under its name.
        workflow: the workflow of packages whose operator names none.
        anonymous: read public buckets without credentials.
        verify: whether the catalog's certificate is verified, or the path of a CA bundle (PEM).
        timeout: seconds until a request to the catalog times out.
        allow_http: allow requests without TLS to a catalog on another machine.
        max_concurrency: the most concurrent S3 requests.
        max_bytes_in_flight: the transfer buffer: the most bytes of objects and parts in memory.
        spill_entries: the most entries of a package in memory; the rest spills to a temporary file.
        transport: ``"auto"`` for S3 requests through the AWS Common Runtime where it can make them, ``"boto3"`` for none.
        allowed_buckets: the buckets that packages of other registries may name, besides that of their own; None for any.
        provenance: write the run that published a package into its metadata; an operator's ``provenance`` overrides it.
        unknown: the extras that are none of these settings.
    """

    catalog: str | None = None
    secret: str | None = field(default=None, repr=False)
    registry_host: str | None = None
    registry: str | None = None
    aws_conn_id: str | None = "aws_default"
    region_name: str | None = None
    dest: str | None = None
    workflow: str | None = None
    anonymous: bool = False
    verify: bool | str = True
    timeout: float = _TIMEOUT
    allow_http: bool = False
    max_concurrency: int = _LIMITS.max_concurrency
    max_bytes_in_flight: int = _LIMITS.max_bytes_in_flight
    spill_entries: int = _LIMITS.spill_entries
    transport: "Transport" = "auto"
    allowed_buckets: frozenset[str] | None = None
    provenance: bool = False
    unknown: "tuple[UnknownExtra, ...]" = ()

    @property
    def limits(self) -> Limits:
        """The limits of the work that is done with the connection."""
        return Limits(self.max_concurrency, self.max_bytes_in_flight, self.spill_entries)

    @classmethod
    def of(cls, connection: "Connection") -> Self:
        """Read a connection; an extra from a URI is a `str`, so the `str` values ``null`` and ``none`` are no value.

        Raises:
            SettingsError: the connection or an extra is of another type, the host is no catalog, two settings contradict each
                other, or an extra that bounds the work is misspelled.
        """
        extras = _Extras(connection)
        settings = cls(
            catalog=_catalog_url(connection),
            secret=(connection.password or "").strip() or None,
            registry_host=extras.host("registry_host"),
            registry=extras.url("registry"),
            aws_conn_id=extras.text("aws_conn_id", "aws_default"),
            region_name=extras.text("region_name"),
            dest=extras.url("dest"),
            workflow=extras.text("workflow"),
            anonymous=extras.flag("anonymous"),
            verify=extras.flag_or_text("verify", default=True),
            timeout=extras.seconds("timeout"),
            allow_http=extras.flag("allow_http"),
            max_concurrency=extras.count("max_concurrency", _LIMITS.max_concurrency),
            max_bytes_in_flight=extras.count("max_bytes_in_flight", _LIMITS.max_bytes_in_flight),
            spill_entries=extras.count("spill_entries", _LIMITS.spill_entries),
            transport=extras.transport("transport"),
            allowed_buckets=extras.buckets("allowed_buckets"),
            provenance=extras.flag("provenance"),
            unknown=tuple(extras.unknown(frozenset(each.name for each in fields(cls)) - _FIELDS)),
        )
        where = f"connection {connection.conn_id!r}"
        check_sendable(settings.secret, f"{where}: its password")
        if settings.secret and not settings.catalog:
            raise SettingsError(f"{where}: it has a password but no host; set the host to the URL of the catalog to log in to")
        if settings.registry and "://" not in settings.registry and settings.registry[0] not in "/~.":
            check_url(f"{where}: the extra 'registry'", f"s3://{settings.registry}")
            raise SettingsError(
                f"{where}: the extra 'registry' is {quoted(settings.registry)}; a bucket is written s3://{plain(settings.registry)}"
            )
        if settings.secret and settings.anonymous:
            raise SettingsError(f"{where}: it has a password and the extra 'anonymous'; remove one of them")
        return settings


class _Extras:
    """Reader of the extras of a connection, which are JSON values or `str`."""

    def __init__(self, connection: "Connection") -> None:
        self._where = f"connection {connection.conn_id!r}"
        if (kind := connection.conn_type) not in _TYPES:
            cure = "; name it in the extra 'aws_conn_id' of that one" if kind == "aws" else ""
            raise SettingsError(
                f"{self._where}: give quilt_conn_id a connection of type 'quilt'; this one is of type {quoted(kind)}{cure}"
            )
        found: Any = connection.extra_dejson or {}
        if not isinstance(found, dict) or (not found and "".join((connection.extra or "").split()) not in _EMPTY_EXTRA):
            raise SettingsError(f'{self._where}: write its extra as a JSON object, such as {{"registry": "s3://my-bucket"}}')
        self._extras: Mapping[str, Any] = found

    def unknown(self, known: frozenset[str]) -> "Iterator[UnknownExtra]":
        """Yield the extras that are not known.

        Raises:
            SettingsError: one of them is likely a bound.
        """
        from airflow_quilt.hooks._extras import find_unknown

        for extra in find_unknown(self._extras, known):
            if extra.meant in _BOUNDS and extra.meant not in self._extras:
                raise SettingsError(f"{self._where}: the extra {extra}")
            yield extra

    def text(self, name: str, default: str | None = None) -> str | None:
        """Return a `str`, or None for no value; the default if there is no such extra."""
        if name not in self._extras:
            return default
        value = self._value(name)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(name, value, "a str")

    def url(self, name: str) -> str | None:
        """Return a `str` that may be a URL, and holds no login; None for no value."""
        text = self.text(name)
        check_url(f"{self._where}: the extra {name!r}", text)
        return text

    def host(self, name: str) -> str | None:
        """Return the name or address of a server, maybe with a port; None for no value."""
        text = self.text(name)
        if text is None:
            return None
        try:
            url = WebUrl.parse(f"https://{text}")
        except LocationError:
            url = None
        if url is None or url.path:
            raise SettingsError(f"{self._where}: the extra {name!r}: expected the name of a server, such as registry.example.com")
        return url.host if url.host == text.lower() else f"{url.host}:{url.port}"

    def flag(self, name: str) -> bool:
        """Return a `bool`; False for no value."""
        value = self.flag_or_text(name, default=False)
        if isinstance(value, bool):
            return value
        raise self._wrong(name, value, "true or false")

    def flag_or_text(self, name: str, *, default: bool) -> bool | str:
        """Return a `bool`, or else a `str`."""
        value = self._value(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _FLAGS.get(value.lower(), value)
        raise self._wrong(name, value, "true, false or a str")

    def seconds(self, name: str) -> float:
        """Return a number of seconds above 0."""
        value = self._value(name)
        if value is None:
            return _TIMEOUT
        try:
            seconds = float(value) if not isinstance(value, bool) else 0.0
        except (TypeError, ValueError):
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise self._wrong(name, value, "a number of seconds above 0")
        return seconds

    def count(self, name: str, default: int) -> int:
        """Return an `int` above 0."""
        value = self._value(name)
        number = default if value is None else positive_int(value)
        if number is None:
            raise self._wrong(name, value, POSITIVE_INT)
        return number

    def buckets(self, name: str) -> frozenset[str] | None:
        """Return names of buckets, from a list or a `str` with commas; None for no value."""
        value = self._value(name)
        given = value.split(",") if isinstance(value, str) else value
        if given is None:
            return None
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise self._wrong(name, value, "a list of buckets, or a str with commas between them")
        buckets = frozenset(each.strip().removeprefix("s3://").removesuffix("/") for each in given)
        if wrong := [each for each in buckets if not _BUCKET.fullmatch(each)]:
            raise SettingsError(f"{self._where}: the extra {name!r} has {quoted(min(wrong))}, expected the name of a bucket")
        return buckets

    def transport(self, name: str) -> "Transport":
        """Return a way of S3 requests; ``"auto"`` for no value."""
        value = self._value(name)
        if value is None or value == "auto":
            return "auto"
        if value == "boto3":
            return "boto3"
        raise SettingsError(f"{self._where}: the extra {name!r} is {quoted(value)}, expected 'auto' or 'boto3'")

    def _value(self, name: str) -> Any:
        value = self._extras.get(name)
        if not isinstance(value, str):
            return value
        return None if value.strip().lower() in _NO_VALUE else value.strip()

    def _wrong(self, name: str, value: object, expected: str) -> SettingsError:
        return SettingsError(f"{self._where}: the extra {name!r} is {type(value).__name__}, expected {expected}")


def _catalog_url(connection: "Connection") -> str | None:
    host = (connection.host or "").strip().rstrip("/")
    if not host:
        return None
    if host.startswith("s3:"):
        raise SettingsError(
            f"connection {connection.conn_id!r}: the host is the URL of the catalog; a registry goes into the extra 'registry'"
        )
    where = f"connection {connection.conn_id!r}: its host"
    url = host if "://" in host else f"https://{host}"
    with named_setting(where, url):
        parsed = WebUrl.parse(url)
        return str(WebUrl.parse(str(msgspec.structs.replace(parsed, port=connection.port))) if connection.port else parsed)
