"""Arguments as users write them, and their checks, which need no disk and no request.

DAG files are checked with them each time that they are parsed, so this module imports next to nothing.
"""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from airflow_quilt.core.errors import HashTypeError, InputError, LocationError, SourceError, TopHashError, plain, quoted
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.hints import did_you_mean
from airflow_quilt.core.format.names import parse_hash_prefix
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation, is_path
from airflow_quilt.core.format.web_url import refuse_login

Mode = Literal["replace", "update"]
MetaMode = Literal["replace", "merge"]
Conflict = Literal["fail", "overwrite", "rebase"]
CopyRule = Literal["if-outside", "all", "local-only", "none"]
"""``"if-outside"``: copy sources outside the registry's bucket, quilt3's rule since 7.0. ``"all"``: copy all that are not at
their destination already. ``"local-only"``: copy files and content, no objects. ``"none"``: copy nothing, so every source
must be an object."""
HashType = Literal["sha2-256-chunked", "CRC64NVME"]
"""The types of the hashes of new entries; ``SHA256``, of older manifests, is read and verified but not written."""


POSITIVE_INT: Final = "an int above 0"


def positive_int(value: object) -> int | None:
    """Return an `int` above 0, which may come as a `str`; None for any other value."""
    try:
        number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else 0
    except ValueError:
        return None
    return number if number > 0 else None


def parse_count(name: str, value: object) -> int:
    """Parse a number that an argument gives, which may come as a `str`.

    Raises:
        InputError: it is no `int` above 0.
    """
    if (number := positive_int(value)) is None:
        raise InputError(f"{name} {quoted(value)}: expected {POSITIVE_INT}")
    return number


def check_mode(mode: object) -> None:
    """Check the mode of a publication.

    Raises:
        InputError: it is no :data:`Mode`.
    """
    _check_word("mode", mode, get_args(Mode))


def check_meta_mode(meta_mode: object) -> None:
    """Check the mode in which metadata is given.

    Raises:
        InputError: it is no :data:`MetaMode`.
    """
    _check_word("meta_mode", meta_mode, get_args(MetaMode))


def check_conflict(conflict: object) -> None:
    """Check the action when ``latest`` moves; None for the default.

    Raises:
        InputError: it is no :data:`Conflict`.
    """
    if conflict is not None:
        _check_word("conflict", conflict, get_args(Conflict))


def check_copy(copy: object) -> None:
    """Check the rule for copies.

    Raises:
        InputError: it is neither a :data:`CopyRule` nor a function.
    """
    if not callable(copy):
        _check_word("copy", copy, get_args(CopyRule), ", or a function")


def check_hash_word(hash_type: object) -> None:
    """Check the word for the hash type of new entries.

    Raises:
        HashTypeError: it is no :data:`HashType`.
    """
    if hash_type not in (words := get_args(HashType)):
        expected = " or ".join(map(repr, words))
        raise HashTypeError(f"hash type {quoted(hash_type)}: new entries get {expected}{did_you_mean(hash_type, words)}")


def _check_word(name: str, value: object, words: Collection[str], more: str = "") -> None:
    if value not in words:
        expected = f"one of {', '.join(map(repr, words))}" if more else " or ".join(map(repr, words))
        raise InputError(f"{name} {quoted(value)}: expected {expected}{more}{did_you_mean(value, words)}")


def check_remove(remove: object) -> None:
    """Check the keys that an update removes.

    Raises:
        InputError: they are no list of `str`.
    """
    if not isinstance(remove, list | tuple) or not all(isinstance(key, str) for key in remove):
        cure = f"; write [{quoted(remove)}]" if isinstance(remove, str) else ""
        raise InputError(f"remove {quoted(remove)}: expected a list of logical keys{cure}")


def check_together(mode: object, conflict: object, revision: object, remove: object) -> None:
    """Check that arguments of a publication, each of which is right, go together.

    Raises:
        InputError: some are for other work than the others.
    """
    if mode == "replace" and (revision is not None or remove):
        raise InputError(
            "revision and remove are for mode='update'; with mode='replace' the package holds the given entries only"
        )
    if conflict == "rebase" and (mode == "replace" or revision is not None):
        raise InputError("conflict='rebase' merges with the latest revision: it is for mode='update', without revision")


