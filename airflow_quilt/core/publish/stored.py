"""The manifest that a registry holds under the top hash of new entries, maybe with other places of the content (ADR 0016)."""

import logging
import os
from collections.abc import Callable, Iterable
from typing import IO, Literal

from airflow_quilt.core.errors import (
    EntryDamagedError,
    LocationError,
    ManifestError,
    ObjectNotFoundError,
    PackageNotFoundError,
    short,
)
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.names import PackageName, TopHash
from airflow_quilt.core.format.ordering import merge_join
from airflow_quilt.core.publish.presence import PresenceCheck
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.threads import map_concurrently

_log = logging.getLogger(__name__)


class StoredManifest:
    """The manifest of a top hash, if the registry holds it.

    Args:
        registry: holds it.
        package: the package that is published.
        top_hash: the hash of its new entries.
        keeps_objects: let a manifest stay that names objects, other ones than the new entries, if they are there: the new
            entries name files of this machine, which others cannot read.
    """

    def __init__(self, registry: Registry, package: PackageName, top_hash: TopHash, *, keeps_objects: bool) -> None:
        self._registry = registry
        self._package = package
        self._top_hash = top_hash
        self._keeps_objects = keeps_objects
        self._key = registry.location.root.join(layout.manifest(top_hash))
        self._storage = registry.stores.of(self._key)

    def mode(self, entries: Iterable[Entry]) -> Literal["create", "overwrite"]:
        """Return the mode in which the manifest of a new revision with these entries is written."""
        return "create" if self._keeps_objects and self._state(entries) != "broken" else "overwrite"

    def settle(self, manifest: IO[bytes], entries: Iterable[Entry], unseen: Iterable[Entry]) -> None:
        """Let the manifest of an unchanged revision name objects that are there: write it again if it does not.

        Args:
            manifest: the manifest of the new entries, a seekable file.
            entries: the new entries, in walk order.
            unseen: those of them whose objects this work has neither requested nor written.

        Raises:
            EntryDamagedError: an unseen object is gone, so that no manifest could name it.
        """
        # Both at once, so that an unchanged push takes no more round trips than one listing does.
        checks: list[Callable[[], bool]] = [lambda: self._check(unseen), lambda: self._is(manifest)]
        _, is_same = map_concurrently(lambda check: check(), checks, len(checks))
        if not is_same and self._state(entries) != "sound":
            message = "The manifest %s is written again: objects that it named are gone, or were copied anew"
            _log.info(message, short(self._top_hash))
            self._storage.put(self._key, manifest)

    def _check(self, entries: Iterable[Entry]) -> bool:
        # Files that a registry on S3 names are those of some other machine: nothing is known of them here.
        is_local = self._registry.location.is_local
        near = (entry for entry in entries if is_local or not entry.physical_keys[0].startswith("file:"))
        PresenceCheck(self._registry.stores).run(near)
        return True

    def _is(self, manifest: IO[bytes]) -> bool:
        """Return whether the stored manifest has exactly these bytes; with one request, since their number is known."""
        size = manifest.seek(0, os.SEEK_END)
        manifest.seek(0)
        try:
            chunks = self._storage.stream(self._key, 0, size + 1)
            return all(manifest.read(len(chunk)) == chunk for chunk in chunks) and not manifest.read(1)
        except ObjectNotFoundError:
            return False
        finally:
            manifest.seek(0)

    def _state(self, entries: Iterable[Entry]) -> Literal["absent", "broken", "sound"]:
        """Return the state of the stored manifest; a sound one names the places of the entries, or other ones that may stay."""
        try:
            there = self._registry.read(self._package, self._top_hash).entries
            elsewhere = (old for old, new in merge_join(there, entries) if old and not (new and _is_alike(old, new)))
            if self._keeps_objects:
                self._check(map(self._readable, elsewhere))
                return "sound"
            return "broken" if any(True for _ in elsewhere) else "sound"
        except PackageNotFoundError:
            return "absent"
        except (ManifestError, LocationError, EntryDamagedError):
            return "broken"

    def _readable(self, entry: Entry) -> Entry:
        self._registry.origin(entry)  # It refuses files of some other machine.
        return entry


def _is_alike(first: Entry, second: Entry) -> bool:
    return first.physical_keys[0] == second.physical_keys[0]
