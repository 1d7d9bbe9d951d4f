"""Rules of a push for copying and for destinations: ``selector_fn`` and ``dest`` of quilt3's ``push``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from airflow_quilt.core.errors import InputError, LocationError, quoted
from airflow_quilt.core.format.arguments import CopyRule, check_copy, parse_dest
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.plan.actions import Source


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """Information on an entry for ``copy`` and ``dest`` functions; the attributes are named as in quilt3's ``PackageEntry``.

    Attributes:
        physical_key: the location of the bytes; None for content, which has none yet.
        size: the size in bytes.
        hash: the hash, if it is known already.
        meta: the user metadata of the entry.
    """

    physical_key: PhysicalKey | None
    size: int
    hash: Hash | None
    meta: Mapping[str, Any]


CopyFunction = Callable[[LogicalKey, EntryInfo], bool]
"""Decides whether a file or object is copied."""

DestFunction = Callable[[LogicalKey, EntryInfo], str]
"""Returns the ``s3://`` URL at which an entry lands."""

Landing = PhysicalKey | Literal["anywhere", "nowhere"]
"""The prefix below which the files of a package land, under their logical keys; ``"anywhere"`` that a user's function names;
``"nowhere"`` where none is moved."""


def copy_policy(copy: CopyRule | CopyFunction, registry: RegistryLocation) -> Callable[[Source], bool]:
    """Return the function that decides for each source whether it is copied.

    A user's function decides for files and objects only: content has no location to stay at, so it is always copied.

    Raises:
        InputError: ``copy`` is neither a rule nor a function; or, when called, the function does not return a ``bool``.
    """
    if callable(copy):
        return lambda source: source.is_content or _call_copy(copy, source)
    check_copy(copy)
    return {
        "if-outside": lambda source: _bucket_of(source) != registry.root.bucket,
        "all": lambda _source: True,
        "local-only": lambda source: _bucket_of(source) is None,
        "none": lambda _source: False,
    }[copy]


def _bucket_of(source: Source) -> str | None:
    return source.origin.bucket if isinstance(source.origin, PhysicalKey) else None


def _call_copy(function: CopyFunction, source: Source) -> bool:
    answer = function(source.logical_key, _entry_info(source))
    if not isinstance(answer, bool):
        raise InputError(
            f"entry {quoted(source.logical_key)}: the function given as copy returned {quoted(answer)}, expected True or False"
        )
    return answer


def landing(dest: str | DestFunction | None, registry: RegistryLocation, name: PackageName) -> Callable[[Source], PhysicalKey]:
    """Return the function that gives the destination of each source.

    Args:
        dest: a prefix in the registry's bucket; or a function that returns the URL of each object, in any bucket; by default
            ``s3://<registry>/<namespace>/<name>``.
        registry: the registry.
        name: the package.

    Raises:
        LocationError: ``dest`` is not in the registry's bucket, is pinned to a version, or is in the registry's own area;
            or, when called, the function does not return the URL of an S3 object, or returns the same one for two entries.
    """
    if callable(dest):
        return _CheckedDest(dest)
    prefix = landing_prefix(dest, registry, name)
    return lambda source: prefix.join(source.logical_key)


def landing_prefix(dest: str | None, registry: RegistryLocation, name: PackageName) -> PhysicalKey:
    """Return the prefix below which the files of a package land.

    Raises:
        LocationError: as for :func:`parse_dest`.
    """
    return registry.root.join(str(name)) if dest is None else parse_dest(dest, registry)


class _CheckedDest:
    """Destinations by the user's function, each checked to be the URL of an S3 object and unique."""

    def __init__(self, function: DestFunction) -> None:
        self._function = function
        self._taken: dict[PhysicalKey, LogicalKey] = {}

    def __call__(self, source: Source) -> PhysicalKey:
        url = self._function(source.logical_key, _entry_info(source))
        where = f"entry {quoted(source.logical_key)}: the function given as dest returned {quoted(url)}"
        if not isinstance(url, str):
            raise LocationError(f"{where}, expected an s3:// URL")
        try:
            key = PhysicalKey.parse(url)
        except LocationError as error:
            raise LocationError(f"{where}, expected s3://bucket/key without a version: {error}") from error
        if key.is_local or key.is_prefix or key.version_id is not None:
            raise LocationError(f"{where}, expected s3://bucket/key without a version")
        if key in self._taken:
            raise LocationError(f"{where}, as for {quoted(self._taken[key])}; two entries cannot share one object")
        self._taken[key] = source.logical_key
        return key


def _entry_info(source: Source) -> EntryInfo:
    origin = source.origin if isinstance(source.origin, PhysicalKey) else None
    return EntryInfo(origin, source.size, source.hash, source.user_meta)
