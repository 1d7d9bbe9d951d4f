"""Quilt+ URIs: a package, a revision of it, a path inside it (docs/format.md, "Names")."""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, Self
from urllib.parse import quote, unquote

from airflow_quilt.core.errors import InputError, LocationError, TopHashError, plain, quoted
from airflow_quilt.core.format.names import PackageName, TopHash, is_longer, parse_logical_key
from airflow_quilt.core.format.uris import MAX_S3_KEY, MAX_URL, RegistryLocation, check_unicode, split_url
from airflow_quilt.core.format.web_url import WebUrl, refuse_login

_PINNED: Final = re.compile(r"([^@:]*)([@:])(.*)", re.DOTALL)
_HASH: Final = re.compile(r"[0-9a-f]{1,64}")
_MAX_URI: Final = 3 * MAX_URL
"""Maximum characters: the locations of a registry and of a path, and names of at most 1,024 bytes, with escapes."""
_WHOLE_HASH: Final = 64
_NOT_IN_NAMES: Final = re.compile(r"[^\w/-]+")


@dataclass(frozen=True, slots=True)
class Pin:
    """The revision that a Quilt+ URI names.

    Attributes:
        kind: ``"hash"``: a top hash or the beginning of one. ``"tag"``: the name of a pointer of the package: ``latest``, the
            unix seconds of a revision, or a tag that another program wrote.
        name: the hash or the name of the pointer.
    """

    kind: Literal["hash", "tag"]
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuiltUri:
    """A Quilt+ URI: a package in a registry, optionally pinned by hash or tag, and a path inside it.

    ``QuiltUri.parse(str(uri)) == uri``. Form: ``quilt+s3://bucket#package=ns/name[@hash|:tag][&path=…][&catalog=…]``. The form
    ``quilt+file:///directory#…``, for a local registry, is this provider's (docs/adr/0005); Quilt itself has none.

    Attributes:
        registry: the registry.
        package: the package.
        top_hash: the revision, by its top hash.
        hash_prefix: the revision, by the beginning of its top hash.
        tag: the revision, by the name of a pointer: ``latest``, unix seconds, or any other.
        path: the logical key of a file; or of a directory, with or without a ``/`` at its end.
        catalog: the host of a catalog.
    """

    registry: RegistryLocation
    package: PackageName
    top_hash: TopHash | None = None
    hash_prefix: str | None = None
    tag: str | None = None
    path: str | None = None
    catalog: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a Quilt+ URI.

        Raises:
            LocationError: the URI has another form.
            PackageNameError: the package's name is not valid.
            TopHashError: the part after ``@`` is neither a top hash nor the beginning of one.
            LogicalKeyError: the path is not a key of the package.
        """
        refuse_login(text)
        if len(text) > _MAX_URI:
            raise LocationError(f"{quoted(text)}: longer than any Quilt+ URI, {_MAX_URI:,} characters")
        parts = split_url(text)
        is_s3 = parts.scheme == "quilt+s3" and parts.netloc and parts.path in {"", "/"}
        if not (is_s3 or parts.scheme == "quilt+file") or parts.query:
            raise LocationError(f"{quoted(text)}: expected quilt+s3://bucket#package=namespace/name")
        fields = _parse_fields(text, parts.fragment)
        if unknown := fields.keys() - {"package", "path", "catalog"}:
            raise LocationError(f"{quoted(text)}: unknown part {quoted(min(unknown))}; the parts are package, path and catalog")
        if "package" not in fields:
            raise LocationError(f"{quoted(text)}: expected package=namespace/name after the '#'")
        name, pinned = _parse_pin(text, fields["package"])
        catalog = fields.get("catalog")
        refuse_login(f"https://{catalog}" if catalog and "://" not in catalog else catalog or "")
        if is_longer(catalog or "", MAX_S3_KEY):
            raise LocationError(f"{quoted(text)}: its catalog is longer than {MAX_S3_KEY:,} bytes")
        path = fields.get("path")
        if path:
            parse_logical_key(path.removesuffix("/"))
        return cls(
            registry=RegistryLocation.parse(f"s3://{parts.netloc}" if is_s3 else f"file://{parts.netloc}{parts.path}"),
            package=PackageName.parse_existing(name),
            path=path or None,
            catalog=catalog or None,
            **pinned,
        )

    @property
    def pin(self) -> Pin | None:
        """The revision that it names, for :meth:`airflow_quilt.core.registry.registry.Registry.resolve`; None for none."""
        if known := self.top_hash or self.hash_prefix:
            return Pin("hash", known)
        return Pin("tag", self.tag) if self.tag else None

    def check_others(self, registry: object, revision: object, path: object) -> None:
        """Check that arguments beside the URI name nothing else than it does; None for those that are not given.

        Raises:
            InputError: one of them does.
        """
        for name, given, named in (
            ("registry", registry, str(self.registry)),
            ("revision", revision, self.pin and self.pin.name),
            ("path", path, self.path),
        ):
            if given is not None and named is not None and given != named:
                cure = f"leave it out, or make the package {self} name the same; it names {quoted(named)}"
                raise InputError(f"{name} {quoted(given)}: {cure}")

    def to_xcom(self, catalog: str | None = None) -> dict[str, Any]:
        """Return the plain values that name a revision in XCom, in events and in links: the one maker of that dict.

        Args:
            catalog: the URL of a Quilt catalog, such as ``https://catalog.example.com``.

        Returns:
            ``registry``, ``package``, ``top_hash``, ``quilt_uri`` and ``catalog_url``: the catalog's page of the revision, or
            None without a top hash, for a registry on a disk, or where the catalog is no URL of a web server.
        """
        bucket = self.registry.root.bucket
        return {
            "registry": str(self.registry),
            "package": str(self.package),
            "top_hash": self.top_hash,
            "quilt_uri": str(self),
            "catalog_url": self._page(catalog, bucket) if catalog and bucket and self.top_hash else None,
        }

    def _page(self, catalog: str, bucket: str) -> str | None:
        try:
            url = WebUrl.parse(catalog)  # A browser follows the link: javascript: would run there.
        except LocationError:
            return None
        return str(url.join(f"/b/{quote(bucket, safe='')}/packages/{_encoded(self.package)}/tree/{self.top_hash}/"))

    def __str__(self) -> str:
        pin = f"{'@' if self.pin.kind == 'hash' else ':'}{quote(self.pin.name, safe='')}" if self.pin else ""
        path = f"&path={quote(self.path, safe='/')}" if self.path else ""
        catalog = f"&catalog={quote(self.catalog, safe='/:')}" if self.catalog else ""
        return f"quilt+{self.registry}#package={_encoded(self.package)}{pin}{path}{catalog}"


def _encoded(package: PackageName) -> str:
    """Return the name of a package in a URL; it is its own spelling but for names that a client should not have made."""
    return _NOT_IN_NAMES.sub(lambda found: quote(found[0]), str(package))


def _parse_fields(text: str, fragment: str) -> dict[str, str]:
    """Return the parts of the fragment of a Quilt+ URI, decoded once; a ``+`` in them is a plus, as in Quilt."""
    check_unicode(fragment)
    fields: dict[str, str] = {}
    for field in filter(None, fragment.split("&")):
        try:
            name, value = (unquote(part, errors="strict") for part in field.partition("=")[::2])
        except UnicodeDecodeError as error:
            raise LocationError(f"{quoted(text)}: escape {quoted(field)} as UTF-8, which it is not") from error
        if name in fields:
            raise LocationError(f"{quoted(text)}: give {plain(name)}= once; it is given twice")
        fields[name] = value
    return fields


def _parse_pin(text: str, package: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a package, and the attribute for the revision after it."""
    found = _PINNED.fullmatch(package)
    if not found:
        return package, {}
    name, mark, pinned = found.groups()
    if "@" in pinned or ":" in pinned or not pinned:
        raise LocationError(f"{quoted(text)}: a package is pinned once, by @<top hash> or by :<tag>")
    if mark == ":":
        if "/" in pinned or pinned in {".", ".."} or "\0" in pinned or is_longer(pinned, MAX_S3_KEY):
            raise LocationError(f"{quoted(text)}: give a tag after ':', such as :latest; {quoted(pinned)} cannot be one")
        return name, {"tag": pinned}
    if not _HASH.fullmatch(pinned):
        raise TopHashError(
            f"{quoted(text)}: expected a top hash after '@', or the first of its lower-case hex digits, got {quoted(pinned)}"
        )
    return name, {"top_hash" if len(pinned) == _WHOLE_HASH else "hash_prefix": pinned}
