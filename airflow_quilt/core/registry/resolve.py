"""Names of revisions: top hashes and their beginnings, times, and pointers."""

from collections.abc import Callable, Iterable
from datetime import datetime

from airflow_quilt.core.errors import PackageNotFoundError, QuiltError, TopHashError, named, quoted, short
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.arguments import is_stamp, parse_time
from airflow_quilt.core.format.names import PackageName, TopHash, match_hash, parse_hash_prefix, parse_top_hash
from airflow_quilt.core.format.quilt_uri import Pin
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.registry.pointer_reader import PointerReader


def resolve(
    pointers: PointerReader, where: RegistryLocation, revision: str | datetime | Pin | None, absent: Callable[[], QuiltError]
) -> TopHash:
    """Return the full top hash of a revision, as :meth:`Registry.resolve` does.

    Args:
        pointers: of the package.
        where: the registry.
        revision: the name of the revision.
        absent: returns the error for a package that is not there.
    """
    if isinstance(revision, Pin):
        return _resolve_pin(pointers, where, revision, absent)
    if revision is None or revision == layout.LATEST:
        if latest := pointers.latest():
            return latest.top_hash
        raise absent()
    if moment := parse_time(revision):
        if found := pointers.at(moment.timestamp()):
            return found.revision.top_hash
        raise PackageNotFoundError(f"{where}: there was no package {pointers.name} at {moment.isoformat()}")
    if isinstance(revision, str) and is_stamp(revision) and (found := pointers.read(int(revision))):
        return found.revision.top_hash
    return _by_hash(pointers, where, revision, absent)


def _resolve_pin(pointers: PointerReader, where: RegistryLocation, pin: Pin, absent: Callable[[], QuiltError]) -> TopHash:
    if pin.kind == "hash":
        return _by_hash(pointers, where, pin.name, absent)
    if top_hash := pointers.tagged(pin.name):
        return top_hash
    if pin.name == layout.LATEST:
        raise absent()
    raise PackageNotFoundError(f"{where}: package {pointers.name} has no revision or tag {quoted(pin.name)}")


def _by_hash(pointers: PointerReader, where: RegistryLocation, revision: object, absent: Callable[[], QuiltError]) -> TopHash:
    try:
        return parse_top_hash(revision)
    except TopHashError:
        with named(f"{where}: package {pointers.name}", TopHashError):
            known = [pointer.revision.top_hash for pointer in pointers.all()]
            if not known and parse_hash_prefix(revision):
                raise absent() from None
            return match_hash(revision, known)


def match(where: RegistryLocation, package: PackageName | str, revision: str, known: Iterable[TopHash]) -> TopHash:
    """Return the one revision of a package whose top hash begins with ``revision``.

    Args:
        where: the registry.
        package: its name.
        revision: a top hash, or the beginning of one.
        known: the top hashes of its revisions.

    Raises:
        PackageNotFoundError: there is none.
        TopHashError: there are several, or ``revision`` is malformed.
    """
    about = f"{where}: package {package}"
    prefix = parse_hash_prefix(revision)
    found = [top_hash for top_hash in known if top_hash.startswith(prefix)]
    if not found:
        raise PackageNotFoundError(f"{about} has no revision {short(prefix)}")
    with named(about, TopHashError):
        return match_hash(prefix, found)
