"""The one tree of errors of the engine.

Every class carries the data that a program needs and says in its message what a person needs: the thing and the
cure. :attr:`QuiltError.transient` tells the two kinds apart: the same call may succeed later (an unreachable store,
a revision that moved), or it will fail again until somebody changes something.
"""

from typing import ClassVar


class QuiltError(Exception):
    """Anything that the engine raises on purpose."""

    transient: ClassVar[bool] = False


class InputError(QuiltError, ValueError):
    """What the caller gave cannot be published, read or deleted."""


class PackageNameError(InputError):
    """A text is not a package name."""


class LogicalKeyError(InputError):
    """A text is not a logical key, or does not fit beside the other keys of the package."""


class TopHashError(InputError):
    """A text is not a top hash, or matches no revision or several."""


class LocationError(InputError):
    """A text is not a physical key, a registry or a Quilt+ URI that can be used here."""


class MetadataError(InputError):
    """Metadata is not JSON."""


class RecordSizeError(InputError):
    """A line of the manifest is longer than Quilt's readers accept."""


class SourceError(InputError):
    """The source of an entry cannot be used; the message names its logical key."""


class EmptyPackageError(InputError):
    """A source, or the package as a whole, holds no file."""


class SettingsError(QuiltError):
    """A connection or a registry lacks something that only its owner can give."""


class ManifestError(QuiltError):
    """A manifest cannot be read; the message names its line."""


class PackageNotFoundError(QuiltError):
    """The registry has no such package or no such revision of it."""


class RevisionConflictError(QuiltError):
    """``latest`` is not the revision that this change was derived from.

    Attributes:
        expected: the top hash that was read at the start, or None where there was no package.
        found: the top hash that is there now, or None where it is gone.
    """

    transient = True

    def __init__(self, package: str, expected: str | None, found: str | None) -> None:
        super().__init__(
            f"package {package}: 'latest' moved while this revision was being made (was {expected}, is {found}). "
            "Nothing was published. Run again to publish on top of it, or give conflict='overwrite' to win regardless."
        )
        self.expected = expected
        self.found = found


class SourceChangedError(QuiltError):
    """A file changed, shrank or vanished while it was being read."""


class ChecksumMismatchError(QuiltError):
    """The store holds other bytes than were sent."""

    transient = True


class CancelledError(QuiltError):
    """The work was told to stop; nothing was published."""

    transient = True


class StorageError(QuiltError):
    """A store refused or failed.

    Attributes:
        location: the URL that was asked for.
    """

    def __init__(self, message: str, location: str) -> None:
        super().__init__(f"{location}: {message}")
        self.location = location


class ObjectNotFoundError(StorageError):
    """There is no object or file at the location."""


class BucketNotFoundError(StorageError):
    """There is no such bucket."""


class AccessDeniedError(StorageError):
    """The credentials are missing, wrong or not allowed to do this."""


class PreconditionError(StorageError):
    """A conditional write found another state than the one it was told to replace."""


class StorageUnavailableError(StorageError):
    """The store cannot be reached, is overloaded, or failed on its side."""

    transient = True
