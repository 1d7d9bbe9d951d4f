"""Locations of bytes and registries: physical keys, registry locations (docs/format.md, "Names").

They print exactly as in quilt3, because their printed form goes into manifests.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final, Self
from urllib.parse import SplitResult, parse_qs, quote, quote_plus, unquote, urlsplit

import msgspec

from airflow_quilt.core.errors import LocationError, plain, quoted
from airflow_quilt.core.format.names import is_longer
from airflow_quilt.core.format.web_url import refuse_login

_PLAIN_S3 = re.compile(r"s3://([a-z0-9.-]+)/([A-Za-z0-9_./~=-]*)(?:\?versionId=([A-Za-z0-9_.-]+))?")
"""An S3 URL without escapes, as nearly all are."""

_BUCKET: Final = re.compile(r"s3://[a-z0-9.-]+/")
_KEY_AND_VERSION: Final = r"[A-Za-z0-9_./~=%-]*+(?:\?versionId=[A-Za-z0-9_.-]++)?+\n"
"""The rest of an S3 URL as quilt3 prints it, and the end of its line."""

_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.-]*:"

MAX_S3_KEY: Final = 1024
"""Maximum bytes of a key in UTF-8, and of a version ("Naming Amazon S3 objects", Amazon S3 User Guide)."""
MAX_PATH: Final = 4095
"""Maximum bytes of a path: ``PATH_MAX`` of Linux without the NUL at the end."""
MAX_URL: Final = 3 * MAX_PATH + 3 * MAX_S3_KEY
"""Maximum characters of a URL: every byte of a path or a key is at most a ``%`` and two digits."""

NULL_VERSION: Final = "null"
"""The version of objects that were written while their bucket had no versioning, or suspended it; one of each key at most."""


class PhysicalKey(msgspec.Struct, frozen=True, gc=False):
    """Location of the bytes of an entry: an S3 object, with a version or without, or a local file.

    A local file has no bucket and an absolute path. A key that ends in ``/`` or is empty is a prefix or directory.
    ``PhysicalKey.parse(str(key)) == key`` for every key that a manifest can hold.
    """

    bucket: str | None
    key: str
    version_id: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an ``s3://`` or ``file://`` URL, or an absolute path, without resolving it on the disk.

        :func:`~airflow_quilt.core.storage.paths.resolve_location` resolves links, ``~`` and relative paths.

        Raises:
            LocationError: ``text`` is something else, holds a login, or is longer than any location can be (a key of S3 has at
                most 1,024 bytes, a path 4,095); the message names the wrong part.
        """
        if len(text) <= MAX_S3_KEY and (found := _PLAIN_S3.fullmatch(text)):
            return cls(*found.groups())
        refuse_login(text)
        if len(text) > MAX_URL:
            raise LocationError(f"{quoted(text)}: longer than any location, {MAX_URL:,} characters")
        if not text:
            raise LocationError("an empty str is not a location")
        if text.startswith("s3:"):
            return cls._parse_s3(text)
        if text.startswith("file:"):
            return cls._parse_file(text)
        if text.startswith("/"):
            return cls.of_path(text)
        raise LocationError(f"{quoted(text)}: expected s3://bucket/key, file:///path or an absolute path")

    @classmethod
    def _parse_s3(cls, text: str) -> Self:
        check_unicode(text)
        parts = split_url(text)
        if not parts.netloc.isprintable() or " " in parts.netloc:  # It is printed as it is.
            raise LocationError(f"{quoted(text)}: no bucket has such a name")
        if not parts.netloc:
            raise LocationError(f"{quoted(text)}: no bucket")
        query, key = parse_qs(parts.query, keep_blank_values=True), unquote(parts.path)
        versions = query.pop("versionId", [None])
        if query or len(versions) > 1:
            raise LocationError(f"{quoted(text)}: expected at most one versionId as query, got {quoted(parts.query)}")
        if parts.fragment:
            raise LocationError(f"{quoted(text)}: write '#' in a key as %23")
        _check_size(text, parts.netloc, "bucket")
        _check_size(text, key[1:], "key")
        _check_size(text, versions[0] or "", "version")
        return cls(parts.netloc, key[1:], versions[0] or None)

    @classmethod
    def _parse_file(cls, text: str) -> Self:
        parts = split_url(text)
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise LocationError(f"{quoted(text)}: expected file:///absolute/path")
        if parts.query or parts.fragment:
            raise LocationError(f"{quoted(text)}: write '?' and '#' in a path as %3F and %23")
        return cls.of_path(unquote(parts.path, errors="surrogateescape"))

    @classmethod
    def of_path(cls, path: str) -> Self:
        """Return the key of an absolute path, with its trailing ``/`` if it has one.

        Raises:
            LocationError: no file can have this path.
        """
        text = cls.spell(path)
        parts = "/".join(part for part in text.split("/") if part not in {"", "."})  # As pathlib prints paths.
        return cls(None, f"/{parts}/" if parts and text.endswith("/") else f"/{parts}")

    @staticmethod
    def spell(path: str) -> str:
        """Return a path in Python's one spelling for paths whose bytes may be invalid Unicode (PEP 383).

        Raises:
            LocationError: no file can have this path.
        """
        if len(path) > MAX_PATH:
            raise LocationError(f"{quoted(path)}: longer than any path, {MAX_PATH:,} bytes")
        try:
            data = path.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise LocationError(f"{quoted(path)}: not valid Unicode, which no path can hold") from error
        if len(data) > MAX_PATH:
            raise LocationError(f"{quoted(path)}: longer than any path, {MAX_PATH:,} bytes")
        if b"\0" in data:
            raise LocationError(f"{quoted(path)}: a location holds no NUL")
        return data.decode("utf-8", "surrogateescape")

    @property
    def is_local(self) -> bool:
        """Return whether this is a file on this machine."""
        return self.bucket is None

    @property
    def is_immutable(self) -> bool:
        """Return whether this key never names other bytes: it has a version, which is not ``null``.

        A write replaces the version ``null`` while versioning is suspended ("Adding objects to versioning-suspended buckets",
        Amazon S3 User Guide).
        """
        return self.version_id is not None and self.version_id != NULL_VERSION

    @property
    def is_prefix(self) -> bool:
        """Return whether this is spelled as a directory or prefix: it ends in ``/``, or is a whole bucket."""
        return not self.key or self.key.endswith("/")

    @property
    def name(self) -> str:
        """Last part of the key, without a trailing ``/``."""
        return self.key.rstrip("/").rpartition("/")[2]

    def join(self, relative: str) -> Self:
        """Return the key of ``relative`` below this directory or prefix.

        Raises:
            LocationError: S3 has no keys of that length.
        """
        key = f"{self.key.rstrip('/')}/{relative}" if self.key else relative
        if self.bucket is not None:
            _check_size(key, key, "key")
        return type(self)(self.bucket, key)

    def at_version(self, version_id: str | None) -> Self:
        """Return the same key at a version, or without one, as in buckets without versioning."""
        return type(self)(self.bucket, self.key, version_id)

    def __str__(self) -> str:
        if self.bucket is None:
            return PurePath(self.key).as_uri() + ("/" if self.key.endswith("/") and len(self.key) > 1 else "")
        version = f"?versionId={quote_plus(self.version_id)}" if self.version_id is not None else ""
        return f"s3://{self.bucket}/{quote(self.key)}{version}"


