"""Locations as people write them, resolved on this machine's disk: relative paths, ``~`` and links."""

import os

from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation, check_registry, is_path


def resolve_location(text: str) -> PhysicalKey:
    """Return the physical key of an ``s3://`` or ``file://`` URL, or of a local path.

    A relative path starts at the working directory, ``~`` is the home directory, and links are resolved, also those in a
    ``file://`` URL (quilt3's ``PhysicalKey.from_path``).

    Raises:
        LocationError: ``text`` is neither; the message names the part that is wrong.
    """
    if is_path(text):
        return resolve_path(text)
    key = PhysicalKey.parse(text)
    return resolve_path(key.key) if key.is_local else key


def resolve_path(path: str | os.PathLike[str]) -> PhysicalKey:
    """Return the physical key of a local path; a trailing ``/`` stays.

    Raises:
        LocationError: no file can have this path.
    """
    text = PhysicalKey.spell(os.fspath(path))
    real = os.path.realpath(os.path.expanduser(text))  # noqa: PTH111  (which takes ~$report.docx for a name)
    return PhysicalKey.of_path(f"{real}/" if text.endswith("/") else real)


def resolve_registry(text: str) -> RegistryLocation:
    """Return the location of a registry: ``s3://bucket``, ``file:///directory`` or a local path.

    Raises:
        LocationError: ``text`` names an object, a prefix or a version, or is no location.
    """
    check_registry(text)
    if is_path(text):
        return RegistryLocation(resolve_path(text.rstrip("/") or "/"))
    location = RegistryLocation.parse(text)
    return RegistryLocation(resolve_path(location.root.key)) if location.is_local else location
