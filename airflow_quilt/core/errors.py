"""The one tree of errors of the core.

Every class carries the data that a program needs; its message names the thing and the cure. :attr:`QuiltError.transient`
separates two kinds: the same call may succeed later (an unreachable store, a revision that moved), or it fails again until
something changes. A retry policy can name four kinds: :class:`PermanentError`, :class:`AuthenticationError`,
:class:`RevisionConflictError` and :class:`ThrottledError`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, TypeVar

R = TypeVar("R")

_MAX_LISTED: Final = 100
_MAX_SHOWN: Final = 200
"""Maximum characters of a text of others in a message."""
_MAX_LINE: Final = 1000
"""Maximum characters of a line of a list in a message, which may hold several such texts."""
_MAX_MESSAGE: Final = 65_536
_LOGIN: Final = r"(?<=[A-Za-z0-9]://)[^/\\?#\s]+@"
"""The user name and password of a URL. Those that are read as URLs are refused; a text of others may hold one too."""


def quoted(value: object) -> str:
    """Return a value of others (a key, a URL, an id) as it stands in messages: in quotes, escaped, at most 200 characters.

    Manifests, pointers and configs are written by strangers, and messages end in logs, in XCom and in Airflow's database.
    """
    try:
        if isinstance(value, str):
            return _cut(repr(_without_login(_ends(value))), _MAX_SHOWN)
        return _cut(repr(value), _MAX_SHOWN)
    except (ValueError, RecursionError):  # An int of more digits than Python prints; a list that is nested too deeply.
        return f"a value of type {type(value).__name__}"


def plain(text: object, most: int = _MAX_SHOWN) -> str:
    """Return text of others that needs no quotes (the message of a parser) as one line, escaped, at most ``most`` characters."""
    line = _without_login(" ".join(_ends(str(text), most).split()))
    return _cut(escaped(line), most)


def escaped(text: str) -> str:
    """Return a text of others for a terminal: control characters, and others that do not print, as Python writes them."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def short(top_hash: str) -> str:
    """Return the first 12 digits of a hash, as it stands in sentences; values to copy hold all of them."""
    return top_hash[:12]


