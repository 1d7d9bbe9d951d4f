"""Package names, name patterns, logical keys and top hashes (docs/format.md, "Names").

The rules are Quilt's own. They are stricter for publishing than for reading or deleting, because quilt3 accepts names that
the platform then ignores: with a trailing newline, or with letters outside ASCII.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from operator import le
from typing import Final, NewType, Self

import msgspec

from airflow_quilt.core.errors import InputError, LogicalKeyError, PackageNameError, TopHashError, plain, quoted

LogicalKey = NewType("LogicalKey", str)
"""The path of a file inside a package, checked by :func:`parse_logical_key`."""

DirectoryKey = NewType("DirectoryKey", str)
"""The path of a directory inside a package, with a ``/`` at its end, checked by :func:`parse_directory_key`."""

TopHash = NewType("TopHash", str)
"""64 lower-case hex digits, checked by :func:`parse_top_hash`."""

MAX_LOGICAL_KEY: Final = 4096
"""Maximum bytes of a logical key in UTF-8. No object of S3 (1,024 bytes) and no file (``PATH_MAX``) can have a longer path."""
MAX_UTF8_SIZE: Final = 4
"""Maximum bytes of a character in UTF-8."""
_MAX_PACKAGE_NAME: Final = 1024
"""Maximum characters of a package's name: longer than the longest key of S3, so no registry there has such a package."""
_PARTS = 2
# Compiled at their first use, as all patterns of modules that Airflow imports while it parses DAG files.
_WORD: Final = "[A-Za-z0-9_-]+"
_PUBLISHED_NAME: Final = f"{_WORD}/{_WORD}"
_EXISTING_NAME: Final = r"[\w-]+/[\w-]+"
_TOP_HASH: Final = "[0-9a-f]{64}"
_HASH_PREFIX: Final = "[0-9a-f]{6,64}"


