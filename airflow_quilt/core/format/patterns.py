"""Patterns of package names: ``team/*`` for all packages of a namespace."""

from fnmatch import fnmatchcase

from airflow_quilt.core.errors import InputError, PackageNameError
from airflow_quilt.core.format.names import PackageName


def check_pattern(package: str) -> str:
    """Return the name of a package, or a pattern of names, where ``*`` stands for any characters but ``/``.

    Raises:
        PackageNameError: it is neither.
    """
    try:
        PackageName.parse_existing(package.replace("*", "x"))
    except InputError as error:
        raise PackageNameError(f"{package!r}: expected namespace/name, in which '*' stands for any characters") from error
    return package


def is_pattern(package: str) -> bool:
    """Whether a text stands for several packages."""
    return "*" in package


def matches(package: str, pattern: str) -> bool:
    """Whether the name of a package is the one given, or fits the pattern."""
    if not is_pattern(pattern):
        return package == pattern
    return all(fnmatchcase(part, of) for part, of in zip(package.split("/"), pattern.split("/"), strict=True))


def literal_prefix(pattern: str) -> str:
    """Return what stands before the first ``*`` of a pattern."""
    return pattern.partition("*")[0]
