"""The methods of QuiltHook that read packages: each is one call of the core, in the connection's registry or another one."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from airflow_quilt.core.format.diff import Change
    from airflow_quilt.core.format.manifest import Entry
    from airflow_quilt.core.format.names import PackageName
    from airflow_quilt.core.format.quilt_uri import QuiltUri
    from airflow_quilt.core.registry.registry import Registry
    from airflow_quilt.core.registry.revisions import Revision
    from airflow_quilt.core.registry.selection import Reference
    from airflow_quilt.hooks._target import RegistryTarget


class PackageReader:
    """Mixin that reads packages.

    In every method ``package`` is ``namespace/name``, or a Quilt+ URI, which names the registry, and may name the revision and
    the path or key too. ``registry`` is ``s3://bucket`` or a local directory, by default the connection's. ``revision`` is
    ``latest``, a top hash or the beginning of one (6 digits or more), or a time for the newest revision at that time; by default
    the latest. Streams are read while they are used, so their last errors come late: that of a damaged manifest at its end.

    :meth:`entries`, :meth:`read_bytes`, :meth:`read_json` and :meth:`read_frame` report the package to Airflow's lineage.
    """

    if TYPE_CHECKING:  # Of QuiltHook.

        def open(self, registry: str | None = None) -> RegistryTarget: ...

        def locate(
            self, package: str, registry: str | None = None, revision: str | datetime | None = None, path: str | None = None
        ) -> tuple[RegistryTarget, Reference]: ...

        def report_read(self, uri: QuiltUri | str) -> None: ...

    def packages(self, pattern: str = "*/*", *, registry: str | None = None) -> "Iterator[PackageName]":
        """Yield the names of the packages of a registry (``str(name)``, ``name.namespace``, ``name.name``).

        Args:
            pattern: a package name in which ``*`` stands for any characters but ``/``, such as ``team/*``.
            registry: as for all methods.

        Raises:
            PackageNameError: the pattern is none.
            QuiltError: the registry cannot be opened or read.
        """
        return self.open(registry).registry.packages(pattern)

    def revisions(self, package: str, *, registry: str | None = None) -> "Iterator[Revision]":
        """Yield the revisions of a package, newest first (``published_at``, a time in UTC; ``top_hash``).

        Raises:
            PackageNotFoundError: there is no such package.
            QuiltError: the registry cannot be opened or read.
        """
        from airflow_quilt.core.read import read_revisions

        target, reference = self.locate(package, registry)
        return read_revisions(target.registry, reference.package)

    def entries(
        self,
        package: str,
        revision: "str | datetime | None" = None,
        *,
        path: str | None = None,
        registry: str | None = None,
    ) -> "Iterator[Entry]":
        """Yield the files of a revision in walk order.

        Each has ``logical_key``, ``size`` in bytes, ``hash`` (``type``, ``value``), ``physical_keys`` and ``user_meta``.

        Args:
            package: as for all methods.
            revision: as for all methods.
            path: the logical key of a file, or of a directory, whose files are yielded; by default all.
            registry: as for all methods.

        Raises:
            PackageNotFoundError: there is no such package or revision.
            EntryNotFoundError: the revision has nothing at the path; at the end of the stream.
            ManifestError: the manifest is damaged.
            QuiltError: the registry cannot be opened or read.
        """
        from airflow_quilt.core.read import read_entries

        opened, reference = self._pin(package, registry, revision, path)
        return read_entries(opened, reference)

    def diff(
        self,
        package: str,
        from_revision: "str | datetime | None",
        to_revision: "str | datetime | None" = None,
        *,
        registry: str | None = None,
    ) -> "Iterator[Change]":
        """Yield the files that differ between two revisions, in walk order.

        Each has ``kind`` (``"added"``, ``"modified"`` or ``"deleted"``), ``logical_key``, and the entries ``old`` and ``new``, of
        which one may be None. A file is modified by other bytes or other metadata.

        Args:
            package: as for all methods; the revision of a URI is ``to_revision``, and only files at its path are compared.
            from_revision: the older revision.
            to_revision: the newer one; by default the latest.
            registry: as for all methods.

        Raises:
            PackageNotFoundError: there is no such package or revision.
            ManifestError: a manifest is damaged.
            QuiltError: the registry cannot be opened or read.
        """
        from airflow_quilt.core.read import read_changes

        target, reference = self.locate(package, registry, to_revision)
        return read_changes(target.registry, reference, from_revision)

    def read_bytes(
        self,
        package: str,
        key: str | None = None,
        revision: "str | datetime | None" = None,
        *,
        registry: str | None = None,
        most: int | None = None,
    ) -> bytes:
        """Return the bytes of a file, read at the version that the manifest names, and checked against its hash.

        Args:
            package: as for all methods.
            key: the logical key of the file; of a URI that names one, its path.
            revision: as for all methods.
            registry: as for all methods.
            most: the most bytes that are read into memory, by default 256 MiB.

        Raises:
            PackageNotFoundError: there is no such package or revision.
            EntryNotFoundError: the revision has no such file.
            ObjectTooLargeError: the file has more than ``most`` bytes: install it.
            EntryDamagedError: the object does not hold the bytes that the manifest names.
            QuiltError: the registry cannot be opened or read.
        """
        from airflow_quilt.core.read import MOST_READ, read_bytes

        return read_bytes(*self._pin(package, registry, revision, key), most=most or MOST_READ)

    def read_json(
        self,
        package: str,
        key: str | None = None,
        revision: "str | datetime | None" = None,
        *,
        registry: str | None = None,
        most: int | None = None,
    ) -> Any:
        """Return the value of a JSON file; parameters as for :meth:`read_bytes`.

        Raises:
            EntryFormatError: the file is no JSON.
            QuiltError: as for :meth:`read_bytes`.
        """
        from airflow_quilt.core.read import MOST_READ, read_json

        return read_json(*self._pin(package, registry, revision, key), most=most or MOST_READ)

    def read_frame(
        self,
        package: str,
        key: str | None = None,
        revision: "str | datetime | None" = None,
        *,
        registry: str | None = None,
        most: int | None = None,
    ) -> Any:
        """Return a file as a data frame of pandas; parameters as for :meth:`read_bytes`.

        The format is that of the key's ending: ``.parquet``, ``.feather``, ``.arrow``, ``.csv``, ``.tsv``, ``.ssv``, ``.json`` (a
        list of records), ``.jsonl``, ``.ndjson``; texts also with ``.gz`` after it. quilt3 may name another one in the metadata.

        Raises:
            EntryFormatError: the key ends in no format that is read, the file is not in it, or pandas is not installed.
            QuiltError: as for :meth:`read_bytes`.
        """
        from airflow_quilt.core.read import MOST_READ, read_frame

        return read_frame(*self._pin(package, registry, revision, key), most=most or MOST_READ)

    def _pin(
        self, package: str, registry: str | None, revision: "str | datetime | None", path: str | None
    ) -> "tuple[Registry, Reference]":
        """Open a registry and find a revision of it, report that it is read, and return both."""
        from airflow_quilt.core.format.quilt_uri import QuiltUri
        from airflow_quilt.core.registry.selection import Reference, pin

        target, reference = self.locate(package, registry, revision, path)
        name, top_hash = pin(target.registry, reference)
        self.report_read(QuiltUri(registry=target.registry.location, package=name, top_hash=top_hash))
        return target.registry, Reference(name, top_hash, reference.path)