class PackageName(msgspec.Struct, frozen=True, order=True, gc=False):
    """The two-part name of a package, such as ``genomics/run-42``."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: object) -> Self:
        """Parse the name of a package to publish.

        Raises:
            PackageNameError: ``text`` is not two words of ASCII letters, digits, ``-`` and ``_`` around one ``/``.
        """
        return cls._matching(_PUBLISHED_NAME, text, "ASCII letters, digits, '-' and '_'")

    @classmethod
    def parse_existing(cls, text: object) -> Self:
        """Parse the name of a package to read, in quilt3's wider alphabet; one that a registry listed is taken as it is.

        Raises:
            PackageNameError: ``text`` has any other shape.
        """
        if isinstance(text, cls):
            return cls.parse_listed(text)
        return cls._matching(_EXISTING_NAME, text, "letters, digits, '-' and '_'")

    @classmethod
    def parse_listed(cls, text: object) -> Self:
        """Parse the name of a package to delete: any that a registry can list, also one of careless clients.

        Raises:
            PackageNameError: ``text`` is not two names of directories around one ``/``.
        """
        name = str(text) if isinstance(text, str | PackageName) else ""
        parts = name.split("/") if len(name) <= _MAX_PACKAGE_NAME else ()
        if len(parts) == _PARTS and all(map(is_name_part, parts)):
            return cls(*parts)
        raise PackageNameError(f"package name {quoted(text)}: expected namespace/name")

    @classmethod
    def _matching(cls, pattern: str, text: object, alphabet: str) -> Self:
        if isinstance(text, cls):
            text = str(text)
        if isinstance(text, str) and len(text) <= _MAX_PACKAGE_NAME and re.fullmatch(pattern, text):
            return cls(*text.split("/"))
        raise PackageNameError(f"package name {quoted(text)}: expected namespace/name, each of {alphabet}{_cure(text)}")

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def _cure(text: object) -> str:
    """Return the end of a message about a text that is no package name: a name that is like it, or the reason for none."""
    if not isinstance(text, str) or len(text) > _MAX_PACKAGE_NAME:
        return ""
    if "*" in text:
        return "; '*' stands for several packages only in assets, so name one package"
    if "package=" in text:
        text = text.partition("package=")[2].partition("&")[0]
    elif "://" in text:
        text = text.partition("://")[2].partition("/")[2]
    words = ["-".join(re.findall(_WORD, part)) for part in re.split("[@:]", text)[0].split("/")]
    namespace, *names = [word for word in words if word] or [""]
    if not namespace:
        return ""
    meant = f"{namespace}/{'-'.join(names)}" if names else f"team/{namespace}"
    return f", such as {meant!r}"


def is_name_part(text: str) -> bool:
    """Return whether one part of a package's name can be that of a directory below a registry's pointers."""
    return text not in {"", ".", ".."} and "\0" not in text


def is_longer(text: str, most: int) -> bool:
    """Return whether a text has more than ``most`` bytes in UTF-8; a short one is not encoded."""
    return len(text) * MAX_UTF8_SIZE > most and len(text.encode("utf-8", "replace")) > most


def parse_logical_key(text: object) -> LogicalKey:
    """Parse the key of a file inside a package, such as ``plots/bill length.png``.

    Raises:
        LogicalKeyError: ``text`` is empty, ends in ``/``, has a part equal to ``""``, ``.`` or ``..``, holds a NUL, is not
            valid Unicode, or is longer than :data:`MAX_LOGICAL_KEY`.
    """
    if not isinstance(text, str) or not text:
        raise LogicalKeyError(f"logical key {quoted(text)}: expected a path inside the package")
    if is_longer(text, MAX_LOGICAL_KEY):
        raise LogicalKeyError(f"logical key {quoted(text)}: longer than {MAX_LOGICAL_KEY:,} bytes; shorten its path")
    if text.endswith("/"):
        raise LogicalKeyError(f"logical key {quoted(text)}: a file's key does not end in '/'")
    if any(part in {"", ".", ".."} for part in text.split("/")):
        cure = "; begin it without '/'" if text.startswith("/") else ""
        raise LogicalKeyError(f"logical key {quoted(text)}: no part may be empty, '.' or '..'{cure}")
    if "\0" in text:
        raise LogicalKeyError(f"logical key {quoted(text)}: no key holds a NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LogicalKeyError(f"logical key {quoted(text)}: not valid Unicode, so no manifest can hold it") from error
    return LogicalKey(text)


def parse_directory_key(text: object) -> DirectoryKey:
    """Parse the key of a directory inside a package, such as ``plots/``.

    Raises:
        LogicalKeyError: ``text`` does not end in ``/``, or is no logical key without it.
    """
    if not isinstance(text, str) or not text.endswith("/"):
        raise LogicalKeyError(f"logical key {quoted(text)}: the key of a directory ends in '/'")
    return DirectoryKey(f"{parse_logical_key(text[:-1])}/")


def parse_path(text: str) -> LogicalKey:
    """Parse the path of a file or directory inside a package, with a ``/`` at its end or without; return it without.

    Raises:
        LogicalKeyError: ``text`` is no logical key, or names the package as a whole.
    """
    if text in {"", "/"}:
        raise LogicalKeyError(f"path {quoted(text)}: leave it out for the whole package; or name a file or directory of it")
    return parse_logical_key(text.removesuffix("/"))


def walk_order(key: str) -> str:
    """Return the sort key of a walk of the package's tree: ``a/b`` comes before ``a.txt`` (docs/format.md, "Manifest")."""
    return key.replace("/", "\0")


def are_keys(keys: Sequence[str]) -> bool:
    """Return whether keys of files are all valid.

    Checks many keys at once as :func:`parse_logical_key` checks each one; only that one reports the reason. The keys must be
    valid Unicode, and have at most :data:`MAX_LOGICAL_KEY` characters, as those of decoded entries.
    """
    text = f"/{'/|/'.join(keys)}/"
    if not text.isascii() and max(map(len, keys)) > MAX_LOGICAL_KEY // MAX_UTF8_SIZE:
        return all(map(_is_logical_key, keys))
    return not ("//" in text or "/./" in text or "/../" in text or "\0" in text)


def _is_logical_key(key: str) -> bool:
    try:
        return bool(parse_logical_key(key))
    except LogicalKeyError:
        return False


def is_ordered(keys: Sequence[str]) -> bool:
    """Return whether keys of files are in walk order, without duplicates, and none is also a directory.

    Checks many keys at once as :func:`check_next` checks each one; only that one reports the reason.
    """
    text = "\n".join(keys)
    if text.count("\n") < len(keys):
        if text.endswith("/") or "/\n" in text:  # The key of a directory.
            return False
        text = walk_order(text)
        order, after = text.split("\n"), text.replace("\n", "\1\n").split("\n")
    else:  # A key holds a newline.
        if any(key.endswith("/") for key in keys):
            return False
        order = [walk_order(key) for key in keys]
        after = [f"{each}\1" for each in order]
    # Nothing is between a key and all that is below it: the next key of a tree is at or after the key with the character that
    # follows that of "/". An equal key, a lower one, and one below are all before.
    return all(map(le, after, islice(order, 1, None)))


