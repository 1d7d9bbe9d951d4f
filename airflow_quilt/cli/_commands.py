"""The commands: each is one call of the core, whose result is written."""

import itertools
import logging
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TextIO

import msgspec

from airflow_quilt.cli._output import Output, Row
from airflow_quilt.core.errors import EntryDamagedError, ManifestError, PackageNotFoundError, plain, quoted, short
from airflow_quilt.core.format.diff import Change
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.install import install
from airflow_quilt.core.read import find_file, read_changes, read_entries, read_revisions
from airflow_quilt.core.registry.revisions import Revision
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.runtime.progress import human_size
from airflow_quilt.core.runtime.threads import map_concurrently
from airflow_quilt.core.verify import verify
from airflow_quilt.hooks._target import RegistryTarget
from airflow_quilt.hooks.quilt import QuiltHook

_log = logging.getLogger(__name__)

_DIFFERENT: Final = 1
_MESSAGE: Final = 80
"""The most characters of a message in a table."""
_CHECKED_FIRST: Final = 64 * 1024 * 1024
"""The most bytes of a file of which none is written before all are checked."""


def run(options: Namespace, stream: TextIO) -> int:
    """Run the command that the options name; return its exit code.

    Raises:
        QuiltError: as the core does.
        BrokenPipeError: the reader of the stream is gone.
    """
    target, reference = QuiltHook(options.conn_id).locate(
        getattr(options, "package", None) or options.pattern,
        options.registry,
        getattr(options, "revision", None),
        getattr(options, "path", None),
    )
    return _COMMANDS[options.command](target, reference, options, Output(options.output, stream))


def _ls(target: RegistryTarget, reference: Reference, _: Namespace, out: Output) -> int:
    def row(name: Any) -> Row:
        uri = QuiltUri(registry=target.registry.location, package=name)
        return Row({"package": str(name), "quilt_uri": str(uri)}, [name], [str(name)])

    pattern = str(reference.package)
    if not out.rows(["PACKAGE"], map(row, target.registry.packages(pattern))):
        _log.warning("%s has no package %s", target.registry.location, quoted(pattern))
    return 0


def _revisions(target: RegistryTarget, reference: Reference, options: Namespace, out: Output) -> int:
    registry, package = target.registry, reference.package

    def row(revision: Revision) -> Row:
        published_at, top_hash = revision.published_at, revision.top_hash
        try:
            message = registry.message(package, top_hash)
        except (ManifestError, PackageNotFoundError) as error:
            _log.warning("%s", error)  # The others are to be seen all the same.
            message = None
        named = target.to_xcom(package, top_hash)
        value = {"published_at": published_at.isoformat(), "top_hash": top_hash, "message": message}
        shown = [published_at.strftime("%Y-%m-%d %H:%M:%S"), short(top_hash), plain(message or "", _MESSAGE)]
        value |= {name: named[name] for name in ("quilt_uri", "catalog_url")}
        return Row(value, [published_at.isoformat(), top_hash, message or ""], shown)

    revisions = itertools.islice(read_revisions(registry, package), options.limit)
    rows = map_concurrently(row, revisions, registry.stores.limits.max_concurrency)
    out.rows(["PUBLISHED (UTC)", "TOP HASH", "MESSAGE"], rows)
    return 0


def _tree(target: RegistryTarget, reference: Reference, _: Namespace, out: Output) -> int:
    entries = read_entries(target.registry, reference)
    out.rows(["SIZE", "KEY"], _drawn(entries) if out.form == "table" else map(_file, entries))
    return 0


def _file(entry: Entry, depth: int = 0) -> Row:
    cells = [entry.logical_key, entry.size, entry.hash.type, entry.hash.value, entry.physical_keys[0]]
    name = entry.logical_key.rpartition("/")[2] if depth else entry.logical_key
    return Row(_builtins(entry), cells, [human_size(entry.size), f"{'  ' * depth}{name}"])


def _drawn(entries: Iterable[Entry]) -> Iterator[Row]:
    """Yield the files, indented below the names of their directories: in walk order, each directory comes in one piece."""
    above: list[str] = []
    for entry in entries:
        parts = entry.logical_key.split("/")[:-1]
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(above, parts, strict=False)))
        for depth, part in enumerate(parts[same:], start=same):
            yield Row({}, [], ["", f"{'  ' * depth}{part}/"])
        above = parts
        yield _file(entry, len(parts))


def _builtins(entry: Entry | None) -> Any:
    """Return an entry as in the manifest."""
    return msgspec.to_builtins(entry)


def _diff(target: RegistryTarget, reference: Reference, options: Namespace, out: Output) -> int:
    changes = read_changes(target.registry, reference, options.from_revision)
    return _DIFFERENT if out.rows(["CHANGE", "SIZE", "KEY"], map(_change, changes)) else 0


def _change(change: Change) -> Row:
    sizes = [each.size if each else None for each in (change.old, change.new)]
    value = {"change": change.kind, "logical_key": change.logical_key, "old": _builtins(change.old), "new": _builtins(change.new)}
    cells = [change.kind, change.logical_key, *("" if size is None else size for size in sizes)]
    shown = " -> ".join(dict.fromkeys(human_size(size) for size in sizes if size is not None))
    return Row(value, cells, [change.kind, shown, change.logical_key], change.kind)


def _cat(target: RegistryTarget, reference: Reference, _: Namespace, out: Output) -> int:
    entry = find_file(target.registry, reference)
    chunks: Iterable[bytes] = target.registry.stream(entry)
    if entry.size <= _CHECKED_FIRST:
        out.copy([b"".join(chunks)])
        return 0
    try:
        out.copy(chunks)
    except EntryDamagedError as error:
        raise EntryDamagedError(f"{error}; what was written is not the file of the package: discard it") from error
    return 0


def _install(target: RegistryTarget, reference: Reference, options: Namespace, out: Output) -> int:
    installed = install(target.registry, reference, options.dest)
    counts = {"files": len(installed.paths), "bytes": installed.bytes, "reused": installed.reused}
    value = target.to_xcom(reference.package, installed.top_hash, **counts, checksum_only=installed.checksum_only)
    names = [str(reference.package), installed.top_hash]
    shown = [names[0], short(names[1]), str(counts["files"]), human_size(installed.bytes), str(installed.reused)]
    out.record(["PACKAGE", "TOP HASH", "FILES", "SIZE", "REUSED"], Row(value, [*names, *counts.values()], shown))
    return 0


def _verify(target: RegistryTarget, reference: Reference, options: Namespace, out: Output) -> int:
    found = verify(target.registry, reference, options.src, read_all=options.read_all)
    kinds = {"missing": found.missing, "modified": found.modified, "extra": [] if options.extra_files_ok else found.extra}
    if out.form == "json":
        counts = {"entries": found.entries, "bytes": found.bytes, "checksum_only": found.checksum_only}
        value = target.to_xcom(reference.package, found.top_hash, **counts, **kinds)
        out.record([], Row(value, [], []))
    else:
        differences = (Row({}, [kind, key], [kind, key], kind) for kind, keys in kinds.items() for key in keys)
        out.rows(["DIFFERENCE", "FILE"], differences)
    return _DIFFERENT if any(kinds.values()) else 0


_COMMANDS: Final[dict[str, Callable[[RegistryTarget, Reference, Namespace, Output], int]]] = {
    "ls": _ls,
    "log": _revisions,
    "tree": _tree,
    "diff": _diff,
    "cat": _cat,
    "install": _install,
    "verify": _verify,
}
