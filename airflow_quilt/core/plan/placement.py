"""What a push copies, and where it lands: the rules that quilt3's ``push`` has as ``selector_fn`` and ``dest``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from airflow_quilt.core.errors import InputError, LocationError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.names import LogicalKey, PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.plan.actions import Source


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """What a function that chooses or places entries is told of one; the names are those of quilt3's ``PackageEntry``.

    Attributes:
        physical_key: where the bytes are; None for content, which lies nowhere yet.
        size: bytes.
        hash: where it is known already.
        meta: what the user said of the entry.
    """

    physical_key: PhysicalKey | None
    size: int
    hash: Hash | None
    meta: Mapping[str, Any]


CopyRule = Literal["if-outside", "all", "local-only", "none"]
"""``"if-outside"``: what does not lie in the registry's bucket, quilt3's rule since 7.0. ``"all"``: whatever does not lie at
its destination already. ``"local-only"``: files and content, no objects. ``"none"``: nothing, so all must be objects."""

CopyFunction = Callable[[LogicalKey, EntryInfo], bool]
DestFunction = Callable[[LogicalKey, EntryInfo], str]

_RULES: Final = get_args(CopyRule)


def copy_policy(copy: CopyRule | CopyFunction, registry: RegistryLocation) -> Callable[[Source], bool]:
    """Return what tells of a source whether it is copied.

    A function is asked about files and objects; content has no place to stay in, so it is always copied.

    Raises:
        InputError: ``copy`` is neither a rule nor a function; or, when it is asked, the function returns no truth value.
    """
    if callable(copy):
        return lambda source: isinstance(source.origin, bytes) or _asked(copy, source)
    if copy not in _RULES:
        raise InputError(f"copy {copy!r}: expected one of {', '.join(map(repr, _RULES))}, or a function")
    return {
        "if-outside": lambda source: _bucket(source) != registry.root.bucket,
        "all": lambda _source: True,
        "local-only": lambda source: _bucket(source) is None,
        "none": lambda _source: False,
    }[copy]


def _bucket(source: Source) -> str | None:
    return source.origin.bucket if isinstance(source.origin, PhysicalKey) else None


def _asked(function: CopyFunction, source: Source) -> bool:
    answer = function(source.logical_key, _candidate(source))
    if not isinstance(answer, bool):
        raise InputError(f"entry {source.logical_key!r}: the function given as copy returned {answer!r}, expected True or False")
    return answer


def landing(dest: str | DestFunction | None, registry: RegistryLocation, name: PackageName) -> Callable[[Source], PhysicalKey]:
    """Return what tells where a source lands.

    Args:
        dest: a prefix in the registry's bucket; or a function that returns the URL of each object, in any bucket; by default
            ``s3://<registry>/<namespace>/<name>``.
        registry: the registry.
        name: the package.

    Raises:
        LocationError: ``dest`` is not in the registry's bucket, is pinned to a version, or lies in the registry's own area;
            or, when it is asked, the function returns no URL of an S3 object, or the same one for two entries.
    """
    if callable(dest):
        return _Placed(dest)
    prefix = registry.root.join(str(name)) if dest is None else parse_dest(dest, registry)
    return lambda source: prefix.join(source.logical_key)


def parse_dest(dest: str, registry: RegistryLocation) -> PhysicalKey:
    """Read the prefix under which pushed objects land.

    Raises:
        LocationError: it is not in the registry's bucket, is pinned to a version, or lies in the registry's own area.
    """
    if not isinstance(dest, str):
        raise LocationError(f"dest {dest!r}: expected an s3:// prefix or a function")
    key = PhysicalKey.parse(dest)
    if key.bucket != registry.root.bucket:
        raise LocationError(f"dest {dest!r}: expected a prefix in the registry's bucket, {registry}/…")
    if key.version_id is not None:
        raise LocationError(f"dest {dest!r}: a prefix has no version")
    if f"{key.key}/".startswith(layout.OWN):
        raise LocationError(f"dest {dest!r}: {layout.OWN} is where the registry keeps its own files")
    return key


class _Placed:
    """Asks a function where each source lands, and checks what it says."""

    def __init__(self, function: DestFunction) -> None:
        self._function = function
        self._taken: dict[PhysicalKey, LogicalKey] = {}

    def __call__(self, source: Source) -> PhysicalKey:
        url = self._function(source.logical_key, _candidate(source))
        where = f"entry {source.logical_key!r}: the function given as dest returned {url!r}"
        if not isinstance(url, str):
            raise LocationError(f"{where}, expected an s3:// URL")
        try:
            key = PhysicalKey.parse(url)
        except LocationError as error:
            raise LocationError(f"{where}: {error}") from error
        if key.is_local or key.is_prefix or key.version_id is not None:
            raise LocationError(f"{where}, expected s3://bucket/key without a version")
        if key in self._taken:
            raise LocationError(f"{where}, as for {self._taken[key]!r}; two entries cannot share one object")
        self._taken[key] = source.logical_key
        return key


def _candidate(source: Source) -> EntryInfo:
    origin = source.origin if isinstance(source.origin, PhysicalKey) else None
    return EntryInfo(origin, source.size, source.hash, source.user_meta)
