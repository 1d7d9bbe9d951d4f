"""Places of the files of a package in a directory: in it, apart from one another, and in no registry (ADR 0025)."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from airflow_quilt.core.errors import LocationError, StorageError, quoted
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.stop import check_stop
from airflow_quilt.core.storage.base import FileStore
from airflow_quilt.core.storage.disk import temporary_name

_LONGEST_PATH: Final = 4096
"""Linux refuses longer paths, and resolving their links takes time that grows with the square of the length."""


def find_places(local: FileStore, root: PhysicalKey, files: Sequence[tuple[str, Entry]]) -> Callable[[str], PhysicalKey]:
    """Return the function from a path below a directory to the place of that file, without links.

    Args:
        local: the files of this machine.
        root: the directory, its links resolved; it need not exist.
        files: the paths below it, and the entries.

    Raises:
        LocationError: a file would land outside of the directory, in a registry's own area, or on another one, by a link or
            because the disk takes their names for one another; nothing has been written.
        StorageError: the directory cannot be used.
    """
    real: dict[str, str] = {}
    folded: dict[str, str] = {}
    seen, suspects = set[int](), set[int]()  # Of hashes, which take less memory than the names of a million files.
    for relative, entry in files:
        directory, _, name = relative.rpartition("/")
        if directory not in real:
            check_stop()
            real[directory] = _real_directory(root, directory, entry)
            folded[directory] = "/".join(map(fold, real[directory].split("/")))
        mark = hash(folded[directory] + fold(name))
        (suspects if mark in seen else seen).add(mark)
    if suspects:
        groups: dict[str, list[tuple[str, Entry]]] = {}
        for relative, entry in files:
            directory, _, name = relative.rpartition("/")
            place = folded[directory] + fold(name)
            if hash(place) in suspects:
                groups.setdefault(place, []).append((f"{real[directory]}{name}", entry))
        for group in groups.values():
            check_stop()
            _check_apart(local, root, group)

    def place_of(relative: str) -> PhysicalKey:
        directory, _, name = relative.rpartition("/")
        return PhysicalKey(None, f"{real[directory]}{name}")

    return place_of


def in_own_area(entry: Entry, place: object) -> LocationError:
    """Return the error for an entry that would land where a registry keeps its own files."""
    return LocationError(
        f"entry {quoted(entry.logical_key)}: {place} is in a registry's own area, {layout.OWN}; "
        "install to another place, or other parts of the package"
    )


def _real_directory(root: PhysicalKey, directory: str, entry: Entry) -> str:
    """Return the real path of a directory of a package, with a ``/`` at its end; ``entry`` is one that lands in it."""
    path = root.join(directory).key
    if len(path) > _LONGEST_PATH:
        long = f"entry {quoted(entry.logical_key)}: its directory would have a path of {len(path):,} characters"
        raise LocationError(f"{long}, which is too long; install other parts of the package")
    real = f"{os.path.realpath(path).rstrip('/')}/"
    if not real.startswith(f"{root.key.rstrip('/')}/"):
        raise LocationError(f"entry {quoted(entry.logical_key)}: a link in {root} leads out of it, and the file would go there")
    if f"/{layout.OWN}" in real:
        raise in_own_area(entry, real)
    return real


def fold(name: str) -> str:
    """Return a form that is the same for all names that some disk takes for one another, and for a few others."""
    if name.isascii():
        return name.lower().rstrip(" .")
    whole = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    return "".join(letter for letter in whole if unicodedata.category(letter) != "Cf").rstrip(" .")


def _check_apart(local: FileStore, root: PhysicalKey, group: Iterable[tuple[str, Entry]]) -> None:
    """Check that files whose places look alike are apart: by their paths, and on this disk."""
    taken: dict[str, Entry] = {}
    for place, entry in group:
        other = taken.setdefault(place, entry)
        if other is not entry:
            raise LocationError(
                f"entry {quoted(entry.logical_key)}: by a link in {root} it would land on {quoted(other.logical_key)}; "
                "remove the link, or install to another directory"
            )
    if len(taken) == 1:
        return
    above = os.path.commonpath([place.rpartition("/")[0] or "/" for place in taken]).rstrip("/")
    while above != root.key.rstrip("/") and not Path(above).is_dir():
        above = above.rpartition("/")[0]
    parts = [place.removeprefix(f"{above}/").split("/") for place in taken]
    merged = [_merged(local, PhysicalKey(None, above), sorted(set(names))) for names in zip(*parts, strict=True)]
    on_disk: dict[tuple[str, ...], Entry] = {}
    for names, entry in zip(parts, taken.values(), strict=True):
        other = on_disk.setdefault(tuple(same[name] for same, name in zip(merged, names, strict=True)), entry)
        if (other.size, other.hash) != (entry.size, entry.hash):
            raise LocationError(
                f"entry {quoted(entry.logical_key)}: it would land on {quoted(other.logical_key)}: the disk of {root} "
                "takes their names for one another; install to another disk, or parts of the package"
            )


def _merged(local: FileStore, directory: PhysicalKey, names: Sequence[str]) -> dict[str, str]:
    """Return for each name the first one that the disk takes for the same; by empty files, which are removed again."""
    apart = {name: name for name in names}
    if len(names) == 1:
        return apart
    area = directory.join(f"{temporary_name()}/names")  # Of two levels, which are removed with the last file.
    keys = {name: area.join(name) for name in names}
    first: dict[str, str] = {}
    try:
        for key in keys.values():
            local.create(key, 0).complete()
        return {name: first.setdefault(local.stat(key, follow=False).etag, name) for name, key in keys.items()}
    except StorageError as error:
        if error.transient:
            raise
        return apart  # Where no file can be made, none is replaced.
    finally:
        local.forget_directories()
        local.delete(list(keys.values()))