def _escaped(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def _without_login(text: str) -> str:
    return re.sub(_LOGIN, "***@", text) if "@" in text else text


def _ends(text: str, most: int = _MAX_SHOWN) -> str:
    """Return the two ends of a text, long enough to be cut again; the middle of a long one is not copied or escaped."""
    return text if len(text) <= 2 * most else text[:most] + text[-most:]


def _cut(text: str, most: int) -> str:
    """Shorten a text by its middle: a message about a list begins with the whole list, and names the rule at its end."""
    half = most // 2 - 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


def _bullets(lines: Sequence[str]) -> str:
    """Return a list for a message: the first lines, and the number of the others."""
    more = [f"and {len(lines) - _MAX_LISTED:,} more"] if len(lines) > _MAX_LISTED else []
    return "\n".join([*(f"- {plain(line, _MAX_LINE)}" for line in lines[:_MAX_LISTED]), *more])


class QuiltError(Exception):
    """Base of all errors that the core raises on purpose; a message has at most 65,536 characters."""

    transient: ClassVar[bool] = False

    def __init__(self, *args: object) -> None:
        super().__init__(*[_cut(arg, _MAX_MESSAGE) if isinstance(arg, str) else arg for arg in args])

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # Pickle would call __init__ with args, but args hold the finished message, not the arguments of __init__.
        return type(self).__new__, (type(self), *self.args), vars(self)


@contextmanager
def named(where: str, *kinds: type[QuiltError]) -> Iterator[None]:
    """Let errors of some kinds begin with ``where``, the name of the thing that they are about."""
    try:
        yield
    except kinds as error:
        if not str(error).startswith(where):
            error.args = (f"{where}: {error}",)
        raise


def named_stream(where: str, items: Iterable[R], *kinds: type[QuiltError]) -> Iterator[R]:
    """Yield items; errors of some kinds that are raised meanwhile begin with ``where``, as in :func:`named`."""
    with named(where, *kinds):
        yield from items


class PermanentError(QuiltError):
    """A failure that recurs until something changes: the call, a setting, a file or the package."""


class AuthenticationError(QuiltError):
    """The caller is not known, or not allowed to do this."""


class InputError(PermanentError, ValueError):
    """The caller's input cannot be published, read or deleted."""


class PackageNameError(InputError):
    """A value is not a package name."""


class LogicalKeyError(InputError):
    """A value is not a logical key, or does not fit beside the other keys of the package."""


class TopHashError(InputError):
    """A value is not a top hash, or matches no revision or several."""


class LocationError(InputError):
    """A value is not a physical key, a registry or a Quilt+ URI that can be used here."""


class HashTypeError(InputError):
    """A hash type is unknown, or not for new entries."""


class MetadataError(InputError):
    """Metadata is not JSON."""


class RecordSizeError(InputError):
    """A line of the manifest is longer than Quilt's readers accept."""


class SourceError(InputError):
    """The source of an entry cannot be used; the message names its logical key."""


class EmptyPackageError(InputError):
    """A source, or the package as a whole, holds no file."""


class WorkflowError(InputError):
    """A package does not satisfy the registry's workflow.

    Attributes:
        violations: one ``str`` for each broken rule.
    """

    def __init__(self, workflow: str, violations: Sequence[str]) -> None:
        super().__init__(f"the package does not satisfy the workflow {quoted(workflow)} of the registry:\n{_bullets(violations)}")
        self.violations = tuple(violations)


class SettingsError(PermanentError):
    """A connection or a registry lacks something that only its owner can supply."""


class SettingsUnavailableError(QuiltError):
    """The settings of a connection cannot be read; another attempt may read them."""

    transient = True


class WorkflowConfigError(SettingsError):
    """The workflows config of a registry, or a schema that it names, cannot be used; or it has no such workflow."""


class ManifestError(PermanentError):
    """A manifest, or a pointer to one, cannot be read; the message names its line, the package, the registry and the top hash."""


class PackageNotFoundError(PermanentError):
    """The registry has no such package or no such revision of it."""


class EntryNotFoundError(PermanentError):
    """A revision has no entry with this logical key, or none below it."""


class EntryFormatError(PermanentError):
    """A file of a package is not in the format that is to be read, or nothing here reads that format."""


class RevisionConflictError(QuiltError):
    """``latest`` is not the revision that this change was derived from.

    Attributes:
        expected: the top hash that was read at the start, or None if there was no package.
        found: the top hash that ``latest`` has now, or None if it is gone.
    """

    transient = True

    def __init__(self, package: str, expected: str | None, found: str | None) -> None:
        super().__init__(
            f"package {package}: run again to publish on top of the newer revision; or give conflict='rebase' with mode='update' "
            "to merge with it, or conflict='overwrite' to publish regardless. Nothing was published: 'latest' moved while this "
            f"revision was being made, from {short(expected) if expected else 'none'} to {short(found) if found else 'none'}"
        )
        self.expected = expected
        self.found = found


class SourceChangedError(PermanentError):
    """A file changed, shrank or vanished while it was being read."""


class ChecksumMismatchError(QuiltError):
    """The store holds other bytes than those sent."""

    transient = True


class EntryDamagedError(PermanentError):
    """An object or file does not hold the bytes that its manifest names."""


class VerificationError(PermanentError):
    """Files or objects differ from those of a revision.

    Attributes:
        differences: logical keys, or paths, by kind of difference: ``missing``, ``modified``, ``extra``.
    """

    def __init__(self, top_hash: str, differences: Mapping[str, Sequence[str]]) -> None:
        lines = [f"{kind}: {key}" for kind, keys in differences.items() for key in keys]
        super().__init__(f"differences from revision {short(top_hash)}: {len(lines):,}\n{_bullets(lines)}")
        self.differences = differences


class CancelledError(QuiltError):
    """The work was cancelled; nothing was published."""

    transient = True


class CatalogError(QuiltError):
    """The Quilt service gives an unexpected answer, or cannot be used as configured."""


class LoginError(CatalogError, AuthenticationError):
    """The Quilt service does not accept the API key or refresh token."""


class CatalogUnavailableError(CatalogError):
    """The Quilt service cannot be reached, or fails temporarily.

    Attributes:
        retry_after: the seconds to wait that the service asks for, or None.
    """

    transient = True

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageError(QuiltError):
    """A store refused a request, or failed.

    Attributes:
        location: the URL of the object or file.
    """

    def __init__(self, message: str, location: str) -> None:
        super().__init__(f"{location}: {message}")
        self.location = location


class ObjectNotFoundError(StorageError, PermanentError):
    """There is no object or file at the location."""


class ObjectTooLargeError(StorageError, PermanentError):
    """An object or file is larger than any of its kind that is read whole."""


class BucketNotFoundError(StorageError, PermanentError):
    """There is no such bucket."""


class AccessDeniedError(StorageError, AuthenticationError):
    """The credentials are missing, wrong or not allowed to do this.

    Attributes:
        action: the permission that is missing, such as ``s3:PutObject``; None where it is not known, or no permission helps.
    """

    action: str | None = None

    def __init__(self, message: str, location: str, action: str | None = None) -> None:
        super().__init__(f"allow {action}; {message}" if action else message, location)
        self.action = action

    def name_identity(self, identity: str) -> None:
        """Add the identity that was refused to the message."""
        text, allow = str(self), f": allow {self.action}"
        named = text.replace(allow, f"{allow} to {identity}", 1)
        self.args = (named if named != text else f"{text}; the identity: {identity}",)


class CredentialsExpiredError(AccessDeniedError):
    """The credentials have expired; renewable ones are fresh at the next attempt."""

    transient = True


class PreconditionError(StorageError, PermanentError):
    """A conditional write found another state than the one to replace."""


class UnsupportedError(StorageError, PermanentError):
    """The store does not support this kind of request."""


class StorageUnavailableError(StorageError):
    """The store cannot be reached, is overloaded, or failed on its side."""

    transient = True


class DiskError(StorageUnavailableError):
    """The disk of this machine is full or fails, or the process has too many files open."""


class ThrottledError(StorageUnavailableError):
    """The store asks for fewer requests."""


class UploadVanishedError(StorageUnavailableError):
    """A multipart upload is gone: completed or aborted, by this process or by another one."""