def is_walk(keys: Sequence[str]) -> bool:
    """Return whether keys of files are all valid and make a tree in walk order; they must be valid Unicode."""
    return are_keys(keys) and is_ordered(keys)


def check_next(previous: str | None, key: str) -> None:
    """Check the key of a file against the one before it in walk order.

    Raises:
        LogicalKeyError: the keys are equal, or ``previous`` is both a file and a directory that holds ``key``.
    """
    if previous is None:
        return
    if key == previous:
        raise LogicalKeyError(f"logical key {quoted(key)} is given twice")
    if key.startswith(previous + "/"):
        raise LogicalKeyError(f"logical key {quoted(previous)} is a file, and a directory that holds {quoted(key)}")


def check_file(key: str, directories: Sequence[str]) -> None:
    """Check the key of a file against the sorted keys of the directories that have metadata.

    Raises:
        LogicalKeyError: one of the directories is ``key`` itself, or is below it.
    """
    below = f"{key}/"
    at = bisect_left(directories, below)
    if at < len(directories) and directories[at].startswith(below):
        raise LogicalKeyError(f"logical key {quoted(key)} is a file, and a directory that has metadata")


def parse_top_hash(text: object) -> TopHash:
    """Parse a full top hash.

    Raises:
        TopHashError: ``text`` is not 64 lower-case hex digits.
    """
    if isinstance(text, str) and re.fullmatch(_TOP_HASH, text):
        return TopHash(text)
    raise TopHashError(f"top hash {quoted(text)}: expected 64 lower-case hex digits")


def parse_hash_prefix(text: object) -> str:
    """Parse a top hash or the beginning of one.

    Raises:
        TopHashError: ``text`` is not 6 to 64 lower-case hex digits.
    """
    if isinstance(text, str) and re.fullmatch(_HASH_PREFIX, text):
        return text
    lower = f", such as {quoted(text.lower())}" if isinstance(text, str) and re.fullmatch(_HASH_PREFIX, text.lower()) else ""
    raise TopHashError(f"top hash {quoted(text)}: expected 6 to 64 lower-case hex digits{lower}")


def match_hash(prefix: object, hashes: Iterable[TopHash]) -> TopHash:
    """Return the one hash that begins with ``prefix``.

    Raises:
        TopHashError: ``prefix`` is not 6 to 64 lower-case hex digits, or several hashes or none begin with it.
    """
    digits = parse_hash_prefix(prefix)
    found = sorted({top_hash for top_hash in hashes if top_hash.startswith(digits)})
    if len(found) == 1:
        return found[0]
    if not found:
        raise TopHashError(f"top hash {quoted(digits)} matches no revision")
    several = ", ".join(top_hash[: max(12, len(digits) + 2)] for top_hash in found)
    raise TopHashError(f"top hash {quoted(digits)}: give more digits; it matches {plain(several)}")


def is_quilt_uri(text: object) -> bool:
    """Return whether a value is to be read as a Quilt+ URI, by its scheme, whose case does not count."""
    return isinstance(text, str) and text[:6].lower() == "quilt+"


def check_pattern(package: str) -> str:
    """Return a package name, or a pattern in which ``*`` stands for any characters but ``/``, after checking it.

    Raises:
        PackageNameError: ``package`` is neither.
    """
    try:
        PackageName.parse_existing(package.replace("*", "x"))
    except InputError as error:
        raise PackageNameError(f"{quoted(package)}: expected namespace/name, in which '*' stands for any characters") from error
    return package


def is_pattern(package: str) -> bool:
    """Return whether a package name is a pattern, which may match several packages."""
    return "*" in package


def matches(package: str, pattern: str) -> bool:
    """Return whether a package name equals or fits a pattern."""
    if not is_pattern(pattern):
        return package == pattern
    return all(fnmatchcase(part, wanted) for part, wanted in zip(package.split("/"), pattern.split("/"), strict=True))


def literal_prefix(pattern: str) -> str:
    """Return the part of a pattern before its first ``*``."""
    return pattern.partition("*")[0]
