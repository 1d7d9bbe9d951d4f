r"""Web URLs, the ``http`` and ``https`` URLs of catalogs and services; and logins in URLs of any kind, which are refused.

Libraries read an odd URL differently: to one ``http://evil\@127.0.0.1`` names this machine, to another it names ``evil``. A
check by the first permits the request of the second. So only URLs are accepted that have a single reading.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Self

import msgspec

from airflow_quilt.core.errors import LocationError, quoted

# Compiled at their first use: Airflow imports this module while it parses DAG files.
_URL: Final = r"(?ai)(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?((?:[a-z0-9._~:+,;=/-]|%[0-9a-f]{2})*)"
_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NUMBER: Final = "[0-9]+|0x[0-9a-f]*"
_PORTS: Final = {"http": 80, "https": 443}
_MOST: Final = 2048
"""Characters of a URL, as browsers and proxies commonly allow."""
_MOST_HOST: Final = 253
_MOST_PORT: Final = 65535
_LOCAL_NAMES: Final = r"(?:.+\.)?localhost|localhost[46]?(?:\.localdomain[46]?)?|ip6-(?:localhost|loopback)"
_METADATA: Final = IPv6Address("fd00:ec2::254")
"""The metadata service of EC2; its other address is link-local."""
_LOGIN: Final = (
    "(?i)"
    # A URL of these schemes always names a host; one of the others only after //.
    r"(?:(?:quilt\+s3|s3|https?):[/\\]*|[a-z][a-z0-9+.-]*://)"
    # user@, user:password@; or user:password of which a '/' ends the host: a port is a number, an ARN begins so.
    r"(?:[^/?#\\]*@|(?!arn:|\[)[^/?#\\:]*:(?![0-9]*(?:[/?#\\]|\Z)))"
)


def refuse_login(text: str) -> None:
    """Refuse a URL that holds a user name or a password: it would end in logs, links, XCom and manifests.

    Raises:
        LocationError: it does, or seems to; the message does not repeat it.
    """
    if ("@" in text or text.count(":") > 1) and re.match(_LOGIN, text):  # Which few keys of S3 have.
        raise LocationError(
            "a URL holds a user name or a password before its host (it is not repeated here): remove them; "
            "keys and passwords belong into a connection"
        )


class WebUrl(msgspec.Struct, frozen=True, gc=False):
    """A URL of a web server, without user name, query and fragment. ``WebUrl.parse(str(url)) == url``.

    Attributes:
        scheme: ``http`` or ``https``.
        host: a name or an IPv4 address, in lower case; or an IPv6 address in brackets.
        port: the port, also where it is the scheme's own.
        path: empty, or begins with ``/`` and does not end so.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URL in visible ASCII.

        Raises:
            LocationError: it has another scheme or form, or parts that libraries read differently: a login, backslashes,
                blanks, control characters, numbers for hosts that are no addresses.
        """
        refuse_login(text)
        found = re.fullmatch(_URL, text) if len(text) <= _MOST else None
        if not found or (found[4] and not found[4].startswith("/")):
            raise _malformed(text, "expected https://host, maybe with a port and a path, in plain ASCII")
        scheme, host = found[1].lower(), found[2].lower()
        port = int(found[3]) if found[3] else _PORTS[scheme]
        if not 0 < port <= _MOST_PORT:
            raise _malformed(text, f"there is no port {port}")
        _check_host(text, host)
        return cls(scheme, host, port, found[4].rstrip("/"))

    @property
    def is_loopback(self) -> bool:
        """Whether this is a server of this machine."""
        return self.host == "localhost" if (address := _address(self.host)) is None else address.is_loopback

    @property
    def is_internal(self) -> bool:
        """Whether this is a server of this machine, or one that only its own network link knows, such as a cloud's metadata."""
        if (address := _address(self.host)) is None:
            return re.fullmatch(_LOCAL_NAMES, self.host) is not None
        kinds = (address.is_loopback, address.is_link_local, address.is_unspecified, address.is_multicast, address.is_reserved)
        return any(kinds) or address == _METADATA

    @property
    def authority(self) -> str:
        """The host, with the port unless it is the scheme's own."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    def join(self, path: str) -> Self:
        """Return the URL of a path, which begins with ``/``, below this one."""
        return type(self)(self.scheme, self.host, self.port, f"{self.path}{path}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def _check_host(text: str, host: str) -> None:
    labels = host.split(".")
    if host.startswith("[") or re.fullmatch(_NUMBER, labels[-1]):
        # 127.1, 0x7f.1 and 2130706433 are names to one library, and addresses to the next.
        if _address(host) is None:
            raise _malformed(text, "its host is no IP address in the usual form")
    elif len(host) > _MOST_HOST or not all(re.fullmatch(_LABEL, label) for label in labels):
        raise _malformed(text, "its host is no name of a server")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a host is, an IPv4 address also where it is spelled as an IPv6 one; None for a name."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _malformed(text: str, reason: str) -> LocationError:
    return LocationError(f"{'a URL' if '@' in text else quoted(text)}: {reason}")