class RegistryLocation(msgspec.Struct, frozen=True, gc=False):
    """A registry: an S3 bucket, or a local directory."""

    root: PhysicalKey

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``s3://bucket``, ``file:///directory`` or an absolute path, without resolving it on the disk.

        Raises:
            LocationError: ``text`` names an object, a prefix or a version, or is no location at all.
        """
        refuse_login(text)
        scheme, mark, rest = text.partition("://")
        if mark and scheme not in {"s3", "file"}:
            meant = quoted(f"s3://{re.split('[/#?]', rest)[0]}")
            raise LocationError(f"registry {quoted(text)}: expected s3://bucket or a directory; did you mean {meant}?")
        root = PhysicalKey.parse(text)
        if root.is_local:
            return cls(PhysicalKey(None, root.key.rstrip("/") or "/"))
        if root.key or root.version_id is not None:
            raise LocationError(
                f"registry {quoted(text)}: a registry is a whole bucket, write {quoted(f's3://{root.bucket}')}; "
                "to choose where data lands use 'dest'"
            )
        return cls(root)

    @property
    def is_local(self) -> bool:
        """Return whether this is a directory on this machine."""
        return self.root.is_local

    def __str__(self) -> str:
        return f"s3://{self.root.bucket}" if self.root.bucket else str(self.root)


def are_in_one_bucket(urls: Sequence[str]) -> bool:
    """Return whether URLs are all those of objects in one bucket, as quilt3 prints them: :meth:`PhysicalKey.parse` takes each.

    It is no error if they are not, nor if they are spelled in another way.
    """
    bucket = _BUCKET.match(urls[0])
    if not bucket or max(map(len, urls)) > MAX_S3_KEY:
        return False
    return re.fullmatch(f"(?:{re.escape(bucket[0])}{_KEY_AND_VERSION})++", "\n".join([*urls, ""])) is not None


def is_path(text: str) -> bool:
    """Return whether a location is a path of this machine, which may be relative, and no URL."""
    return bool(text) and not re.match(_SCHEME, text)


def check_registry(text: str) -> None:
    """Check a registry as users write it: ``s3://bucket``, ``file:///directory`` or a path, which is not resolved.

    Raises:
        LocationError: it is none of them; the message has the right form.
    """
    if not is_path(text):
        RegistryLocation.parse(text)
    elif text[0] not in "/~.":
        cure = f"a bucket is written {quoted(f's3://{text}')}, a directory with '/', './' or '~/' at its beginning"
        raise LocationError(f"registry {quoted(text)}: {cure}")


def _check_size(text: str, value: str, part: str) -> None:
    if is_longer(value, MAX_S3_KEY):
        raise LocationError(f"{quoted(text)}: its {part} is longer than the {MAX_S3_KEY:,} bytes that S3 allows; shorten it")


def check_unicode(text: str) -> None:
    """Check that a URL is valid Unicode.

    Raises:
        LocationError: it is not.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LocationError(f"{quoted(text)}: not valid Unicode, which no URL can hold") from error


def split_url(text: str) -> SplitResult:
    """Split a URL into its parts, which are not decoded.

    Raises:
        LocationError: it holds a tab or newline, or has no such parts.
    """
    if any(character in text for character in "\t\r\n"):
        raise LocationError(f"{quoted(text)}: write tabs and newlines in a URL as %09, %0D and %0A")
    try:
        return urlsplit(text)
    except ValueError as error:
        raise LocationError(f"{quoted(text)}: {plain(error)}") from None
