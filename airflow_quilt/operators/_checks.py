"""Checks of arguments that are known while a DAG is parsed, by the rules of the core, which are imported for that."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from airflow_quilt.core.errors import InputError, LocationError, quoted
from airflow_quilt.core.format.names import PackageName, is_quilt_uri, parse_hash_prefix, parse_logical_key, parse_path
from airflow_quilt.operators._events import check_partition
from airflow_quilt.operators._known import Known
from airflow_quilt.operators._values import flag

Check = Callable[[Any, Known], object]
"""Raises an InputError for a value that can never work."""


def of(parse: Callable[[Any], object]) -> Check:
    """Return the check by a function that takes the value alone, such as a parser of the core."""
    return lambda value, _known: parse(value)


published_package: Final = of(PackageName.parse)
existing_package: Final = of(PackageName.parse_existing)
listed_package: Final = of(PackageName.parse_listed)
top_hash: Final = of(parse_hash_prefix)
path: Final = of(parse_path)
partition: Final = of(check_partition)


def package_or_uri(value: object, known: Known) -> None:
    """Check the name or the Quilt+ URI of a package to read."""
    if is_quilt_uri(value):
        from airflow_quilt.core.format.quilt_uri import QuiltUri

        QuiltUri.parse(str(value))
    else:
        existing_package(value, known)


def any_registry(value: str, _known: Known) -> None:
    """Check a registry."""
    from airflow_quilt.core.format.uris import check_registry

    check_registry(value)


def remote_registry(value: str, known: Known) -> None:
    """Check a registry that is a bucket."""
    from airflow_quilt.core.format.uris import RegistryLocation, is_path

    any_registry(value, known)
    if is_path(value) or RegistryLocation.parse(value).is_local:
        raise LocationError(f"registry {quoted(value)}: push needs an S3 registry, s3://bucket; use build for a local one")


def positive(name: str) -> Check:
    """Return the check of an `int` above 0."""

    def check(value: object, _known: Known) -> None:
        from airflow_quilt.core.format.arguments import parse_count

        parse_count(name, value)

    return check


def true_or_false(name: str) -> Check:
    """Return the check of a `bool`."""
    return lambda value, _known: flag(name, value)


def of_core(name: str) -> Check:
    """Return a check of ``core.format.arguments``, by the name of its function."""

    def check(value: object, _known: Known) -> None:
        from airflow_quilt.core.format import arguments

        getattr(arguments, name)(value)

    return check


def mode(value: str, _known: Known) -> None:
    """Check the mode of a publication. A ``mode`` among a DAG's ``default_args`` is commonly that of its sensors."""
    from airflow_quilt.core.format.arguments import check_mode

    if value in {"poke", "reschedule"}:
        raise InputError(
            f"mode {quoted(value)} is a sensor's: give this task its own, 'replace' or 'update', or take mode out of default_args"
        )
    check_mode(value)


def key(value: str, _known: Known) -> None:
    """Check the logical key of a file or a directory."""
    parse_logical_key(value.removesuffix("/"))


def keys(value: object, known: Known) -> None:
    """Check the logical keys that an update removes."""
    from airflow_quilt.core.format.arguments import check_remove

    check_remove(value)
    for each in value if isinstance(value, list | tuple) else ():
        key(each, known)


def sources(value: object, known: Known) -> None:
    """Check entries."""
    from airflow_quilt.core.sources.parse import parse_known

    for _ in parse_known(value, known):
        pass


def sources_in_place(value: object, known: Known) -> None:
    """Check the entries of a build, which are no content."""
    from airflow_quilt.core.format.arguments import content_in_build
    from airflow_quilt.core.sources.parse import ContentSource, parse_known

    for source in parse_known(value, known):
        if isinstance(source, ContentSource):
            raise content_in_build(source.key)


def metadata(value: object, _known: Known) -> None:
    """Check metadata."""
    from airflow_quilt.core.format.metadata import check_meta

    check_meta(value, "meta")


def destination(value: object, _known: Known) -> None:
    """Check the destination of a push, which may be a function."""
    from airflow_quilt.core.format.arguments import parse_dest

    if not callable(value):
        parse_dest(value)  # type: ignore[arg-type]


def check_given(entries: object, allow_empty: object) -> None:
    """Check that a publication that replaces a package has entries.

    Raises:
        InputError: it has none.
    """
    cure = "give logical keys and their sources, or one source; only mode='update' may do without"
    if entries is None:
        raise InputError(f"entries is missing: {cure}")
    if isinstance(entries, dict | list | tuple) and not entries and allow_empty is False:
        raise InputError(f"entries {quoted(entries)} is empty: {cure}, or allow_empty=True")


OF_ALL: Final[Mapping[str, Check]] = {"registry": any_registry, "max_concurrency": positive("max_concurrency")}
OF_PUBLICATIONS: Final[Mapping[str, Check]] = {
    **OF_ALL,
    "package": published_package,
    "entries": sources,
    "meta": metadata,
    "meta_mode": of_core("check_meta_mode"),
    "mode": mode,
    "revision": of_core("check_revision"),
    "remove": keys,
    "hash_type": of_core("check_hash_word"),
    "conflict": of_core("check_conflict"),
    "partition_key": partition,
    **{
        name: true_or_false(name)
        for name in ("unversioned", "follow_symlinks", "dedupe", "allow_empty", "provenance", "null_meta")
    },
}
OF_BUILDS: Final[Mapping[str, Check]] = {**OF_PUBLICATIONS, "entries": sources_in_place}
OF_PUSHES: Final[Mapping[str, Check]] = {
    **OF_PUBLICATIONS,
    "registry": remote_registry,
    "dest": destination,
    "copy": of_core("check_copy"),
}
OF_PLANS: Final[Mapping[str, Check]] = {
    **{name: positive(name) for name in ("shards", "shard_bytes", "shard_entries")},
    "staging": of_core("check_prefix"),
}
OF_READS: Final[Mapping[str, Check]] = {
    **OF_ALL,
    "package": package_or_uri,
    "revision": of_core("check_revision"),
    "path": path,
}
OF_INSTALLS: Final[Mapping[str, Check]] = {
    **OF_READS,
    "dest": of_core("check_prefix"),
    "return_paths": true_or_false("return_paths"),
}
OF_VERIFICATIONS: Final[Mapping[str, Check]] = {
    **OF_READS,
    "src": of_core("check_prefix"),
    **{name: true_or_false(name) for name in ("extra_files_ok", "read_all")},
}
OF_DELETIONS: Final[Mapping[str, Check]] = {
    **OF_ALL,
    "package": listed_package,
    "revision": top_hash,
    "missing_ok": true_or_false("missing_ok"),
}
OF_ROLLBACKS: Final[Mapping[str, Check]] = {**OF_ALL, "package": existing_package, "revision": top_hash}
OF_SENSORS: Final[Mapping[str, Check]] = {
    **OF_ALL,
    "package": existing_package,
    "newer_than": of_core("parse_moment"),
    "path": path,
}
