"""QuiltHook: an Airflow connection becomes a registry."""

from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_quilt._compat import AirflowNotFoundException, BaseHook
from airflow_quilt.core.errors import (
    BucketNotFoundError,
    SettingsError,
    SettingsUnavailableError,
    StorageError,
    plain,
    quoted,
)
from airflow_quilt.hooks._reading import PackageReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from airflow.sdk import Connection
    from mypy_boto3_s3 import S3Client

    from airflow_quilt.core.catalog.client import Catalog
    from airflow_quilt.core.catalog.credentials import CredentialSource
    from airflow_quilt.core.format.quilt_uri import QuiltUri
    from airflow_quilt.core.registry.registry import Registry
    from airflow_quilt.core.registry.selection import Reference
    from airflow_quilt.core.runtime.retry import RetryPolicy
    from airflow_quilt.core.storage.stores import Stores
    from airflow_quilt.hooks._settings import QuiltSettings
    from airflow_quilt.hooks._target import RegistryTarget
    from airflow_quilt.hooks.aws import BoundedAwsHook


class QuiltHook(PackageReader, BaseHook):
    """Opens Quilt registries with the settings of an Airflow connection.

    S3 is reached through the Amazon provider's hook, so the endpoint, TLS, assumed roles and botocore settings of the AWS
    connection all apply. Everything is imported, read and requested on first use. Packages are read by the methods of
    :class:`~airflow_quilt.hooks._reading.PackageReader`.

    :param quilt_conn_id: the ID of a connection of type ``quilt``; None for no connection, so that each ``registry`` must be
        named.
    :param max_concurrency: the most concurrent S3 requests; overrides the connection's.
    :param retry: how long small reads and writes of S3 are retried; by default 30 seconds, or not at all with a timeout.
    :param timeout: the seconds for which each request waits for an answer, those for credentials too, at its only attempt. For
        callers that soon ask again by themselves, as triggers do; by default the settings of the connections.
    """

    conn_name_attr = "quilt_conn_id"
    default_conn_name = "quilt_default"
    conn_type = "quilt"
    hook_name = "Quilt"

    def __init__(
        self,
        quilt_conn_id: str | None = default_conn_name,
        max_concurrency: int | str | None = None,
        retry: "RetryPolicy | None" = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__()
        self.quilt_conn_id = quilt_conn_id
        self.max_concurrency = max_concurrency
        self.retry = retry
        self.timeout = timeout
        self._loaded: Connection | None = None
        self._connected: tuple[S3Client, Stores] | None = None

    @cached_property
    def settings(self) -> "QuiltSettings":
        """The settings of the connection.

        Raises:
            SettingsError: a setting of the connection is invalid.
            SettingsUnavailableError: there is no such connection, or Airflow cannot read it for now.
            InputError: ``max_concurrency`` is no `int` above 0.
        """
        from airflow_quilt.core.format.arguments import parse_count

        settings = self._read_connection()
        if self.timeout is None:  # The callers with a timeout ask again and again.
            for extra in settings.unknown:
                self.log.warning("connection %r: the extra %s", self.quilt_conn_id, extra)
        if self.max_concurrency is None:
            return settings
        return replace(settings, max_concurrency=parse_count("max_concurrency", self.max_concurrency))

    def _read_connection(self) -> "QuiltSettings":
        from airflow_quilt.hooks._secrets import mask
        from airflow_quilt.hooks._settings import QuiltSettings

        if self.quilt_conn_id is None:
            return QuiltSettings()
        if (connection := self._loaded) is None:
            with self._lookup_errors():
                connection = self.get_connection(self.quilt_conn_id)
        mask(connection.password)
        return QuiltSettings.of(connection)

    @contextmanager
    def _lookup_errors(self) -> "Iterator[None]":
        """Raise the core's errors for those of Airflow, to which a failing secrets backend is a connection that is missing."""
        try:
            yield
        except AirflowNotFoundException as error:
            from airflow_quilt.core.format.hints import did_you_mean
            from airflow_quilt.hooks._connections import known_connections

            name = str(self.quilt_conn_id)
            hint = did_you_mean(name, known_connections("quilt"))
            cure = f"{hint} Add" if hint else ": add"
            raise SettingsUnavailableError(
                f"there is no connection {quoted(name)}{cure} one of type 'quilt', or set "
                f"AIRFLOW_CONN_{plain(name).upper()}; if there is one, its secrets backend failed"
            ) from error
        except PermissionError as error:
            raise SettingsError(f"connection {self.quilt_conn_id!r}: {plain(error)}") from error
        except ValueError as error:
            failure = SettingsUnavailableError(
                f"connection {self.quilt_conn_id!r} cannot be read for now ({type(error).__name__}); is it JSON, or a URI with "
                "special characters escaped?"
            )
        except Exception as error:
            raise SettingsUnavailableError(f"connection {self.quilt_conn_id!r} cannot be read for now: {plain(error)}") from error
        else:
            return
        raise failure  # Without the error of a parser: it repeats the text, in which the password is.

    async def aload(self) -> None:
        """Look the connection up without blocking the event loop; use everything else of the hook on a thread.

        Raises:
            SettingsUnavailableError: as for :attr:`settings`.
        """
        from airflow_quilt._compat import get_async_connection

        if self.quilt_conn_id is not None:
            with self._lookup_errors():
                self._loaded = await get_async_connection(self, self.quilt_conn_id)

    def open(self, registry: str | None = None) -> "RegistryTarget":
        """Open a registry, with the settings of the connection that apply to it.

        :param registry: ``s3://bucket``, or a local directory; by default the connection's.

        Raises:
            SettingsError: neither the call nor the connection names a registry.
            LocationError: the registry is not a whole bucket or a directory.
        """
        from airflow_quilt.core.registry.registry import Registry
        from airflow_quilt.core.storage.paths import resolve_registry
        from airflow_quilt.hooks._target import RegistryTarget

        settings = self.settings
        given = registry or settings.registry
        if not given:
            if self.quilt_conn_id is None:
                raise SettingsError(
                    "no registry: give registry=, s3://bucket or a directory; there is no connection that names one"
                )
            misspelled = [f"; its extra {extra}" for extra in settings.unknown if extra.meant == "registry"]
            raise SettingsError(
                f"no registry: give registry=, or set the extra 'registry' of the connection {self.quilt_conn_id!r} to s3://bucket"
                + "".join(misspelled[:1])
            )
        location = resolve_registry(given)
        is_own = settings.registry is not None and resolve_registry(settings.registry) == location
        return RegistryTarget(
            registry=Registry(location, self._connect()[1]),
            dest=settings.dest if is_own else None,
            workflow=settings.workflow if settings.workflow and is_own else ...,
            catalog=settings.catalog,
            conn_id=self.quilt_conn_id,
        )

    def registry(self, registry: str | None = None) -> "Registry":
        """Open a registry: the one given, or the connection's.

        Usable in any task: ``QuiltHook().registry().read("team/data")``. Raises as :meth:`open`.
        """
        return self.open(registry).registry

    def locate(
        self, package: str, registry: str | None = None, revision: "str | datetime | None" = None, path: str | None = None
    ) -> "tuple[RegistryTarget, Reference]":
        """Open the registry of a package; return it, and the reference to the revision or to the files at a path of it.

        Args:
            package: ``namespace/name``; or a Quilt+ URI, which names the registry, and may name revision and path too.
            registry: as for :meth:`open`.
            revision: as for :meth:`airflow_quilt.core.registry.registry.Registry.resolve`.
            path: the logical key of a file or directory of the package.

        Raises:
            LocationError: the URI or the registry is malformed.
            InputError: the URI and another argument contradict each other.
        """
        from airflow_quilt.core.format.names import is_quilt_uri
        from airflow_quilt.core.format.quilt_uri import QuiltUri
        from airflow_quilt.core.registry.selection import Reference

        if not is_quilt_uri(package):
            return self.open(registry), Reference(package, revision, path)
        uri = QuiltUri.parse(package)
        uri.check_others(registry, revision, path)
        return self.open(str(uri.registry)), Reference(str(uri.package), uri.pin or revision, uri.path or path)

    def report_read(self, uri: "QuiltUri | str") -> None:
        """Report to Airflow's lineage that the task has read a package, at its revision if the URI pins one.

        For tasks that call the core themselves: it does not know Airflow. Operators report by themselves.

        Raises:
            LocationError: it is no Quilt+ URI.
        """
        from airflow_quilt._compat import get_hook_lineage_collector

        get_hook_lineage_collector().add_input_asset(self, **_asset(uri))

    def report_published(self, uri: "QuiltUri | str") -> None:
        """Report to Airflow's lineage that the task has made a revision; as :meth:`report_read`.

        Raises:
            LocationError: it is no Quilt+ URI.
        """
        from airflow_quilt._compat import get_hook_lineage_collector

        get_hook_lineage_collector().add_output_asset(self, **_asset(uri))

    def get_conn(self) -> "Registry":
        """Open the connection's registry."""
        return self.registry()

    @cached_property
    def catalog(self) -> "Catalog":
        """The connection's catalog, with its login if it has one.

        Raises:
            SettingsError: the connection names no catalog.
        """
        from airflow_quilt.hooks._stores import make_catalog

        return make_catalog(self.settings, self.quilt_conn_id, self.timeout)

    @cached_property
    def credentials(self) -> "CredentialSource":
        """The S3 credentials of the connection's login; they stay fresh for as long as the hook lives.

        Raises:
            SettingsError: the connection has no password to log in with, or no catalog.
        """
        from airflow_quilt.core.catalog.credentials import CredentialSource

        if not self.settings.secret:
            raise SettingsError(
                f"connection {self.quilt_conn_id!r}: put an API key of the catalog into the password; there is none"
            )
        return CredentialSource(self.catalog.credentials)

    @cached_property
    def _aws(self) -> "BoundedAwsHook":
        from airflow_quilt.hooks._stores import make_aws_hook

        return make_aws_hook(self.settings, self.credentials if self.settings.secret else None, self.timeout)

    def _connect(self) -> "tuple[S3Client, Stores]":
        """Return the S3 client and the storages; they are made once.

        That may ask STS for a role, so it is no cached property: in Python 3.11 all instances of a class wait for the one that
        computes its value.
        """
        from airflow_quilt.core.runtime.retry import NO_RETRY
        from airflow_quilt.core.storage.s3.storage import READ_RETRY
        from airflow_quilt.hooks._stores import make_client, make_stores

        if self._connected is None:
            client = make_client(self.settings, self._aws, self.catalog if self.settings.secret else None)
            retry = self.retry or (NO_RETRY if self.timeout else READ_RETRY)
            self._connected = client, make_stores(self.settings, client, retry)
        return self._connected

    def identify(self) -> str:
        """Return the identity that requests of S3 are signed with: its ARN, or the end of its access key and the endpoint.

        Raises:
            QuiltError: there are no credentials, or their source does not give them.
        """
        from airflow_quilt.hooks._stores import identify

        return identify(self._aws, self._connect()[0])

    def explain(self, error: StorageError) -> None:
        """Add to the message of an error of S3 the identity that was refused, and connections and settings that cause it.

        It makes one request at most: STS is asked for the name of an identity that lacks a permission.
        """
        from airflow_quilt.core.format.hints import did_you_mean
        from airflow_quilt.hooks._stores import explain

        if not self._connected:
            return
        if isinstance(error, BucketNotFoundError) and (own := self.settings.registry):
            is_own = error.location == own.rstrip("/")
            where = f"connection {self.quilt_conn_id!r}: the extra 'registry': " if is_own else ""
            error.args = (f"{where}{error}{did_you_mean(error.location, [own])}",)
        explain(error, self._aws, self._connected[0])

    def test_connection(self) -> tuple[bool, str]:
        """Check the connection part by part, within seconds; leave nothing behind.

        Airflow calls it for the button in the list of connections, in its API, and for ``airflow connections test``.
        """
        from airflow_quilt.hooks._check import SECONDS, check, report

        return report(check(QuiltHook(self.quilt_conn_id, self.max_concurrency, timeout=SECONDS)), self.log.warning)

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the fields of the form, for Airflow 3.0 and 3.1; later ones read the provider's description."""
        from airflow_quilt.hooks._form import widgets

        return widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the hidden fields of the form and the labels of the others, for Airflow 3.0 and 3.1."""
        from airflow_quilt.hooks._form import behaviour

        return behaviour()


def _asset(given: "QuiltUri | str") -> dict[str, Any]:
    """Return the arguments for an asset of Airflow's lineage collector, which makes none for a local registry."""
    from airflow_quilt.core.format.quilt_uri import QuiltUri

    uri = QuiltUri.parse(given) if isinstance(given, str) else given
    return {
        "scheme": str(uri).partition(":")[0],
        "asset_kwargs": {"package": str(uri.package), "registry": str(uri.registry)},
        "asset_extra": {"top_hash": uri.top_hash} if uri.top_hash else None,
    }
