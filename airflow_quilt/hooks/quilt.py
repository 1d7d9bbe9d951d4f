"""QuiltHook: an Airflow connection becomes a registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_quilt.core.errors import SettingsError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_quilt.core.names import PackageName
    from airflow_quilt.core.registry import Registry
    from airflow_quilt.core.storage.base import Stores

_NO_VALUE = {"", "null", "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuiltSettings:
    """What a Quilt connection says.

    Attributes:
        catalog: the catalog's URL, without a trailing ``/``.
        registry: the default registry.
        aws_conn_id: the connection for S3; None leaves it to boto3's own chain.
        region_name: the region of the registry, where the AWS connection does not tell it.
        dest: the prefix below which packages pushed to the default registry land, each under its name.
    """

    catalog: str | None = None
    registry: str | None = None
    aws_conn_id: str | None = "aws_default"
    region_name: str | None = None
    dest: str | None = None

    @classmethod
    def of(cls, connection: "Connection") -> Self:
        """Read a connection; an extra that came from a URI is text, so the texts ``null`` and ``none`` are no value.

        Raises:
            SettingsError: an extra is not text, or the host is no catalog.
        """
        extra = connection.extra_dejson
        return cls(
            catalog=_catalog_url(connection),
            registry=_text(connection, extra, "registry"),
            aws_conn_id=_text(connection, extra, "aws_conn_id") if "aws_conn_id" in extra else "aws_default",
            region_name=_text(connection, extra, "region_name"),
            dest=_text(connection, extra, "dest"),
        )


def _text(connection: "Connection", extra: Mapping[str, Any], name: str) -> str | None:
    value = extra.get(name)
    if value is None or (isinstance(value, str) and value.strip().lower() in _NO_VALUE):
        return None
    if not isinstance(value, str):
        raise SettingsError(f"connection {connection.conn_id!r}: the extra {name!r} is {type(value).__name__}, expected text")
    return value.strip()


def _catalog_url(connection: "Connection") -> str | None:
    host = (connection.host or "").strip().rstrip("/")
    if not host:
        return None
    if host.startswith("s3:"):
        raise SettingsError(
            f"connection {connection.conn_id!r}: the host is the URL of the catalog; a registry goes into the extra 'registry'"
        )
    url = host if "://" in host else f"https://{host}"
    return f"{url}:{connection.port}" if connection.port else url


class QuiltHook(BaseHook):
    """Opens Quilt registries with the settings of an Airflow connection.

    S3 is reached through the Amazon provider's hook, so the endpoint, TLS, assumed roles and botocore settings of the AWS
    connection all count. Nothing is imported, read or asked for before it is used.

    :param quilt_conn_id: the connection of type ``quilt``; None for the defaults, which then need a ``registry``
        wherever one is opened.
    """

    conn_name_attr = "quilt_conn_id"
    default_conn_name = "quilt_default"
    conn_type = "quilt"
    hook_name = "Quilt"

    def __init__(self, quilt_conn_id: str | None = default_conn_name) -> None:
        super().__init__()
        self.quilt_conn_id = quilt_conn_id

    @cached_property
    def settings(self) -> QuiltSettings:
        """What the connection says.

        Raises:
            SettingsError: there is no such connection, or something in it cannot be right.
        """
        if self.quilt_conn_id is None:
            return QuiltSettings()
        try:
            connection = self.get_connection(self.quilt_conn_id)
        except AirflowNotFoundException as error:
            raise SettingsError(
                f"there is no connection {self.quilt_conn_id!r}: add one of type 'quilt', "
                f"or set AIRFLOW_CONN_{self.quilt_conn_id.upper()}"
            ) from error
        return QuiltSettings.of(connection)

    def registry(self, registry: str | None = None) -> "Registry":
        """Open a registry: the one given, or the connection's.

        Usable in any task: ``QuiltHook().registry().read(PackageName.parse("team/data"))``.

        Raises:
            SettingsError: neither the call nor the connection names a registry.
            LocationError: the registry is not a whole bucket or a directory.
        """
        from airflow_quilt.core.locations import RegistryLocation
        from airflow_quilt.core.registry import Registry

        text = registry or self.settings.registry
        if not text:
            raise SettingsError(
                f"no registry: give registry=, or set the extra 'registry' of the connection {self.quilt_conn_id!r} to s3://bucket"
            )
        return Registry(RegistryLocation.parse(text), self._stores)

    def get_conn(self) -> "Registry":
        """Open the connection's registry."""
        return self.registry()

    def landing_prefix(self, registry: "Registry", name: "PackageName") -> str | None:
        """Return where a package lands by the connection's ``dest``, or None for the engine's default.

        The connection's ``dest`` is shared by packages, so each gets its name below it; it belongs to the connection's
        registry and says nothing of any other.
        """
        from airflow_quilt.core.locations import PhysicalKey, RegistryLocation

        settings = self.settings
        if not settings.dest or not settings.registry or RegistryLocation.parse(settings.registry) != registry.location:
            return None
        return str(PhysicalKey.parse(settings.dest).join(str(name)))

    def catalog_url(self, registry: "Registry", name: "PackageName", top_hash: str) -> str | None:
        """Return the catalog's page of a revision, where the connection names a catalog."""
        bucket = registry.location.root.bucket
        if not self.settings.catalog or not bucket:
            return None
        return f"{self.settings.catalog}/b/{bucket}/packages/{name}/tree/{top_hash}/"

    @cached_property
    def _stores(self) -> "Stores":
        from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

        from airflow_quilt.core.storage.base import Stores
        from airflow_quilt.core.storage.local import LocalStorage
        from airflow_quilt.core.storage.s3 import S3Storage, client_config

        aws: AwsGenericHook[Any] = AwsGenericHook(
            aws_conn_id=self.settings.aws_conn_id, region_name=self.settings.region_name, client_type="s3"
        )
        config = client_config(aws.conn_config.botocore_config)
        try:
            client = aws.get_client_type(region_name=aws.region_name, config=config)
        except ValueError as error:  # botocore's way to refuse an endpoint URL.
            raise SettingsError(f"AWS connection {self.settings.aws_conn_id!r}: {error}") from error
        return Stores(LocalStorage(), S3Storage(client))