def content_in_build(key: str) -> SourceError:
    """Return the error of content among the sources of a build."""
    return SourceError(
        f"entry {quoted(key)}: write it to a file or object first, or push the package; its source is content, and build copies "
        "no data"
    )


def check_sharded(conflict: object) -> None:
    """Check that the action when ``latest`` moves is one of work that is shared by many workers.

    Raises:
        InputError: it is not.
    """
    if conflict == "rebase":
        raise InputError(
            "conflict='rebase': only a push or build by one task can merge with a revision that is published meanwhile; "
            "give 'fail' or 'overwrite', or do not shard it"
        )


def check_revision(revision: object) -> None:
    """Check the name of a revision: ``latest``, a top hash or the beginning of one, a time, or the unix seconds of a pointer.

    Raises:
        TopHashError: it is none of them.
    """
    if revision != layout.LATEST and not (isinstance(revision, str) and is_stamp(revision)):
        try:
            parse_moment(revision)
        except TopHashError as error:
            raise TopHashError(f"{error}{did_you_mean(revision, [layout.LATEST])}") from None


def parse_moment(revision: object) -> tuple[datetime | None, str | None]:
    """Return the time that names a revision, or else its top hash or the beginning of it.

    Raises:
        TopHashError: it is neither.
    """
    moment = parse_time(revision)
    if moment:
        return moment, None
    try:
        return None, parse_hash_prefix(revision)
    except TopHashError as error:
        raise TopHashError(f"{error}; or a time, such as '2026-11-23T16:07:21Z'") from None


def parse_time(revision: object) -> datetime | None:
    """Return the time that names a revision, or None for a revision that is named otherwise; hashes have no ``-``.

    Raises:
        TopHashError: ``revision`` has a ``-`` and is no time of ISO 8601.
    """
    if isinstance(revision, str) and "-" in revision:
        try:
            revision = datetime.fromisoformat(revision)
        except ValueError as error:
            raise TopHashError(f"revision {quoted(revision)}: neither a top hash nor a time: {plain(error)}") from None
    if not isinstance(revision, datetime):
        return None
    return revision if revision.tzinfo else revision.replace(tzinfo=UTC)


def is_stamp(text: str) -> bool:
    """Whether a `str` may name the pointer of a revision: unix seconds of 10 digits."""
    return bool(re.fullmatch("[1-9][0-9]{9}", text))


def check_location(text: str) -> PhysicalKey | None:
    """Check a location, of which a path may be relative; return that of a URL.

    Raises:
        LocationError: it is no location; the message names the part that is wrong.
    """
    if not is_path(text):
        return PhysicalKey.parse(text)
    PhysicalKey.spell(text)
    return None


def check_prefix(text: str) -> None:
    """Check the directory or ``s3://`` prefix in which files are laid out.

    Raises:
        LocationError: it is no location, or names a version.
    """
    if (place := check_location(text)) and place.version_id is not None:
        raise LocationError(f"{quoted(text)}: a prefix has no version")


def parse_dest(dest: str, registry: RegistryLocation | None = None, name: str = "dest") -> PhysicalKey:
    """Parse the prefix under which pushed objects land.

    Args:
        dest: the prefix.
        registry: the registry that takes the package; None where it is not known yet.
        name: the name of the setting, for messages.

    Raises:
        LocationError: ``dest`` is not in the registry's bucket, is pinned to a version, or is in the registry's own area.
    """
    if not isinstance(dest, str):
        raise LocationError(f"{name} {quoted(dest)}: give an s3:// prefix or a function")
    refuse_login(dest)
    wrong = f"{name} {quoted(dest)}: give a prefix in the registry's bucket, {registry or 's3://bucket'}/…"
    if not dest.startswith("s3:"):
        raise LocationError(wrong)
    try:
        key = PhysicalKey.parse(dest)
    except LocationError as error:
        raise LocationError(f"{wrong}; {error}") from error
    if registry and key.bucket != registry.root.bucket:
        raise LocationError(wrong)
    if key.version_id is not None:
        raise LocationError(f"{name} {quoted(dest)}: leave the version out; a prefix has none")
    if f"{key.key}/".startswith(layout.OWN):
        raise LocationError(f"{name} {quoted(dest)}: give another prefix; {layout.OWN} is where the registry keeps its own files")
    return key
